"""Whether two models agree on images: their label maps, counted class by class. 0 is perfect agreement."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from dettoolkit.segmentation.result import SegmentationResult
from dettoolkit.spec import Comparison

MIN_CLASS_FRACTION = 0.001
"""Of all pixels: a class that has less in both models' label maps is not judged on its own."""


def compare_labels(
    pairs: Iterable[tuple[SegmentationResult, SegmentationResult]], names: Sequence[str]
) -> Comparison:
    """Compare the label maps of a reference and of another model, pixel by pixel and class by class."""
    classes = len(names)
    counts = np.zeros((classes, classes + 1), np.int64)  # rows: reference; the last column is no class
    for reference, candidate in pairs:
        ours, theirs = reference.labels, candidate.labels
        if ours.shape != theirs.shape:
            text = f"a label map should be {ours.shape}, the size of its image, but is {theirs.shape}"
            return Comparison(errors={"pixels": 1.0}, doubts=(text,))
        index = ours.astype(np.int64) * (classes + 1) + np.minimum(theirs, classes)
        counts += np.bincount(index.ravel(), minlength=counts.size).reshape(counts.shape)
    return _compare_counts(counts, names)


def _compare_counts(counts: NDArray[np.int64], names: Sequence[str]) -> Comparison:
    total, both = counts.sum(), np.diagonal(counts)
    if not total:
        return Comparison(errors={"pixels": np.nan}, doubts=("there are no pixels",))
    own, other = counts.sum(axis=1), counts.sum(axis=0)[:-1]
    judged = np.flatnonzero(np.maximum(own, other) >= MIN_CLASS_FRACTION * total)
    errors = 1 - both[judged] / (own + other - both)[judged]
    seen = int((own > 0).sum())
    few = f"PyTorch finds nothing but {names[int(own.argmax())]} in all images, which any file could"
    return Comparison(
        errors={"pixels": float(1 - both.sum() / total), "worst_class": float(errors.max())},
        details={
            "classes_seen": seen,
            "worst_class_name": names[int(judged[errors.argmax()])],
            "pixels_compared": int(total),
        },
        doubts=() if seen > 1 else (few,),
    )
