"""COCO's 12 numbers for boxes, equal to pycocotools' to the last digit and many times faster.

The matching runs in hotcoco's Rust; this module feeds it from arrays and reads the averages from its tables
of precision and recall as pycocotools' `COCOeval.summarize` does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import hotcoco
import numpy as np

from dettoolkit.evaluation.arrays import (
    DetectionArrays,
    FloatArray,
    GroundTruthArrays,
    IntArray,
    image_positions,
)
from dettoolkit.evaluation.score_text import left_out, plain, score_text, table

__all__ = ["ClassResult", "CocoScores", "DetectionArrays", "GroundTruthArrays", "evaluate_coco"]


class Number(NamedTuple):
    """Where one of COCO's numbers stands in the tables of precision and recall, and what it means."""

    table: str
    iou: float | None
    area: str
    place: int  # in maxDets
    words: str


# pycocotools' order, cocoeval.py `_summarizeDets`; area limits 32² and 96² pixels, as in
# cocodataset.org/#detection-eval. "AR100" keeps its name when max_detections is another number.
NUMBERS = {
    "AP": Number("precision", None, "all", 2, "average precision, IoU 0.50 to 0.95"),
    "AP50": Number("precision", 0.5, "all", 2, "average precision, IoU 0.50"),
    "AP75": Number("precision", 0.75, "all", 2, "average precision, IoU 0.75"),
    "APs": Number("precision", None, "small", 2, "average precision, small objects (area to 32²)"),
    "APm": Number("precision", None, "medium", 2, "average precision, medium objects (32² to 96²)"),
    "APl": Number("precision", None, "large", 2, "average precision, large objects (from 96²)"),
    "AR1": Number("recall", None, "all", 0, "average recall, {0} per image and class"),
    "AR10": Number("recall", None, "all", 1, "average recall, {1} per image and class"),
    "AR100": Number("recall", None, "all", 2, "average recall, {2} per image and class"),
    "ARs": Number("recall", None, "small", 2, "average recall, small objects"),
    "ARm": Number("recall", None, "medium", 2, "average recall, medium objects"),
    "ARl": Number("recall", None, "large", 2, "average recall, large objects"),
}
AREAS = ("all", "small", "medium", "large")


class ClassResult(NamedTuple):
    """The scores of one class over all sizes; NaN without objects."""

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
        """Return the 12 numbers in words and a line for each class as aligned text.

        Classes without objects are counted, not listed.
        """
        words = words_of(self.max_detections)
        listed = [entry for entry in self.per_class if entry.objects]
        classes = table("class", {"AP": 8, "AP50": 8, "AR100": 8, "objects": 9}, listed)
        classes += left_out(len(self.per_class) - len(listed), "without objects")
        return score_text(self.numbers, words, [classes], self.note)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for `json.dump`; None stands for NaN, which json does not know."""
        names = ("numbers", "per_class", "max_detections", "note")
        return plain({name: getattr(self, name) for name in names})  # type: ignore[no-any-return]


def words_of(max_detections: int) -> dict[str, str]:
    """Return what each number means, with so many detections of an image and class."""
    counts = [min(limit, max_detections) for limit in (1, 10, max_detections)]
    limits = [f"{count} detection{'s' if count > 1 else ''}" for count in counts]
    return {name: number.words.format(*limits) for name, number in NUMBERS.items()}


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
        raise ValueError(f"max_detections is {max_detections}, expected at least 1 (COCO: 100)")
    truth = ground_truth
    if not isinstance(truth, GroundTruthArrays):
        truth = GroundTruthArrays.from_coco(truth)
    images = image_positions(truth, detections)
    known = np.isin(detections.category_ids, truth.category_ids)
    objects = np.bincount(truth.categories[~truth.crowds], minlength=len(truth.names))
    numbers = dict.fromkeys(NUMBERS, math.nan)
    per_class = [ClassResult(name, math.nan, math.nan, math.nan, 0) for name in truth.names]
    if objects.any():
        columns = (
            images[known],
            np.asarray(detections.boxes_xywh)[known],
            np.asarray(detections.scores)[known],
            np.searchsorted(truth.category_ids, detections.category_ids[known]),
        )
        scored = _run(truth, np.column_stack(columns).astype(np.float64), max_detections)
        numbers = {name: _mean(_select(scored, number)) for name, number in NUMBERS.items()}
        per_class = _per_class(scored, truth.names, objects)
    note = _note(truth, detections, known=int(known.sum()))
    return CocoScores(numbers, per_class, max_detections, note)


def _run(truth: GroundTruthArrays, found: FloatArray, max_detections: int) -> dict[str, FloatArray]:
    """Match and accumulate: precision (T, R, K, 4 areas, 3 maxDets) and recall (T, K, 4, 3), -1 = undefined.

    Detections are (n, 7): position of the image, x, y, width, height, score, position of the category.
    T: the IoU thresholds 0.50, 0.55 … 0.95; R: the recalls 0, 0.01 … 1.
    """
    # Positions for ids: a row of detections holds them as doubles, which do not hold every 64-bit id.
    objects = hotcoco.COCO.from_arrays(
        [{"id": position} for position in range(len(truth.image_ids))],
        [{"id": position, "name": name} for position, name in enumerate(truth.names)],
        truth.images,
        truth.categories,
        truth.boxes_xywh,
        area=truth.areas,
        iscrowd=truth.crowds,
    )
    evaluation = hotcoco.COCOeval(objects, objects.load_res(found), "bbox")
    evaluation.params.max_dets = [min(1, max_detections), min(10, max_detections), max_detections]
    evaluation.evaluate()
    evaluation.accumulate()
    tables: dict[str, FloatArray] = evaluation.eval  # type: ignore[assignment]  # it has been run
    return {
        "precision": tables["precision"],
        "recall": tables["recall"],
        "iou": np.asarray(evaluation.params.iou_thrs),
    }


def _select(scored: dict[str, FloatArray], number: Number) -> FloatArray:
    """Cut precision to (T or 1, R, K), or recall to (T or 1, K)."""
    values = scored[number.table][..., AREAS.index(number.area), number.place]
    return values if number.iou is None else values[np.isclose(scored["iou"], number.iou)]


def _mean(values: FloatArray) -> float:
    """Average what is defined, as pycocotools does: -1 marks classes without an object to score."""
    defined = values[values > -1]
    return float(np.mean(defined)) if defined.size else math.nan


def _per_class(scored: dict[str, FloatArray], names: list[str], objects: IntArray) -> list[ClassResult]:
    ap, ap50, ar100 = (_select(scored, NUMBERS[name]) for name in ("AP", "AP50", "AR100"))
    entries = [
        ClassResult(name, _mean(ap[..., index]), _mean(ap50[..., index]), _mean(ar100[..., index]), count)
        for index, (name, count) in enumerate(zip(names, objects.tolist(), strict=True))
    ]
    return sorted(entries, key=lambda entry: (math.isnan(entry.ap), -np.nan_to_num(entry.ap), entry.name))


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
            "barely trained, or the evaluation's score threshold is too high."
        )
    if known < len(detections):
        sentences.append(
            f"{len(detections) - known} detections of categories that are not in the ground truth "
            "were dropped."
        )
    return " ".join(sentences) or None
