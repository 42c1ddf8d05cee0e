"""What was found in an image: the class of each pixel; and whether two models agree on images.

H, W: the image.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dettoolkit.drawing.boxes import Color
from dettoolkit.drawing.masks import draw_segments
from dettoolkit.evaluation.label_ids import save_label_ids
from dettoolkit.manifest import Section
from dettoolkit.results import Result, fresh, listed, run_lengths, supervision_detections
from dettoolkit.spec import Comparison, Strictness

MIN_CLASS_FRACTION = 0.001
"""Of all pixels: a class that has less in both models' label maps is not judged on its own."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SegmentationResult(Result):
    """The class of each pixel of an image.

    Attributes:
        labels: uint8 (H, W) 0-based classes.
        colors: red, green, blue of each class in figures; None, for one or all, chooses.

    Example:
        >>> result = SegmentationResult(
        ...     path=None,
        ...     image=np.zeros((1, 4, 3), np.uint8),
        ...     class_names=("road", "car"),
        ...     class_ids=(7, 26),
        ...     labels=np.array([[0, 0, 0, 1]], np.uint8),
        ...     colors=None,
        ... )
        >>> result.fractions
        {'road': 0.75, 'car': 0.25}
        >>> result.mask("car").tolist()
        [[False, False, False, True]]
    """

    labels: NDArray[np.uint8]
    colors: tuple[Color | None, ...] | None
    task = "segmentation"

    @property
    def fractions(self) -> dict[str, float]:
        """Return the fraction of the pixels, in (0, 1], of each class that occurs, the largest first."""
        return {self.class_names[label]: count / self.labels.size for label, count in self._pixels()}

    def _pixels(self) -> list[tuple[int, int]]:
        """Count the pixels of each label that occurs, the most frequent first."""
        counts = np.bincount(self.labels.reshape(-1))
        order = np.argsort(-counts, kind="stable")
        return [(int(label), int(counts[label])) for label in order if counts[label]]

    def mask(self, name: str) -> NDArray[np.bool_]:
        """Return which pixels are of a class: bool (H, W), all False where it does not occur.

        Raises:
            ValueError: no such class.
        """
        if name not in self.class_names:
            close = difflib.get_close_matches(name, self.class_names, n=1)
            hint = f"did you mean '{close[0]}'? " if close else ""
            raise ValueError(f"no class '{name}': {hint}There are {', '.join(self.class_names)}")
        mask: NDArray[np.bool_] = self.labels == self.class_names.index(name)
        return mask

    def tally(self) -> dict[str, float]:
        """Return the fraction of pixels of each class that occurs."""
        return self.fractions

    def summary(self) -> str:
        """Return what was found, in a few words."""
        rows = self.fractions.items()
        return listed([f"{name} {each:.1%}" if each >= 0.001 else f"{name} <0.1%" for name, each in rows])

    def plot(self) -> NDArray[np.uint8]:
        """Draw the classes' colors and names over the image: uint8 (H, W, 3) RGB, of its size."""
        return draw_segments(self.image, self.labels, class_names=self.class_names, colors=self.colors)

    def to_dict(self) -> dict[str, Any]:
        """Return the classes that occur and their pixels as JSON data, without the label map."""
        classes = [
            {
                "name": self.class_names[label],
                "label": label,
                "class_id": self.class_ids[label],
                "pixels": count,
                "fraction": count / self.labels.size,
            }
            for label, count in self._pixels()
        ]
        return {**self._facts(), "classes": classes}

    def to_png(self, path: str | Path, *, ids: bool = True) -> Path:
        """Write the label map as a gray PNG and return its path; missing folders are made.

        Args:
            path: ends in .png.
            ids: write the data set's own values (`class_ids`), as label files have them; else 0-based labels.
                With a value above 255 the PNG has 16 bits.

        Raises:
            FileExistsError: there is a file already; it is left as it is.
            ValueError: another ending.
        """
        path = fresh(path)
        if path.suffix.lower() != ".png":
            raise ValueError(f"{path}: label maps must be saved as .png, which is lossless")
        save_label_ids(path, self.labels, self.class_ids if ids else range(len(self.class_ids)))
        return path

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """List a mask for each class that occurs, run-length coded, as COCO's stuff results have them."""
        return [
            {
                "image_id": image_id,
                "category_id": self.class_ids[label],
                "segmentation": run_lengths(self.labels == label),
            }
            for label, _ in self._pixels()
        ]

    def record(self, *, masks: bool) -> dict[str, Any]:
        """Return height, width and the classes that occur; with `masks` each with its run lengths, `rle`."""
        record = super().record(masks=masks)
        if masks:
            for each, coded in zip(record["classes"], self.to_coco(0), strict=True):
                each["rle"] = coded["segmentation"]["counts"]
        return record

    def to_supervision(self) -> Any:
        """Return `supervision.Detections`, one per class that occurs: mask, class_id, data["class_name"].

        Raises:
            ModuleNotFoundError: the package supervision is not installed.
        """
        labels = np.array([label for label, _ in self._pixels()], np.int64)
        names = [self.class_names[label] for label in labels]
        return supervision_detections(labels, names, masks=self.labels == labels[:, None, None])


def compare(
    pairs: Iterable[tuple[SegmentationResult, SegmentationResult]],
    section: Section,
    strictness: Strictness,  # noqa: ARG001
) -> Comparison:
    """Compare the label maps of a reference and of another model, pixel by pixel and class by class."""
    classes = len(section.class_names)
    counts = np.zeros((classes, classes + 1), np.int64)  # rows: reference; the last column is no class
    for reference, candidate in pairs:
        ours, theirs = reference.labels, candidate.labels
        if ours.shape != theirs.shape:
            text = f"a label map should be {ours.shape}, the size of its image, but is {theirs.shape}"
            return Comparison(errors={"pixels": 1.0}, doubts=(text,))
        index = ours.astype(np.int64) * (classes + 1) + np.minimum(theirs, classes)
        counts += np.bincount(index.ravel(), minlength=counts.size).reshape(counts.shape)
    return _compare_counts(counts, section.class_names)


def _compare_counts(counts: NDArray[np.int64], names: Sequence[str]) -> Comparison:
    total, both = counts.sum(), np.diagonal(counts)
    if not total:
        return Comparison(errors={"pixels": np.nan}, doubts=("there are no pixels",))
    own, other = counts.sum(axis=1), counts.sum(axis=0)[:-1]
    judged = np.flatnonzero(np.maximum(own, other) >= MIN_CLASS_FRACTION * total)
    errors = 1 - both[judged] / (own + other - both)[judged]
    seen = int((own > 0).sum())
    few = f"PyTorch predicts only {names[int(own.argmax())]} in all images"
    return Comparison(
        errors={"pixels": float(1 - both.sum() / total), "worst_class": float(errors.max())},
        details={
            "classes_seen": seen,
            "worst_class_name": names[int(judged[errors.argmax()])],
            "pixels_compared": int(total),
        },
        doubts=() if seen > 1 else (few,),
    )
