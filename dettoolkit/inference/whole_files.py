"""Files that have their name only when they are whole, and text that can be written."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def printable(text: str) -> str:
    """Replace each byte of a path that is not UTF-8 (a lone surrogate in Python) by its code: \\xff."""
    return re.sub(r"[\ud800-\udfff]", lambda found: f"\\x{ord(found[0]) & 0xFF:02x}", text)


def part_of(path: Path) -> Path:
    """Return the hidden name of a file until it is whole; short, however long the file's own is."""
    digest = hashlib.blake2b(os.fsencode(path.name), digest_size=8).hexdigest()
    return path.with_name(f".{digest}.part{path.suffix}")


@contextmanager
def whole(path: Path, choose: Callable[[Path], Path] | None = None) -> Iterator[Path]:
    """Yield a hidden name to write under; the file gets its own name when nothing went wrong.

    `choose` returns another name instead, of the hidden one, when all is written.
    """
    part = part_of(path)
    part.unlink(missing_ok=True)  # of a process that was killed
    try:
        yield part
        os.replace(part, path if choose is None else choose(part))
    except BaseException:
        part.unlink(missing_ok=True)
        raise
