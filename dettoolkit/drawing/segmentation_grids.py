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
from dettoolkit.drawing.boxes import Color, Picture, class_name
from dettoolkit.drawing.grids import CELL_HW, Cell, fit_to_cell, grid, joined, panel_hw
from dettoolkit.drawing.masks import COVER, palette_of

UNLABELED, UNSCORED = "not labeled", "not labeled: dimmed in the prediction, not scored"
STRIPE = (110, 110, 118)  # on pixels without a label; no class of Cityscapes has stripes
STRIPES_APART = 10  # pixels of the sheet
DIMMED = 0.35  # what is left of a prediction's color where it is not scored


@dataclass(frozen=True, slots=True, eq=False)
class SegmentationItem:
    """An image with its ground truth and prediction."""

    image: Picture  # uint8 (h, w, 3) RGB, as in the file
    labels: NDArray[Any]  # (H, W), labels and VOID (255)
    predicted: NDArray[Any]  # (H, W), labels
    title: str  # the image's name
    score: float  # the image's mean IoU; NaN where it has no labeled pixel

    def __post_init__(self) -> None:
        if self.labels.ndim != 2 or self.labels.shape != self.predicted.shape:
            raise ValueError(
                f"picture of {self.title}: labels {self.labels.shape} and prediction {self.predicted.shape}, "
                "expected the same (H, W): predict at the size of the label file"
            )


def segmentation_figure(
    items: Sequence[SegmentationItem],
    class_names: Sequence[str],
    colors: Sequence[Color | None],
    *,
    title: str = "Predictions and ground truth",
) -> Picture:
    """Draw image, ground truth and prediction of each item in a row; uint8 (H, W, 3).

    Pixels without a label are striped in the ground truth and dimmed in the prediction: they are not scored.
    """
    palette = palette_of(colors)
    cells: list[Cell] = []
    pixels = np.zeros(256, np.int64)
    for item in items:
        image, truth, prediction = _panels(item, palette, CELL_HW)
        score = "no labeled pixel" if math.isnan(item.score) else f"mIoU {item.score:.3f}"
        cells.append(Cell(image, item.title))
        cells.append(Cell(truth))
        cells.append(Cell(prediction, score))
        pixels += _occurrences(item.labels) + _occurrences(item.predicted)
    return grid(
        cells,
        3,
        title=title,
        column_titles=["image", "ground truth", "prediction"],
        legend=_legend(pixels, class_names, UNSCORED),
        color_of=lambda label: tuple(palette[label].tolist()),
    )


def segmentation_panels(item: SegmentationItem, colors: Sequence[Color | None]) -> Picture:
    """Draw image, ground truth and prediction together, without letters; uint8 (H, W, 3)."""
    return joined(_panels(item, palette_of(colors), panel_hw(item.image)))


def _panels(item: SegmentationItem, palette: NDArray[np.uint8], hw: tuple[int, int]) -> list[Picture]:
    _, image = fit_to_cell(item.image, hw)
    unlabeled = item.labels == VOID
    prediction = palette[item.predicted]
    prediction[unlabeled] = (prediction[unlabeled] * DIMMED).astype(np.uint8)
    truth = _striped(_fit(palette[item.labels], image), _fit(unlabeled, image))
    return [image, truth, _fit(prediction, image)]


def segmentation_batch_figure(
    batch: Mapping[str, Any], class_names: Sequence[str], colors: Sequence[Color | None]
) -> Picture:
    """Draw the images of a training batch as the model gets them, under their labels; uint8 (H, W, 3).

    The batch is on the CPU: images uint8 (N, 3, h, w) RGB, label_map (N, H, W) with VOID, image_ids (N,).
    """
    palette = palette_of(colors)
    cells: list[Cell] = []
    pixels = np.zeros(256, np.int64)
    for image, labels, image_id in zip(
        *(np.asarray(batch[key]) for key in ("images", "label_map", "image_ids")), strict=True
    ):
        _, fitted = fit_to_cell(np.ascontiguousarray(image.transpose(1, 2, 0)))  # (3, h, w) -> (h, w, 3)
        unlabeled = labels == VOID
        covered = fitted * (1 - COVER) + _fit(palette[labels], fitted) * COVER
        picture = _striped(covered.astype(np.uint8), _fit(unlabeled, fitted))
        cells.append(Cell(picture, f"image {image_id} · {1 - unlabeled.mean():.0%} labeled"))
        pixels += _occurrences(labels)
    return grid(
        cells,
        4,
        title="Training images after augmentation, under their labels",
        legend=_legend(pixels, class_names, UNLABELED),
        color_of=lambda label: tuple(palette[label].tolist()),
    )


def _fit(picture: NDArray[Any], image: Picture) -> NDArray[Any]:
    """Resize a mask or a colored label map to an image.

    Colors are averaged when they shrink, so that thin things stay; else edges stay hard.
    """
    shrinks = picture.ndim == 3 and picture.shape[0] > image.shape[0]
    way = Image.Resampling.BOX if shrinks else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(picture).resize(image.shape[1::-1], way))


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
