"""Scores of classification: how often the true class is first, or among the first five.

Letters of the shapes: N images, K classes, T = min(TOP, K).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from dettoolkit.evaluation.score_text import classification_table

IntArray = NDArray[np.int64]

TOP = 5  # best classes kept of each image, ImageNet's second figure
CONFUSIONS = 20  # pairs of classes that are named


@dataclass(frozen=True, slots=True, eq=False)
class ClassificationArrays:
    """What was predicted for images, each of them once.

    Attributes:
        image_ids: int64 (N,), each image's number in its data set.
        labels: int64 (N,), true classes.
        ranks: int64 (N,), how many classes came before the true one.
        best: int64 (N, T), the classes that came first, in order.
        scores: float64 (N, T), their probabilities.
    """

    image_ids: IntArray
    labels: IntArray
    ranks: IntArray
    best: IntArray
    scores: NDArray[np.float64]

    def __post_init__(self) -> None:
        images, top = len(self.image_ids), self.best.shape[1]
        wanted = {"labels": (images,), "ranks": (images,), "best": (images, top), "scores": (images, top)}
        for name, shape in wanted.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"predictions: {name} is {getattr(self, name).shape}, wanted {shape}")
        ids, times = np.unique(self.image_ids, return_counts=True)
        if len(ids) < images:
            raise ValueError(
                f"predictions: image {ids[times > 1][0]} was predicted {times.max()} times, wanted each "
                "image once: give each process its own images"
            )

    @classmethod
    def concatenate(cls, parts: Sequence[ClassificationArrays]) -> Self:
        """Join predictions of different images, ordered by image id: the parts' order makes no difference."""
        top = parts[0].best.shape[1] if parts else 0
        none = np.zeros(0, np.int64)
        image_ids = np.concatenate([none, *(part.image_ids for part in parts)])
        order = np.argsort(image_ids, kind="stable")
        return cls(
            image_ids=image_ids[order],
            labels=np.concatenate([none, *(part.labels for part in parts)])[order],
            ranks=np.concatenate([none, *(part.ranks for part in parts)])[order],
            best=np.concatenate([none.reshape(0, top), *(part.best for part in parts)])[order],
            scores=np.concatenate([np.zeros((0, top)), *(part.scores for part in parts)])[order],
        )

    @property
    def right(self) -> NDArray[np.bool_]:
        """Return of each image whether its true class came first, (N,)."""
        return np.equal(self.ranks, 0)


class ClassCount(NamedTuple):
    """What was counted of one class's images."""

    name: str
    images: int
    right: int  # the class came first
    among_five: int
    predicted: int  # images of any class for which it came first


class Confusion(NamedTuple):
    """How often images of a class were predicted as another."""

    name: str
    taken_for: str
    images: int


@dataclass(frozen=True, slots=True, eq=False)
class ClassificationScores:
    """The scores of one evaluation; all are ratios of integers.

    Attributes:
        numbers: "top-1", "top-5" and "mean class top-1" in [0, 1]; NaN without images.
        per_class: one entry for each class, in the order of the labels.
        confusions: the most frequent ones first, CONFUSIONS at most.
        note: what the reader must know about the numbers, or None.
    """

    numbers: dict[str, float]
    per_class: list[ClassCount]
    confusions: list[Confusion]
    note: str | None

    @property
    def images(self) -> int:
        """Count the images that were scored."""
        return sum(entry.images for entry in self.per_class)

    def table(self) -> str:
        """Return numbers, classes and confusions as aligned text, without a final newline."""
        return classification_table(self.numbers, self.per_class, self.confusions, self.note)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for `json.dump`; NaN, which JSON does not have, becomes None."""
        return {
            "numbers": {k: None if math.isnan(value) else value for k, value in self.numbers.items()},
            "images": self.images,
            "right": sum(entry.right for entry in self.per_class),
            "among_five": sum(entry.among_five for entry in self.per_class),
            "per_class": [entry._asdict() for entry in self.per_class],
            "confusions": [entry._asdict() for entry in self.confusions],
            "note": self.note,
        }


def evaluate_classification(
    predictions: ClassificationArrays, *, class_names: Sequence[str]
) -> ClassificationScores:
    """Count how often the true class came first, or among the first five.

    Classes without images are left out of the mean over classes.

    Args:
        predictions: of the whole set.
        class_names: name of each class, K.

    Raises:
        ValueError: a label beyond the names.
    """
    count = len(class_names)
    labels = predictions.labels
    if len(labels) and not 0 <= labels.min() <= labels.max() < count:
        raise ValueError(f"labels from {labels.min()} to {labels.max()}, wanted those of {count} classes")
    images, right, among_five = (
        np.bincount(labels[chosen], minlength=count).tolist()
        for chosen in (slice(None), predictions.ranks == 0, predictions.ranks < TOP)
    )
    first = predictions.best[:, 0] if len(labels) else labels
    predicted = np.bincount(first, minlength=count).tolist()
    per_class = [
        ClassCount(*entry) for entry in zip(class_names, images, right, among_five, predicted, strict=True)
    ]
    fractions = [entry.right / entry.images for entry in per_class if entry.images]
    numbers = {
        "top-1": _ratio(sum(right), len(labels)),
        "top-5": _ratio(sum(among_five), len(labels)),
        "mean class top-1": _ratio(math.fsum(fractions), len(fractions)),
    }
    return ClassificationScores(
        numbers=numbers,
        per_class=per_class,
        confusions=_confusions(predictions, class_names),
        note=_note(len(labels), count),
    )


def _confusions(predictions: ClassificationArrays, class_names: Sequence[str]) -> list[Confusion]:
    if not len(predictions.labels):
        return []
    wrong = predictions.best[:, 0] != predictions.labels
    pairs = np.stack([predictions.labels[wrong], predictions.best[wrong, 0]])  # (2, W)
    kinds, times = np.unique(pairs, axis=1, return_counts=True)
    order = np.lexsort((kinds[1], kinds[0], -times))[:CONFUSIONS]
    return [
        Confusion(class_names[truth], class_names[answer], int(number))
        for truth, answer, number in zip(kinds[0][order], kinds[1][order], times[order], strict=True)
    ]


def _note(images: int, classes: int) -> str | None:
    if not images:
        return "No images were scored: the scores are undefined, not 0."
    if classes <= TOP:
        return f"With {classes} classes top-{TOP} is always 1."
    return None


def _ratio(part: float, whole: int) -> float:
    return part / whole if whole else math.nan
