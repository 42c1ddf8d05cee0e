"""Programs of torch.export, which PyTorch runs without our code, on the CPU."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from dettoolkit.formats import DEFAULT
from dettoolkit.formats.graph import capture
from dettoolkit.formats.pytorch import as_tuple
from dettoolkit.formats.trailer import ENTRY, read_entry
from dettoolkit.manifest import Manifest

if TYPE_CHECKING:
    from dettoolkit.spec import TaskSpec


class Engine:
    """Run an exported program; `threads` are PyTorch's while it runs, and None leaves them."""

    device = torch.device("cpu")

    def __init__(self, path: Path, *, outputs: Sequence[str], threads: int | None) -> None:
        del outputs  # they have no names in the file
        _require_archive(path)
        try:
            self.program = torch.export.load(path).module()
        except Exception as error:  # whatever is wrong with the archive's content
            raise ValueError(f"PyTorch {torch.__version__} cannot open {path}: {error}") from error
        self.threads = threads

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map images, of the kind that the file takes, to all outputs in the file's order."""
        before = torch.get_num_threads()
        threads = self.threads or before
        try:
            if threads != before:
                torch.set_num_threads(threads)
            return as_tuple(self.program(images))
        finally:
            if threads != before:
                torch.set_num_threads(before)


def read_text(path: Path) -> bytes:
    """Read the JSON of a program's manifest, an extra file of the archive."""
    _require_archive(path)
    return read_entry(path, lambda name: PurePosixPath(name).parts[-2:] == ("extra", ENTRY))


def _require_archive(path: Path) -> None:
    if not zipfile.is_zipfile(path):
        raise ValueError(f"PyTorch cannot open {path}: it is not a complete torch.export archive")


def convert(network: nn.Module, manifest: Manifest, path: Path, spec: TaskSpec) -> None:
    """Write a network as a program of torch.export, with its manifest."""
    spec.check_export(manifest)
    final = spec.final_module(manifest) if manifest.final else None
    if final is None and manifest.final:
        raise ValueError(
            f"a .pt2 file cannot include a {spec.noun}'s post-processing, because torch.export does not "
            f"support it: omit it (dettoolkit.load does it), or export to {DEFAULT}"
        )
    program = capture(network, manifest, final)
    program.example_inputs = None  # zeros that would be written along
    _save(program, manifest, path, mode="xb")


def stamp(path: Path, manifest: Manifest) -> None:
    """Replace the manifest of a program; all else stays."""
    _save(torch.export.load(path), manifest, path, mode="wb")


def _save(program: torch.export.ExportedProgram, manifest: Manifest, path: Path, *, mode: str) -> None:
    with path.open(mode) as file:
        torch.export.save(program, file, extra_files={ENTRY: manifest.to_json()})
