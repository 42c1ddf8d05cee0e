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
    augmented,
    check_sample,
    clip_to_crop,
    photometric_distortion,
)
from dettoolkit.datasets.coco import BoxedImage
from dettoolkit.datasets.images import resize_image

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


def place(
    canvas: Image, sample: BoxedImage, window: Rectangle, part: Rectangle
) -> tuple[Floats, NDArray[np.int64]]:
    """Write a window of a sample into a part of the canvas (h, w, 3); return boxes there, and their labels.

    Boxes (m, 4) whose center is outside the window go, the others are clipped to it, as in SSD's crop.
    """
    image = sample.image[window.top : window.bottom, window.left : window.right]
    canvas[part.top : part.bottom, part.left : part.right] = resize_image(image, part.hw)
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
        colors = photometric_distortion() if color else []
        flips = [A.HorizontalFlip(p=0.5)] if flip else []
        self._compose = A.Compose([*colors, *flips], is_check_shapes=False)

    def __call__(
        self,
        image: Image,
        boxes_xyxy: Floats,
        labels: NDArray[np.int64],
        seed: int,
        *others: BoxedImage,
    ) -> BoxedImage:
        """Transform image (H, W, 3) RGB, boxes (m, 4) in its pixels and labels (m,); none are changed.

        With three `others`, all four are put together. The image comes out at `input_hw`, without boxes that
        were lost or that the cleaning rule refuses.
        """
        check_sample(image, boxes_xyxy, labels)
        rng = np.random.default_rng(seed)
        samples = [BoxedImage(image, boxes_xyxy, labels), *others]
        places = self._mosaic_places(samples, rng) if others else [self._place(samples[0], rng)]
        canvas = np.full((*self.input_hw, 3), ZOOM_FILL, np.uint8)
        placed = [
            place(canvas, sample, window, part)
            for sample, (window, part) in zip(samples, places, strict=True)
        ]
        boxes, kept = (np.concatenate(each) for each in zip(*placed, strict=True))
        sample = BoxedImage(canvas, boxes, kept)
        return augmented(self._compose, sample, int(rng.integers(2**63)), input_hw=self.input_hw)

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
