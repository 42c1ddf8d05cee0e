"""Opening the files that data name: regular ones only, since pipes and devices may never end."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading, without waiting for what is no file.

    Raises:
        OSError: missing, not to be read, a folder, pipe, device or socket, or a name that no file can have;
            `filename` and `strerror` say which and why.
    """
    try:
        mode = os.stat(path).st_mode
    except ValueError as error:  # a NUL, or half of a surrogate pair, as a json can hold them
        raise OSError(errno.EINVAL, f"no file can have this name ({error})", str(path)) from None
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # opening a folder says itself what it is
        raise OSError(errno.EINVAL, "is a pipe, a device or a socket, and files only are read", str(path))
    return path.open("rb")


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a UTF-8 text, without blanks at their ends, and their numbers from 1.

    Raises:
        OSError: as open_regular.
        ValueError: a line is not UTF-8; the message names file, line and what to do.
    """
    with open_regular(path) as file:
        for number, line in enumerate(file, start=1):
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{path}:{number}: is not UTF-8 text (byte 0x{line[error.start]:02x} at place "
                    f"{error.start + 1} of {line[:60]!r}): save the file in UTF-8, for example by "
                    "iconv -f LATIN1 -t UTF-8"
                ) from None
