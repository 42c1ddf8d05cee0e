"""What a report says of a detector: numbers, and images with objects and detections drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dettoolkit.detection.run import DetectionRun
from dettoolkit.drawing.boxes import Picture, draw_boxes
from dettoolkit.drawing.detection_grids import ComparisonItem
from dettoolkit.drawing.grids import fit_to_cell, joined, panel_hw
from dettoolkit.evaluation import box_details
from dettoolkit.evaluation.arrays import DetectionArrays
from dettoolkit.evaluation.worst import image_f1

SURROUNDINGS = 4.0  # times the longer side of a mistake's box: what is shown around it
LEAST_PIXELS = 96


def report_details(
    run: DetectionRun, predictions: Sequence[Any], score: Any, *, count: int
) -> dict[str, Any]:
    """Return all that a report says beside COCO's numbers; see TaskSpec.report_details."""
    details = box_details.box_details(
        run.task.ground_truth,
        DetectionArrays.concatenate(predictions),
        max_detections=score.max_detections,
        threshold=run.recipe.evaluation.threshold,
        count=count,
    )
    for entry in (*details["worst_images"], *details["mistakes"]):
        row = int(np.flatnonzero(run.val.annotations.image_ids == entry["image_id"])[0])
        entry["file"] = run.val.annotations.image_path(row).name
    return {"shows_from": run.recipe.evaluation.threshold, **details}


def image_scores(
    run: DetectionRun, predictions: Sequence[Any], details: Mapping[str, Any]
) -> dict[int, float]:
    """Return the F1 of each image by its row in the validation set."""
    found, truth = DetectionArrays.concatenate(predictions), run.task.ground_truth
    f1, _ = image_f1(truth, found, score_threshold=details["shown_from"])
    rows = np.searchsorted(truth.image_ids, run.val.annotations.image_ids)
    return dict(enumerate(f1[rows].round(box_details.DIGITS).tolist()))


def report_picture(
    run: DetectionRun, predictions: Sequence[Any], entry: Mapping[str, Any], details: Mapping[str, Any]
) -> Picture | None:
    """Draw an image's objects beside its detections; of a mistake, its surroundings and only itself."""
    found, names = DetectionArrays.concatenate(predictions), run.classes.names
    mistake = "box_xywh" in entry
    threshold = entry["score"] - 1e-5 if mistake else details["shown_from"]
    item = run.comparison(found, entry["image_id"], threshold=threshold)
    if item is None:
        return None
    if not mistake:
        return _pair(item, item.image, np.zeros(4), names, np.ones(len(item.predicted_labels), np.bool_))
    left, top, width, height = entry["box_xywh"]
    corners = np.array([left, top, left + width, top + height])
    mine = np.abs(item.predicted_boxes_xyxy - corners).max(axis=1, initial=0) < 1e-3
    mine &= np.array([names[label] == entry["class"] for label in item.predicted_labels], np.bool_)
    window = _window(corners, item.image.shape[:2])
    part = np.ascontiguousarray(item.image[window[1] : window[3], window[0] : window[2]])
    return _pair(item, part, np.array([*window[:2]] * 2, np.float64), names, mine)


def _pair(
    item: ComparisonItem, image: Picture, offset: np.ndarray, names: Sequence[str], shown: np.ndarray
) -> Picture:
    scale, fitted = fit_to_cell(image, panel_hw(image))
    truth = draw_boxes(
        fitted, (item.boxes_xyxy - offset) * scale, item.labels, class_names=names, crowds=item.crowds
    )
    prediction = draw_boxes(
        fitted,
        (item.predicted_boxes_xyxy[shown] - offset) * scale,
        item.predicted_labels[shown],
        class_names=names,
        scores=item.predicted_scores[shown],
    )
    return joined([truth, prediction])


def _window(corners: np.ndarray, hw: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Return left, top, right, bottom of the part of an image around a box."""
    height, width = hw[:2]
    side = max(SURROUNDINGS * float(max(corners[2:] - corners[:2])), LEAST_PIXELS)
    middle = (corners[:2] + corners[2:]) / 2
    low = np.clip(middle - side / 2, 0, [max(0.0, width - side), max(0.0, height - side)])
    left, top = low.astype(int).tolist()
    return left, top, min(width, left + int(side)), min(height, top + int(side))
