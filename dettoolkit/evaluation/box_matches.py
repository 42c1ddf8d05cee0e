"""Which detection meets which object at IoU 0.5: curves, thresholds and the confusion of classes.

Letters of the shapes: n detections, g objects (annotations), K classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from dettoolkit.evaluation.arrays import (
    BoolArray,
    DetectionArrays,
    FloatArray,
    GroundTruthArrays,
    IntArray,
    image_positions,
)

FOUND_IOU = 0.5
RECALLS = np.linspace(0.0, 1.0, 101)  # at which COCO averages precision
NONE = -1


@dataclass(frozen=True, slots=True, eq=False)
class Matches:
    """Detections beside the objects of their images, at IoU 0.5, by pycocotools' rules.

    The detections are those that COCO scores, at most `max_detections` of an image and class, in the order of
    images, classes and falling scores.

    Attributes:
        images, classes: int64 (n,), positions in the ground truth's image_ids and category_ids.
        scores: float64 (n,).
        boxes_xywh: float64 (n, 4).
        objects: int64 (n,), the object of its own class that the detection finds; -1 if none.
        ignored: bool (n,), what it meets is a crowd: neither right nor wrong.
        own_iou, own: float64 and int64 (n,), the largest IoU with an object of the detection's class, crowds
            left out, and that object; 0 and -1 where there is none.
        other_iou, other: the same with objects of other classes.
    """

    images: IntArray
    classes: IntArray
    scores: FloatArray
    boxes_xywh: FloatArray
    objects: IntArray
    ignored: BoolArray
    own_iou: FloatArray
    own: IntArray
    other_iou: FloatArray
    other: IntArray


def match(truth: GroundTruthArrays, detections: DetectionArrays, *, max_detections: int = 100) -> Matches:
    """Match detections to objects, image by image; detections of classes not in the truth are left out."""
    known = np.isin(detections.category_ids, truth.category_ids)
    images = image_positions(truth, detections)[known]
    classes = np.searchsorted(truth.category_ids, detections.category_ids[known])
    scores, boxes = detections.scores[known], detections.boxes_xywh[known]
    order = np.lexsort((np.arange(len(images)), -scores, classes, images))
    images, classes, scores, boxes = images[order], classes[order], scores[order], boxes[order]
    first = np.searchsorted(images * len(truth.names) + classes, images * len(truth.names) + classes)
    kept = np.arange(len(images)) - first < max_detections
    images, classes, scores, boxes = images[kept], classes[kept], scores[kept], boxes[kept]
    count = len(images)
    found = Matches(
        images,
        classes,
        scores,
        boxes,
        objects=np.full(count, NONE),
        ignored=np.zeros(count, np.bool_),
        own_iou=np.zeros(count),
        own=np.full(count, NONE),
        other_iou=np.zeros(count),
        other=np.full(count, NONE),
    )
    objects = np.argsort(truth.images, kind="stable")
    starts = np.searchsorted(truth.images[objects], np.arange(len(truth.image_ids) + 1))
    for image in np.unique(images):
        rows = slice(*np.searchsorted(images, [image, image + 1]))
        _match_image(found, rows, truth, objects[starts[image] : starts[image + 1]])
    return found


def _match_image(found: Matches, rows: slice, truth: GroundTruthArrays, objects: IntArray) -> None:
    """Fill the rows of one image, whose objects are given by their positions in the truth."""
    if not len(objects):
        return
    crowds = truth.crowds[objects]
    objects = objects[np.argsort(crowds, kind="stable")]  # crowds last, as pycocotools has them
    crowds = truth.crowds[objects]
    ious = np.asarray(
        coco_mask.iou(found.boxes_xywh[rows], truth.boxes_xywh[objects], crowds.astype(np.uint8).tolist())
    )
    same = found.classes[rows][:, None] == truth.categories[objects]
    for values, places, of in ((found.own_iou, found.own, same), (found.other_iou, found.other, ~same)):
        wanted = np.where(of & ~crowds, ious, -1.0)
        best = wanted.argmax(axis=1)
        largest = wanted[np.arange(len(best)), best]
        values[rows] = np.maximum(largest, 0)
        places[rows] = np.where(largest > 0, objects[best], NONE)
    taken = np.zeros(len(objects), np.bool_)
    for row, (own, overlaps) in enumerate(zip(same, ious, strict=True), start=rows.start):
        best, least = NONE, min(FOUND_IOU, 1 - 1e-10)
        for place in np.flatnonzero(own & (overlaps >= least)):
            if taken[place] and not crowds[place]:
                continue
            if best != NONE and crowds[place] and not crowds[best]:
                break
            if overlaps[place] >= least:
                best, least = int(place), overlaps[place]
        if best != NONE:
            taken[best] = True
            found.ignored[row] = crowds[best]
            if not crowds[best]:
                found.objects[row] = objects[best]


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """Precision over recall of one class at IoU 0.5.

    Attributes:
        scores: float64 (m,), of the class's detections, falling.
        hits: bool (m,), whether each is right.
        objects: to be found.
    """

    scores: FloatArray
    hits: BoolArray
    objects: int

    @property
    def precision(self) -> FloatArray:
        """Return the fraction that is right, of the detections down to each, (m,)."""
        return np.cumsum(self.hits) / np.arange(1, len(self.hits) + 1)

    @property
    def recall(self) -> FloatArray:
        """Return the fraction of the objects that is found by the detections down to each, (m,)."""
        return np.cumsum(self.hits) / max(1, self.objects)

    def at_recalls(self) -> FloatArray:
        """Return COCO's precision at 101 recalls, float64 (101,): the largest there or beyond."""
        falling = np.maximum.accumulate(self.precision[::-1])[::-1]
        places = np.searchsorted(self.recall, RECALLS, side="left")
        return np.append(falling, 0.0)[np.minimum(places, len(falling))]

    @property
    def ap(self) -> float:
        """Return the average precision; NaN without objects."""
        return float(self.at_recalls().mean()) if self.objects else math.nan

    def best(self) -> dict[str, float] | None:
        """Return the score threshold of the best F1, with its precision and recall; None without detections.

        A threshold lets through the detections whose score is not below it.
        """
        last = np.append(np.flatnonzero(np.diff(self.scores)), len(self.scores) - 1)  # of equal scores
        if not len(self.scores) or not self.objects:
            return None
        f1 = 2 * np.cumsum(self.hits) / (np.arange(1, len(self.hits) + 1) + self.objects)
        place = last[f1[last].argmax()]
        return {
            "threshold": float(self.scores[place]),
            "precision": float(self.precision[place]),
            "recall": float(self.recall[place]),
            "f1": float(f1[place]),
        }


def curves(truth: GroundTruthArrays, found: Matches) -> list[Curve]:
    """Return the curve of each class, K."""
    objects = np.bincount(truth.categories[~truth.crowds], minlength=len(truth.names))
    return [
        _curve(found.scores[mine], found.objects[mine] != NONE, int(objects[number]))
        for number in range(len(truth.names))
        for mine in [(found.classes == number) & ~found.ignored]
    ]


def overall(truth: GroundTruthArrays, found: Matches) -> Curve:
    """Return one curve of the detections of all classes together."""
    counted = ~found.ignored
    return _curve(found.scores[counted], found.objects[counted] != NONE, int((~truth.crowds).sum()))


def _curve(scores: FloatArray, hits: BoolArray, objects: int) -> Curve:
    order = np.argsort(-scores, kind="mergesort")
    return Curve(scores[order], hits[order], objects)


def threshold_table(curve: Curve, thresholds: FloatArray) -> list[dict[str, float]]:
    """Return precision, recall and F1 at some score thresholds; precision is NaN without detections."""
    table = []
    for threshold in thresholds.tolist():
        shown = int(np.searchsorted(-curve.scores, -threshold, side="right"))
        hits = int(curve.hits[:shown].sum())
        table.append(
            {
                "threshold": threshold,
                "precision": hits / shown if shown else math.nan,
                "recall": hits / curve.objects if curve.objects else math.nan,
                "f1": 2 * hits / (shown + curve.objects) if shown + curve.objects else math.nan,
                "detections": shown,
            }
        )
    return table


def confusion(truth: GroundTruthArrays, found: Matches, *, threshold: float) -> IntArray:
    """Count objects by class (row) and by what was detected there (column), int64 (K + 1, K + 1).

    Of the detections with at least this score, pairs with IoU 0.5 and more are taken one to one, whatever
    their classes, the largest IoU first. The last row counts detections where no object is, the last
    column objects that nothing met. Crowds are left out, and detections that meet only a crowd.
    """
    total = len(truth.names)
    matrix = np.zeros((total + 1, total + 1), np.int64)
    rows = np.flatnonzero((found.scores >= threshold) & ~found.ignored)
    pairs = [
        (iou, row, place)
        for row in rows
        for iou, place in ((found.own_iou[row], found.own[row]), (found.other_iou[row], found.other[row]))
        if iou >= FOUND_IOU
    ]
    met, taken = set[Any](), set[Any]()
    for _, row, place in sorted(pairs, key=lambda pair: -pair[0]):
        if row not in met and place not in taken:
            met.add(row)
            taken.add(place)
            matrix[truth.categories[place], found.classes[row]] += 1
    for row in rows:
        if row not in met:
            matrix[total, found.classes[row]] += 1
    for place in np.flatnonzero(~truth.crowds):
        if place not in taken:
            matrix[truth.categories[place], total] += 1
    return matrix
