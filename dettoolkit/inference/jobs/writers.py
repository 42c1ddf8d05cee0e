"""What is written for each image: figures, annotated videos, label maps, the objects cut out."""

from __future__ import annotations

from functools import partial
from typing import Protocol

from dettoolkit.drawing.detection_grids import save_figure
from dettoolkit.inference.jobs.names import Files, crop_name, figure_name, mask_name, video_name
from dettoolkit.inference.jobs.sources import Item
from dettoolkit.inference.jobs.video import VideoFile
from dettoolkit.inference.results import DetectionResult, Prediction, SegmentationResult


class Writer(Protocol):
    """Writes something for each prediction. A file appears whole or not at all."""

    def write(self, item: Item, prediction: Prediction) -> None:
        """Write what an item's prediction gives."""
        ...

    def close(self) -> None:
        """Finish what is open."""
        ...


class Figures:
    """Draw what was found: a picture of each image, named as it is, and a video of each video.

    Args:
        files: where to.
        every: of a video, only the first of so many frames comes.
    """

    def __init__(self, files: Files, *, every: int) -> None:
        self.files, self.every = files, every
        self._video: VideoFile | None = None
        self._name: str | None = None

    def write(self, item: Item, prediction: Prediction) -> None:
        """Write the picture, or append the frame to its video, which `close` finishes."""
        if item.video is None or item.frame is None:
            self.files.write(item, figure_name(item.name), prediction.save)
            return
        if self._video is None or item.video != self._name:
            self.close()
            path = self.files.path(item, video_name(item.video))
            self._video, self._name = VideoFile(path, fps=item.frame.fps / self.every), item.video
        self._video.write(prediction.plot(), until=item.frame.seconds if item.live else None)

    def close(self) -> None:
        """Finish the video that is open."""
        video, self._video = self._video, None
        if video is not None:
            video.close()


class Masks:
    """Write label maps as PNGs of the data's own label ids, in the images' own sub-folders.

    Args:
        files: where to.
    """

    def __init__(self, files: Files) -> None:
        self.files = files

    def write(self, item: Item, prediction: Prediction) -> None:
        """Write a label map."""
        if not isinstance(prediction, SegmentationResult):
            raise TypeError("masks are a segmenter's: this model is a detector")
        self.files.write(item, mask_name(item.name), prediction.to_png)

    def close(self) -> None:
        """Nothing is open."""


class Crops:
    """Cut each object out of its image: <class>/<image>_<number>.jpg, the surest object first.

    Args:
        files: where to.
    """

    def __init__(self, files: Files) -> None:
        self.files = files

    def write(self, item: Item, prediction: Prediction) -> None:
        """Write the objects of an image; those narrower than a pixel are left out."""
        if not isinstance(prediction, DetectionResult):
            raise TypeError("crops are a detector's: this model is a segmenter")
        for number, found in enumerate(prediction, start=1):
            left, top, right, bottom = (max(0, round(side)) for side in found.box_xyxy)
            crop = prediction.image[top:bottom, left:right]
            if crop.size:
                name = crop_name(item.name, found.name, number)
                self.files.write(item, name, partial(save_figure, image=crop))

    def close(self) -> None:
        """Nothing is open."""
