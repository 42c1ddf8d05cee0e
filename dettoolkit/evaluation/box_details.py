"""All that a report says of a detector beside COCO's numbers, as plain data.

Letters of the shapes: n detections, I images, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dettoolkit.evaluation.arrays import DetectionArrays, GroundTruthArrays, IntArray
from dettoolkit.evaluation.box_errors import KINDS, error_kinds, kinds_of
from dettoolkit.evaluation.box_matches import (
    NONE,
    Curve,
    Matches,
    confusion,
    curves,
    match,
    overall,
    threshold_table,
)
from dettoolkit.evaluation.score_text import plain
from dettoolkit.evaluation.worst import image_f1

THRESHOLDS = np.round(np.linspace(0.05, 0.95, 19), 2)
DIGITS = 6  # of what is listed
SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
"""COCO's limits of an object's area, in square pixels; both belong to the size, as in pycocotools."""


def box_details(
    truth: GroundTruthArrays,
    detections: DetectionArrays,
    *,
    max_detections: int,
    threshold: float,
    count: int,
) -> dict[str, Any]:
    """Return curves, thresholds, confusion, sizes, kinds of error, worst images and surest mistakes.

    Args:
        truth: the objects.
        detections: of all images, with the truth's ids.
        max_detections: the best ones of an image and class that are taken, as `evaluate_coco` does.
        threshold: a score from which detections are taken for shown where no score is the best one.
        count: worst images and surest mistakes that are listed.
    """
    found = match(truth, detections, max_detections=max_detections)
    together, each = overall(truth, found), curves(truth, found)
    best = together.best()
    shown = best["threshold"] if best is not None and best["f1"] > 0 else threshold
    f1, counted = image_f1(truth, detections, score_threshold=shown)
    worst = np.lexsort((truth.image_ids, -counted, f1))
    content = {
        "shown_from": shown,
        "best_f1": threshold_table(together, np.array([best["threshold"]]))[0] if best else None,
        "curves": [_curve(name, curve) for name, curve in zip(truth.names, each, strict=True)],
        "thresholds": threshold_table(together, THRESHOLDS),
        "confusion": {
            "names": [*truth.names, "background"],
            "matrix": confusion(truth, found, threshold=shown).tolist(),
        },
        "objects_by_size": _objects_by_size(truth),
        "errors": [
            {"name": kind.name, "meaning": kind.meaning, "count": kind.count, "gain": kind.gain}
            for kind in error_kinds(truth, found)
        ],
        "worst_images": [
            {"image_id": int(truth.image_ids[row]), "f1": float(f1[row]), "boxes": int(counted[row])}
            for row in worst[f1[worst] < 1][:count].tolist()
        ],
        "mistakes": _mistakes(truth, found, count),
    }
    return plain(_rounded(content))  # type: ignore[no-any-return]


def _curve(name: str, curve: Curve) -> dict[str, Any]:
    """Return COCO's precision at 101 recalls of a class, and its best threshold."""
    precision = curve.at_recalls().tolist() if curve.objects else []
    return {"name": name, "objects": curve.objects, "best_f1": curve.best(), "precision": precision}


def _objects_by_size(truth: GroundTruthArrays) -> dict[str, int]:
    areas = truth.areas[~truth.crowds]
    return {name: int(((areas >= low) & (areas <= high)).sum()) for name, (low, high) in SIZES.items()}


def _mistakes(truth: GroundTruthArrays, found: Matches, count: int) -> list[dict[str, Any]]:
    """List the wrong detections of the highest scores."""
    kinds = kinds_of(found)
    wrong = np.flatnonzero(kinds != NONE)
    surest: IntArray = wrong[np.argsort(-found.scores[wrong], kind="stable")][:count]
    return [_mistake(truth, found, int(row), list(KINDS)[kinds[row]]) for row in surest]


def _mistake(truth: GroundTruthArrays, found: Matches, row: int, kind: str) -> dict[str, Any]:
    meets = found.other[row] if found.other_iou[row] > found.own_iou[row] else found.own[row]
    return {
        "image_id": int(truth.image_ids[found.images[row]]),
        "class": truth.names[found.classes[row]],
        "score": float(found.scores[row]),
        "kind": kind,
        "meets": truth.names[truth.categories[meets]] if meets != NONE else None,
        "iou": float(max(found.own_iou[row], found.other_iou[row])),
        "box_xywh": found.boxes_xywh[row].tolist(),
    }


def _rounded(value: Any) -> Any:
    """Round what is listed many times over; thresholds stay as they are: a score is compared with them."""
    if isinstance(value, dict):
        return {
            key: each if key in ("threshold", "shown_from") else _rounded(each) for key, each in value.items()
        }
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_rounded(each) for each in value]
    return round(value, DIGITS) if isinstance(value, float) else value
