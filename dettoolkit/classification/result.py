"""What an image shows: its best classes and their scores; and whether two classifiers agree on images.

T: classes, at most evaluation.top_k.TOP; H, W: the image.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dettoolkit.drawing.classification_grids import draw_band
from dettoolkit.manifest import Section
from dettoolkit.results import Result
from dettoolkit.spec import Comparison, Strictness

TIE = 1e-4
"""Scores that differ by no more are equal: which class comes first is a matter of rounding."""


class ClassScore(NamedTuple):
    """A class and its score, in plain Python types."""

    name: str
    score: float


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ClassificationResult(Result):
    """The best classes of an image, the best first. Its length is their number; it yields ClassScores.

    Attributes:
        labels: int64 (T,) 0-based classes.
        scores: float32 (T,) their probabilities.

    Example:
        >>> result = ClassificationResult(
        ...     path=None,
        ...     image=np.zeros((40, 60, 3), np.uint8),
        ...     class_names=("cat", "dog"),
        ...     class_ids=(0, 1),
        ...     labels=np.array([1, 0]),
        ...     scores=np.array([0.75, 0.25], np.float32),
        ... )
        >>> [found.name for found in result]
        ['dog', 'cat']
    """

    labels: NDArray[np.int64]
    scores: NDArray[np.float32]
    task = "classification"

    def __len__(self) -> int:
        """Return the number of classes."""
        return len(self.labels)

    def __iter__(self) -> Iterator[ClassScore]:
        """Yield the classes, the best first."""
        return map(ClassScore, self.names, self.scores.tolist())

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the classes."""
        return tuple(self.class_names[label] for label in self.labels)

    def tally(self) -> dict[str, int]:
        """Return the best class once, so that images are counted by theirs."""
        return {self.names[0]: 1}

    def summary(self) -> str:
        """Return what was found, in a few words."""
        return ", ".join(f"{name} {score:.1%}" for name, score in self)

    def plot(self) -> NDArray[np.uint8]:
        """Draw the best class and its score in a band on the image: uint8 (H, W, 3) RGB, of its size."""
        return draw_band(
            self.image, int(self.labels[0]), class_names=self.class_names, score=float(self.scores[0])
        )

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the pixels as data that can be written as JSON."""
        rows = enumerate(zip(self, self.labels.tolist(), strict=True), start=1)
        best = [
            {"rank": rank, "name": name, "label": label, "class_id": self.class_ids[label], "score": score}
            for rank, ((name, score), label) in rows
        ]
        return {**self._facts(), "best": best}


def compare(
    pairs: Iterable[tuple[ClassificationResult, ClassificationResult]],
    section: Section,  # noqa: ARG001
    strictness: Strictness,  # noqa: ARG001
) -> Comparison:
    """Count the images whose best class differs, and measure how far its score moved."""
    images, differing, ties, largest = 0, 0, 0, 0.0
    seen = set()
    for reference, candidate in pairs:
        images += 1
        seen.add(reference.names[0])
        ours, theirs = (
            dict(zip(each.labels.tolist(), each.scores.tolist(), strict=True))
            for each in (reference, candidate)
        )
        best, other = int(reference.labels[0]), int(candidate.labels[0])
        largest = max(largest, abs(ours[best] - theirs.get(best, 0.0)))
        if best != other:
            tie = ours[best] - ours.get(other, 0.0) <= TIE
            ties, differing = ties + tie, differing + (not tie)
    doubts = tuple(f"PyTorch predicts the class {name} for every image" for name in seen)
    return Comparison(
        errors={"top1": differing / images if images else float("nan")},
        details={"classes_seen": len(seen), "ties": ties, "largest_score_difference": largest},
        doubts=doubts if len(seen) == 1 and images > 1 else (),
    )
