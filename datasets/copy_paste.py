"""Copy-paste (arXiv 2012.07177) for label maps: regions of rare classes, pasted from one crop into another.

As there, both images are scaled, cropped and flipped by themselves, and edges are not blended. Here a region
is what is connected of one class, for label maps know no objects. Letters: (h, w) = a crop, K = classes.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from dettoolkit.datasets.rare_classes import draw_class
from dettoolkit.datasets.segmentation_augment import Image, Labels, SegmentationTransform

SMALLEST = 16
"""Pixels of a region; smaller ones are crumbs of objects that are cut off or far away."""


def choose_regions(
    labels: Labels, weights: NDArray[np.float64], max_regions: int, rng: np.random.Generator
) -> tuple[int, NDArray[np.bool_]] | None:
    """Draw a class of those in labels (h, w), by weights (K,), and from 1 to `max_regions` of its regions.

    Return the class and the regions' pixels (h, w); None where no class has weight or a region large enough.
    """
    label = draw_class(labels, weights, rng)
    if label is None:
        return None
    _, regions, stats, _ = cv2.connectedComponentsWithStats((labels == label).astype(np.uint8))
    large = np.flatnonzero(stats[1:, cv2.CC_STAT_AREA] >= SMALLEST) + 1  # 0 is all the rest
    drawn = rng.permutation(large)[: rng.integers(1, max_regions + 1)]
    return (label, np.isin(regions, drawn)) if len(drawn) else None


class CopyPasteTransform:
    """Make a crop and paste regions of another image's crop; picklable, a function of arguments and seed."""

    moves_labels = True

    def __init__(
        self,
        *,
        receiver: SegmentationTransform,
        donor: SegmentationTransform,
        class_weights: NDArray[np.float64],
        max_regions: int,
    ) -> None:
        """Choose how both crops are made, and how often each class (K,) of the donor's is drawn."""
        self.input_hw = receiver.input_hw
        self._receiver, self._donor = receiver, donor
        self._class_weights, self._max_regions = class_weights, max_regions

    def __call__(
        self, image: Image, labels: Labels, seed: int, *donors: tuple[Image, Labels]
    ) -> tuple[Image, Labels]:
        """Transform image (H, W, 3) RGB and labels (H, W), which are not changed; donors are the same."""
        image, labels = self._receiver(image, labels, seed)
        rng = np.random.default_rng((seed, 1))  # not the receiver's stream
        for each in donors:
            donor_image, donor_labels = self._donor(*each, int(rng.integers(2**63)))
            regions = choose_regions(donor_labels, self._class_weights, self._max_regions, rng)
            if regions is not None:
                label, inside = regions
                image = np.where(inside[..., None], donor_image, image)
                labels = np.where(inside, np.uint8(label), labels)
        return image, labels
