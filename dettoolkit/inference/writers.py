"""What is written for each image: pictures, annotated videos, label maps, the objects cut out."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Protocol

from dettoolkit.evaluation.pictures import save_picture
from dettoolkit.inference.predictions import DetectionPrediction, Prediction, SegmentationPrediction
from dettoolkit.inference.sources import Item
from dettoolkit.inference.video import VideoFile

PICTURE_ENDINGS = (".jpg", ".jpeg", ".png")


class Writer(Protocol):
    """Writes something for each prediction. A file appears whole or not at all."""

    def write(self, item: Item, prediction: Prediction) -> None:
        """Write what an item's prediction gives."""
        ...

    def close(self) -> None:
        """Finish what is open."""
        ...


class Pictures:
    """Draw what was found: a picture of each image, named as it is, and a video of each video.

    Args:
        folder: where to, in the images' own sub-folders. What ends neither in .jpg, .jpeg nor .png gets .jpg
            added; videos get .mp4, unless they have it.
        again: whether files may be there already, of a job that was stopped between a file and its record.
        every: of a video, only the first of so many frames comes.
    """

    def __init__(self, folder: Path, *, again: bool, every: int) -> None:
        self.folder, self.again, self.every = folder, again, every
        self._video: VideoFile | None = None
        self._name: str | None = None

    def write(self, item: Item, prediction: Prediction) -> None:
        """Write the picture, or append the frame to its video."""
        if item.video is None:
            path = self.folder / _ending(item.name, PICTURE_ENDINGS, ".jpg")
            _whole(path, prediction.save, again=self.again)
            return
        if self._video is None or item.video != self._name:
            self.close()
            self._video, self._name = self._open(item), item.video
        until = item.frame.seconds if item.live and item.frame is not None else None
        self._video.write(prediction.plot(), until=until)

    def close(self) -> None:
        """Finish the video that is open."""
        if self._video is not None:
            self._video.close()
        self._video, self._name = None, None

    def _open(self, item: Item) -> VideoFile:
        if item.video is None or item.frame is None:
            raise ValueError(f"{item.name} is no frame of a video")
        path = self.folder / _ending(item.video, (".mp4",), ".mp4")
        if not self.again:
            _refuse(path)
        return VideoFile(path, fps=item.frame.fps / self.every)


class _FileByFile:
    """Holds nothing open between one image and the next.

    Args:
        folder: where to.
        again: as of `Pictures`.
    """

    def __init__(self, folder: Path, *, again: bool) -> None:
        self.folder, self.again = folder, again

    def close(self) -> None:
        """Nothing is open."""


class Masks(_FileByFile):
    """Write label maps as PNGs of the data's own label ids, in the images' own sub-folders."""

    def write(self, item: Item, prediction: Prediction) -> None:
        """Write a label map."""
        if not isinstance(prediction, SegmentationPrediction):
            raise TypeError("masks are a segmenter's: this model is a detector")
        path = (self.folder / item.name).with_suffix(".png")
        _whole(path, prediction.to_png, again=self.again)


class Crops(_FileByFile):
    """Cut each object out of its image: <class>/<image>_<number>.jpg, the surest object first."""

    def write(self, item: Item, prediction: Prediction) -> None:
        """Write the objects of an image; those narrower than a pixel are left out."""
        if not isinstance(prediction, DetectionPrediction):
            raise TypeError("crops are a detector's: this model is a segmenter")
        for number, found in enumerate(prediction, start=1):
            left, top, right, bottom = (max(0, round(side)) for side in found.box_xyxy)
            crop = prediction.image[top:bottom, left:right]
            if not crop.size:
                continue
            name = PurePosixPath(found.name.replace("/", "_")) / f"{item.name}_{number}.jpg"

            def save(path: Path, crop=crop) -> None:  # type: ignore[no-untyped-def]
                save_picture(path, crop)

            _whole(self.folder / name, save, again=self.again)


def _ending(name: str, known: tuple[str, ...], added: str) -> str:
    """Add an ending to a name that has none of those known."""
    return name if name.lower().endswith(known) else name + added


def _whole(path: Path, save: Callable[[Path], object], *, again: bool) -> None:
    """Let a file be written under a hidden name and give it its own when it is whole."""
    if not again:
        _refuse(path)
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    part.unlink(missing_ok=True)  # of a process that was killed
    save(part)
    os.replace(part, path)


def _refuse(path: Path) -> None:
    if path.exists():
        raise FileExistsError(
            f"{path} exists already: two images have the same name but for their endings: predict them "
            "into different folders"
        )
