"""What segmentation evaluation keeps of predictions: integers, so that images may come in any order.

Letters of the shapes: H, W a label map, K classes, N images, I instances.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from dettoolkit.evaluation.arrays import (
    FloatArray,
    IntArray,
    check_each_once,
    check_shapes,
    join_columns,
    mean_defined,
)

IMAGE, LABEL, PIXELS, HITS, CATEGORY_HITS = range(5)
"""The columns of SegmentationCounts.instances."""

INSTANCE_STEP = 1000  # an instance id is 1000 x label id + number; ids up to 1000 are no single objects


@dataclass(frozen=True, slots=True, eq=False)
class SegmentationCounts:
    """Hold what was counted on images, each of them once.

    Attributes:
        matrix: int64 (K, K), pixels by label in the truth (row) and in the prediction (column); pixels that
            the truth ignores are left out.
        image_ids: int64 (N,), each image's number in its data set.
        image_scores: float64 (N,), mean IoU over the classes in the image's truth or prediction; NaN for an
            image of ignored pixels only.
        instances: int64 (I, 5), a row for each labeled object: image id, label, pixels, pixels predicted as
            that label, pixels predicted as any label of its category.
        without_instances: how many of the images had no file of instances.
    """

    matrix: IntArray
    image_ids: IntArray
    image_scores: FloatArray
    instances: IntArray
    without_instances: int

    def __post_init__(self) -> None:
        classes, images = len(self.matrix), len(self.image_ids)
        objects = (len(self.instances), 5)
        wanted = {"matrix": (classes, classes), "image_scores": (images,), "instances": objects}
        check_shapes("counts", self, wanted)
        check_each_once("counts", self.image_ids)

    @classmethod
    def empty(cls, num_classes: int) -> Self:
        """Make the counts of no images."""
        return cls(
            matrix=np.zeros((num_classes, num_classes), np.int64),
            image_ids=np.zeros(0, np.int64),
            image_scores=np.zeros(0),
            instances=np.zeros((0, 5), np.int64),
            without_instances=0,
        )

    @classmethod
    def concatenate(cls, parts: Sequence[SegmentationCounts], num_classes: int) -> Self:
        """Join counts of different images, ordered by image id: the parts' order makes no difference."""
        for part in parts:
            if len(part.matrix) != num_classes:
                raise ValueError(f"counts of {len(part.matrix)} classes, expected {num_classes} as in others")
        parts = [cls.empty(num_classes), *parts]
        columns = join_columns(parts, ("image_ids", "image_scores", "instances"))
        order, instances = np.argsort(columns["image_ids"], kind="stable"), columns["instances"]
        return cls(
            matrix=np.sum([part.matrix for part in parts], axis=0, dtype=np.int64),
            image_ids=columns["image_ids"][order],
            image_scores=columns["image_scores"][order],
            instances=instances[np.argsort(instances[:, IMAGE], kind="stable")],
            without_instances=sum(part.without_instances for part in parts),
        )


def mean_iou(matrix: IntArray) -> float:
    """Average the IoU of the classes that are in truth or prediction; NaN where there are none."""
    return mean_defined(class_iou(matrix).tolist())


def class_iou(matrix: IntArray) -> FloatArray:
    """Compute the IoU of each class, float64 (K,); NaN for one in neither truth nor prediction."""
    hits = np.diagonal(matrix)
    union = matrix.sum(axis=0) + matrix.sum(axis=1) - hits
    with np.errstate(invalid="ignore"):
        result: FloatArray = hits / union
    return result


def category_numbers(categories: Sequence[str] | None, num_classes: int) -> IntArray:
    """Number the categories in their order, int64 (K,); without any, each class is its own."""
    if categories is None:
        return np.arange(num_classes)
    number_of = {name: number for number, name in enumerate(dict.fromkeys(categories))}
    return np.array([number_of[name] for name in categories], np.int64)
