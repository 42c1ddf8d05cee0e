"""COCO's 12 numbers for boxes, equal to pycocotools' to the last digit and many times faster.

The matching runs in faster-coco-eval's C++; this module feeds it from arrays and reads the averages from its
precision and recall tables as pycocotools' `COCOeval.summarize` does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

from dettoolkit.evaluation.arrays import (
    BoolArray,
    DetectionArrays,
    FloatArray,
    GroundTruthArrays,
    IntArray,
    image_positions,
)
from dettoolkit.evaluation.score_text import results_table

__all__ = ["ClassResult", "CocoScores", "DetectionArrays", "GroundTruthArrays", "evaluate_coco"]

# Name -> (precision or recall, IoU threshold, area range, place in maxDets): pycocotools' order,
# cocoeval.py `_summarizeDets`. "AR100" keeps its name when max_detections is another number.
NUMBERS: dict[str, tuple[str, float | None, str, int]] = {
    "AP": ("precision", None, "all", 2),
    "AP50": ("precision", 0.5, "all", 2),
    "AP75": ("precision", 0.75, "all", 2),
    "APs": ("precision", None, "small", 2),
    "APm": ("precision", None, "medium", 2),
    "APl": ("precision", None, "large", 2),
    "AR1": ("recall", None, "all", 0),
    "AR10": ("recall", None, "all", 1),
    "AR100": ("recall", None, "all", 2),
    "ARs": ("recall", None, "small", 2),
    "ARm": ("recall", None, "medium", 2),
    "ARl": ("recall", None, "large", 2),
}
AREAS = ("all", "small", "medium", "large")


class ClassResult(NamedTuple):
    """The scores of one class over all sizes; NaN for a class without objects."""

    name: str
    ap: float
    ap50: float
    ar100: float
    objects: int


@dataclass(frozen=True, slots=True)
class CocoScores:
    """Hold the scores of one evaluation.

    Attributes:
        numbers: COCO's 12 numbers in [0, 1] by the names AP AP50 AP75 APs APm APl AR1 AR10 AR100 ARs ARm ARl;
            NaN where the ground truth has no object to score (pycocotools has -1 there).
        per_class: one entry for each category; those with objects first, best AP first.
        max_detections: detections of an image and class that were scored.
        note: what the reader must know about the numbers, or None.
    """

    numbers: dict[str, float]
    per_class: list[ClassResult]
    max_detections: int
    note: str | None

    def table(self) -> str:
        """Write the 12 numbers in words and the classes as aligned text, without a final newline."""
        return results_table(self.numbers, self.per_class, self.max_detections, self.note)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for `json.dump`; None stands for NaN, which json does not know."""
        return {
            "numbers": {name: _none_if_nan(value) for name, value in self.numbers.items()},
            "per_class": [
                {key: _none_if_nan(value) for key, value in entry._asdict().items()}
                for entry in self.per_class
            ],
            "max_detections": self.max_detections,
            "note": self.note,
        }


def evaluate_coco(
    ground_truth: Mapping[str, Any] | GroundTruthArrays, detections: DetectionArrays, *, max_detections: int
) -> CocoScores:
    """Score detections as pycocotools does (`COCOeval(…, "bbox")`), with these differences.

    Annotations are renumbered from 1, so ids that are 0, repeated or missing do no harm; missing area and
    iscrowd are filled in; no detections at all score 0; a number without any object to score is NaN, not -1.

    Args:
        ground_truth: a COCO annotation dict, which is not changed, or what was packed of one.
        detections: the detections of all images, with the ids of `ground_truth`.
        max_detections: the best detections of an image and class that are scored (COCO: 100). AR1 and AR10
            take 1 and 10, or this number if that is less.

    Raises:
        ValueError: max_detections below 1, or detections of images that `ground_truth` does not list.

    Example:
        >>> box = [10.0, 10.0, 50.0, 40.0]
        >>> truth = {
        ...     "images": [{"id": 1, "width": 100, "height": 100}],
        ...     "annotations": [{"id": 1, "image_id": 1, "category_id": 7, "bbox": box}],
        ...     "categories": [{"id": 7, "name": "cat"}],
        ... }
        >>> one, cat = np.array([1]), np.array([7])
        >>> found = DetectionArrays(
        ...     image_ids=one, category_ids=cat, boxes_xywh=np.array([box]), scores=np.array([0.9])
        ... )
        >>> round(evaluate_coco(truth, found, max_detections=100).numbers["AP"], 3)
        1.0
    """
    if max_detections < 1:
        raise ValueError(f"max_detections is {max_detections}, wanted at least 1 (COCO: 100)")
    truth = (
        ground_truth
        if isinstance(ground_truth, GroundTruthArrays)
        else GroundTruthArrays.from_coco(ground_truth)
    )
    images = image_positions(truth, detections)
    known = np.isin(detections.category_ids, truth.category_ids)
    categories = np.searchsorted(truth.category_ids, detections.category_ids)
    objects = np.bincount(truth.categories[~truth.crowds], minlength=len(truth.names))
    if objects.sum() == 0:
        undefined = [ClassResult(name, math.nan, math.nan, math.nan, 0) for name in truth.names]
        note = _note(truth, detections, known=int(known.sum()))
        return CocoScores(dict.fromkeys(NUMBERS, math.nan), undefined, max_detections, note)
    scored = _run(truth, _detection_records(detections, images, categories, known), max_detections)
    return CocoScores(
        numbers={name: _mean(_select(scored, *place)) for name, place in NUMBERS.items()},
        per_class=_per_class(scored, truth.names, objects),
        max_detections=max_detections,
        note=_note(truth, detections, known=int(known.sum())),
    )


def _detection_records(
    detections: DetectionArrays, images: IntArray, categories: IntArray, known: BoolArray
) -> list[dict[str, Any]]:
    """Write the annotations of faster-coco-eval's detection set; its loadRes would be slower and copy."""
    boxes = np.asarray(detections.boxes_xywh, np.float64)[known]
    rows = zip(
        images[known].tolist(),
        categories[known].tolist(),
        boxes.tolist(),
        np.asarray(detections.scores, np.float64)[known].tolist(),
        (boxes[:, 2] * boxes[:, 3]).tolist(),
        strict=True,
    )
    return [
        {"id": number, "image_id": image, "category_id": category, "bbox": box, "score": score, "area": area}
        for number, (image, category, box, score, area) in enumerate(rows, start=1)
    ]


def _truth_records(truth: GroundTruthArrays) -> list[dict[str, Any]]:
    rows = zip(
        truth.images.tolist(),
        truth.categories.tolist(),
        truth.boxes_xywh.tolist(),
        truth.areas.tolist(),
        truth.crowds.astype(int).tolist(),
        strict=True,
    )
    return [
        {
            "id": number,
            "image_id": image,
            "category_id": category,
            "bbox": box,
            "area": area,
            "iscrowd": crowd,
        }
        for number, (image, category, box, area, crowd) in enumerate(rows, start=1)
    ]


def _run(
    truth: GroundTruthArrays, records: list[dict[str, Any]], max_detections: int
) -> dict[str, FloatArray]:
    """Match and accumulate: precision (T, R, K, 4 areas, 3 maxDets) and recall (T, K, 4, 3), -1 = undefined.

    T: the IoU thresholds 0.50, 0.55 … 0.95; R: the recalls 0, 0.01 … 1.
    """
    # Positions for ids: faster-coco-eval keeps ids as doubles, which do not hold every 64-bit id.
    images = [{"id": position} for position in range(len(truth.image_ids))]
    categories = [{"id": position} for position in range(len(truth.category_ids))]
    sets = [
        COCO({"images": images, "categories": categories, "annotations": annotations})
        for annotations in (_truth_records(truth), records)
    ]
    evaluation = COCOeval_faster(*sets, iouType="bbox", print_function=lambda *_: None)
    evaluation.params.maxDets = [min(1, max_detections), min(10, max_detections), max_detections]
    evaluation.evaluate()
    evaluation.accumulate()
    return {
        "precision": np.asarray(evaluation.eval["precision"]),
        "recall": np.asarray(evaluation.eval["recall"]),
        "iou": np.asarray(evaluation.params.iouThrs),
    }


def _select(
    scored: dict[str, FloatArray], table: str, iou: float | None, area: str, detections_place: int
) -> FloatArray:
    """Cut precision to (T or 1, R, K), or recall to (T or 1, K)."""
    values = scored[table][..., AREAS.index(area), detections_place]
    return values if iou is None else values[np.isclose(scored["iou"], iou)]


def _mean(values: FloatArray) -> float:
    """Average what is defined, as pycocotools does: -1 marks classes without an object to score."""
    defined = values[values > -1]
    return float(np.mean(defined)) if defined.size else math.nan


def _per_class(scored: dict[str, FloatArray], names: list[str], objects: IntArray) -> list[ClassResult]:
    ap, ap50, ar100 = (_select(scored, *NUMBERS[name]) for name in ("AP", "AP50", "AR100"))
    entries = [
        ClassResult(
            name=name,
            ap=_mean(ap[..., index]),
            ap50=_mean(ap50[..., index]),
            ar100=_mean(ar100[..., index]),
            objects=int(objects[index]),
        )
        for index, name in enumerate(names)
    ]
    return sorted(entries, key=_best_first)


def _best_first(entry: ClassResult) -> tuple[bool, float, str]:
    undefined = math.isnan(entry.ap)
    return undefined, 0.0 if undefined else -entry.ap, entry.name


def _note(truth: GroundTruthArrays, detections: DetectionArrays, *, known: int) -> str | None:
    sentences = []
    if not np.any(~truth.crowds):
        crowds = ", crowd regions apart," if len(truth.crowds) else ""
        sentences.append(
            f"The ground truth ({len(truth.image_ids)} images){crowds} has no objects: "
            "the averages are undefined, not 0."
        )
    elif known == 0:
        sentences.append(
            f"There are no detections on any of the {len(truth.image_ids)} images, so AP is 0: the model is "
            "hardly trained, or the evaluation's score threshold is too high."
        )
    if known < len(detections):
        sentences.append(
            f"{len(detections) - known} detections are of categories that the ground truth does not list; "
            "they were left out."
        )
    return " ".join(sentences) or None


def _none_if_nan(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
