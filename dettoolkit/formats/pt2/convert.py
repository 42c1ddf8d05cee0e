"""A network as a program of torch.export, which PyTorch runs without our code.

N: images, (h, w): `Manifest.input_hw`, (H, W): the size of what is put in.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim

from dettoolkit.formats.graph import (
    batch_shapes,
    capture,
    example_images,
    facts,
    freeze_for_export,
    input_hw,
    refuse_unlike,
    trace,
)
from dettoolkit.formats.pt2.open import MANIFEST_FILE
from dettoolkit.manifest import Manifest
from dettoolkit.preprocessing import normalize


class Whole(nn.Module):
    """A network with what is around it.

    Args:
        network: normalized images (N, 3, h, w) to raw outputs.
        manifest: says what is to be inside, by its export section.
    """

    def __init__(self, network: nn.Module, manifest: Manifest) -> None:
        super().__init__()
        self.network = network
        self.mean, self.std, self.input_hw = manifest.mean, manifest.std, input_hw(manifest)
        self.preprocessing = facts(manifest).preprocessing
        self.segmentation = manifest.segmentation if facts(manifest).postprocessing else None

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Map images to outputs, both of the kind that the manifest says."""
        out_hw = images.shape[1:3] if self.preprocessing else images.shape[2:]
        if self.preprocessing:
            planes = images.permute(0, 3, 1, 2).float()
            resized = F.interpolate(planes, self.input_hw, mode="bilinear", align_corners=False)
            # Whole numbers, as images are resized where the network is trained.
            images = normalize((resized + 0.5).floor(), self.mean, self.std)
        outputs: Tensor | tuple[Tensor, ...] = self.network(images)
        if self.segmentation is None or not isinstance(outputs, Tensor):
            return outputs
        align_corners = self.segmentation.align_corners
        logits = F.interpolate(outputs, out_hw, mode="bilinear", align_corners=align_corners)
        return logits.argmax(dim=1).to(torch.uint8)


def convert(network: nn.Module, manifest: Manifest, path: Path) -> None:
    """Write a network as a program of torch.export, with its manifest.

    Args:
        network: a detector or segmenter; left as it is.
        manifest: `export` and `input_hw` say what the file is to take and to give.
        path: a file that does not exist.

    Raises:
        ValueError: what the manifest asks for cannot be in a file.
    """
    export = facts(manifest)
    if export.postprocessing and manifest.detection is not None:
        raise ValueError(
            "a detector's post-processing cannot be inside a .pt2 file: how often it repeats depends on the "
            "boxes, which torch.export cannot write; leave it out, dettoolkit.load does it, or export to ONNX"
        )
    if not export.preprocessing and not export.postprocessing:
        program = capture(network, manifest)
    else:
        refuse_unlike(manifest)
        images, shapes = example_images(manifest), batch_shapes(manifest)
        if export.preprocessing:
            # Of other sides than the input, and than one another: equal ones would be taken for tied.
            height, width = input_hw(manifest)
            images = torch.zeros(len(images), 2 * height + 3, 2 * width + 7, 3, dtype=torch.uint8)
            shapes |= {1: Dim("H", min=2), 2: Dim("W", min=2)}
        program = trace(Whole(freeze_for_export(network), manifest), images, shapes)
    program.example_inputs = None  # zeros that would be written along
    _save(program, manifest, path, mode="xb")


def stamp(path: Path, manifest: Manifest) -> None:
    """Replace the manifest of a program; all else stays."""
    _save(torch.export.load(path), manifest, path, mode="wb")


def _save(program: torch.export.ExportedProgram, manifest: Manifest, path: Path, *, mode: str) -> None:
    with path.open(mode) as file:
        torch.export.save(program, file, extra_files={MANIFEST_FILE: manifest.to_json()})
