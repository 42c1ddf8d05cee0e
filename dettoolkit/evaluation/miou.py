"""Cityscapes' scores for segmentation, equal to those of its official script and many times faster.

The definitions are those of cityscapesscripts' evalPixelLevelSemanticLabeling.py and of arXiv 1604.01685,
section 4.1. Letters of the shapes: K classes, C categories.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from dettoolkit.datasets.cityscapes_labels import CLASSES
from dettoolkit.evaluation.arrays import FloatArray, IntArray, mean_defined, ratio
from dettoolkit.evaluation.score_text import left_out, plain, score_text, table, text_width
from dettoolkit.evaluation.segmentation_counts import (
    CATEGORY_HITS,
    HITS,
    LABEL,
    PIXELS,
    SegmentationCounts,
    category_numbers,
    class_iou,
)

__all__ = ["CategoryScore", "ClassScore", "SegmentationCounts", "SegmentationScores", "evaluate_segmentation"]

# Average pixels of an object in Cityscapes' training set, the script's `avgClassSize`: iIoU weighs with them.
AVERAGE_PIXELS = {
    "person": 3462.4756337644,
    "rider": 3930.4788056518,
    "car": 12794.0202738185,
    "truck": 27855.1264367816,
    "bus": 35732.1511111111,
    "train": 67583.7075812274,
    "motorcycle": 6298.7200839748,
    "bicycle": 4672.3249222261,
}
WORDS = {
    "mIoU": "mean IoU of the classes",
    "category mIoU": "mean IoU of the categories",
    "pixel accuracy": "fraction of labeled pixels predicted correctly",
    "iIoU": "mean IoU of the classes, every object weighted as one of average size",
    "category iIoU": "mean IoU of the categories, every object weighted as one of average size",
}


class ClassScore(NamedTuple):
    """The scores of one class; NaN where undefined or left out."""

    name: str
    iou: float
    iiou: float
    pixels: int  # in the truth
    predicted_pixels: int


class CategoryScore(NamedTuple):
    """The scores of one category; NaN where undefined or left out."""

    name: str
    iou: float
    iiou: float


@dataclass(frozen=True, slots=True, eq=False)
class SegmentationScores:
    """Hold the scores of one evaluation.

    Attributes:
        numbers: "mIoU", "category mIoU", "pixel accuracy", "iIoU" and "category iIoU" in [0, 1]; NaN where
            undefined or left out.
        per_class: one entry for each class, in the order of the labels.
        per_category: one entry for each category, in the order of the classes; none without categories.
        matrix: int64 (K, K), pixels by label in the truth (row) and in the prediction (column).
        label_ids: the value of each class in label files, or None.
        images: how many were scored.
        note: what the reader must know about the numbers, or None.
    """

    numbers: dict[str, float]
    per_class: list[ClassScore]
    per_category: list[CategoryScore]
    matrix: IntArray
    label_ids: list[int] | None
    images: int
    note: str | None

    def table(self) -> str:
        """Return the numbers in words and a line for each category and class that occurs as aligned text."""
        total = max(1, sum(entry.pixels for entry in self.per_class))
        listed = [entry for entry in self.per_class if entry.pixels or entry.predicted_pixels]
        rows = [(entry.name, entry.iou, entry.iiou, f"{entry.pixels / total:.2%}") for entry in listed]
        names = [entry.name for entry in self.per_class] + [entry.name for entry in self.per_category]
        width = max(text_width(name) for name in ("category", *names))
        columns = {"IoU": 8, "iIoU": 8}
        classes = table("class", {**columns, "pixels": 9}, rows, width=width)
        classes += left_out(len(self.per_class) - len(listed), "neither labeled nor predicted")
        categories = table("category", columns, self.per_category, width=width) if self.per_category else []
        return score_text(self.numbers, WORDS, [classes, categories], self.note)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for `json.dump`; None stands for NaN, which json does not know."""
        content = {
            "numbers": self.numbers,
            "per_class": self.per_class,
            "per_category": self.per_category,
            "class_names": [entry.name for entry in self.per_class],
            **({} if self.label_ids is None else {"label_ids": self.label_ids}),
            "matrix": self.matrix.tolist(),
            "images": self.images,
            "note": self.note,
        }
        return plain(content)  # type: ignore[no-any-return]


def evaluate_segmentation(
    counts: SegmentationCounts,
    *,
    class_names: Sequence[str],
    categories: Sequence[str] | None,
    label_ids: Sequence[int] | None,
) -> SegmentationScores:
    """Score what was counted as the official script scores it.

    A class in neither truth nor prediction has no score and is left out of the means; one that is only
    predicted has 0. iIoU is defined for Cityscapes' classes with instances (by name, and by id where
    `label_ids` are given), and left out unless every image had its file of instances.

    Args:
        counts: of the data set.
        class_names: name of each class, K.
        categories: category of each class, the one with which `counts` were counted; None leaves the figures
            of categories out.
        label_ids: value of each class in label files, or None.

    Raises:
        ValueError: the numbers of classes differ.

    Example:
        >>> import torch
        >>> from dettoolkit.segmentation.confusion import count_image
        >>> truth = torch.tensor([[0, 0, 1, 255]], dtype=torch.uint8)  # 255 is ignored
        >>> found = torch.tensor([[0, 1, 1, 0]], dtype=torch.uint8)
        >>> counts = count_image(
        ...     found, truth, num_classes=2, image_id=1, instances=None, label_ids=[0, 1], categories=None
        ... )
        >>> scores = evaluate_segmentation(
        ...     counts, class_names=["road", "car"], categories=None, label_ids=None
        ... )
        >>> scores.numbers["mIoU"]
        0.5
    """
    for what, given in (("names", class_names), ("categories", categories), ("label ids", label_ids)):
        if given is not None and len(given) != len(counts.matrix):
            raise ValueError(f"{len(given)} {what} of classes, expected {len(counts.matrix)} as were counted")
    sizes = _average_pixels(class_names, label_ids)
    used = np.full_like(sizes, math.nan) if counts.without_instances else sizes
    each_its_own, grouped = (category_numbers(each, len(sizes)) for each in (None, categories))
    rows = _scores(counts, each_its_own, class_names, used, hit_column=HITS)
    per_class = [ClassScore(*row) for row in rows]
    per_category = []
    if categories is not None:
        rows = _scores(counts, grouped, dict.fromkeys(categories), used, hit_column=CATEGORY_HITS)
        per_category = [CategoryScore(*row[:3]) for row in rows]
    numbers = {
        "mIoU": mean_defined(entry.iou for entry in per_class),
        "category mIoU": mean_defined(entry.iou for entry in per_category),
        "pixel accuracy": ratio(int(np.trace(counts.matrix)), int(counts.matrix.sum())),
        "iIoU": mean_defined(entry.iiou for entry in per_class),
        "category iIoU": mean_defined(entry.iiou for entry in per_category),
    }
    return SegmentationScores(
        numbers=numbers,
        per_class=per_class,
        per_category=per_category,
        matrix=counts.matrix,
        label_ids=None if label_ids is None else [int(each) for each in label_ids],
        images=len(counts.image_ids),
        note=_note(counts, per_class, categories, sizes),
    )


def _average_pixels(class_names: Sequence[str], label_ids: Sequence[int] | None) -> FloatArray:
    """Look up the average size of each class's objects in Cityscapes, float64 (K,); NaN where it has none."""
    ids = {label.name: label.id for label in CLASSES}
    sizes = np.full(len(class_names), math.nan)
    for index, name in enumerate(class_names):
        if name in AVERAGE_PIXELS and (label_ids is None or label_ids[index] == ids[name]):
            sizes[index] = AVERAGE_PIXELS[name]
    return sizes


def _scores(
    counts: SegmentationCounts, numbers: IntArray, names: Iterable[str], sizes: FloatArray, *, hit_column: int
) -> Iterator[tuple[str, float, float, int, int]]:
    """Score groups of classes: name, IoU, iIoU, pixels in the truth, pixels predicted.

    `numbers` (K,) is the group of each class, in the order of `names`; `sizes` (K,) the average pixels of
    each class's objects, NaN for one without iIoU; `hit_column` of `counts.instances` has the pixels
    predicted as the group.
    """
    groups = numbers == np.unique(numbers)[:, None]  # (C, K)
    matrix = groups.astype(np.int64) @ counts.matrix @ groups.T  # (C, C)
    owners, truth, predicted = numbers[counts.instances[:, LABEL]], matrix.sum(axis=1), matrix.sum(axis=0)
    for group, (name, iou) in enumerate(zip(names, class_iou(matrix), strict=True)):
        iiou = math.nan
        if not np.isnan(sizes[groups[group]]).any():
            false_positives = int(predicted[group] - matrix[group, group])
            mine = counts.instances[owners == group]
            iiou = _weighted_iou(mine, mine[:, hit_column], sizes, false_positives)
        yield name, float(iou), iiou, int(truth[group]), int(predicted[group])


def _weighted_iou(instances: IntArray, hits: IntArray, sizes: FloatArray, false_positives: int) -> float:
    """Compute IoU with each object counted as if it had the average size of its class."""
    weight = sizes[instances[:, LABEL]] / instances[:, PIXELS]
    # fsum rounds once, so the order of the images makes no difference.
    true_positives = math.fsum(hits * weight)
    false_negatives = math.fsum((instances[:, PIXELS] - hits) * weight)
    return ratio(true_positives, true_positives + false_positives + false_negatives)


def _note(
    counts: SegmentationCounts,
    per_class: Sequence[ClassScore],
    categories: Sequence[str] | None,
    sizes: FloatArray,
) -> str | None:
    sentences = []
    images = len(counts.image_ids)
    if counts.matrix.sum() == 0:
        what = f"None of the {images} images has a labeled pixel" if images else "No images were scored"
        sentences.append(f"{what}: the scores are undefined, not 0.")
    only_predicted = [entry.name for entry in per_class if not entry.pixels and entry.predicted_pixels]
    if only_predicted:
        named = ", ".join(only_predicted[:5]) + (", …" if len(only_predicted) > 5 else "")
        sentences.append(
            f"Predicted but not in any label, so counted as IoU 0 as in the official script: {named}."
        )
    if np.isnan(sizes).all():
        sentences.append("None of Cityscapes' instance classes is present: iIoU is not reported.")
    elif counts.without_instances:
        absent = f"{counts.without_instances} of {images} images"
        sentences.append(f"Instance files are missing for {absent}: iIoU is not reported.")
    if categories is None:
        sentences.append("The classes have no categories: category scores are not reported.")
    return " ".join(sentences) or None
