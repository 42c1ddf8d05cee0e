"""A network as a program of torch.export, which PyTorch runs without our code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from dettoolkit.formats import DEFAULT
from dettoolkit.formats.graph import capture, facts
from dettoolkit.formats.pt2.open import MANIFEST_FILE
from dettoolkit.manifest import Manifest

if TYPE_CHECKING:
    from dettoolkit.spec import TaskSpec


def convert(network: nn.Module, manifest: Manifest, path: Path, spec: TaskSpec) -> None:
    """Write a network as a program of torch.export, with its manifest.

    Args:
        network: left as it is.
        manifest: `export` and `input_hw` say what the file is to take and to give.
        path: a file that does not exist.
        spec: the model's task.

    Raises:
        ValueError: what the manifest asks for cannot be in a file.
    """
    spec.check_export(manifest)
    final = spec.final_module(manifest) if facts(manifest).postprocessing else None
    if final is None and facts(manifest).postprocessing:
        raise ValueError(
            f"a {spec.noun}'s post-processing cannot be inside a .pt2 file, since torch.export cannot write "
            f"it: omit it, and dettoolkit.load does it, or export to {DEFAULT}"
        )
    program = capture(network, manifest, final)
    program.example_inputs = None  # zeros that would be written along
    _save(program, manifest, path, mode="xb")


def stamp(path: Path, manifest: Manifest) -> None:
    """Replace the manifest of a program; all else stays."""
    _save(torch.export.load(path), manifest, path, mode="wb")


def _save(program: torch.export.ExportedProgram, manifest: Manifest, path: Path, *, mode: str) -> None:
    with path.open(mode) as file:
        torch.export.save(program, file, extra_files={MANIFEST_FILE: manifest.to_json()})
