"""Names of the files that a job writes for an image: no two of one name, and none that a file system refuses.

An image's file has its ordinary name, such as masks/a.png of a.jpg, unless another image could have that too;
then it has its full one, which keeps the image's ending: masks/a.jpg.png.
"""

from __future__ import annotations

import filecmp
import hashlib
import re
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from pathlib import Path
from posixpath import splitext
from typing import NamedTuple

import numpy as np

from dettoolkit.inference.jobs.sources import Found, Item
from dettoolkit.inference.whole_files import whole

LONGEST = 255  # bytes of a name, on the file systems of today
PICTURE_ENDINGS = (".jpg", ".jpeg", ".png")


class FileName(NamedTuple):
    """What a file may be called, below the job's folder; no other image has the same full name."""

    ordinary: str
    full: str


def figure_name(name: str) -> FileName:
    """Return a figure's name, its image's; what ends neither in .jpg, .jpeg nor .png gets .jpg added."""
    return _added(name, PICTURE_ENDINGS, ".jpg")


def video_name(name: str) -> FileName:
    """Return the name of a annotated video as its video; what does not end in .mp4 gets that added."""
    return _added(name, (".mp4",), ".mp4")


def _added(name: str, known: tuple[str, ...], ending: str) -> FileName:
    own = splitext(name)[1]
    if own.lower() not in known:
        return _only(f"figures/{name}{ending}")
    return FileName(_fitting(f"figures/{name}"), _fitting(f"figures/{name}{own}"))


def mask_name(name: str) -> FileName:
    """Return the name of a label map as its image, with .png in place of the image's ending."""
    return FileName(_fitting(f"masks/{splitext(name)[0]}.png"), _fitting(f"masks/{name}.png"))


def crop_name(name: str, class_name: str, number: int) -> FileName:
    """Return a crop's name, <class>/<image>_<number>.jpg, with % and a code for what no folder may have."""
    unsafe = r"[%/\\\x00-\x1f\ud800-\udfff]|^\."
    folder = re.sub(unsafe, lambda found: f"%{ord(found[0]):02X}", class_name) or "%"
    return _only(f"crops/{folder}/{name}_{number}.jpg")


def _only(name: str) -> FileName:
    return FileName(_fitting(name), _fitting(name))


def names_of(found: Found, save: Collection[str]) -> Iterator[FileName]:
    """Yield what the files of an image, or of a video as a whole, may be called."""
    if "figures" in save:
        yield figure_name(found.name) if found.kind == "image" else video_name(found.name)
    if "masks" in save and found.kind == "image":
        yield mask_name(found.name)


class Files:
    """Write an image's files, and nothing over what is not of that image.

    Args:
        folder: the job's.
        names: of all that will be written; only those that several images could have are held.
        unfinished: images and videos whose files may be there, of a process that was stopped.
    """

    def __init__(
        self, folder: Path, names: Iterable[FileName] = (), unfinished: Collection[str] = ()
    ) -> None:
        self.folder = folder
        self._shared, self._unfinished = _shared(names), unfinished

    def write(self, item: Item, name: FileName, save: Callable[[Path], object]) -> None:
        """Write a file under a hidden name, and rename it when it is whole.

        Raises:
            FileExistsError: there is another already.
        """
        with whole(self.folder / name.full, partial(self.path, item, name)) as part:
            save(part)

    def path(self, item: Item, name: FileName, part: Path | None = None) -> Path:
        """Choose where a file goes; one that is there already may be the same as `part`.

        Raises:
            FileExistsError: there is another already.
        """
        paths = [self.folder / each for each in name[hash(name.ordinary) in self._shared :]]
        if item.name in self._unfinished or item.video in self._unfinished:
            return paths[-1] if paths[-1].exists() else paths[0]
        for path in paths:
            # An empty file is what a power cut leaves of one that was whole.
            if not path.exists() or not path.stat().st_size:
                return path
            if part is not None and filecmp.cmp(part, path, shallow=False):
                return path
        raise FileExistsError(f"{paths[-1]} is there already and this job has no record of it: move it away")


def _shared(names: Iterable[FileName]) -> set[int]:
    """Find the ordinary names that more than one image could have, by hash."""
    hashes = array("q")
    for name in names:
        hashes.extend((hash(name.full), hash(name.ordinary)))
    pairs = np.array(hashes, np.int64).reshape(-1, 2)
    pairs = pairs[np.unique(pairs[:, 0], return_index=True)[1]]  # an image may have been listed twice
    pairs[pairs[:, 0] == pairs[:, 1], 1] = 0  # one claim only
    claims = np.sort(pairs, axis=None)
    return set(claims[1:][claims[1:] == claims[:-1]].tolist()) - {0}


def _fitting(name: str) -> str:
    """Shorten each part of a path to what file systems take; a digest stands for what is left out."""
    return name if len(name) * 4 <= LONGEST else "/".join(map(_shortened, name.split("/")))


def _shortened(part: str) -> str:
    data = part.encode()
    if len(data) <= LONGEST:
        return part
    digest = hashlib.blake2b(data, digest_size=8).hexdigest()
    ending = splitext(part)[1]
    end = f"~{digest}{ending if len(ending) <= 5 else ''}"
    return data[: LONGEST - len(end)].decode("utf-8", "ignore") + end
