"""Find the images on which a detector does worst, to look at them first."""

from __future__ import annotations

import numpy as np

from dettoolkit.evaluation.arrays import (
    BoolArray,
    DetectionArrays,
    FloatArray,
    GroundTruthArrays,
    IntArray,
    image_positions,
)

MATCH_IOU = 0.5  # the looser of COCO's thresholds: whether an object was found, not how tightly


def worst_images(
    truth: GroundTruthArrays, detections: DetectionArrays, *, score_threshold: float, count: int
) -> list[tuple[int, float]]:
    """List the `count` worst images as (image id, F1), worst first; see `image_f1`.

    Among equals the one with more objects and detections comes first, then the lower id.
    """
    f1, counted = image_f1(truth, detections, score_threshold=score_threshold)
    order = np.lexsort((truth.image_ids, -counted, f1))[:count]
    return [(int(truth.image_ids[index]), float(f1[index])) for index in order]


def image_f1(
    truth: GroundTruthArrays, detections: DetectionArrays, *, score_threshold: float
) -> tuple[FloatArray, IntArray]:
    """Compute each image's F1, and count its objects and detections, (I,) both.

    An image's F1 is 2 hits / (objects + detections), of the detections whose score is at least
    `score_threshold`. A hit is a detection and an object of the same class with IoU >= 0.5, taken one to one,
    best score first. Crowds are no objects; a detection without a hit that lies at least half within a
    crowd of its class does not count. An image without objects and detections has 1.
    """
    every_image = image_positions(truth, detections)
    shown = (detections.scores >= score_threshold) & np.isin(detections.category_ids, truth.category_ids)
    images, scores = every_image[shown], detections.scores[shown]
    boxes = np.asarray(detections.boxes_xywh, np.float64)[shown]
    keys = images * len(truth.names) + np.searchsorted(truth.category_ids, detections.category_ids[shown])

    hit, in_crowd = _hits(truth, keys, boxes, scores)
    total = len(truth.image_ids)
    hits = np.bincount(images[hit], minlength=total)
    counted = np.bincount(images[hit | ~in_crowd], minlength=total)
    counted += np.bincount(truth.images[~truth.crowds], minlength=total)
    return np.where(counted == 0, 1.0, 2 * hits / np.maximum(counted, 1)), counted


def _hits(
    truth: GroundTruthArrays, keys: IntArray, boxes_xywh: FloatArray, scores: FloatArray
) -> tuple[BoolArray, BoolArray]:
    """Tell, bool (n,), which detections hit an object of their key, and which a crowd covers by half."""
    detection, annotation = _pairs_of_equal_key(keys, truth.images * len(truth.names) + truth.categories)
    overlap, union = _intersection_and_union(boxes_xywh[detection], truth.boxes_xywh[annotation])
    crowd = truth.crowds[annotation]
    own_area = boxes_xywh[:, 2] * boxes_xywh[:, 3]
    in_crowd = np.zeros(len(keys), np.bool_)
    in_crowd[detection[crowd & (overlap > 0) & (overlap >= MATCH_IOU * own_area[detection])]] = True

    close = ~crowd & (overlap > 0) & (overlap >= MATCH_IOU * union)
    detection, annotation, iou = detection[close], annotation[close], (overlap[close] / union[close])
    order = np.lexsort((-iou, -scores[detection]))
    hit, taken = np.zeros(len(keys), np.bool_), np.zeros(len(truth.images), np.bool_)
    for d, a in zip(detection[order].tolist(), annotation[order].tolist(), strict=True):
        if not hit[d] and not taken[a]:
            hit[d] = taken[a] = True
    return hit, in_crowd


def _pairs_of_equal_key(left: IntArray, right: IntArray) -> tuple[IntArray, IntArray]:
    """List every (position in left, position in right) of equal keys."""
    order = np.argsort(right, kind="stable")
    first = np.searchsorted(right[order], left, side="left")
    partners = np.searchsorted(right[order], left, side="right") - first
    left_of_pair = np.repeat(np.arange(len(left)), partners)
    place_in_run = np.arange(partners.sum()) - np.repeat(np.cumsum(partners) - partners, partners)
    return left_of_pair, order[first[left_of_pair] + place_in_run]


def _intersection_and_union(a_xywh: FloatArray, b_xywh: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Measure pairs of boxes, (p, 4) both, in square pixels, (p,) both."""
    low = np.maximum(a_xywh[:, :2], b_xywh[:, :2])
    high = np.minimum(a_xywh[:, :2] + a_xywh[:, 2:], b_xywh[:, :2] + b_xywh[:, 2:])
    overlap = np.clip(high - low, 0, None).prod(axis=1)
    return overlap, a_xywh[:, 2:].prod(axis=1) + b_xywh[:, 2:].prod(axis=1) - overlap
