"""What is written for each image: figures, annotated videos, label maps, the objects cut out."""

from __future__ import annotations

from functools import partial
from typing import Protocol

from dettoolkit.drawing.grids import save_figure
from dettoolkit.inference.jobs.names import Files, crop_name, figure_name, mask_name, video_name
from dettoolkit.inference.jobs.sources import Item
from dettoolkit.inference.jobs.video import VideoFile
from dettoolkit.results import Result


class Writer(Protocol):
    """Writes something for each result. A file appears whole or not at all."""

    def write(self, item: Item, result: Result) -> None:
        """Write what is shown of an item's result."""
        ...

    def close(self) -> None:
        """Finish what is open."""
        ...


class Figures:
    """Draw what was found: a figure of each image, of the same name, and a video of each video.

    Args:
        files: where to.
        every: of a video, only the first of so many frames comes.
    """

    def __init__(self, files: Files, *, every: int) -> None:
        self.files, self.every = files, every
        self._video: VideoFile | None = None
        self._name: str | None = None

    def write(self, item: Item, result: Result) -> None:
        """Write the figure, or append the frame to its video, which `close` finishes."""
        if item.video is None or item.frame is None:
            self.files.write(item, figure_name(item.name), result.save)
            return
        if self._video is None or item.video != self._name:
            self.close()
            path = self.files.path(item, video_name(item.video))
            self._video, self._name = VideoFile(path, fps=item.frame.fps / self.every), item.video
        self._video.write(result.plot(), until=item.frame.seconds if item.live else None)

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

    def write(self, item: Item, result: Result) -> None:
        """Write a label map."""
        self.files.write(item, mask_name(item.name), result.to_png)

    def close(self) -> None:
        """Nothing is open."""


class Crops:
    """Cut each object out of its image: <class>/<image>_<number>.jpg, the surest object first.

    Args:
        files: where to.
    """

    def __init__(self, files: Files) -> None:
        self.files = files

    def write(self, item: Item, result: Result) -> None:
        """Write the objects of an image; those narrower than a pixel are left out."""
        for number, (name, crop) in enumerate(result.crops(), start=1):
            if crop.size:
                file = crop_name(item.name, name, number)
                self.files.write(item, file, partial(save_figure, image=crop))

    def close(self) -> None:
        """Nothing is open."""
