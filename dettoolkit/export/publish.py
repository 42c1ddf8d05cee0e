"""Move an exported file and its report from a folder beside it to its place: both, or neither."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from dettoolkit.export.report import GateError, Report
from dettoolkit.formats import Format


def written_files(kind: Format, path: Path) -> list[Path]:
    """List the files that a format has written, alone in a folder, and refuse any that would not be moved.

    Raises:
        GateError: files are missing, or too many.
    """
    files = kind.files_of(path)
    there = set(path.parent.iterdir())
    if there != set(files):
        odd = ", ".join(sorted(each.name for each in there ^ set(files)))
        raise GateError(
            f"the format's writer should have made {', '.join(each.name for each in files)}, but made too "
            f"much or too little: {odd}; nothing was written"
        )
    return files


def report_path(out: Path) -> Path:
    """Return where the report of an exported file is."""
    return out.with_name(f"{out.name}.report.json")


def publish(files: Sequence[Path], out: Path, report: Report) -> None:
    """Move the files, which are in a folder beside `out`, and their report to their place; all or nothing."""
    digests = {each.name: hashlib.sha256(each.read_bytes()).hexdigest() for each in files}
    content = {"file": out.name, "sha256": digests, **report.to_dict()}
    written = files[0].with_name(report_path(out).name)
    written.write_text(json.dumps(content, indent=1, allow_nan=False))
    done: list[Path] = []
    try:
        # The file that others are found by is the last.
        for each in (written, *sorted(files, key=lambda file: file.name == out.name)):
            place = out.with_name(each.name)
            _move(each, place)
            done.append(place)
    except BaseException:
        for place in done:
            place.unlink(missing_ok=True)
        raise


def _move(file: Path, place: Path) -> None:
    """Move a file within a disk, never over another one."""
    try:
        os.link(file, place)  # unlike renaming, this refuses a place that is taken
    except OSError:
        if place.exists():
            raise FileExistsError(
                f"{place} was written by something else meanwhile: remove it, and export again"
            ) from None
        file.rename(place)  # on a disk without links
