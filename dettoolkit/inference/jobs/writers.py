"""What is written for each image: figures, annotated videos, label maps, the objects cut out; and its names.

No two files have one name, and none has one that a file system refuses. An image's file has its ordinary
name, such as masks/a.png of a.jpg, unless another image could have that too; then it has its full one, which
keeps the image's ending: masks/a.jpg.png.
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

from dettoolkit.drawing.grids import save_figure
from dettoolkit.inference.jobs.sources import Found, Item
from dettoolkit.inference.jobs.video import VideoFile
from dettoolkit.inference.whole_files import whole
from dettoolkit.results import Result

LONGEST = 255  # bytes of a name, on the file systems of today


class FileName(NamedTuple):
    """What a file may be called, below the job's folder; no other image has the same full name."""

    ordinary: str
    full: str


def figure_name(name: str, *, video: bool = False) -> FileName:
    """Return a figure's name, its image's or with .jpg added; that of an annotated video ends in .mp4."""
    known = (".mp4",) if video else (".jpg", ".jpeg", ".png")
    own = splitext(name)[1]
    if own.lower() not in known:
        return _only(f"figures/{name}{known[0]}")
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
        yield figure_name(found.name, video=found.kind == "video")
    if "masks" in save and found.kind == "image":
        yield mask_name(found.name)


class Files:
    """Write an image's files, and nothing over what is not of that image.

    Of the `names` only those are held that several images could have. `unfinished` are images and videos
    whose files may be there, of a process that was stopped.
    """

    def __init__(
        self, folder: Path, names: Iterable[FileName] = (), unfinished: Collection[str] = ()
    ) -> None:
        self.folder = folder
        self._shared, self._unfinished = _shared(names), unfinished

    def write(self, item: Item, name: FileName, save: Callable[[Path], object]) -> None:
        """Write a file under a hidden name, and rename it when it is whole."""
        with whole(self.folder / name.full, partial(self.path, item, name)) as part:
            save(part)

    def path(self, item: Item, name: FileName, part: Path | None = None) -> Path:
        """Choose where a file goes; one that is there already may be the same as `part`."""
        paths = [self.folder / each for each in name[hash(name.ordinary) in self._shared :]]
        if item.name in self._unfinished or item.video in self._unfinished:
            return paths[-1] if paths[-1].exists() else paths[0]
        for path in paths:
            # An empty file is what a power cut leaves of one that was whole.
            if not path.exists() or not path.stat().st_size:
                return path
            if part is not None and filecmp.cmp(part, path, shallow=False):
                return path
        raise FileExistsError(f"{paths[-1]} already exists but does not belong to this job: move it away")


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


class Writer:
    """Write what a result shows. A file appears whole or not at all.

    `save` is of figures (of each image, or a video of each video), masks (PNGs of the data's own label ids)
    and crops (<class>/<image>_<number>.jpg of each object, the surest first); of a video, one in `every`
    frames comes.
    """

    def __init__(self, files: Files, save: Collection[str], *, every: int = 1) -> None:
        self.files, self.save, self.every = files, save, every
        self._video: VideoFile | None = None
        self._name: str | None = None

    def write(self, item: Item, result: Result) -> None:
        """Write an image's files, or append a frame to its video, which `close` finishes."""
        if "figures" in self.save:
            self._draw(item, result)
        if "masks" in self.save:
            self.files.write(item, mask_name(item.name), result.to_png)
        if "crops" in self.save:
            for number, (name, crop) in enumerate(result.crops(), start=1):
                if crop.size:  # narrower than a pixel otherwise
                    file = crop_name(item.name, name, number)
                    self.files.write(item, file, partial(save_figure, image=crop))

    def _draw(self, item: Item, result: Result) -> None:
        if item.video is None or item.frame is None:
            self.files.write(item, figure_name(item.name), result.save)
            return
        if self._video is None or item.video != self._name:
            self.close()
            path = self.files.path(item, figure_name(item.video, video=True))
            self._video, self._name = VideoFile(path, fps=item.frame.fps / self.every), item.video
        self._video.write(result.plot(), until=item.frame.seconds if item.live else None)

    def close(self) -> None:
        """Finish the video that is open."""
        video, self._video = self._video, None
        if video is not None:
            video.close()
