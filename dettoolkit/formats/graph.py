"""What converters start from: a network as a graph of operators, and what a format's files cannot have.

N: images, (h, w): `Manifest.input_hw`, (H, W): the size of what is put in.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from dettoolkit.formats import NAMES, facts
from dettoolkit.formats.pytorch import fused
from dettoolkit.manifest import Manifest
from dettoolkit.preprocessing import fit_planes, normalize

if TYPE_CHECKING:
    from dettoolkit.spec import TaskSpec


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

    `preprocess` makes the network's input; `final` makes final outputs of raw ones and of the size (H, W) of
    what is put in. None leaves either to the caller.
    """

    def __init__(self, network: nn.Module, preprocess: nn.Module | None, final: nn.Module | None) -> None:
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
    if manifest.input_hw is None:
        raise ValueError("a converter needs an input size, got a manifest without one: set input_hw")
    height, width = manifest.input_hw
    if manifest.takes_images:
        # Of other sides than the input, and than one another: equal ones would be taken for tied.
        return torch.zeros(batch, 2 * height + 3, 2 * width + 7, 3, dtype=torch.uint8)
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def for_export(network: nn.Module) -> nn.Module:
    """Copy a network as it is deployed: float32, on the CPU, batch normalization folded, no gradients."""
    return fused(network).float().cpu()


def capture(network: nn.Module, manifest: Manifest, final: nn.Module | None = None) -> ExportedProgram:
    """Trace a network, which stays as it is, with what is to be around it; for `final` see `Whole`."""
    module = for_export(network)
    shapes = {0: Dim("N", min=1)} if facts(manifest).batch is None else {}
    preprocess = Preprocess(manifest) if manifest.takes_images else None
    if preprocess is not None:
        shapes |= {1: Dim("H", min=2), 2: Dim("W", min=2)}
    if preprocess is not None or final is not None:
        module = Whole(module, preprocess, final)
    return traced(module, example_images(manifest), shapes)


def traced(module: nn.Module, example: Tensor, shapes: dict[int, Any] | None = None) -> ExportedProgram:
    """Trace a module of one input, of which `shapes` names the axes of any size."""
    with torch.no_grad():
        program = torch.export.export(module, (example,), dynamic_shapes=(shapes or {},))
    for node in program.graph.nodes:  # the traces name files of the machine that exports
        node.meta.pop("stack_trace", None)
    return program


def refuse_flexible(manifest: Manifest, path: Path, spec: TaskSpec, *, runtime: str) -> None:
    """Refuse what `refuse` and the task do, and what fixed shapes and plain operators cannot do."""
    refuse(manifest, path, runtime=runtime)
    export = facts(manifest)
    others = f"the formats {' and '.join(each.name for each in NAMES.values() if each.flexible)} support"
    why = None
    if export.batch is None:
        why = f"have a fixed batch size: set --batch to a number; {others} any"
    elif export.preprocessing:
        why = f"have a fixed input size: omit --preprocessing; {others} it"
    elif export.postprocessing:
        why = f"return raw outputs: omit --postprocessing, and dettoolkit computes the results; {others} it"
    if why is not None:
        raise ValueError(f"files for {runtime} {why}")
    spec.check_export(manifest)


def refuse(manifest: Manifest, path: Path, *, runtime: str) -> None:
    """Refuse to write over files, as the format's own writer might, and 8 bits where a format has none."""
    export = facts(manifest)
    for file in NAMES[export.format].files_of(path):
        if file.exists():
            raise FileExistsError(f"{file} already exists: remove it, or write another file")
    if export.precision != "float32" and not NAMES[export.format].int8:
        raise ValueError(f"files for {runtime} support only float32, not {export.precision}")


def check_shape(images: Tensor, wanted: tuple[int, ...]) -> None:
    """Refuse images of another size than that of a file of fixed shapes."""
    if tuple(images.shape) != wanted:
        raise ValueError(f"this file expects images {wanted}, got {tuple(images.shape)}")
