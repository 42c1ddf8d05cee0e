"""Runtimes: each opens a model file and runs it, and knows nothing of what the answers mean.

A module for each format, with `open_engine(path, threads=...)` and `read_manifest(path)`. Libraries are
imported when a file of their format is opened, so that each is needed by those only who use it.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Protocol

import torch
from torch import Tensor

from dettoolkit.manifest import Manifest

# Endings of the files that can be opened, the module of each, and the format's name and extra.
FORMATS = {
    ".onnx": "onnx",
    ".xml": "openvino",
    ".pte": "executorch",
    ".tflite": "litert",
    ".pt2": "pt2",
}
RUNS_CODE = (".pt2",)
"""Endings of files that can run code when they are opened; see docs/security.md."""

MAX_THREADS = max(64, os.cpu_count() or 1)


class Engine(Protocol):
    """A network that is ready to run.

    `device` is where its inputs are wanted and its outputs are.
    """

    device: torch.device

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """Run on images, of the kind and size that the model's manifest says, and give all outputs."""
        ...


def open_engine(path: Path, *, threads: int | None = None, trust: bool = False) -> Engine:
    """Open an exported file in its own runtime.

    Args:
        path: the file; its ending says the format.
        threads: that the runtime may use; None leaves it to the runtime.
        trust: open a file of RUNS_CODE too.

    Raises:
        ModuleNotFoundError: the runtime is not installed; the message says how to get it.
        ValueError: the file cannot be opened, not with so many threads, or is of RUNS_CODE and not trusted.
    """
    if threads is not None:
        check_threads(threads)
    if path.suffix.lower() in RUNS_CODE and not trust:
        raise ValueError(
            f"{path} can run code on this machine when it is opened: PyTorch unpickles objects in "
            "such a file and evaluates expressions in it. If you trust who made it, open it with trust=True "
            "(on the command line --trust); an ONNX file of the same model runs no code"
        )
    engine: Engine = module_of(path).open_engine(path, threads=threads)
    return engine


def check_threads(count: int, name: str = "threads") -> int:
    """Return a number of threads that can be started: runtimes crash when the system refuses them one.

    Raises:
        ValueError: another number.
    """
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= MAX_THREADS:
        raise ValueError(
            f"{name}={count!r}: wanted a whole number from 1 to {MAX_THREADS}; more than the "
            f"{os.cpu_count()} cores of this machine make nothing faster"
        )
    return count


def read_manifest(path: Path) -> Manifest:
    """Read an exported file's description of itself, without its network.

    Raises:
        ManifestError: there is none; other tools' files have none.
    """
    manifest: Manifest = module_of(path).read_manifest(path)
    return manifest


def module_of(path: Path) -> ModuleType:
    """Return the module of a file's format.

    Raises:
        ValueError: no format has this ending.
    """
    if path.suffix.lower() not in FORMATS:
        raise ValueError(
            f"{path}: files that end in '{path.suffix}' are of no format that dettoolkit exports "
            f"({', '.join(FORMATS)}): give a run's folder, a checkpoint or an exported file"
        )
    return import_module(f"dettoolkit.formats.{FORMATS[path.suffix.lower()]}.open")


def missing(extra: str, error: ModuleNotFoundError) -> ModuleNotFoundError:
    """Return which extra brings a module that is not there."""
    return ModuleNotFoundError(
        f"this needs the Python package '{error.name}', which is not installed: "
        f"pip install 'dettoolkit[{extra}]'",
        name=error.name,
    )
