"""A network for ExecuTorch: a .pte file whose network is computed by XNNPACK."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from dettoolkit.formats import missing
from dettoolkit.formats.graph import capture
from dettoolkit.formats.static_shapes import refuse_flexible
from dettoolkit.formats.trailer import stamp
from dettoolkit.manifest import Manifest

if TYPE_CHECKING:
    from dettoolkit.spec import TaskSpec


def convert(network: nn.Module, manifest: Manifest, path: Path, spec: TaskSpec) -> None:
    """Write a network for ExecuTorch, with its manifest.

    Args:
        network: left as it is.
        manifest: `export` and `input_hw` say what the file is to take and to give.
        path: a file that does not exist.
        spec: the model's task.

    Raises:
        ModuleNotFoundError: executorch is not installed.
        ValueError: what the manifest asks for cannot be in a file.
    """
    refuse_flexible(manifest, path, spec, runtime="ExecuTorch")
    try:
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower
    except ModuleNotFoundError as error:
        raise missing("executorch", error) from None
    program = to_edge_transform_and_lower(capture(network, manifest), partitioner=[XnnpackPartitioner()])
    with path.open("xb") as file:
        program.to_executorch().write_to_file(file)
    stamp(path, manifest)
