"""Videos and cameras: frames out of them one by one, and annotated frames into a file."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from dettoolkit.datasets.data_report import BadImageError
from dettoolkit.inference.whole_files import part_of, printable

ENDINGS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")
"""Of the files that count as videos where a folder is given."""

LIVE_FPS = 25.0  # of a camera or a stream that does not say
MISSING = 0.02  # fraction of frames by which a header may be wrong: some containers only estimate


class Frame(NamedTuple):
    """An image of a video."""

    number: int  # in the video, from 0
    seconds: float  # since its start
    fps: float  # of the video
    image: NDArray[np.uint8]  # (H, W, 3) RGB


def read_frames(video: str | int | Path, *, every: int = 1) -> Iterator[Frame]:
    """Yield frames of a video, the first of `every` so many, upright, without reading ahead.

    It is a file, a stream's address (rtsp://...), or a camera's number. The text of a BadImageError, where it
    cannot be opened or ends before its header says, is the reason only.
    """
    capture = _open(video)
    try:
        live = is_live(video)
        fps = capture.get(cv2.CAP_PROP_FPS)
        fps = fps if 0 < fps < 1000 else LIVE_FPS  # nan and absurd values come from some cameras
        start, index = time.monotonic(), 0
        while capture.grab():
            if index % every == 0:
                whole, image = capture.retrieve()
                if not whole:
                    break
                seconds = time.monotonic() - start if live else index / fps
                yield Frame(index, seconds, fps, np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8))
            index += 1
        wanted = 0 if live else capture.get(cv2.CAP_PROP_FRAME_COUNT)
        if index < (1 - MISSING) * wanted - 1:
            raise BadImageError(f"ends after {index} of {wanted:.0f} frames: file is truncated or damaged")
    finally:
        capture.release()


def count_frames(video: Path, *, every: int = 1) -> int:
    """Count the frames that `read_frames` will yield, as the header says; 0 where it cannot be read."""
    try:
        capture = _open(video)
    except BadImageError:
        return 0
    count = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
    capture.release()
    return -(-count // every)


def is_live(video: str | int | Path) -> bool:
    """Return whether it is a camera or a stream, which has no end and does not wait."""
    return isinstance(video, int) or (isinstance(video, str) and "://" in video)


def _open(video: str | int | Path) -> cv2.VideoCapture:
    if isinstance(video, Path) and not video.exists():
        raise BadImageError("file does not exist")
    if printable(str(video)) != str(video):
        raise BadImageError("its name is not UTF-8, which OpenCV cannot open: rename it")
    capture = cv2.VideoCapture(video if isinstance(video, int) else str(video))
    if not capture.isOpened():
        what = f"there is no camera {video}, or it is in use" if isinstance(video, int) else "not a video"
        raise BadImageError(f"cannot be opened: {what}, or in a format that OpenCV cannot read")
    return capture


class VideoFile:
    """Write frames into an MP4 (MPEG-4 part 2, which OpenCV's wheels can write everywhere).

    The file, whose `path` ends in .mp4, has its name only when it is closed; until then it is hidden. Frames
    of odd width or height get a row or a column more, since the codec knows even sizes only.
    """

    def __init__(self, path: Path, *, fps: float) -> None:
        self.path, self.fps = path, fps
        self._part = part_of(path)
        self._writer: cv2.VideoWriter | None = None
        self._hw: tuple[int, int] = (0, 0)
        self._written = 0

    def write(self, image: NDArray[np.uint8], *, until: float | None = None) -> None:
        """Append a frame, uint8 (H, W, 3) RGB, of the size of the first.

        Live sources, whose frames come at uneven times, say `until` which second since the start it is shown:
        it is repeated as often as that takes.
        """
        if self._writer is None:
            self._writer = self._start(image)
        if image.shape[:2] != self._hw:
            raise ValueError(
                f"{self.path}: frame {self._written} has {image.shape[0]} x {image.shape[1]} pixels, the "
                f"first had {self._hw[0]} x {self._hw[1]}: all frames of a video have one size"
            )
        even = np.pad(image, [(0, size % 2) for size in self._hw] + [(0, 0)], mode="edge")
        bgr = cv2.cvtColor(even, cv2.COLOR_RGB2BGR)
        times = 1 if until is None else max(1, round(until * self.fps) - self._written)
        for _ in range(times):
            self._writer.write(bgr)
        self._written += times

    def close(self) -> None:
        """Finish the file, after an error too, and give it its name; without any frame there is none.

        OSError where not all that was written is in it, which OpenCV does not say.
        """
        if self._writer is None:
            return
        self._writer.release()
        self._writer = None
        count = count_frames(self._part)
        if count != self._written:
            self._part.unlink(missing_ok=True)
            text = f"incomplete ({count} of {self._written} frames): is the disk full?"
            raise OSError(errno.EIO, text, str(self.path))
        os.replace(self._part, self.path)

    def _start(self, image: NDArray[np.uint8]) -> cv2.VideoWriter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if printable(str(self._part)) != str(self._part):
            raise OSError(
                f"{printable(str(self.path))} is not UTF-8, which OpenCV cannot write: rename the folder"
            )
        self._hw = image.shape[0], image.shape[1]
        height, width = (size + size % 2 for size in self._hw)
        codec = cv2.VideoWriter.fourcc(*"mp4v")
        writer = cv2.VideoWriter(str(self._part), codec, self.fps, (width, height))
        if not writer.isOpened():
            text = "cannot be written: is the disk full, or the folder read-only?"
            raise OSError(errno.EIO, text, str(self.path))
        return writer
