"""Which classes of a segmentation set are rare, and drawing one of them, or a pixel of one.

Class-uniform sampling (arXiv 1812.01593) draws a class first, then an image that has it, then a place there.
Letters: K = classes, I = images of the set.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from dettoolkit.datasets.cityscapes_labels import VOID
from dettoolkit.datasets.data_report import BadImageError
from dettoolkit.datasets.label_classes import read_labels
from dettoolkit.datasets.segmentation_files import SegmentationFiles
from dettoolkit.wording import listing

READERS = 4
"""Threads that read label files; decoding leaves Python's lock."""


class Rarity(NamedTuple):
    """How often an image of the set is drawn, and a class of those that an image has."""

    images: NDArray[np.float64]  # (I,) probabilities; all 0 where there is nothing to draw
    classes: NDArray[np.float64]  # (K,) in proportion


def count_pixels(files: SegmentationFiles, *, max_megapixels: float) -> NDArray[np.int64]:
    """Count the pixels of each class in each label file (I, K), about 10 ms each; 0 in an unreadable one."""

    def count(index: int) -> NDArray[np.int64]:
        try:
            labels = read_labels(files.label_paths[index], files.classes, max_megapixels=max_megapixels)
        except BadImageError:  # the run meets it too, and stops or skips it
            labels = np.zeros((0, 0), np.uint8)
        return np.bincount(labels.ravel(), minlength=VOID)[: len(files.classes)]

    with ThreadPoolExecutor(READERS) as readers:
        return np.array(list(readers.map(count, range(len(files)))))


def rarity(pixels: NDArray[np.int64], names: Sequence[str], chosen: Sequence[str] | None) -> Rarity:
    """Turn the pixels of each image and class (I, K) into how often both are drawn.

    The classes `chosen`, by name, are drawn equally often. None stands for those with no more pixels than an
    even share of all, in proportion to one over the root of their pixels, as LVIS repeats images (arXiv
    1908.03195). Of the images that have a class, all are drawn equally often.

    Raises:
        ValueError: no image has a class that is chosen.
    """
    totals, images = pixels.sum(axis=0), (pixels > 0).sum(axis=0)  # (K,) each
    if chosen is None:
        rare = (totals > 0) & (totals * np.count_nonzero(totals) <= totals.sum())
        weights = np.where(rare, 1 / np.sqrt(np.maximum(totals, 1)), 0.0)
    else:
        found = [name for name, total in zip(names, totals, strict=True) if total]
        if absent := [name for name in chosen if name not in found]:
            raise ValueError(
                f"data.augment.copy_paste.classes names {listing(absent)}, but the training labels have "
                f"{listing(found)}: correct the names"
            )
        weights = np.array([float(name in chosen) for name in names])
    classes = weights / np.maximum(images, 1)
    chances = (pixels > 0) @ classes  # (I,)
    return Rarity(chances / (chances.sum() or 1), classes)


def draw_class(
    labels: NDArray[np.uint8], weights: NDArray[np.float64], rng: np.random.Generator
) -> int | None:
    """Draw one of the classes in labels (H, W), by weights (K,); None where none of them has weight."""
    counts = cv2.calcHist([np.ascontiguousarray(labels)], [0], None, [256], [0, 256]).ravel()
    present = np.where(counts[: len(weights)] > 0, weights, 0)
    return int(rng.choice(len(present), p=present / present.sum())) if present.any() else None


def draw_pixel(
    labels: NDArray[np.uint8], weights: NDArray[np.float64], rng: np.random.Generator
) -> tuple[int, int] | None:
    """Draw row and column of a pixel of labels (H, W): its class by weights (K,), then any of that."""
    label = draw_class(labels, weights, rng)
    if label is None:
        return None
    places = np.flatnonzero(labels == label)
    row, column = divmod(int(rng.choice(places)), labels.shape[1])
    return row, column
