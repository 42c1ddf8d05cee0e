"""ExecuTorch: .pte files, whose network is computed by XNNPACK, on the CPU."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from dettoolkit.formats import requires
from dettoolkit.formats.graph import capture, check_shape, refuse_flexible
from dettoolkit.formats.trailer import read_text as read_text
from dettoolkit.formats.trailer import stamp
from dettoolkit.manifest import Manifest

if TYPE_CHECKING:
    from dettoolkit.spec import TaskSpec

# What runs at present: an engine holds on to the pool of threads that was there when it was opened.
_opened: weakref.WeakSet[Engine] = weakref.WeakSet()


class Engine:
    """Run a .pte file in ExecuTorch, which has one pool of threads for all that it runs in this process."""

    device = torch.device("cpu")

    def __init__(self, path: Path, *, outputs: Sequence[str], threads: int | None) -> None:
        del outputs  # they have no names in the file
        with requires("executorch"):
            from executorch.runtime import Runtime, Verification
        if threads is not None:
            _set_threads(threads)
        try:
            program = Runtime.get().load_program(path, verification=Verification.InternalConsistency)
            self.method = program.load_method("forward")
            self.input_shape = tuple(self.method.metadata.input_tensor_meta(0).sizes())
        except (RuntimeError, KeyError) as error:
            raise ValueError(f"ExecuTorch cannot open {path}: {error}") from error
        _opened.add(self)

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map images, of the kind that the file takes, to all outputs in the file's order."""
        check_shape(images, self.input_shape)
        # It reads memory as it comes and takes no notice of strides: channels last would be scrambled.
        return tuple(self.method.execute([images.contiguous()]))


def _set_threads(threads: int) -> None:
    """Make the pool of threads anew, unless it has as many."""
    from executorch.extension.pybindings import portable_lib

    there = portable_lib._threadpool_get_thread_count()
    if there == threads:
        return
    if len(_opened):
        raise ValueError(
            f"ExecuTorch has one thread pool per process, and open files already use it with {there} "
            f"threads: open all files with the same number, not {threads}"
        )
    portable_lib._unsafe_reset_threadpool(threads)


def convert(network: nn.Module, manifest: Manifest, path: Path, spec: TaskSpec) -> None:
    """Write a network for ExecuTorch, with its manifest."""
    refuse_flexible(manifest, path, spec, runtime="ExecuTorch")
    with requires("executorch"):
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower
    program = to_edge_transform_and_lower(capture(network, manifest), partitioner=[XnnpackPartitioner()])
    with path.open("xb") as file:
        program.to_executorch().write_to_file(file)
    stamp(path, manifest)
