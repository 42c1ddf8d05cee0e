"""The regular files that data name: found below folders, opened, their names kept in little memory.

Pipes and devices are refused, since they may never end.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from dettoolkit.datasets.data_report import Problem


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading, without waiting for what is no file.

    An OSError's `filename` and `strerror` say which and why, also of a name that no file can have.
    """
    try:
        mode = os.stat(path).st_mode
    except ValueError as error:  # a NUL, or half of a surrogate pair, as a json can hold them
        raise OSError(errno.EINVAL, f"invalid file name ({error})", str(path)) from None
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # opening a folder says itself what it is
        raise OSError(errno.EINVAL, "is a pipe, a device or a socket, not a regular file", str(path))
    return path.open("rb")


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a UTF-8 text, stripped, with their numbers from 1."""
    with open_regular(path) as file:
        for number, line in enumerate(file, start=1):
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{path}:{number}: is not UTF-8 text (byte 0x{line[error.start]:02x} at position "
                    f"{error.start + 1} of {line[:60]!r}): save the file in UTF-8, for example with "
                    "iconv -f LATIN1 -t UTF-8"
                ) from None


@dataclass(frozen=True, eq=False)
class PackedStrings:
    """Many strings in two arrays; a list would be copied into every worker, reference counts and all."""

    data: NDArray[np.uint8]
    offsets: NDArray[np.int64]  # (n + 1,)

    @classmethod
    def pack(cls, strings: Iterable[str]) -> PackedStrings:
        """Pack the strings."""
        encoded = [each.encode("utf-8", "surrogatepass") for each in strings]
        offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        return cls(np.frombuffer(b"".join(encoded), np.uint8), offsets)

    def __getitem__(self, index: int) -> str:
        start, stop = self.offsets[index], self.offsets[index + 1]
        return self.data[start:stop].tobytes().decode("utf-8", "surrogatepass")


class Walk:
    """The files below some folders, each once, found lazily, one folder after the other, in a fixed order.

    Symbolic links are followed to files and folders elsewhere, as data sets are linked in. Left out are

    - a link to a folder that it is in;
    - a link to what is listed at its own place, below the folders or where another link led;
    - a link that leads nowhere, a folder that cannot be opened, and what is no regular file.

    Names that begin with a dot are passed over, though links may lead to them. `endings` are those, in small
    letters, of the files that are wanted, () of all; the folder `skip` is passed over wherever it is met.
    `left_out` has what was left out so far, by path.
    """

    def __init__(self, *folders: Path, endings: tuple[str, ...] = (), skip: Path | None = None) -> None:
        self.left_out: dict[str, Problem] = {}
        self._folders: dict[str, str] = {}  # of each real place the first name given
        for each in folders:
            self._folders.setdefault(os.path.realpath(each), str(each))
        self._endings = endings
        self._skip = None if skip is None else os.path.realpath(skip)
        self._listed = set(self._folders)  # all below these is listed, but for hidden names
        self._linked: set[tuple[int, int]] = set()  # device and inode of files that links led to

    def __iter__(self) -> Iterator[str]:
        """Find the files' paths, those of a folder together with its folders in the order of `natural`."""
        for real, folder in self._folders.items():
            waiting = [self._entries(folder, real)]  # a stack: folders may be nested deeper than calls
            while waiting:
                found = next(waiting[-1], None)
                if found is None:
                    waiting.pop()
                elif isinstance(found, str):
                    yield found
                else:
                    waiting.append(self._entries(*found))

    def _entries(self, folder: str, real: str) -> Iterator[str | tuple[str, str]]:
        """Return the files of a folder that is really at `real`, and its folders with their real paths."""
        if real == self._skip:
            return
        try:
            names, kinds = self._scan(folder)
        except OSError as error:
            self.left_out[folder] = _problem("folder cannot be opened", f"{folder}: {error.strerror}")
            return
        for name in names:
            path, own, kind = os.path.join(folder, name), os.path.join(real, name), kinds.get(name)
            if kind == stat.S_IFLNK:
                found = self._follow(path, real)
                if isinstance(found, Problem):
                    self.left_out[path] = found
                elif found is not None:
                    yield found
            elif kind == stat.S_IFDIR:
                if own not in self._listed:  # no link led there before
                    yield path, own
            elif kind is not None:
                self.left_out[path] = _problem("not a regular file", path)
            elif self._linked and _identity(path) in self._linked:
                self.left_out[path] = _problem("link to something already listed", f"{path}, by a link to it")
            else:
                yield path

    def _scan(self, folder: str) -> tuple[list[str], dict[str, int]]:
        """Return the names in a folder, in order, and the kind of those that are no regular files."""
        names, kinds = [], {}
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_symlink():
                    kinds[entry.name] = stat.S_IFLNK
                elif entry.is_dir(follow_symlinks=False):
                    kinds[entry.name] = stat.S_IFDIR
                elif not self._is_wanted(entry.name):
                    continue
                elif not entry.is_file(follow_symlinks=False):
                    kinds[entry.name] = 0
                names.append(entry.name)
        names.sort(key=natural)
        return names, kinds

    def _follow(self, path: str, real: str) -> str | tuple[str, str] | Problem | None:
        """Return what a link in the folder `real` leads to, or why not; None for an unwanted file."""
        try:
            target = os.path.realpath(path, strict=True)
            found = os.stat(target)
        except OSError as error:
            return _problem("broken link", f"{path}: {error.strerror}")
        leads = f"{path} -> {target}"
        if stat.S_ISDIR(found.st_mode):
            if target == real or real.startswith(os.path.join(target, "")):
                return _problem("link to a folder above it", leads)
            if self._is_listed(target):
                return _problem("link to something already listed", leads)
            self._listed.add(target)
            return path, target
        if not self._is_wanted(path):
            return None
        if not stat.S_ISREG(found.st_mode):
            return _problem("not a regular file", leads)
        identity = found.st_dev, found.st_ino
        if identity in self._linked or (self._is_listed(target) and self._is_wanted(target)):
            return _problem("link to something already listed", leads)
        self._linked.add(identity)
        return path

    def _is_wanted(self, path: str) -> bool:
        return not self._endings or path.lower().endswith(self._endings)

    def _is_listed(self, target: str) -> bool:
        """Return whether a real path is met on the way through folders that are listed."""
        while target not in self._listed:
            target, name = os.path.split(target)
            if not name or name.startswith("."):
                return False
        return True


def _problem(kind: str, text: str) -> Problem:
    return Problem(kind, None, None, text)


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def natural(text: str) -> str:
    """Return the key by which names and paths are sorted as people do: numbers by their value."""

    def by_value(match: re.Match[str]) -> str:
        value = match[0].lstrip("0")
        return f"\0{len(value):04d}{value}\0{match[0]}"  # 0 is in no path: numbers come before all else

    return re.sub("[0-9]+", by_value, text)
