"""All that a report says of a classifier beside its scores, as plain data. N: images, K: classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dettoolkit.evaluation.score_text import plain
from dettoolkit.evaluation.top_k import ClassificationArrays, ClassificationScores

MAX_MATRIX = 100  # classes of which the whole matrix is written; of more, the most frequent confusions
DIGITS = 6


def answer_details(
    answers: ClassificationArrays, scores: ClassificationScores, *, class_names: Sequence[str], count: int
) -> dict[str, Any]:
    """Return fractions by class, the confusion of classes and the `count` surest mistakes."""
    by_class = [
        {
            "name": entry.name,
            "top-1": round(entry.right / entry.images, DIGITS) if entry.images else None,
            "top-5": round(entry.among_five / entry.images, DIGITS) if entry.images else None,
            "images": entry.images,
            "predicted": entry.predicted,
        }
        for entry in scores.per_class
    ]
    content: dict[str, Any] = {
        "class_fractions": by_class,
        "mistakes": _mistakes(answers, class_names, count),
    }
    if len(class_names) <= MAX_MATRIX:
        matrix = np.zeros((len(class_names), len(class_names)), np.int64)
        if len(answers.labels):
            np.add.at(matrix, (answers.labels, answers.best[:, 0]), 1)
        content["matrix"] = matrix.tolist()
    return plain(content)  # type: ignore[no-any-return]


def _mistakes(answers: ClassificationArrays, class_names: Sequence[str], count: int) -> list[dict[str, Any]]:
    """List the wrong answers of the highest probabilities."""
    wrong = np.flatnonzero(~answers.right)
    best = answers.scores[wrong].max(axis=1, initial=0)
    return [
        {
            "image_id": int(answers.image_ids[row]),
            "class": class_names[answers.labels[row]],
            "predicted": class_names[answers.best[row, 0]],
            "score": round(float(answers.scores[row, 0]), DIGITS),
        }
        for row in wrong[np.argsort(-best, kind="stable")][:count].tolist()
    ]


def true_class_scores(answers: ClassificationArrays) -> dict[int, float]:
    """Return the probability of the true class of each image by its id; 0 where it is not among the best."""
    own = np.where(answers.best == answers.labels[:, None], answers.scores, 0.0).sum(axis=1)
    return dict(zip(answers.image_ids.tolist(), own.round(DIGITS).tolist(), strict=True))
