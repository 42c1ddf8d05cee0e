"""Folders that commands write to: nothing in them is overwritten."""

from __future__ import annotations

from pathlib import Path


def check_free(out: Path) -> None:
    """Refuse a destination that has something in it, before any work.

    Raises:
        FileExistsError: it has, or is a file.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(
            f"{out} already exists and is not overwritten: choose another folder with --out"
        )
