"""Figures of both tasks: boxes over the classes of all pixels, ground truth beside predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dettoolkit.datasets.images import resize_labels
from dettoolkit.drawing.boxes import Color, Picture
from dettoolkit.drawing.boxes_over_masks import draw_boxes_over_segments
from dettoolkit.drawing.detection_grids import ComparisonItem
from dettoolkit.drawing.grids import Cell, fit_to_cell, grid
from dettoolkit.drawing.segmentation_grids import SegmentationItem


def joint_figure(
    items: Sequence[tuple[ComparisonItem, SegmentationItem]],
    class_names: Sequence[str],
    segment_names: Sequence[str],
    colors: Sequence[Color | None],
) -> Picture:
    """Draw ground truth and prediction of each image in a row; uint8 (H, W, 3).

    `class_names` are the boxes', `segment_names` and `colors` the pixels'.
    """
    cells: list[Cell] = []
    for boxes, maps in items:
        scale, image = fit_to_cell(boxes.image)

        def drawn(
            segments: NDArray[Any],
            boxes_xyxy: NDArray[Any],
            labels: NDArray[Any],
            scores: NDArray[Any] | None,
            image: Picture = image,
            scale: float = scale,
        ) -> Picture:
            return draw_boxes_over_segments(
                image,
                resize_labels(segments.astype(np.uint8), (image.shape[0], image.shape[1])),
                segment_names=segment_names,
                colors=colors,
                boxes_xyxy=boxes_xyxy * scale,
                labels=labels,
                scores=scores,
                class_names=class_names,
            )

        cells.append(Cell(drawn(maps.labels, boxes.boxes_xyxy, boxes.labels, None), boxes.title))
        found = drawn(
            maps.predicted, boxes.predicted_boxes_xyxy, boxes.predicted_labels, boxes.predicted_scores
        )
        cells.append(Cell(found, f"mIoU {maps.score:.3f}"))
    return grid(
        cells, 2, title="Predictions and ground truth", column_titles=["ground truth", "prediction"], group=2
    )
