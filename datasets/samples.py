"""What the data sets of all tasks share: seeds of samples, images that cannot be read, batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

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


def collate_images(samples: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
    """Return the samples that are not skipped, and a batch with what every task's has.

    When every image was skipped the batch has N = 0 and is to be passed over: batch normalization cannot be
    trained on it.

    Returns:
        the N samples; images uint8 (N, 3, h, w), image_ids int64 (N,), files, original_hw int64 (N, 2),
        bad_images ("path: reason" of each skipped image) and problems.

    Raises:
        ValueError: no sample at all.
    """
    if not samples:
        raise ValueError("collate needs at least one sample, got none: check the sampler")
    good = [each for each in samples if not isinstance(each, SkippedImage)]
    skipped = [each for each in samples if isinstance(each, SkippedImage)]
    return good, {
        "images": torch.stack([each["image"] for each in good])
        if good
        else torch.zeros(0, 3, *skipped[0].input_hw, dtype=torch.uint8),
        "image_ids": torch.tensor([each["image_id"] for each in good], dtype=torch.int64),
        "files": [each["file"] for each in good],
        "original_hw": torch.tensor([each["original_hw"] for each in good], dtype=torch.int64).reshape(-1, 2),
        "bad_images": [each.reason for each in skipped],
        "problems": [problem for each in good for problem in each.get("problems", ())],
    }
