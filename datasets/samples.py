"""What the data sets of both tasks share: a sample's seed, and what becomes of images that cannot be read."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from dettoolkit.datasets.data_report import BadImageError, BadImages
from dettoolkit.datasets.samplers import SampleKey


class SkippedImage(NamedTuple):
    """Stands for an image that could not be read, with data.on_bad_image=skip."""

    reason: str  # "path: reason", with the image's id where the data set has ids
    input_hw: tuple[int, int]


class BadImagePolicy:
    """What the recipe wants done with images that cannot be read."""

    def __init__(self, *, on_bad_image: Literal["error", "skip"], max_bad_images: int) -> None:
        """Choose.

        Args:
            on_bad_image: "error" raises BadImageError; "skip" yields a SkippedImage.
            max_bad_images: with "skip", more than this in one process raise at once. Workers do not see each
                other's, so the consumer of the batches counts as well (BadImages).
        """
        self.on_bad_image = on_bad_image
        self._bad = BadImages(max_bad_images)

    def refuse(self, reason: str, input_hw: tuple[int, int]) -> SkippedImage:
        """Raise, or count the image and give what stands for it.

        Args:
            reason: "path: reason".
            input_hw: size that the image would have had in a batch.
        """
        if self.on_bad_image == "error":
            raise BadImageError(
                f"{reason}. Repair or remove it, or skip such images with data.on_bad_image=skip"
            )
        self._bad.record([reason])
        return SkippedImage(reason, input_hw)


def sample_key(key: int | SampleKey) -> SampleKey:
    """Return what a sampler asks for; a plain index means epoch 0."""
    return SampleKey(*key) if isinstance(key, tuple) else SampleKey(int(key), 0)


def sample_seed(seed: int, key: SampleKey) -> int:
    """Return the seed of one sample's augmentation; nothing but these numbers decides it."""
    return int(np.random.SeedSequence([seed, key.epoch, key.index]).generate_state(1)[0])
