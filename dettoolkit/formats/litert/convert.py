"""A network for LiteRT, formerly TensorFlow Lite: a .tflite file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from dettoolkit.formats import missing
from dettoolkit.formats.graph import example_images, facts, freeze_for_export
from dettoolkit.formats.static_shapes import refuse_flexible
from dettoolkit.formats.trailer import stamp
from dettoolkit.manifest import INPUT, Manifest

if TYPE_CHECKING:
    from dettoolkit.spec import TaskSpec


class NamedOutputs(nn.Module):
    """A network whose outputs have names, which the converter writes into the file."""

    def __init__(self, network: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.network = network
        self.names = tuple(names)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Map images (N, 3, h, w) to the network's outputs by name."""
        outputs = self.network(images)
        if isinstance(outputs, Tensor):
            outputs = (outputs,)
        return dict(zip(self.names, outputs, strict=True))


def convert(network: nn.Module, manifest: Manifest, path: Path, spec: TaskSpec) -> None:
    """Write a network for LiteRT, with its manifest.

    Args:
        network: left as it is.
        manifest: `export` and `input_hw` say what the file is to take and to give.
        path: a file that does not exist.
        spec: the model's task.

    Raises:
        ModuleNotFoundError: litert-torch is not installed.
        ValueError: what the manifest asks for cannot be in a file.
    """
    refuse_flexible(manifest, path, spec, runtime="LiteRT")
    try:
        import litert_torch
    except ModuleNotFoundError as error:
        raise missing("litert", error) from None
    litert_torch.config.show_progress = False  # it prints
    named = NamedOutputs(freeze_for_export(network), facts(manifest).outputs).eval()
    model = litert_torch.convert(named, sample_kwargs={INPUT: example_images(manifest)})
    model.export(str(path))
    stamp(path, manifest)
