"""What segmentation evaluation keeps of predictions: integers, so that images may come in any order.

Letters of the shapes: H, W a label map, K classes, N images, I instances.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dettoolkit.cityscapes import VOID

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
LabelMap = NDArray[Any]  # (H, W) of integers

IMAGE, LABEL, PIXELS, HITS, CATEGORY_HITS = range(5)
"""The columns of SegmentationCounts.instances."""

INSTANCE_STEP = 1000  # an instance id is 1000 x label id + number; ids up to 1000 are no single objects
CHUNK = 1 << 18  # pixels that are counted at a time: memory stays below 4 MiB, and in the cache


@dataclass(frozen=True, slots=True, eq=False)
class SegmentationCounts:
    """Hold what was counted on images, each of them once.

    Attributes:
        matrix: int64 (K, K), pixels by label in the truth (row) and in the prediction (column); pixels that
            the truth ignores are left out.
        image_ids: int64 (N,), each image's number in its data set.
        image_scores: float64 (N,), mean IoU over the classes in the image's truth or prediction; NaN for an
            image of ignored pixels only.
        instances: int64 (I, 5), a row for each labelled object: image id, label, pixels, pixels predicted as
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
        wanted = {
            "matrix": (classes, classes),
            "image_scores": (images,),
            "instances": (len(self.instances), 5),
        }
        for name, shape in wanted.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"counts: {name} has the shape {getattr(self, name).shape}, wanted {shape}")
        ids, times = np.unique(self.image_ids, return_counts=True)
        if len(ids) < images:
            raise ValueError(
                f"counts: image {ids[times > 1][0]} was counted {times.max()} times, wanted each image once: "
                "give each process its own images"
            )

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
        """Join counts of different images, ordered by image id: the parts' order makes no difference.

        Raises:
            ValueError: an image is in two parts, or a part has another number of classes.
        """
        for part in parts:
            if len(part.matrix) != num_classes:
                raise ValueError(f"counts of {len(part.matrix)} classes, wanted {num_classes} as in the rest")
        parts = [cls.empty(num_classes), *parts]
        image_ids = np.concatenate([part.image_ids for part in parts])
        instances = np.concatenate([part.instances for part in parts])
        order = np.argsort(image_ids, kind="stable")
        return cls(
            matrix=np.sum([part.matrix for part in parts], axis=0, dtype=np.int64),
            image_ids=image_ids[order],
            image_scores=np.concatenate([part.image_scores for part in parts])[order],
            instances=instances[np.argsort(instances[:, IMAGE], kind="stable")],
            without_instances=sum(part.without_instances for part in parts),
        )


def count_image(
    predicted: LabelMap,
    truth: LabelMap,
    *,
    num_classes: int,
    image_id: int,
    instances: LabelMap | None,
    label_ids: Sequence[int],
    categories: Sequence[str] | None,
) -> SegmentationCounts:
    """Count one image.

    Args:
        predicted: (H, W), labels; they matter only where the truth has a label.
        truth: (H, W), labels and VOID (255).
        num_classes: K, at most 255.
        image_id: the image's number in its data set.
        instances: (H, W), Cityscapes' instance ids; None, or -1 in the first pixel, where there is no file.
        label_ids: the label id of each class, for `instances`: 1000 x label id + number.
        categories: the category of each class, or None: then each class is its own.

    Raises:
        ValueError: sizes differ, or a value is no label.
    """
    if predicted.shape != truth.shape or truth.ndim != 2:
        raise ValueError(
            f"image {image_id}: prediction {predicted.shape} and truth {truth.shape}, wanted the same "
            "(H, W): predict at the size of the label file"
        )
    predicted = _as_bytes(predicted)
    matrix = confusion_matrix(predicted, _as_bytes(truth), num_classes)
    rows = np.zeros((0, 5), np.int64)
    present = instances is not None and not (instances.size and instances.flat[0] < 0)
    if instances is not None and present:
        if instances.shape != truth.shape:
            raise ValueError(
                f"image {image_id}: instances {instances.shape}, wanted {truth.shape} as the labels: "
                "check that the instance file belongs to the label file"
            )
        rows = _instances(predicted, instances, label_ids, category_numbers(categories, num_classes))
        rows[:, IMAGE] = image_id
    return SegmentationCounts(
        matrix=matrix,
        image_ids=np.array([image_id], np.int64),
        image_scores=np.array([mean_iou(matrix)]),
        instances=rows,
        without_instances=int(not present),
    )


def confusion_matrix(predicted: NDArray[np.uint8], truth: NDArray[np.uint8], num_classes: int) -> IntArray:
    """Count pixels by truth (row) and prediction (column), int64 (K, K); VOID in the truth is left out.

    Raises:
        ValueError: a truth that is neither a label nor VOID, or a prediction that is no label.
    """
    predicted, truth = predicted.reshape(-1), truth.reshape(-1)
    pairs = np.zeros(1 << 16, np.int64)
    for start in range(0, truth.size, CHUNK):
        code = truth[start : start + CHUNK].astype(np.uint16) << 8
        code |= predicted[start : start + CHUNK]
        pairs += np.bincount(code, minlength=1 << 16)
    table = pairs.reshape(256, 256)
    for name, counted in (("truth", table[:VOID].sum(axis=1)), ("prediction", table[:VOID].sum(axis=0))):
        wrong = np.flatnonzero(counted[num_classes:]) + num_classes
        if len(wrong):
            raise ValueError(
                f"{name}: {counted[wrong[0]]} pixels have the value {wrong[0]}, wanted labels 0 to "
                f"{num_classes - 1}: map the file's ids to labels first"
            )
    return table[:num_classes, :num_classes].copy()


def mean_iou(matrix: IntArray) -> float:
    """Average the IoU of the classes that are in truth or prediction; NaN where there are none."""
    values = class_iou(matrix)
    values = values[~np.isnan(values)]
    return math.fsum(values) / len(values) if len(values) else math.nan


def class_iou(matrix: IntArray) -> FloatArray:
    """Compute the IoU of each class, float64 (K,); NaN for one in neither truth nor prediction."""
    hits = np.diagonal(matrix)
    union = matrix.sum(axis=0) + matrix.sum(axis=1) - hits
    with np.errstate(invalid="ignore"):
        result: FloatArray = hits / union
    return result


def category_numbers(categories: Sequence[str] | None, num_classes: int) -> IntArray:
    """Number the categories in the order in which they come, int64 (K,); without any each class is its own.

    Raises:
        ValueError: not one category for each class.
    """
    if categories is None:
        return np.arange(num_classes)
    if len(categories) != num_classes:
        raise ValueError(f"{len(categories)} categories, wanted one for each of the {num_classes} classes")
    names = list(dict.fromkeys(categories))
    return np.array([names.index(name) for name in categories], np.int64)


def _instances(
    predicted: NDArray[np.uint8], instances: LabelMap, label_ids: Sequence[int], category_of: IntArray
) -> IntArray:
    """Count the pixels of each object by what they are predicted as, rows as in SegmentationCounts."""
    inside = np.flatnonzero(instances > INSTANCE_STEP)
    ids = instances.reshape(-1)[inside].astype(np.int64)
    found = predicted.reshape(-1)[inside]
    highest = int(ids.max(initial=0))
    label_of = np.full(max(highest // INSTANCE_STEP, *label_ids) + 1, VOID, np.int64)
    label_of[list(label_ids)] = np.arange(len(label_ids))
    owner = label_of[np.arange(highest + 1) // INSTANCE_STEP]  # (highest + 1,): the label of each instance
    category = np.full(VOID + 1, -1, np.int64)
    category[: len(category_of)] = category_of

    pixels = np.bincount(ids, minlength=highest + 1)
    hits = np.bincount(ids[found == owner[ids]], minlength=highest + 1)
    category_hits = np.bincount(ids[category[found] == category[owner[ids]]], minlength=highest + 1)
    chosen = np.flatnonzero((pixels > 0) & (owner != VOID))
    rows = np.zeros((len(chosen), 5), np.int64)
    for column, values in ((LABEL, owner), (PIXELS, pixels), (HITS, hits), (CATEGORY_HITS, category_hits)):
        rows[:, column] = values[chosen]
    return rows


def _as_bytes(labels: LabelMap) -> NDArray[np.uint8]:
    """Give labels the type uint8; what does not fit becomes an error, not another label."""
    if labels.dtype == np.uint8:
        return labels
    if labels.size and (labels.min() < 0 or labels.max() > VOID):
        raise ValueError(f"labels from {labels.min()} to {labels.max()}, wanted 0 to {VOID}")
    return labels.astype(np.uint8)
