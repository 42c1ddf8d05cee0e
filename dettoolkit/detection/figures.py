"""Figures of a detection run: predictions beside ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dettoolkit.datasets.coco import CocoDetection
from dettoolkit.datasets.data_report import BadImageError
from dettoolkit.datasets.images import read_image
from dettoolkit.drawing.boxes import Picture
from dettoolkit.drawing.detection_grids import ComparisonItem, comparison_figure
from dettoolkit.drawing.grids import save_pages
from dettoolkit.evaluation.arrays import DetectionArrays, GroundTruthArrays
from dettoolkit.evaluation.worst import worst_images
from dettoolkit.run import Classes

PER_FIGURE = 8  # images of a comparison, so that it still fits a screen


def draw_predictions(
    val: CocoDetection,
    detections: DetectionArrays,
    folder: Path,
    *,
    truth: GroundTruthArrays,
    classes: Classes,
    count: int,
    threshold: float,
) -> None:
    """Draw predictions beside ground truth: images spread over the set, and the worst ones."""
    ids = val.annotations.image_ids
    if count == 0 or not len(ids):
        return
    spread = ids[np.linspace(0, len(ids) - 1, min(count, len(ids))).astype(int)]
    worst = worst_images(truth, detections, score_threshold=threshold, count=count)

    def draw(images: list[int]) -> Picture | None:
        items = [_compare(val, classes.ids, detections, image, threshold) for image in images]
        readable = [item for item in items if item is not None]
        return comparison_figure(readable, classes.names) if readable else None

    save_pages(folder, "predictions", spread.tolist(), per_page=PER_FIGURE, draw=draw)
    save_pages(folder, "worst", [image for image, _ in worst], per_page=PER_FIGURE, draw=draw)


def _compare(
    val: CocoDetection, ids: Sequence[int], detections: DetectionArrays, image_id: int, threshold: float
) -> ComparisonItem | None:
    annotations = val.annotations
    row = int(np.flatnonzero(annotations.image_ids == image_id)[0])
    path = annotations.image_path(row)
    try:
        image = read_image(path, max_megapixels=val.max_megapixels)
    except BadImageError:  # recorded already when it was to be scored
        return None
    mine = slice(int(annotations.offsets[row]), int(annotations.offsets[row + 1]))
    shown = (detections.image_ids == image_id) & (detections.scores >= threshold)
    label_of = {category: label for label, category in enumerate(ids)}
    true_ids = np.asarray(annotations.category_ids)[annotations.labels[mine]]
    return ComparisonItem(
        image=image,
        title=path.name,
        boxes_xyxy=_corners(annotations.boxes_xywh[mine]),
        labels=np.array([label_of.get(int(each), -1) for each in true_ids], np.int64),
        crowds=annotations.iscrowd[mine],
        predicted_boxes_xyxy=_corners(detections.boxes_xywh[shown]),
        predicted_labels=np.array([label_of[int(each)] for each in detections.category_ids[shown]], np.int64),
        predicted_scores=detections.scores[shown],
    )


def _corners(boxes_xywh: np.ndarray) -> np.ndarray:
    corners = boxes_xywh.copy()
    corners[:, 2:] += corners[:, :2]
    return corners
