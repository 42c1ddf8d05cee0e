"""A network as a graph of operators, which all converters start from.

N: images, (h, w): `Manifest.input_hw`, (H, W): the size of what is put in.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from dettoolkit.formats.fusion import fused
from dettoolkit.manifest import ExportFacts, Manifest, SizeHW
from dettoolkit.preprocessing import fit_planes, normalize


def facts(manifest: Manifest) -> ExportFacts:
    """Return what the file is to be.

    Raises:
        ValueError: the manifest does not say.
    """
    if manifest.export is None:
        raise ValueError(
            "a converter wants a manifest with its export section, got a checkpoint's: fill it in"
        )
    return manifest.export


def input_hw(manifest: Manifest) -> SizeHW:
    """Return the size of the network's input.

    Raises:
        ValueError: the manifest leaves it open.
    """
    if manifest.input_hw is None:
        raise ValueError("a converter wants an input size, got a manifest that leaves it open: set input_hw")
    return manifest.input_hw


def freeze_for_export(network: nn.Module) -> nn.Module:
    """Copy a network as it is deployed: float32, on the CPU, batch normalization folded, no gradients."""
    return fused(network).float().cpu()


class Preprocess(nn.Module):
    """Fitting and normalizing images, to be inside a file."""

    def __init__(self, manifest: Manifest) -> None:
        super().__init__()
        self.manifest = manifest

    def forward(self, images: Tensor) -> Tensor:
        """Map uint8 images (N, H, W, 3), RGB, of any size to the network's input, float32 (N, 3, h, w)."""
        planes = fit_planes(images.permute(0, 3, 1, 2).float(), self.manifest)
        return normalize(planes, self.manifest.mean, self.manifest.std)


class Whole(nn.Module):
    """A network with what is around it in a file.

    Args:
        network: normalized images (N, 3, h, w) to raw outputs.
        preprocess: makes its input; None leaves that to the caller.
        final: raw outputs and the size (H, W) of what is put in to final outputs; None returns raw ones.
    """

    def __init__(
        self, network: nn.Module, *, preprocess: nn.Module | None = None, final: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.network, self.preprocess, self.final = network, preprocess, final

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Map images to outputs, both of the kind that the manifest says."""
        image_hw = images.shape[2:] if self.preprocess is None else images.shape[1:3]
        outputs = self.network(images if self.preprocess is None else self.preprocess(images))
        result: Tensor | tuple[Tensor, ...]
        result = outputs if self.final is None else self.final(outputs, image_hw)
        return result


def example_images(manifest: Manifest) -> Tensor:
    """Make an input of the file: float32 (N, 3, h, w) or, with preprocessing inside, uint8 (N, H, W, 3)."""
    batch = facts(manifest).batch or 2  # of any number, two: tracing takes a single image for a constant
    height, width = input_hw(manifest)
    if facts(manifest).preprocessing:
        # Of other sides than the input, and than one another: equal ones would be taken for tied.
        return torch.zeros(batch, 2 * height + 3, 2 * width + 7, 3, dtype=torch.uint8)
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def capture(network: nn.Module, manifest: Manifest, final: nn.Module | None = None) -> ExportedProgram:
    """Trace a network, with batch normalization folded, and what is to be around it.

    Args:
        network: left as it is.
        manifest: says the input's size, whether the batch is fixed, and whether preprocessing is inside.
        final: makes final outputs; see `Whole`.
    """
    module = freeze_for_export(network)
    shapes = {0: Dim("N", min=1)} if facts(manifest).batch is None else {}
    preprocess = Preprocess(manifest) if facts(manifest).preprocessing else None
    if preprocess is not None:
        shapes |= {1: Dim("H", min=2), 2: Dim("W", min=2)}
    if preprocess is not None or final is not None:
        module = Whole(module, preprocess=preprocess, final=final)
    with torch.no_grad():
        program = torch.export.export(module, (example_images(manifest),), dynamic_shapes=(shapes,))
    for node in program.graph.nodes:  # the traces name files of the machine that exports
        node.meta.pop("stack_trace", None)
    return program
