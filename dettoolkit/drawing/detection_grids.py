"""Figures of detection: the batch a model is trained on, and predictions beside ground truth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dettoolkit.drawing.boxes import Picture, class_name, draw_boxes
from dettoolkit.drawing.grids import Cell, fit_to_cell, grid


@dataclass(frozen=True, slots=True, eq=False)
class ComparisonItem:
    """An image with its m objects and the n predictions to be drawn."""

    image: Picture  # uint8 (H, W, 3) RGB, as in the file
    boxes_xyxy: NDArray[Any]  # (m, 4) pixels of `image`
    labels: NDArray[Any]  # (m,) 0-based classes
    crowds: NDArray[Any]  # (m,) true for crowds
    predicted_boxes_xyxy: NDArray[Any]  # (n, 4)
    predicted_labels: NDArray[Any]  # (n,)
    predicted_scores: NDArray[Any]  # (n,)
    title: str  # the image's name


def comparison_figure(
    items: Sequence[ComparisonItem],
    class_names: Sequence[str],
    *,
    title: str = "Predictions and ground truth",
) -> Picture:
    """Draw ground truth and prediction of each item side by side, two items in a row; uint8 (H, W, 3)."""
    cells: list[Cell] = []
    for item in items:
        scale, image = fit_to_cell(item.image)
        truth = draw_boxes(
            image, item.boxes_xyxy * scale, item.labels, class_names=class_names, crowds=item.crowds
        )
        prediction = draw_boxes(
            image,
            item.predicted_boxes_xyxy * scale,
            item.predicted_labels,
            class_names=class_names,
            scores=item.predicted_scores,
        )
        cells.append(Cell(truth, f"{item.title} · {_counted(len(item.labels), 'object')}"))
        cells.append(Cell(prediction, _counted(len(item.predicted_labels), "detection")))
    columns = 4 if len(items) > 1 else 2
    labels = [label for item in items for label in (*item.labels, *item.predicted_labels)]
    return grid(
        cells,
        columns,
        title=title,
        column_titles=["ground truth", "prediction"] * (columns // 2),
        legend=_legend(labels, class_names),
        group=2,
    )


def batch_figure(batch: Mapping[str, Any], class_names: Sequence[str]) -> Picture:
    """Draw the images of a training batch as the model gets them, with their boxes; uint8 (H, W, 3).

    The batch is on the CPU: images uint8 (N, 3, H, W) RGB, boxes_xyxy (N, M, 4) pixels, box_labels (N, M)
    with -1 for padding, image_ids (N,).
    """
    cells: list[Cell] = []
    drawn: list[int] = []
    for image, boxes, labels, image_id in zip(
        *(np.asarray(batch[key]) for key in ("images", "boxes_xyxy", "box_labels", "image_ids")), strict=True
    ):
        real = labels >= 0
        scale, fitted = fit_to_cell(np.ascontiguousarray(image.transpose(1, 2, 0)))  # (3, H, W) -> (H, W, 3)
        drawing = draw_boxes(fitted, boxes[real] * scale, labels[real], class_names=class_names)
        cells.append(Cell(drawing, f"image {image_id} · {_counted(int(real.sum()), 'box')}"))
        drawn.extend(labels[real])
    title = "Training images after augmentation, with their boxes"
    return grid(cells, 4, title=title, legend=_legend(drawn, class_names))


def _counted(number: int, noun: str) -> str:
    plural = noun + ("es" if noun.endswith("x") else "s")
    return f"{number or 'no'} {noun if number == 1 else plural}"


def _legend(labels: Sequence[Any], class_names: Sequence[str]) -> list[tuple[str, int]]:
    """Return the names of the classes that occur, the most frequent first."""
    counts = Counter(int(label) for label in labels)
    return [(class_name(label, class_names), label) for label, _ in counts.most_common()]
