"""A network as a graph of operators, which all converters start from, and what its file gives.

N: images, (h, w): `Manifest.input_hw`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from dettoolkit.formats.fusion import fused
from dettoolkit.manifest import FINAL, RAW, ExportFacts, Manifest, SizeHW


def output_names(manifest: Manifest) -> tuple[str, ...]:
    """Return the name of a exported file's outputs; see `ExportFacts` for what they hold."""
    return (FINAL if facts(manifest).postprocessing else RAW)[manifest.task]


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


def refuse_unlike(manifest: Manifest) -> None:
    """Refuse ways of answering that a file with one input size cannot have.

    Raises:
        ValueError: sliding windows or scales; with post-processing inside, mirroring too.
    """
    how = manifest.segmentation
    if how is None:
        return
    if how.mode != "whole" or how.scales != (1.0,):
        raise ValueError(
            f"an exported file takes whole images of one size, and this model is evaluated with mode "
            f"'{how.mode}' and scales {list(how.scales)}: add evaluation.mode=whole evaluation.scales=[1.0]"
        )
    if how.flip and facts(manifest).postprocessing:
        raise ValueError(
            "post-processing inside answers an image once, and this model is evaluated mirrored too: "
            "add evaluation.flip=false or leave the post-processing out"
        )


def example_images(manifest: Manifest) -> Tensor:
    """Make an input of the network, float32 (N, 3, h, w); for files of any batch size N is 2."""
    batch = facts(manifest).batch
    # Two, since tracing takes a single image for a constant.
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2 if batch is None else batch, 3, *input_hw(manifest), generator=generator)


def batch_shapes(manifest: Manifest) -> dict[int, Dim]:
    """Return which dimensions of the images are open: the first, unless the batch is fixed."""
    return {0: Dim("N", min=1)} if facts(manifest).batch is None else {}


def freeze_for_export(network: nn.Module) -> nn.Module:
    """Copy a network as it is deployed: float32, on the CPU, batch normalization folded, no gradients."""
    return fused(network).float().cpu()


def capture(network: nn.Module, manifest: Manifest) -> ExportedProgram:
    """Trace a network: normalized images (N, 3, h, w) in, raw outputs out; batch normalization is folded.

    Args:
        network: left as it is.
        manifest: says the input's size and whether the batch is fixed.

    Raises:
        ValueError: see `refuse_unlike`.
    """
    refuse_unlike(manifest)
    return trace(freeze_for_export(network), example_images(manifest), batch_shapes(manifest))


def trace(module: nn.Module, images: Tensor, open_shapes: dict[int, Dim]) -> ExportedProgram:
    """Trace what a module does with images; `open_shapes` says which dimensions may differ."""
    with torch.no_grad():
        program = torch.export.export(module, (images,), dynamic_shapes=(open_shapes,))
    for node in program.graph.nodes:  # the traces name files of the machine that exports
        node.meta.pop("stack_trace", None)
    return program
