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

from dettoolkit.evaluation.arrays import (
    BoolArray,
    IntArray,
    check_each_once,
    check_shapes,
    join_columns,
    ratio,
)
from dettoolkit.evaluation.score_text import left_out, plain, score_text, table

TOP = 5  # best classes kept of each image, ImageNet's second figure
CONFUSIONS = 20  # pairs of classes that are named
MAX_LINES = 40  # of the table's classes; evaluation.json has all
WORDS = {
    "top-1": "fraction of images whose class is ranked first",
    "top-5": "fraction of images whose class is among the first five",
    "mean class top-1": "top-1 of each class, averaged over the classes",
}


@dataclass(frozen=True, slots=True, eq=False)
class ClassificationArrays:
    """What was predicted for images, each of them once."""

    image_ids: IntArray  # (N,), each image's number in its data set
    labels: IntArray  # (N,), true classes
    ranks: IntArray  # (N,), how many classes came before the true one
    best: IntArray  # (N, T), the classes that came first, in order
    scores: NDArray[np.float64]  # (N, T), their probabilities

    def __post_init__(self) -> None:
        images, top = len(self.image_ids), self.best.shape[1]
        wanted = {"labels": (images,), "ranks": (images,), "best": (images, top), "scores": (images, top)}
        check_shapes("predictions", self, wanted)
        check_each_once("predictions", self.image_ids)

    @classmethod
    def concatenate(cls, parts: Sequence[ClassificationArrays]) -> Self:
        """Join predictions of different images, ordered by image id: the parts' order makes no difference."""
        if not parts:
            none, no_classes = np.zeros(0, np.int64), np.zeros((0, 0), np.int64)
            return cls(none, none, none, best=no_classes, scores=no_classes.astype(np.float64))
        columns = join_columns(parts, cls.__slots__)
        order = np.argsort(columns["image_ids"], kind="stable")
        return cls(**{name: column[order] for name, column in columns.items()})

    @property
    def right(self) -> BoolArray:
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
        """Return the numbers in words, a line for each class and the mistakes as aligned text.

        Of many classes the worst are listed, worst first; classes without images are counted, not listed.
        """
        listed = [entry for entry in self.per_class if entry.images]
        absent = len(self.per_class) - len(listed)
        heading = "class"
        if len(listed) > MAX_LINES:
            heading = f"worst {MAX_LINES} of {len(listed)}"
            listed = sorted(listed, key=lambda entry: entry.right / entry.images)[:MAX_LINES]
        columns = {"top-1": 8, "top-5": 8, "images": 8, "predicted": 11}
        rows = [(e.name, e.right / e.images, e.among_five / e.images, e.images, e.predicted) for e in listed]
        classes = table(heading, columns, rows) + left_out(absent, "without images")
        mistakes = [f"{times:>7}  {name} predicted as {other}" for name, other, times in self.confusions[:5]]
        mistakes = ["most frequent mistakes", *mistakes] if mistakes else []
        return score_text(self.numbers, WORDS, [classes, mistakes], self.note)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for `json.dump`; NaN, which JSON does not have, becomes None."""
        content = {
            "numbers": self.numbers,
            "images": self.images,
            "right": sum(entry.right for entry in self.per_class),
            "among_five": sum(entry.among_five for entry in self.per_class),
            "per_class": self.per_class,
            "confusions": self.confusions,
            "note": self.note,
        }
        return plain(content)  # type: ignore[no-any-return]


def evaluate_classification(
    predictions: ClassificationArrays, *, class_names: Sequence[str]
) -> ClassificationScores:
    """Count how often the true class, of K `class_names`, came first, or among the first five.

    Classes without images are left out of the mean over classes.

    Raises:
        ValueError: a label beyond the names.
    """
    count, labels = len(class_names), predictions.labels
    if len(labels) and not 0 <= labels.min() <= labels.max() < count:
        raise ValueError(f"labels from {labels.min()} to {labels.max()}, expected those of {count} classes")
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
        "top-1": ratio(sum(right), len(labels)),
        "top-5": ratio(sum(among_five), len(labels)),
        "mean class top-1": ratio(math.fsum(fractions), len(fractions)),
    }
    note = None
    if not len(labels):
        note = "No images were scored: the scores are undefined, not 0."
    elif count <= TOP:
        note = f"With {count} classes top-{TOP} is always 1."
    return ClassificationScores(
        numbers=numbers, per_class=per_class, confusions=_confusions(predictions, class_names), note=note
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
