"""A network as a .tflite file, by litert_torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from dettoolkit.formats import facts, requires
from dettoolkit.formats.graph import example_images, for_export, refuse_flexible
from dettoolkit.formats.pytorch import as_tuple
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
        return dict(zip(self.names, as_tuple(self.network(images)), strict=True))


def convert(network: nn.Module, manifest: Manifest, path: Path, spec: TaskSpec) -> None:
    """Write a network for LiteRT, with its manifest."""
    refuse_flexible(manifest, path, spec, runtime="LiteRT")
    with requires("litert"):
        import litert_torch
    litert_torch.config.show_progress = False  # it prints
    named = NamedOutputs(for_export(network), facts(manifest).outputs).eval()
    model = litert_torch.convert(named, sample_kwargs={INPUT: example_images(manifest)})
    model.export(str(path))
    stamp(path, manifest)
