"""Whether two models find the same in images: detections matched as sets.

D: detections of an image. Both errors are 0 for perfect agreement; the spec says how much is too much.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dettoolkit.detection.box_coding import pairwise_iou
from dettoolkit.detection.result import DetectionResult
from dettoolkit.detection.spec import DetectionSection
from dettoolkit.spec import Comparison, Strictness

# How far apart the scores of a detection may be, and how much its boxes must overlap.
SAME: dict[Strictness, tuple[float, float]] = {
    "exact": (0.002, 0.95),
    "resized": (0.05, 0.85),
    "quantized": (0.2, 0.5),
}


def compare(
    pairs: Iterable[tuple[DetectionResult, DetectionResult]],
    section: DetectionSection,
    strictness: Strictness,
) -> Comparison:
    """Compare the detections of a reference and of a file as sets; their order does not matter.

    Both errors count detections that must have a partner: those whose score is above the other model's
    threshold by more than scores may differ. Where an image has as many as can be, the weakest's score is
    such a threshold too.
    """
    score, iou = SAME[strictness]
    wanted, lost = np.zeros(2, np.int64), np.zeros(2, np.int64)  # all, shown
    scores, corners, labels = [0.0], [0.0], [np.zeros(0, np.int64)]
    for reference, candidate in pairs:
        partners = match_detections(reference, candidate, score=score, iou=iou)
        for own, other, has in (
            (reference, candidate, partners >= 0),
            (candidate, reference, np.isin(np.arange(len(candidate.scores)), partners)),
        ):
            full = len(other.scores) >= section.max_detections
            edge = max(section.score_threshold, float(other.scores.min()) if full else 0.0) + score
            counts = ~(own.scores <= edge)  # what is NaN counts, and has no partner
            for column, rows in enumerate((counts, counts & (own.scores >= section.threshold))):
                wanted[column] += rows.sum()
                lost[column] += (rows & ~has).sum()
        ours = np.flatnonzero(partners >= 0)
        theirs = partners[ours]
        labels.append(reference.labels[ours])
        scores += np.abs(reference.scores[ours] - candidate.scores[theirs]).tolist()
        corners += np.abs(reference.boxes_xyxy[ours] - candidate.boxes_xyxy[theirs]).max(axis=1).tolist()
    errors = {"detections": float(lost[0] / wanted[0]) if wanted[0] else np.nan}
    if wanted[1]:
        errors["shown_detections"] = float(lost[1] / wanted[1])
    nothing = "neither PyTorch nor the file has a detection with a score clearly above the threshold"
    return Comparison(
        errors=errors,
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
    reference: DetectionResult, candidate: DetectionResult, *, score: float, iou: float
) -> NDArray[np.int64]:
    """Find the partner of each of the reference's detections: one to one, of its class, the closest first.

    Their scores differ by `score` at most, and they overlap by `iou` or more. Returned are the numbers of
    the candidate's detections, int64 (D,); -1 for none.
    """
    partners = np.full(len(reference.labels), -1, np.int64)
    overlap = pairwise_iou(*(_at_least_a_pixel(each.boxes_xyxy) for each in (reference, candidate))).numpy()
    apart = np.abs(reference.scores[:, None] - candidate.scores[None])
    fits = (reference.labels[:, None] == candidate.labels[None]) & (overlap >= iou)
    rows, columns = np.nonzero(fits & (apart <= score))
    taken = np.zeros(len(candidate.labels), np.bool_)
    for pair in np.lexsort((apart[rows, columns], -overlap[rows, columns])):  # by IoU, then by score
        row, column = rows[pair], columns[pair]
        if partners[row] < 0 and not taken[column]:
            partners[row], taken[column] = column, True
    return partners


def _at_least_a_pixel(boxes_xyxy: NDArray[np.float32]) -> Tensor:
    """Widen boxes (D, 4) without an area, as clipping leaves some: they would not even overlap themselves."""
    boxes = torch.from_numpy(boxes_xyxy)
    return torch.cat((boxes[:, :2], torch.maximum(boxes[:, 2:], boxes[:, :2] + 1)), dim=1)
