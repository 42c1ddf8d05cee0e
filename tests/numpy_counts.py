"""Counts in numpy, written apart from the library's in torch: what the latter is compared with."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dettoolkit.datasets.cityscapes_labels import VOID
from dettoolkit.evaluation.segmentation_counts import (
    CATEGORY_HITS,
    HITS,
    IMAGE,
    INSTANCE_STEP,
    LABEL,
    PIXELS,
    SegmentationCounts,
    category_numbers,
    mean_iou,
)

IntArray = NDArray[np.int64]
LabelMap = NDArray[Any]  # (H, W) of integers
CHUNK = 1 << 22  # pixels that are counted at a time


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
    """Return labels the type uint8; what does not fit becomes an error, not another label."""
    if labels.dtype == np.uint8:
        return labels
    if labels.size and (labels.min() < 0 or labels.max() > VOID):
        raise ValueError(f"labels from {labels.min()} to {labels.max()}, wanted 0 to {VOID}")
    return labels.astype(np.uint8)
