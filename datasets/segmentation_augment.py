"""Augmentation of segmentation samples: random scale and crop, flip, color; and what goes without.

(H, W) is a picture's size, (S, T) its size after scaling, (h, w) that of the crop. Labels are label maps as
SegmentationDataset has them: uint8, VOID is ignored.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # as in augment.py, whichever is imported first

import albumentations as A

from dettoolkit.datasets.augment import photometric_distortion, transformed
from dettoolkit.datasets.cityscapes_labels import VOID
from dettoolkit.datasets.images import check_image, nearest_pixels, resize_image
from dettoolkit.datasets.rare_classes import draw_pixel
from dettoolkit.manifest import nearest_hw

Image = NDArray[np.uint8]
Labels = NDArray[np.uint8]

TRIES = 10
"""Crops drawn at most until no class fills too much of one, as mmsegmentation's RandomCrop does."""


class Span(NamedTuple):
    """Where a crop lies along one side of the scaled picture; `stop` is that side's end at most."""

    start: int
    stop: int


Window = tuple[Span, Span]  # rows, columns


def window_at(starts: Sequence[int], crop_hw: tuple[int, int], hw: tuple[int, int]) -> Window:
    """Return the window of `crop_hw` that begins at (row, column) `starts`, clipped to the image."""
    rows, columns = (
        Span(start, min(start + crop, side)) for start, crop, side in zip(starts, crop_hw, hw, strict=True)
    )
    return rows, columns


def scaled_labels(labels: Labels, scaled_hw: tuple[int, int], window: Window) -> Labels:
    """Return the window of `resize_labels(labels, scaled_hw)`, without scaling all the rest."""
    rows, columns = (
        nearest_pixels(*span, side=side, scaled=scaled)
        for span, side, scaled in zip(window, labels.shape, scaled_hw, strict=True)
    )
    return np.asarray(labels[rows].take(columns, axis=1))


def scaled_image(image: Image, scaled_hw: tuple[int, int], window: Window) -> Image:
    """Return the window of `resize_image(image, scaled_hw)`, without scaling all the rest.

    The weights of interpolation repeat every S / gcd(H, S) rows, so a part that begins and ends on such a
    border is scaled as it is in the whole; one period more on each side keeps the part's edges out of the
    window. With a gcd of 1 the part is the whole.
    """
    (source_rows, scaled_rows), (source_columns, scaled_columns) = (
        _whole_periods(span, side, scaled)
        for span, side, scaled in zip(window, image.shape[:2], scaled_hw, strict=True)
    )
    part = image[slice(*source_rows), slice(*source_columns)]
    (top, bottom), (left, right) = scaled_rows, scaled_columns
    rows, columns = window
    scaled = resize_image(part, (bottom - top, right - left))
    return scaled[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]


def _whole_periods(span: Span, side: int, scaled: int) -> tuple[Span, Span]:
    """Widen a span of the scaled side to whole periods; give it in pixels of the source and scaled."""
    repeats = math.gcd(side, scaled)
    source_period, scaled_period = side // repeats, scaled // repeats
    first = max(span.start // scaled_period - 1, 0)
    last = min(-(-span.stop // scaled_period) + 1, repeats)
    source, widened = (Span(first * each, last * each) for each in (source_period, scaled_period))
    return source, widened


def largest_fraction(labels: Labels) -> float:
    """Return the most frequent class's fraction of the pixels that are not void; 1 when all are void."""
    counts = cv2.calcHist([labels], [0], None, [256], [0, 256])[:VOID]
    total = counts.sum()
    return float(counts.max() / total) if total else 1.0


def pad(pixels: Image, hw: tuple[int, int], fill: int | tuple[int, int, int]) -> Image:
    """Extend an image or label map right and below to at least `hw`, as DeepLab's input pipeline does."""
    bottom, right = max(hw[0] - pixels.shape[0], 0), max(hw[1] - pixels.shape[1], 0)
    if not bottom and not right:
        return pixels
    padded = cv2.copyMakeBorder(pixels, 0, bottom, 0, right, cv2.BORDER_CONSTANT, value=fill)
    return np.asarray(padded, np.uint8)


class ScaleCrop(A.DualTransform):  # type: ignore[misc]
    """Scale at random and cut out a crop: anywhere, or around a pixel of a class that is drawn first."""

    _targets = (A.core.type_definitions.Targets.IMAGE, A.core.type_definitions.Targets.MASK)

    def __init__(
        self,
        *,
        crop_hw: tuple[int, int],
        base_hw: tuple[int, int] | None,
        scale: tuple[float, float],
        scale_step: float,
        max_class_fraction: float,
        rare_crops: float,
        class_weights: NDArray[np.float64],
        fill: tuple[int, int, int],
    ) -> None:
        super().__init__(p=1)
        self.crop_hw = crop_hw
        self.base_hw = base_hw
        self.scale = scale
        self.scale_step = scale_step
        self.max_class_fraction = max_class_fraction
        self.rare_crops = rare_crops
        self.class_weights = class_weights
        self.fill = fill

    def get_params_dependent_on_data(self, params: dict[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
        """Draw the scale and the window: (S, T), its two spans, and the labels (h, w) in it."""
        factor = self._draw_scale()
        height, width = self.base_hw or params["shape"][:2]
        scaled_hw = max(round(height * factor), 1), max(round(width * factor), 1)
        places = self._places(data["mask"], scaled_hw)
        for _ in range(TRIES if any(first != last for first, last in places) else 1):
            starts = [first + int(self.random_generator.integers(last - first + 1)) for first, last in places]
            window = window_at(starts, self.crop_hw, scaled_hw)
            labels = scaled_labels(data["mask"], scaled_hw, window)
            if self.max_class_fraction >= 1 or largest_fraction(labels) <= self.max_class_fraction:
                break
        return {"scaled_hw": scaled_hw, "window": window, "labels": labels}

    def apply(self, img: Image, scaled_hw: tuple[int, int], window: Window, **_: Any) -> Image:
        """Return the window of the scaled image, padded."""
        return pad(scaled_image(img, scaled_hw, window), self.crop_hw, self.fill)

    def apply_to_mask(self, mask: Labels, labels: Labels, **_: Any) -> Labels:  # noqa: ARG002
        """Return the same window of the labels, padded with VOID."""
        return pad(labels, self.crop_hw, VOID)

    def _places(self, labels: Labels, scaled_hw: tuple[int, int]) -> list[tuple[int, int]]:
        """Return the first and last row, and column, at which the crop may begin."""
        spare = [max(side - crop, 0) for side, crop in zip(scaled_hw, self.crop_hw, strict=True)]
        pixel = None
        if self.rare_crops > 0 and self.random_generator.random() < self.rare_crops:
            pixel = draw_pixel(labels, self.class_weights, self.random_generator)
        if pixel is None:
            return [(0, each) for each in spare]
        sides = zip(pixel, labels.shape, scaled_hw, strict=True)
        at = [int((place + 0.5) * scaled / side) for place, side, scaled in sides]
        return [
            (max(0, min(each - crop + 1, last)), min(each, last))
            for each, crop, last in zip(at, self.crop_hw, spare, strict=True)
        ]

    def _draw_scale(self) -> float:
        low, high = self.scale
        if self.scale_step == 0:
            return float(self.random_generator.uniform(low, high))
        steps = math.floor((high - low) / self.scale_step + 1e-6)  # 1e-6: 0.3 / 0.1 is 2.9999999999999996
        return low + self.scale_step * int(self.random_generator.integers(steps + 1))


class SegmentationTransform:
    """Augment and crop one sample; picklable, and a pure function of its arguments and the seed."""

    moves_labels = True

    def __init__(
        self,
        *,
        crop_hw: tuple[int, int],
        base_hw: tuple[int, int] | None,
        scale: tuple[float, float],
        scale_step: float,
        max_class_fraction: float,
        flip: bool,
        color: bool,
        rare_crops: float,
        class_weights: NDArray[np.float64],
        mean_fill: tuple[float, float, float],
    ) -> None:
        """Choose what is changed.

        `scale` is the min and max factor of `base_hw`, or with None of the image's own size; factors are
        `scale[0]` and `scale_step` more each, any between where that is 0. The fraction `rare_crops` of crops
        has a pixel of a class that is drawn by `class_weights` (K,). A crop in which one class has more than
        `max_class_fraction` of the labeled pixels is drawn again, up to TRIES crops; the last is taken as it
        is. `mean_fill` is the RGB in [0, 1] of what is beyond the image: data.mean, about 0 for the network.
        """
        self.input_hw = crop_hw
        crop = ScaleCrop(
            crop_hw=crop_hw,
            base_hw=base_hw,
            scale=scale,
            scale_step=scale_step,
            max_class_fraction=max_class_fraction,
            rare_crops=rare_crops,
            class_weights=class_weights,
            fill=_color(mean_fill),
        )
        flips = [A.HorizontalFlip(p=0.5)] if flip else []
        colors = photometric_distortion() if color else []
        self._compose = A.Compose([crop, *flips, *colors], is_check_shapes=False)

    def __call__(self, image: Image, labels: Labels, seed: int) -> tuple[Image, Labels]:
        """Transform image (H, W, 3) RGB and labels (H, W), which are not changed, to `crop_hw`."""
        _check_sample(image, labels)
        sample = transformed(self._compose, seed, image=image, mask=labels)
        return np.ascontiguousarray(sample["image"]), np.ascontiguousarray(sample["mask"])


class CenterCrop:
    """Cut out the middle of a sample, unscaled; a smaller one is padded right and below."""

    moves_labels = True

    def __init__(self, *, crop_hw: tuple[int, int], mean_fill: tuple[float, float, float]) -> None:
        """Choose; as for SegmentationTransform."""
        self.input_hw = crop_hw
        self._fill = _color(mean_fill)

    def __call__(self, image: Image, labels: Labels, seed: int) -> tuple[Image, Labels]:  # noqa: ARG002
        """Crop image (H, W, 3) and labels (H, W) to `crop_hw`."""
        _check_sample(image, labels)
        hw = labels.shape[0], labels.shape[1]
        starts = [max(side - crop, 0) // 2 for side, crop in zip(hw, self.input_hw, strict=True)]
        rows, columns = window_at(starts, self.input_hw, hw)
        inside = slice(*rows), slice(*columns)
        return pad(image[inside], self.input_hw, self._fill), pad(labels[inside], self.input_hw, VOID)


class EvalTransform:
    """Resize the image, or leave it; labels stay as in the file, for scores are measured there."""

    moves_labels = False

    def __init__(self, *, eval_hw: tuple[int, int] | None, eval_multiple: int | None = None) -> None:
        """Choose the size of the image; None keeps its own, its sides as multiples of `eval_multiple`."""
        self.input_hw, self._multiple = eval_hw, eval_multiple

    def __call__(self, image: Image, labels: Labels, seed: int) -> tuple[Image, Labels]:  # noqa: ARG002
        """Map image (H, W, 3) to (h, w, 3)."""
        own_hw = image.shape[0], image.shape[1]
        wanted_hw = self.input_hw or nearest_hw(own_hw, self._multiple)
        return (image if wanted_hw == own_hw else resize_image(image, wanted_hw)), labels


def _color(mean: tuple[float, float, float]) -> tuple[int, int, int]:
    red, green, blue = (round(255 * value) for value in mean)
    return red, green, blue


def _check_sample(image: Image, labels: Labels) -> None:
    check_image(image)
    if labels.dtype != np.uint8 or labels.shape != image.shape[:2]:
        raise ValueError(
            f"labels must be uint8 {image.shape[:2]} as the image, got {labels.dtype} {labels.shape}: read "
            "them with label_classes.read_labels"
        )
