"""Figures of a detection run: what the network is shown, and what it finds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dettoolkit.datasets.coco import CocoDetection, collate
from dettoolkit.datasets.data_report import BadImageError
from dettoolkit.datasets.images import read_image
from dettoolkit.datasets.samplers import SampleKey
from dettoolkit.drawing.detection_grids import ComparisonItem, batch_figure, comparison_figure
from dettoolkit.drawing.grids import save_figure
from dettoolkit.evaluation.arrays import DetectionArrays, GroundTruthArrays
from dettoolkit.evaluation.worst import worst_images
from dettoolkit.run import Classes

PER_FIGURE = 8  # images of a comparison, so that it still fits a screen


def draw_training_batch(train: CocoDetection, class_names: Sequence[str], folder: Path, count: int) -> None:
    """Draw the ground truth of the first images as the network will see them, after augmentation."""
    if count == 0 or len(train) == 0:
        return
    rows = np.random.default_rng(0).permutation(len(train))[:count]
    batch = collate([train[SampleKey(int(row), 0)] for row in rows])
    folder.mkdir(parents=True, exist_ok=True)
    save_figure(folder / "training_batch.jpg", batch_figure(batch, class_names, count))


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
    if count == 0 or len(val) == 0:
        return
    folder.mkdir(parents=True, exist_ok=True)
    ids = val.annotations.image_ids
    spread = ids[np.linspace(0, len(ids) - 1, min(count, len(ids))).astype(int)]
    ranked = worst_images(truth, detections, score_threshold=threshold, count=count)
    sets = {"predictions": [int(each) for each in spread], "worst": [image for image, _ in ranked]}
    for name, images in sets.items():
        for page, start in enumerate(range(0, len(images), PER_FIGURE), start=1):
            items = [
                item
                for image in images[start : start + PER_FIGURE]
                if (item := _compare(val, classes.ids, detections, image, threshold)) is not None
            ]
            if items:
                save_figure(folder / f"{name}_{page}.jpg", comparison_figure(items, classes.names))


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
