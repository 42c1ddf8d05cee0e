"""Regions whose class a segmenter doubts, from the score that cleanlab gives each pixel (arXiv 2307.05080).

K: classes, (h, w): the logits' size, at which labels are compared; edges of objects are no matter there.
"""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dettoolkit.datasets.cityscapes_labels import VOID
from dettoolkit.doctor.findings import Example, Finding
from dettoolkit.doctor.findings import suspects as finding_of
from dettoolkit.run import Batch, Split
from dettoolkit.segmentation.run import SegmentationRun

DOUBTED = 0.1
"""Score of a pixel from which its label is doubted."""

LARGE = 0.01
"""Fraction of the image that a doubted region has at least."""


def suspects(run: SegmentationRun, *, split: Split, batches: Iterable[Batch]) -> list[Finding]:
    """Return images with a region that the segmenter takes for another class; the score is the region's."""
    cases = []
    for batch in batches:
        logits = run.task.network(run.task.images(batch)).float()
        for row, image_id in enumerate(batch["image_ids"].tolist()):
            height, width = batch["label_map_hw"][row].tolist()
            labels = batch["label_map"][row, :height, :width]
            case = _worst_region(labels, logits[row].softmax(dim=0), run.classes.names)
            if case is not None:
                score, text, box = case
                path = run.val.files.image_paths[image_id]
                example = Example(file=str(path), image_id=image_id, text=text, boxes_xyxy=(box,))
                cases.append((score, example))
    return finding_of(split, cases, things="label map{n:|s}")


Box = tuple[float, float, float, float]


def _worst_region(labels: Tensor, probabilities: Tensor, names: list[str]) -> tuple[float, str, Box] | None:
    """Return score, description and box, in the label map's pixels, of the largest region that is doubted.

    Args:
        labels: uint8 (H, W).
        probabilities: (K, h, w).
        names: of the classes.
    """
    from cleanlab.segmentation.rank import get_label_quality_scores

    small = _resized(labels.cpu().numpy(), (probabilities.shape[1], probabilities.shape[2]))
    best = probabilities.argmax(dim=0).cpu().numpy()
    known = small != VOID
    given = np.where(known, small, best).astype(np.int64)  # cleanlab has no void: there the model is right
    _, scores = get_label_quality_scores(
        given[None], probabilities[None].double().cpu().numpy(), verbose=False
    )
    doubted = (known & (scores[0] < DOUBTED)).astype(np.uint8)
    doubted = cv2.morphologyEx(
        doubted, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)
    )  # edges are always doubtful
    count, regions, facts, _ = cv2.connectedComponentsWithStats(doubted)
    if count < 2:
        return None
    largest = 1 + int(facts[1:, cv2.CC_STAT_AREA].argmax())
    area = int(facts[largest, cv2.CC_STAT_AREA])
    if area < LARGE * small.size:
        return None
    inside = regions == largest
    own, other = (int(np.bincount(each[inside]).argmax()) for each in (given, best))
    text = f"{names[own]}, where the model sees {names[other]}, {area / small.size:.1%} of the image"
    left, top, width, height = facts[largest, : cv2.CC_STAT_AREA].tolist()
    y, x = labels.shape[0] / small.shape[0], labels.shape[1] / small.shape[1]
    return float(scores[0][inside].mean()), text, (left * x, top * y, (left + width) * x, (top + height) * y)


def _resized(labels: NDArray[np.uint8], hw: tuple[int, int]) -> NDArray[np.uint8]:
    """Return a label map at another size: each pixel the one of its center."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int) for new, old in zip(hw, labels.shape, strict=True)
    )
    return labels[np.ix_(rows, columns)]
