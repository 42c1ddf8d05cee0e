"""PyTorch running a program of torch.export, on the CPU."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from dettoolkit.formats.trailer import read_entry

MANIFEST_FILE = "dettoolkit.json"
"""Among the extra files of the program's archive."""


class Pt2Engine:
    """Run an exported program.

    Args:
        program: images to a tensor or several.
        threads: of PyTorch while it runs; None leaves them.
    """

    device = torch.device("cpu")

    def __init__(self, program: Callable[[Tensor], Any], threads: int | None) -> None:
        self.program = program
        self.threads = threads

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map images, of the kind that the file takes, to all outputs in the file's order."""
        with _threads(self.threads):
            outputs = self.program(images)
        return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Let PyTorch use so many threads for a while."""
    before = torch.get_num_threads()
    if count is None or count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def open_engine(path: Path, *, outputs: Sequence[str], threads: int | None) -> Pt2Engine:
    """Open a program of torch.export.

    Raises:
        ValueError: PyTorch cannot open it.
    """
    del outputs  # they have no names in the file
    _require_archive(path)
    try:
        program = torch.export.load(path).module()
    except Exception as error:  # whatever is wrong with the archive's content
        raise ValueError(f"PyTorch {torch.__version__} cannot open {path}: {error}") from error
    return Pt2Engine(program, threads)


def read_text(path: Path) -> bytes:
    """Read the JSON of a program's manifest.

    Raises:
        ManifestError: there is none; other tools' files have none.
        ValueError: no archive.
    """
    _require_archive(path)
    return read_entry(path, lambda name: PurePosixPath(name).parts[-2:] == ("extra", MANIFEST_FILE))


def _require_archive(path: Path) -> None:
    if not zipfile.is_zipfile(path):
        raise ValueError(f"PyTorch cannot open {path}: it is no whole archive of torch.export")
