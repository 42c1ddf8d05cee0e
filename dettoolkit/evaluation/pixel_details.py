"""All that a report says of a segmenter beside its scores, as plain data. K: classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dettoolkit.evaluation.arrays import IntArray
from dettoolkit.evaluation.score_text import plain
from dettoolkit.evaluation.segmentation_counts import SegmentationCounts

CONFUSIONS = 20  # pairs of classes that are named
DIGITS = 6


def pixel_details(counts: SegmentationCounts, *, class_names: Sequence[str], count: int) -> dict[str, Any]:
    """Return the confusion in fractions, the largest confusions and the `count` worst images."""
    scores = counts.image_scores
    scored = np.flatnonzero(~np.isnan(scores))
    worst = scored[np.argsort(scores[scored], kind="stable")][:count]
    content = {
        "fractions": fractions_of(counts.matrix),
        "confusions": largest_confusions(counts.matrix, class_names),
        "worst_images": [
            {"image_id": int(counts.image_ids[row]), "mIoU": round(float(scores[row]), DIGITS)}
            for row in worst.tolist()
        ],
    }
    return plain(content)  # type: ignore[no-any-return]


def fractions_of(matrix: IntArray) -> list[list[float]]:
    """Return what fraction of each class's pixels was predicted as which class, K x K; NaN without pixels."""
    with np.errstate(invalid="ignore"):
        fractions: list[list[float]] = (matrix / matrix.sum(axis=1, keepdims=True)).round(DIGITS).tolist()
    return fractions


def largest_confusions(matrix: IntArray, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """List the pairs of classes that cost the most pixels, CONFUSIONS at most."""
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    places = np.argsort(-wrong, axis=None, kind="stable")[:CONFUSIONS]
    pairs = [divmod(place, len(matrix)) for place in places.tolist()]
    return [
        {
            "name": class_names[row],
            "taken_for": class_names[column],
            "pixels": int(wrong[row, column]),
            "fraction": round(float(wrong[row, column] / matrix[row].sum()), DIGITS),
        }
        for row, column in pairs
        if wrong[row, column]
    ]
