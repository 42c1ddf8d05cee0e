"""Whether two models say the same of images: detections matched as sets, label maps counted class by class.

D: detections of an image. Every figure is an error: 0 is perfect agreement. Nothing here says how much is too
much; `gate` does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dettoolkit.detection.boxes import pairwise_iou
from dettoolkit.inference.answers import DetectionAnswer, SegmentationAnswer

MIN_CLASS_FRACTION = 0.001
"""Least share of all pixels that a class has in one of the models' maps to be judged on its own."""


@dataclass(frozen=True, kw_only=True)
class Matching:
    """When two detections of a class are the same one.

    Attributes:
        score: their scores differ by no more.
        iou: they overlap by no less.
        threshold: scores of both models are above it, so that what is just above may be missing.
        shown: score from which people see a detection.
        most: detections of an image that are kept; where there are so many, the weakest's score is a
            threshold too.
    """

    score: float
    iou: float
    threshold: float
    shown: float
    most: int


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How far a model is from its reference.

    Attributes:
        images: on how many images.
        figures: errors by name, 0 for perfect agreement; those that do not apply are not there.
            raw: largest difference of a raw output, relative to the output's largest value.
            detections: share of the detections of both that have no partner in the other.
            shown_detections: the same of those that people are shown.
            pixels: share of pixels that are of another class.
            worst_class: 1 - IoU of both models' pixels of the class that agrees least.
        details: more figures, for people.
        doubts: sentences that say why the figures prove nothing, or that there are none.
    """

    images: int
    figures: dict[str, float]
    details: dict[str, Any] = field(default_factory=dict)
    doubts: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; None stands for what is not a finite number."""
        return {
            "images": self.images,
            "figures": {name: _finite(value) for name, value in self.figures.items()},
            "details": {name: _finite(value) for name, value in self.details.items()},
            "doubts": list(self.doubts),
        }


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value


def compare_detections(
    pairs: Iterable[tuple[DetectionAnswer, DetectionAnswer]], matching: Matching
) -> Parity:
    """Compare the detections of two models as sets; their order does not matter.

    Both figures count detections that must have a partner: those whose score is above the other model's
    threshold by more than scores may differ.
    """
    wanted, lost = np.zeros(2, np.int64), np.zeros(2, np.int64)  # all, shown
    scores, corners, labels, images = [0.0], [0.0], [np.zeros(0, np.int64)], 0
    for reference, candidate in pairs:
        images += 1
        partners = match_detections(reference, candidate, matching)
        for own, other, has in (
            (reference, candidate, partners >= 0),
            (candidate, reference, np.isin(np.arange(len(candidate.scores)), partners)),
        ):
            full = len(other.scores) >= matching.most > 0
            edge = max(matching.threshold, float(other.scores.min()) if full else 0.0) + matching.score
            counts = ~(own.scores <= edge)  # what is NaN counts, and has no partner
            for column, rows in enumerate((counts, counts & (own.scores >= matching.shown))):
                wanted[column] += rows.sum()
                lost[column] += (rows & ~has).sum()
        ours = np.flatnonzero(partners >= 0)
        theirs = partners[ours]
        labels.append(reference.labels[ours])
        scores += np.abs(reference.scores[ours] - candidate.scores[theirs]).tolist()
        corners += np.abs(reference.boxes_xyxy[ours] - candidate.boxes_xyxy[theirs]).max(axis=1).tolist()
    figures = {"detections": lost[0] / wanted[0] if wanted[0] else np.nan}
    if wanted[1]:
        figures["shown_detections"] = lost[1] / wanted[1]
    nothing = "neither PyTorch nor the file detects anything whose score is surely above the threshold"
    return Parity(
        images=images,
        figures={name: float(value) for name, value in figures.items()},
        details={
            "compared_detections": int(wanted[0]),
            "compared_shown_detections": int(wanted[1]),
            "detected_classes": len(np.unique(np.concatenate(labels))),
            "largest_score_difference": max(scores),
            "largest_box_difference": max(corners),
        },
        doubts=() if wanted[0] else (nothing,),
    )


def match_detections(
    reference: DetectionAnswer, candidate: DetectionAnswer, matching: Matching
) -> NDArray[np.int64]:
    """Find the partner of each of the reference's detections: one to one, of its class, the closest first.

    Returns:
        int64 (D,) numbers of the candidate's detections; -1 for none.
    """
    partners = np.full(len(reference.labels), -1, np.int64)
    iou = pairwise_iou(
        _at_least_a_pixel(reference.boxes_xyxy), _at_least_a_pixel(candidate.boxes_xyxy)
    ).numpy()
    apart = np.abs(reference.scores[:, None] - candidate.scores[None])
    fits = (reference.labels[:, None] == candidate.labels[None]) & (iou >= matching.iou)
    rows, columns = np.nonzero(fits & (apart <= matching.score))
    taken = np.zeros(len(candidate.labels), np.bool_)
    for pair in np.lexsort((apart[rows, columns], -iou[rows, columns])):  # by IoU, then by score
        row, column = rows[pair], columns[pair]
        if partners[row] < 0 and not taken[column]:
            partners[row], taken[column] = column, True
    return partners


def _at_least_a_pixel(boxes_xyxy: NDArray[np.float32]) -> Tensor:
    """Widen boxes (D, 4) without an area, as clipping leaves some: they would not even overlap themselves."""
    boxes = torch.from_numpy(boxes_xyxy)
    return torch.cat((boxes[:, :2], torch.maximum(boxes[:, 2:], boxes[:, :2] + 1)), dim=1)


def compare_labels(
    pairs: Iterable[tuple[SegmentationAnswer, SegmentationAnswer]], names: Sequence[str]
) -> Parity:
    """Compare the label maps of two models, pixel by pixel and class by class."""
    classes, images = len(names), 0
    counts = np.zeros((classes, classes + 1), np.int64)  # rows: reference; the last column is no class
    for reference, candidate in pairs:
        images += 1
        ours, theirs = reference.labels, candidate.labels
        if ours.shape != theirs.shape:
            text = f"a label map should be {ours.shape}, the size of its image, but is {theirs.shape}"
            return Parity(images=images, figures={"pixels": 1.0}, doubts=(text,))
        index = ours.astype(np.int64) * (classes + 1) + np.minimum(theirs, classes)
        counts += np.bincount(index.ravel(), minlength=counts.size).reshape(counts.shape)
    return _label_figures(counts, images, names)


def _label_figures(counts: NDArray[np.int64], images: int, names: Sequence[str]) -> Parity:
    total, both = counts.sum(), np.diagonal(counts)
    if not total:
        return Parity(images=images, figures={"pixels": np.nan}, doubts=("there are no pixels",))
    own, other = counts.sum(axis=1), counts.sum(axis=0)[:-1]
    judged = np.flatnonzero(np.maximum(own, other) >= MIN_CLASS_FRACTION * total)
    errors = 1 - both[judged] / (own + other - both)[judged]
    worst = judged[errors.argmax()]
    seen = int((own > 0).sum())
    few = f"PyTorch sees nothing but {names[int(own.argmax())]} in all images, which any file could"
    return Parity(
        images=images,
        figures={"pixels": float(1 - both.sum() / total), "worst_class": float(errors.max())},
        details={"classes_seen": seen, "worst_class_name": names[int(worst)], "pixels_compared": int(total)},
        doubts=() if seen > 1 else (few,),
    )
