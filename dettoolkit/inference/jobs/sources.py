"""What to predict on, as it is named on a command line: found lazily, in an order that does not change.

Nothing is read before it is asked for, so a folder of millions starts at once and a damaged file is one
item's error.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Literal, NamedTuple

from dettoolkit.datasets.data_report import BadImageError, DataReport
from dettoolkit.datasets.images import ENDINGS as IMAGES
from dettoolkit.datasets.images import MAX_MEGAPIXELS
from dettoolkit.datasets.regular_files import Walk, read_lines
from dettoolkit.inference import buckets
from dettoolkit.inference.inputs import Pixels, matching, read_upright
from dettoolkit.inference.jobs.video import ENDINGS as VIDEOS
from dettoolkit.inference.jobs.video import Frame, is_live, read_frames
from dettoolkit.inference.whole_files import printable

CAMERA = re.compile(r"(?:webcam|webcam:(\d+)|(\d+))")
STREAM = re.compile(r"(?:rtsp|rtsps|rtmp|udp|tcp)://", re.IGNORECASE)
HINT = "use an image, a video, a folder, a pattern like 'photos/**/*.jpg', a .txt list or webcam"


class Found(NamedTuple):
    """An image, a video or a camera that was found, and not opened."""

    name: str  # path below the folder that all sources share, with / between its parts; always UTF-8
    where: Path | str | int
    kind: Literal["image", "video"]


@dataclass(frozen=True)
class Item:
    """One image, or one frame."""

    name: str  # of the image as in `Found`; of a frame the video's name, / and the frame's number
    path: Path | None  # of the image or the video; None of what is no file
    read: Callable[[], Pixels]  # gives uint8 (H, W, 3) RGB; a BadImageError says which image and why
    video: str | None = None  # the video's name, of a frame
    live: bool = False  # whether that is a camera or a stream
    frame: Frame | None = None  # of a frame, its place in the video


class Sources:
    """Images and videos that a command was given.

    Args:
        given: files, folders (with all below them), patterns, lists (.txt, a path a line, relative to the
            list's folder), cameras (0, webcam, webcam:1), streams (rtsp://...), and what fsspec reads
            (s3://bucket/folder, https://...).
        skip: folder that is left out; where results go to, should that be among the images.

    Attributes:
        problems: what was left out so far of the folders that were read to their end: links, as `Walk` says.
    """

    def __init__(self, given: Sequence[str], *, skip: Path | None = None) -> None:
        self.given = tuple(given)
        self._skip = skip
        local = [_anchor(each) for each in given if is_local(each)]
        self._below = os.path.join(os.path.commonpath(local), "") if local else os.sep
        self.problems = DataReport(Path(self._below))
        for each in given:
            if not each:
                raise ValueError(f"the source is empty: {HINT}")
            if "://" in each and not STREAM.match(each):
                buckets.check(each)
            elif next(self._find(each), None) is None:
                raise self._nothing(each)

    def __iter__(self) -> Iterator[Found]:
        """Find everything, sources in the order given, files sorted as people do: 2.jpg before 10.jpg."""
        return chain.from_iterable(map(self._find, self.given))

    @property
    def live(self) -> bool:
        """Return whether there is a camera or a stream among them."""
        return any(_is_camera(each) or STREAM.match(each) for each in self.given)

    def _find(self, given: str) -> Iterator[Found]:
        if STREAM.match(given):
            yield Found(re.sub(r"\W+", "_", given), given, "video")
        elif "://" in given:
            alone = len(self.given) == 1
            for name, url in buckets.find(given, IMAGES):
                yield Found(_below(name if alone else url.split("://")[1]), url, "image")
        elif _is_camera(given):
            number = int(re.sub(r"\D", "", given) or 0)
            yield Found(f"camera{number}", number, "video")
        else:
            for path in self._files(Path(given).expanduser()):
                yield Found(self._name(path), path, "video" if path.suffix.lower() in VIDEOS else "image")

    def _files(self, path: Path) -> Iterator[Path]:
        if path.is_dir():
            walk = Walk(path, endings=IMAGES + VIDEOS, skip=self._skip)
            yield from map(Path, walk)
            self.problems.record(walk.left_out.values())
        elif path.suffix.lower() == ".txt" and path.is_file():
            lines = (line for _, line in read_lines(path) if line and not line.startswith("#"))
            yield from (path.parent / Path(line).expanduser() for line in lines)
        elif path.exists():
            yield path
        elif glob.has_magic(str(path)):
            found, left_out = matching(path, IMAGES + VIDEOS)
            yield from found
            self.problems.record(left_out)

    def _name(self, path: Path) -> str:
        # With strings: pathlib would take most of the time that a million names take.
        absolute = os.path.abspath(path)
        name = absolute.removeprefix(self._below)
        name = name if name != absolute else os.path.splitdrive(absolute)[1]
        return printable(name.replace(os.sep, "/").lstrip("/"))

    @staticmethod
    def _nothing(given: str) -> Exception:
        path = Path(given).expanduser()
        if path.is_dir():
            return ValueError(
                f"{given} contains no images or videos (files ending in {', '.join(IMAGES + VIDEOS)})"
            )
        if path.is_file():
            return ValueError(f"{given} is empty: it needs one path of an image or video per line")
        if glob.has_magic(given):
            return FileNotFoundError(
                f"no image or video matches {given}: ** matches subfolders, * does not; give folders by name"
            )
        return FileNotFoundError(f"{given} does not exist: {HINT}")


def open_found(found: Found, *, every: int = 1, max_megapixels: float = MAX_MEGAPIXELS) -> Iterator[Item]:
    """Yield the item of an image, or those of a video's frames, the first of `every` so many.

    An image of more than `max_megapixels` cannot be read. A video that cannot be opened, or ends too early,
    gives an item whose `read` says so.
    """
    path = found.where if isinstance(found.where, Path) else None
    if found.kind == "image":
        read = partial(read_upright, path) if path is not None else partial(buckets.read, str(found.where))
        yield Item(found.name, path, partial(read, max_megapixels=max_megapixels))
        return
    live = is_live(found.where)
    try:
        for frame in read_frames(found.where, every=every):
            name = f"{found.name}/{frame.number:06d}"
            yield Item(name, path, partial(getattr, frame, "image"), found.name, live, frame)
    except BadImageError as error:
        # What is missing has the name of the video itself, which no frame has.
        yield Item(found.name, path, partial(_fail, f"{found.where}: {error}"), found.name, live)


def _fail(text: str) -> Pixels:
    raise BadImageError(text)


def is_local(given: str) -> bool:
    """Return whether a source is a path or a pattern, not a camera or an address."""
    return "://" not in given and not _is_camera(given)


def _below(key: str) -> str:
    """Make a path below a folder of a key, in which a store allows anything."""
    return printable("/".join(part for part in key.split("/") if part not in ("", ".", ".."))) or "_"


def _is_camera(given: str) -> bool:
    return CAMERA.fullmatch(given) is not None and not Path(given).exists()


def _anchor(given: str) -> str:
    """Return the folder below which a source's files are, absolute."""
    path = Path(os.path.abspath(Path(given).expanduser()))
    if path.is_dir():
        return str(path)
    fixed = path.parent
    while glob.has_magic(str(fixed)) and not fixed.exists():
        fixed = fixed.parent
    return str(fixed)
