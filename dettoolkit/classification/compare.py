"""Whether two classifiers give images the same class."""

from __future__ import annotations

from collections.abc import Iterable

from dettoolkit.classification.result import ClassificationResult
from dettoolkit.results import Result
from dettoolkit.spec import Comparison

TIE = 1e-4
"""Scores that differ by no more are equal: which class comes first is a matter of rounding."""


def compare(pairs: Iterable[tuple[Result, Result]]) -> Comparison:
    """Count the images whose best class differs, and measure how far its score moved."""
    images, differing, ties, largest = 0, 0, 0, 0.0
    seen: dict[str, None] = {}
    for reference, candidate in pairs:
        if not isinstance(reference, ClassificationResult) or not isinstance(candidate, ClassificationResult):
            raise TypeError("only results of classifiers are compared here")
        images += 1
        seen[reference.names[0]] = None
        theirs = dict(zip(candidate.labels.tolist(), candidate.scores.tolist(), strict=True))
        ours = dict(zip(reference.labels.tolist(), reference.scores.tolist(), strict=True))
        best, other = int(reference.labels[0]), int(candidate.labels[0])
        largest = max(largest, abs(ours[best] - theirs.get(best, 0.0)))
        if best != other:
            tie = ours[best] - ours.get(other, 0.0) <= TIE
            ties, differing = ties + tie, differing + (not tie)
    doubts: tuple[str, ...] = ()
    if len(seen) == 1 and images > 1:
        doubts = (f"PyTorch gives every image the class {next(iter(seen))}, which any file could",)
    return Comparison(
        errors={"top1": differing / images if images else float("nan")},
        details={"classes_seen": len(seen), "ties": ties, "largest_score_difference": largest},
        doubts=doubts,
    )
