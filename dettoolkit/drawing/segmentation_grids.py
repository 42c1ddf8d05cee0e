"""Figures of segmentation: predictions beside ground truth, and the batch a model is trained on.

Letters of the shapes: N images, H, W a label map, h, w an image, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dettoolkit.datasets.cityscapes_labels import VOID
from dettoolkit.drawing.boxes import Color, Picture, class_color, class_name
from dettoolkit.drawing.grids import Cell, fit_to_cell, grid, in_rows

UNLABELED, UNSCORED = "not labeled", "not labeled: dimmed in the prediction, not scored"
DARK, STRIPE = (20, 20, 22), (110, 110, 118)  # pixels without a label; no class of Cityscapes has stripes
STRIPES_APART = 10  # pixels of the sheet
COVER = 0.55  # of an image by its labels: both stay readable
DIMMED = 0.35  # what is left of a prediction's color where it is not scored


@dataclass(frozen=True, slots=True, eq=False)
class SegmentationItem:
    """An image with its ground truth and prediction.

    Attributes:
        image: uint8 (h, w, 3) RGB, as in the file.
        labels: (H, W), labels and VOID (255).
        predicted: (H, W), labels.
        title: the image's name.
        score: the image's mean IoU; NaN where it has no labeled pixel.
    """

    image: Picture
    labels: NDArray[Any]
    predicted: NDArray[Any]
    title: str
    score: float

    def __post_init__(self) -> None:
        if self.labels.ndim != 2 or self.labels.shape != self.predicted.shape:
            raise ValueError(
                f"picture of {self.title}: labels {self.labels.shape} and prediction {self.predicted.shape}, "
                "wanted the same (H, W): predict at the size of the label file"
            )


def segmentation_figure(
    items: Sequence[SegmentationItem],
    class_names: Sequence[str],
    colors: Sequence[Color | None],
    *,
    title: str = "Predictions beside ground truth",
) -> Picture:
    """Draw image, ground truth and prediction of each item in a row; uint8 (H, W, 3).

    Pixels without a label are striped in the ground truth and dimmed in the prediction: they are not scored.

    Args:
        items: what to draw.
        class_names: name of each class.
        colors: color of each class; None chooses one.
        title: a line at the top.
    """
    palette = _palette(colors)
    cells: list[Cell] = []
    pixels = np.zeros(256, np.int64)
    for item in items:
        _, image = fit_to_cell(item.image)
        size_hw = image.shape[:2]
        unlabeled = item.labels == VOID
        truth = _striped(_fit(palette[item.labels], size_hw), _fit_mask(unlabeled, size_hw))
        prediction = palette[item.predicted]
        prediction[unlabeled] = (prediction[unlabeled] * DIMMED).astype(np.uint8)
        score = "no labeled pixel" if math.isnan(item.score) else f"mIoU {item.score:.3f}"
        cells.append(Cell(image, item.title))
        cells.append(Cell(truth))
        cells.append(Cell(_fit(prediction, size_hw), score))
        pixels += _occurrences(item.labels) + _occurrences(item.predicted)
    return grid(
        in_rows(cells, 3),
        title=title,
        column_titles=["image", "ground truth", "prediction"],
        legend=_legend(pixels, class_names, UNSCORED),
        colors=_by_label(palette),
    )


def segmentation_batch_figure(
    batch: Mapping[str, Any], class_names: Sequence[str], colors: Sequence[Color | None]
) -> Picture:
    """Draw the images of a training batch as the model gets them, under their labels; uint8 (H, W, 3).

    Args:
        batch: on the CPU, images uint8 (N, 3, h, w) RGB, label_map (N, H, W) with VOID (255) for pixels
            without a label, image_ids (N,).
        class_names: name of each class.
        colors: color of each class; None chooses one.
    """
    palette = _palette(colors)
    cells: list[Cell] = []
    pixels = np.zeros(256, np.int64)
    for image, labels, image_id in zip(
        *(np.asarray(batch[key]) for key in ("images", "label_map", "image_ids")), strict=True
    ):
        _, fitted = fit_to_cell(np.ascontiguousarray(image.transpose(1, 2, 0)))  # (3, h, w) -> (h, w, 3)
        size_hw = fitted.shape[:2]
        unlabeled = labels == VOID
        covered = fitted * (1 - COVER) + _fit(palette[labels], size_hw) * COVER
        picture = _striped(covered.astype(np.uint8), _fit_mask(unlabeled, size_hw))
        cells.append(Cell(picture, f"image {image_id} · {1 - unlabeled.mean():.0%} labeled"))
        pixels += _occurrences(labels)
    return grid(
        in_rows(cells, 4),
        title="Training images after augmentation, under their labels",
        column_titles=[],
        legend=_legend(pixels, class_names, UNLABELED),
        colors=_by_label(palette),
    )


def _palette(colors: Sequence[Color | None]) -> Picture:
    """Return every value of a label map its color, uint8 (256, 3)."""
    palette = np.full((256, 3), DARK, np.uint8)
    for label, color in enumerate(colors):
        palette[label] = class_color(label) if color is None else color
    return palette


def _by_label(palette: Picture) -> dict[int, Color]:
    return {label: (int(r), int(g), int(b)) for label, (r, g, b) in enumerate(palette)}


def _fit(picture: Picture, size_hw: tuple[int, int]) -> Picture:
    """Resize a colored label map: averaged when it shrinks, so that thin things stay; else hard edges."""
    shrinks = picture.shape[0] > size_hw[0]
    way = Image.Resampling.BOX if shrinks else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(picture).resize(size_hw[::-1], way))


def _fit_mask(mask: NDArray[np.bool_], size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    return np.asarray(Image.fromarray(mask).resize(size_hw[::-1], Image.Resampling.NEAREST))


def _striped(picture: Picture, where: NDArray[np.bool_]) -> Picture:
    """Draw diagonal lines on a part of a picture (H, W, 3), bool (H, W)."""
    diagonal = np.add.outer(np.arange(where.shape[0]), np.arange(where.shape[1])) % STRIPES_APART
    lines = where & (diagonal < STRIPES_APART // 5)
    result: Picture = np.where(lines[..., None], np.array(STRIPE, np.uint8), picture)
    return result


def _occurrences(labels: NDArray[Any]) -> NDArray[np.int64]:
    return np.bincount(labels.reshape(-1), minlength=256)


def _legend(pixels: NDArray[np.int64], class_names: Sequence[str], unlabeled: str) -> list[tuple[str, int]]:
    """Return the classes that occur, the one with the most pixels first; unlabeled pixels come last."""
    order = [int(label) for label in np.argsort(-pixels, kind="stable") if pixels[label] and label != VOID]
    legend = [(class_name(label, class_names), label) for label in order]
    return [*legend, (unlabeled, VOID)] if pixels[VOID] else legend
