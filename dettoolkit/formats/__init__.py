"""Formats of exported files: each opens its files, runs them and writes them, and knows no task.

A module for each format, or a folder with `open.py` and `convert.py`, that has

- `Engine(path, outputs=..., threads=...)`: runs a file; ValueError where its runtime cannot open it
- `read_text(path)`: the file's manifest as it is stored; ManifestError where there is none
- `convert(network, manifest, path, spec)`: writes a network, which stays as it is, and its manifest, whose
  `export` and `input_hw` say what the file is to take and give. ValueError where that cannot be in a file
  of the format, FileExistsError where `path` exists
- `stamp(path, manifest)`: replaces the manifest of a file; all else stays
- `Quantizer(network, manifest, path, images, spec)`, of formats with 8-bit files: made of a network, its
  float32 file at `path`, which it reads, its manifest, and images, uint8 (H, W, 3) RGB, on which the ranges
  of activations are found. It is a `float_layers.Quantizer`; its `write(path, float_layers)` writes the 8-bit
  file without a manifest

Libraries are imported when a file of their format is opened or written; only who uses them needs them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Protocol

from dettoolkit.manifest import ExportFacts, Manifest, ManifestError

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Format:
    """A kind of exported file."""

    name: str  # of the format, of its module here and of its extra
    ending: str  # of its files
    libraries: tuple[str, ...] = ()  # needed besides PyTorch to write a file and to run it
    beside: tuple[str, ...] = ()  # endings of further files that belong to it
    flexible: bool = False  # any number of images; resizing and post-processing may be inside
    int8: bool = False  # whether there are 8-bit files
    quantizers: tuple[str, ...] = ()  # libraries needed besides to write these
    runs_code: bool = False  # whether a file can run code when it is opened; see docs/security.md
    folder: bool = False  # whether it has a module for each part of the work, not one for all

    def module(self, part: str) -> ModuleType:
        """Import the module that does a part of the work: open, convert or quantize."""
        return import_module(f"dettoolkit.formats.{self.name}" + (f".{part}" if self.folder else ""))

    def files_of(self, path: Path) -> list[Path]:
        """List the files that belong together: the file itself, and those beside it."""
        return [path, *(path.with_suffix(ending) for ending in self.beside)]


FORMATS = {
    each.ending: each
    for each in (
        Format(
            name="onnx",
            ending=".onnx",
            libraries=("onnx", "onnxscript", "onnxruntime"),
            flexible=True,
            int8=True,
            folder=True,
        ),
        Format(
            name="openvino",
            ending=".xml",
            libraries=("openvino", "onnx", "onnxscript"),
            beside=(".bin",),
            flexible=True,
            int8=True,
            quantizers=("nncf",),
        ),
        Format(
            name="executorch", ending=".pte", libraries=("executorch",), int8=True, quantizers=("torchao",)
        ),
        Format(
            name="litert",
            ending=".tflite",
            libraries=("litert_torch", "ai_edge_litert"),
            int8=True,
            quantizers=("ai_edge_quantizer",),
            folder=True,
        ),
        Format(name="pt2", ending=".pt2", runs_code=True),
    )
}
"""By the ending of their files; the first is the default."""
NAMES = {each.name: each for each in FORMATS.values()}
DEFAULT = next(iter(NAMES))

MAX_THREADS = max(64, os.cpu_count() or 1)


class Engine(Protocol):
    """A network that is ready to run. Its inputs are wanted on `device`, where its outputs are too."""

    device: torch.device

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """Run on images, of the kind and size that the model's manifest says, and return all outputs."""


def open_engine(
    path: Path, *, outputs: Sequence[str], threads: int | None = None, trust: bool = False
) -> Engine:
    """Open an exported file, whose ending says the format, in its own runtime.

    The engine returns `outputs` in this order; see `ExportFacts`. `threads` None leaves their number to the
    runtime; `trust` also opens files that can run code.
    """
    if threads is not None:
        check_threads(threads)
    if format_of(path).runs_code and not trust:
        raise ValueError(
            f"{path} can run code on this machine when it is opened: PyTorch unpickles objects in "
            "such a file and evaluates expressions in it. If you trust its author, open it with trust=True "
            f"(--trust on the command line); a file of the same model in the format {DEFAULT} cannot run code"
        )
    engine: Engine = format_of(path).module("open").Engine(path, outputs=outputs, threads=threads)
    return engine


def check_threads(count: int, name: str = "threads") -> int:
    """Return a number of threads that can be started: runtimes crash when the system refuses them one."""
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= MAX_THREADS:
        raise ValueError(
            f"{name}={count!r}: expected an integer from 1 to {MAX_THREADS}; more than this machine's "
            f"{os.cpu_count()} cores do not help"
        )
    return count


def read_text(path: Path) -> str | bytes:
    """Read the JSON of an exported file's manifest, as it is stored; ManifestError where there is none."""
    text: str | bytes = format_of(path).module("open").read_text(path)
    return text


def format_of(path: Path) -> Format:
    """Return the format of a file by its ending; ValueError where no format has it."""
    if path.suffix.lower() not in FORMATS:
        raise ValueError(
            f"{path}: '{path.suffix}' is not a format that dettoolkit exports "
            f"({', '.join(FORMATS)}): use a run folder, a checkpoint or an exported file"
        )
    return FORMATS[path.suffix.lower()]


def facts(manifest: Manifest) -> ExportFacts:
    """Return what an exported file's manifest says of the file; ValueError for that of a checkpoint."""
    if manifest.export is None:
        raise ValueError("expected a manifest with its export section, got a checkpoint's: fill it in")
    return manifest.export


@contextmanager
def requires(extra: str, *, what: str = "this") -> Iterator[None]:
    """Let a module that cannot be imported be told with the extra of ours that brings it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{what} needs the Python package '{error.name}', which is not installed: "
            f"pip install 'dettoolkit[{extra}]'",
            name=error.name,
        ) from None


def no_manifest(path: Path, why: str = "") -> ManifestError:
    """Return the error that a file does not describe itself, as those of other tools."""
    return ManifestError(
        f"{path} has no dettoolkit manifest: it was exported by another program{why}; "
        "export the run with 'dettoolkit export'"
    )
