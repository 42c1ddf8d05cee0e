"""Augmentation for small data sets and small objects: mosaics, and windows around objects.

Every kind is one operation, `place`: a window of an image, resized, on a part of the canvas that the network
gets. A zoom is the size that objects come out with, 1 being their size when the whole image is resized to
the input; so all is stretched as that is, but for `max_aspect`. Letters: m = boxes, (h, w) = the input.
"""

from __future__ import annotations

from typing import NamedTuple

import albumentations as A
import numpy as np
from numpy.typing import NDArray

from dettoolkit.config.detection import Mosaic, ZoomIn, ZoomOut
from dettoolkit.datasets.augment import (
    ZOOM_FILL,
    Floats,
    Image,
    LabelMap,
    augmented,
    check_sample,
    clip_to_crop,
    least_of,
    photometric_distortion,
)
from dettoolkit.datasets.cityscapes_labels import VOID
from dettoolkit.datasets.coco import BoxedImage
from dettoolkit.datasets.images import resize_image, resize_labels

Range = tuple[float, float]

MOSAIC_CENTER = (0.25, 0.75)
"""Where four images meet, as a fraction of each side: the middle half, as in YOLOX (mosaicdetection.py)."""


class Rectangle(NamedTuple):
    """Whole pixels; right and bottom are outside."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def hw(self) -> tuple[int, int]:
        """Return height and width."""
        return self.bottom - self.top, self.right - self.left

    @property
    def pixels(self) -> tuple[slice, slice]:
        """Return its rows and columns."""
        return slice(self.top, self.bottom), slice(self.left, self.right)


def window_around(
    boxes_xyxy: Floats, hw: tuple[int, int], sides: Floats, rng: np.random.Generator
) -> Rectangle:
    """Draw a window of an image of `hw` around one of its boxes (m, 4), which is inside as a whole.

    `sides` (2,) are the window's width and height as fractions of the image's. A window that the box does not
    fit into is enlarged until it does, at the same aspect where the image allows. Without boxes the window
    is anywhere.
    """
    size_wh = np.array([hw[1], hw[0]])
    if len(boxes_xyxy):
        box = boxes_xyxy[rng.integers(len(boxes_xyxy))]
        first, last = np.floor(box[:2]), np.ceil(box[2:])
    else:
        first = last = np.floor(rng.random(2) * size_wh)
    wanted = np.maximum(size_wh * sides, 1)
    wanted *= max(1.0, *((last - first) / wanted))
    window_wh = np.minimum(np.ceil(wanted - 1e-9), size_wh)  # 1e-9: 0.1 * 30 / 3 * 3 is above 3
    lowest, highest = np.maximum(last - window_wh, 0), np.minimum(first, size_wh - window_wh)
    corner = lowest + np.floor(rng.random(2) * (highest - lowest + 1))
    left, top, right, bottom = np.concatenate([corner, corner + window_wh]).astype(int).tolist()
    return Rectangle(left, top, right, bottom)


class Canvas(NamedTuple):
    """What samples are put on: of the mean color, and VOID, wherever there is none."""

    image: Image  # (h, w, 3)
    label_map: LabelMap | None  # (h, w)

    @classmethod
    def empty(cls, hw: tuple[int, int], *, with_labels: bool) -> Canvas:
        """Build a canvas without samples."""
        label_map = np.full(hw, VOID, np.uint8) if with_labels else None
        return cls(np.full((*hw, 3), ZOOM_FILL, np.uint8), label_map)


def place(
    canvas: Canvas, sample: BoxedImage, window: Rectangle, part: Rectangle
) -> tuple[Floats, NDArray[np.int64]]:
    """Write a window of a sample into a part of the canvas; return boxes there, and their labels.

    Boxes (m, 4) whose center is outside the window go, the others are clipped to it, as in SSD's crop.
    """
    canvas.image[part.pixels] = resize_image(sample.image[window.pixels], part.hw)
    if canvas.label_map is not None and sample.label_map is not None:
        canvas.label_map[part.pixels] = resize_labels(sample.label_map[window.pixels], part.hw)
    keep, inside = clip_to_crop(sample.boxes_xyxy.astype(np.float64), np.array(window))
    (height, width), (window_height, window_width) = part.hw, window.hw
    scale = np.array([width / window_width, height / window_height] * 2)
    return inside * scale + np.array([part.left, part.top] * 2), sample.labels[keep]


def quarters(hw: tuple[int, int], rng: np.random.Generator) -> list[Rectangle]:
    """Divide a canvas of `hw` at a random point: top left, top right, bottom left, bottom right."""
    height, width = hw
    row, column = (round(side * rng.uniform(*MOSAIC_CENTER)) for side in hw)
    rows, columns = ((0, row), (row, height)), ((0, column), (column, width))
    return [Rectangle(left, top, right, bottom) for top, bottom in rows for left, right in columns]


class StrongTransform:
    """Augment one sample, or four in one; picklable, and a pure function of its arguments and the seed.

    A sample with three others is a mosaic. Alone, it is zoomed into, made smaller on the mean color, or
    resized. Color and flip follow, at input size, where they are cheap.
    """

    def __init__(
        self,
        *,
        input_hw: tuple[int, int],
        mosaic: Mosaic,
        zoom_in: ZoomIn,
        zoom_out: ZoomOut,
        max_aspect: float,
        flip: bool,
        color: bool,
    ) -> None:
        """Choose; the sections are the recipe's. How often there are others is not decided here."""
        self.input_hw = input_hw
        self._mosaic, self._zoom_in, self._zoom_out = mosaic, zoom_in, zoom_out
        self._max_aspect = max_aspect
        # A window for part of the canvas is as much smaller as that part is.
        self.least_hw = least_of(input_hw, 1 / (max(mosaic.zoom[1], zoom_in.zoom[1]) * max_aspect**0.5))
        colors = photometric_distortion() if color else []
        flips = [A.HorizontalFlip(p=0.5)] if flip else []
        self._compose = A.Compose([*colors, *flips], is_check_shapes=False)

    def __call__(self, sample: BoxedImage, seed: int, *others: BoxedImage) -> BoxedImage:
        """Transform a sample to `input_hw`; with three `others`, all four are put together. None is changed.

        It comes out without boxes that were lost or that the cleaning rule refuses, and with a label map if
        it came with one.
        """
        check_sample(sample)
        rng = np.random.default_rng(seed)
        samples = [sample, *others]
        places = self._mosaic_places(samples, rng) if others else [self._place(sample, rng)]
        canvas = Canvas.empty(self.input_hw, with_labels=sample.label_map is not None)
        placed = [
            place(canvas, each, window, part) for each, (window, part) in zip(samples, places, strict=True)
        ]
        boxes, kept = (np.concatenate(each) for each in zip(*placed, strict=True))
        whole = BoxedImage(canvas.image, boxes, kept, canvas.label_map)
        return augmented(self._compose, whole, int(rng.integers(2**63)), input_hw=self.input_hw)

    def _place(self, sample: BoxedImage, rng: np.random.Generator) -> tuple[Rectangle, Rectangle]:
        """Draw what part of one image is shown, and where."""
        height, width = self.input_hw
        if rng.random() < self._zoom_in.probability:
            return self._window(sample, self.input_hw, self._zoom_in.zoom, rng), Rectangle(
                0, 0, width, height
            )
        part_hw = self.input_hw
        if rng.random() < self._zoom_out.probability:
            zoom = rng.uniform(*self._zoom_out.zoom)
            part_hw = max(round(height * zoom), 1), max(round(width * zoom), 1)
        top, left = (
            int(rng.integers(side - part + 1)) for side, part in zip(self.input_hw, part_hw, strict=True)
        )
        whole = Rectangle(0, 0, sample.image.shape[1], sample.image.shape[0])
        return whole, Rectangle(left, top, left + part_hw[1], top + part_hw[0])

    def _mosaic_places(
        self, samples: list[BoxedImage], rng: np.random.Generator
    ) -> list[tuple[Rectangle, Rectangle]]:
        """Draw what part of each of four images is shown, and where."""
        return [
            (self._window(sample, part.hw, self._mosaic.zoom, rng), part)
            for sample, part in zip(samples, quarters(self.input_hw, rng), strict=True)
        ]

    def _window(
        self, sample: BoxedImage, part_hw: tuple[int, int], zoom: Range, rng: np.random.Generator
    ) -> Rectangle:
        """Draw the window that has to be resized to `part_hw` for a zoom, and its aspect."""
        (height, width), limit = self.input_hw, np.log(self._max_aspect) / 2
        factor, stretch = np.exp(rng.uniform(*np.log(zoom))), np.exp(rng.uniform(-limit, limit))
        sides = np.array([part_hw[1] / width * stretch, part_hw[0] / height / stretch]) / factor
        hw = sample.image.shape[0], sample.image.shape[1]
        return window_around(sample.boxes_xyxy, hw, np.minimum(sides, 1), rng)
