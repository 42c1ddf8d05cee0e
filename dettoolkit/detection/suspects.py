"""Annotations that a detector doubts, by the scores of ObjectLab (arXiv 2309.00832) as cleanlab has them.

n annotations, m detections of an image; boxes are xyxy pixels. A score is low where an
annotation's class was swapped, where it is in the wrong place, or where a detected object has none at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dettoolkit.detection.box_coding import pairwise_iou
from dettoolkit.detection.box_examples import corners, example_of, example_of_image
from dettoolkit.detection.run import DetectionRun
from dettoolkit.doctor.findings import Example, Finding
from dettoolkit.doctor.findings import suspects as finding_of
from dettoolkit.evaluation.arrays import DetectionArrays
from dettoolkit.run import Batch, Split

CONFIDENT = 0.5
"""Score from which a detection can make an annotation doubtful; cleanlab's 0.95 is for large models."""

DOUBTED = 0.5
"""Score of an annotation up to which it is doubted."""

NEAR = 0.1
"""IoU from which an annotation may be meant for what was detected, though it is in the wrong place."""

SAME_PLACE = 0.5
"""IoU from which an annotation and a detection are about one object."""

Floats = NDArray[np.float64]
Case = tuple[float, Example]


def suspects(run: DetectionRun, *, split: Split, batches: Iterable[Batch]) -> list[Finding]:
    """Return annotations with another class or place than what was detected, and objects without one."""
    annotations, parts = run.val.annotations, list[DetectionArrays]()
    seen = set[int]()
    for batch in batches:
        parts.append(run.task.predict(run.task.network, batch))
        seen.update(batch["image_ids"].tolist())
    if not parts:
        return []
    found = DetectionArrays.concatenate(parts)
    label_of = {category: label for label, category in enumerate(annotations.category_ids)}
    cases = list[Case]()
    for row, image_id in enumerate(annotations.image_ids.tolist()):
        if image_id in seen:
            mine = slice(*annotations.offsets[row : row + 2])
            indices = np.arange(mine.start, mine.stop)[annotations.usable[mine]]
            here = np.flatnonzero((found.image_ids == image_id) & (found.scores >= CONFIDENT))
            labels = np.array([label_of[int(each)] for each in found.category_ids[here]], np.int64)
            boxes = found.boxes_xywh[here].copy()
            boxes[:, 2:] += boxes[:, :2]
            detected = np.column_stack([boxes, found.scores[here]])
            cases += _doubted(run, indices, detected, labels)
            cases += _overlooked(run, row, detected, labels)
    return finding_of(split, cases)


def _doubted(
    run: DetectionRun, indices: NDArray[np.int64], found: Floats, labels: NDArray[np.int64]
) -> Iterator[Case]:
    """Yield what is doubted of the annotations of an image.

    Args:
        run: whose validation set it is in.
        indices: (n,) of the annotations that are trained on.
        found: (m, 5) boxes that were detected, and their scores.
        labels: (m,) of these.
    """
    from cleanlab.object_detection.rank import compute_badloc_box_scores, compute_swap_box_scores

    annotations, names = run.val.annotations, run.val.annotations.class_names
    if not len(indices) or not len(found):
        return
    given, boxes = annotations.labels[indices], corners(annotations, indices)
    overlaps = pairwise_iou(torch.from_numpy(boxes), torch.from_numpy(found[:, :4])).numpy()  # (n, m)
    inputs: dict[str, Any] = {
        "labels": [{"bboxes": boxes, "labels": given}],
        "predictions": [[found[labels == label] for label in range(len(names))]],
    }
    swapped = compute_swap_box_scores(**inputs, high_probability_threshold=CONFIDENT)[0]
    misplaced = compute_badloc_box_scores(**inputs, low_probability_threshold=CONFIDENT)[0]
    for place, index in enumerate(indices.tolist()):
        others = np.where(labels != given[place], overlaps[place], 0)
        best = int(others.argmax())
        if swapped[place] <= DOUBTED and others[best] >= SAME_PLACE:
            seen = f"{names[labels[best]]} {found[best, 4]:.2f}"
            text = f"{names[given[place]]}, where the model sees {seen}"
            yield float(swapped[place]), example_of(annotations, index, text)
        elif misplaced[place] <= DOUBTED and 0 < overlaps[place].max() < SAME_PLACE:
            text = f"{names[given[place]]}, which the model sees in another place"
            yield float(misplaced[place]), example_of(annotations, index, text)


def _overlooked(run: DetectionRun, row: int, found: Floats, labels: NDArray[np.int64]) -> Iterator[Case]:
    """Yield the objects of an image that were detected where nothing is annotated, not even a crowd."""
    annotations = run.val.annotations
    boxes = corners(annotations, np.arange(*annotations.offsets[row : row + 2]))
    near = (pairwise_iou(torch.from_numpy(boxes), torch.from_numpy(found[:, :4])).numpy() > NEAR).any(axis=0)
    centers = (found[:, :2] + found[:, 2:4]) / 2
    inside = (boxes[:, None, :2] < centers) & (centers < boxes[:, None, 2:])  # (n, m, 2)
    for best in np.flatnonzero(~near & ~inside.all(axis=2).any(axis=0)).tolist():
        left, top, right, bottom, score = found[best].tolist()
        text = f"no annotation, where the model sees {annotations.class_names[labels[best]]} {score:.2f}"
        yield 1 - score, example_of_image(annotations, row, text, None, ((left, top, right, bottom),))
