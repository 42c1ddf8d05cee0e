"""What the data sets of all tasks share: samples read or skipped, seeds of their augmentation, batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, NotRequired, TypedDict, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from dettoolkit.datasets.data_report import BadImageError, BadImages
from dettoolkit.datasets.samplers import SampleKey


class SkippedImage(NamedTuple):
    """Stands for an image that could not be read, with data.on_bad_image=skip."""

    reason: str  # "path: reason", with the image's id where the data set has ids
    input_hw: tuple[int, int]


class Reading(TypedDict):
    """How images are read."""

    on_bad_image: Literal["error", "skip"]  # raise BadImageError, or give a SkippedImage
    # With "skip", more than this in one process raise at once. Workers do not see each other's, so whoever
    # takes the batches counts as well (BadImages).
    max_bad_images: int
    max_megapixels: float  # a larger image cannot be read
    reduced: NotRequired[bool]  # whether JPEGs are decoded no larger than the transform's `least_hw` asks
    seed: int  # of the augmentation; with the epoch and the index it decides everything random


@dataclass(frozen=True, kw_only=True)
class Partners:
    """Which further images a sample is made with: `count`, with `probability`.

    The last `off_epochs`, but at most half of the run, have none.
    """

    count: int
    probability: float
    off_epochs: int
    chances: NDArray[np.float64] | None = None  # of each image, a sum of 1; None: all alike

    def draw(self, epoch: int, epochs: int | None, *, images: int, seed: int) -> list[int]:
        """Return their indices in a data set of `images`; of a run of `epochs`, None where there is none."""
        if epochs is not None and epoch >= epochs - min(self.off_epochs, epochs // 2):
            return []
        # A stream of its own: without partners all is the same.
        rng = np.random.default_rng((seed, self.count))
        if rng.random() >= self.probability:
            return []
        if self.chances is not None:
            return [int(index) for index in rng.choice(images, self.count, p=self.chances)]
        return [int(index) for index in rng.integers(images, size=self.count)]


class ImageDataset(Dataset[Any]):
    """Images that are read and transformed one by one; subclasses have `__len__` and `read_sample`.

    Those whose transform takes further images have `read` too, which reads one for it.

    A sample is a dict of tensors of the task's own, and what every task's has: image uint8 (3, h, w) RGB,
    image_id, file (its path), original_hw (of the file) and problems (found in the files; may be absent).
    """

    epochs: int | None = None  # of the run; None where there is none

    def __init__(
        self, *, transform: Any, partners: Partners | None = None, **reading: Unpack[Reading]
    ) -> None:
        """Take a picklable transform of image, labels and seed, with the size that comes out, `input_hw`.

        Of one that is given reduced images, `least_hw` is the size below which an image would have windows
        that are enlarged.

        With `partners`, what `read` gives of them follows the seed.
        """
        self.transform = transform
        self._partners = partners
        self.seed = reading["seed"]
        self.max_megapixels = reading["max_megapixels"]
        self.least_hw: tuple[int, int] | None = transform.least_hw if reading.get("reduced") else None
        self._skips = reading["on_bad_image"] == "skip"
        self._bad = BadImages(reading["max_bad_images"])

    def __getitem__(self, key: int | SampleKey) -> Any:
        """Return a sample, or a SkippedImage; a BadImageError names the file. A plain index means epoch 0."""
        key = sample_key(key)
        seed = int(np.random.SeedSequence([self.seed, key.epoch, key.index]).generate_state(1)[0])
        try:
            return self.read_sample(key, seed)
        except BadImageError as error:
            return self.refuse(error)

    def __len__(self) -> int:
        raise NotImplementedError

    def read_sample(self, key: SampleKey, seed: int) -> Any:
        """Read and transform one sample; the text of a BadImageError begins with the path."""
        raise NotImplementedError

    def read(self, index: int) -> Any:
        """Read an image and its labels."""
        raise NotImplementedError

    def partners(self, key: SampleKey, seed: int) -> list[Any]:
        """Read the further images that a sample is made with.

        None where one of them is to be skipped: it is counted when its own turn comes.
        """
        if self._partners is None:
            return []
        try:
            drawn = self._partners.draw(key.epoch, self.epochs, images=len(self), seed=seed)
            return [self.read(index) for index in drawn]
        except BadImageError:
            if not self._skips:
                raise
            return []

    def refuse(self, error: BadImageError) -> SkippedImage:
        """Raise, or count the image and give what stands for it."""
        if not self._skips:
            raise BadImageError(
                f"{error}. Repair or remove it, or skip such images with data.on_bad_image=skip"
            ) from None
        self._bad.record([str(error)])
        return SkippedImage(str(error), self.transform.input_hw or (0, 0))


def sample_key(key: int | SampleKey) -> SampleKey:
    """Return what a sampler asks for; a plain index means epoch 0."""
    return SampleKey(*key) if isinstance(key, tuple) else SampleKey(int(key), 0)


def to_tensor(image: NDArray[np.uint8]) -> Tensor:
    """Turn an image (H, W, 3) into a tensor (3, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def collate_images(samples: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
    """Return the N samples that are not skipped, and a batch with what every task's has.

    That is images uint8 (N, 3, h, w), image_ids int64 (N,), files, original_hw int64 (N, 2), bad_images
    ("path: reason" of each skipped image) and problems. N = 0 when every image was skipped: nothing can be
    trained on such a batch.
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
