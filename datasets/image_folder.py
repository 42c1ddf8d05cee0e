"""Images of one class each as a torch data set, and the batches made of them.

N images in a batch, (h, w) their size as the network gets them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from dettoolkit.datasets.data_report import BadImageError
from dettoolkit.datasets.image_folder_files import ImageFolderFiles
from dettoolkit.datasets.images import read_image
from dettoolkit.datasets.samplers import SampleKey
from dettoolkit.datasets.samples import (
    BadImagePolicy,
    SkippedImage,
    collate_images,
    sample_key,
    sample_seed,
)

__all__ = ["ImageFolder", "ImageFolderFiles", "Sample", "Transform", "check_root", "collate"]


class Transform(Protocol):
    """What classification_augment has: a pure function of its arguments, picklable."""

    @property
    def input_hw(self) -> tuple[int, int]:
        """Size of what comes out."""

    def __call__(self, image: NDArray[np.uint8], seed: int) -> Tensor:
        """Map image (H, W, 3) to uint8 (3, h, w)."""


class Sample(TypedDict):
    """One image with its class."""

    image: Tensor  # uint8 (3, h, w) RGB
    label: int
    image_id: int  # index in the data set
    file: str
    original_hw: tuple[int, int]


class ImageFolder(Dataset[Sample | SkippedImage]):
    """Images of ImageFolderFiles."""

    def __init__(
        self,
        *,
        files: ImageFolderFiles,
        transform: Transform,
        on_bad_image: Literal["error", "skip"],
        max_bad_images: int,
        max_megapixels: float,
        seed: int,
    ) -> None:
        """Compose.

        Args:
            files: of the split.
            transform: see Transform.
            on_bad_image: see BadImagePolicy.
            max_bad_images: see BadImagePolicy.
            max_megapixels: a larger image cannot be read.
            seed: of the augmentation; with the epoch and the index it decides everything random.
        """
        self.files = files
        self.transform = transform
        self.seed = seed
        self.max_megapixels = max_megapixels
        self._policy = BadImagePolicy(on_bad_image=on_bad_image, max_bad_images=max_bad_images)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, key: int | SampleKey) -> Sample | SkippedImage:
        """Read, transform and return one sample; a plain index means epoch 0.

        Raises:
            BadImageError: see `on_bad_image`; names the file.
        """
        key = sample_key(key)
        path = self.files.image_path(key.index)
        try:
            image = read_image(path, max_megapixels=self.max_megapixels)
        except BadImageError as error:
            return self._policy.refuse(f"{path}: {error}", self.transform.input_hw)
        return {
            "image": self.transform(image, sample_seed(self.seed, key)),
            "label": int(self.files.labels[key.index]),
            "image_id": key.index,
            "file": str(path),
            "original_hw": (image.shape[0], image.shape[1]),
        }


def collate(samples: Sequence[Sample | SkippedImage]) -> dict[str, Any]:
    """Stack samples into a batch: what every task's has, and class_labels, int64 (N,) 0-based."""
    good, batch = collate_images(samples)
    labels = torch.tensor([each["label"] for each in good], dtype=torch.int64)
    return {**batch, "class_labels": labels}


def check_root(root: Path, *, expected: Sequence[str]) -> None:
    """Raise FileNotFoundError, saying how to get data, unless the splits' folders are under root."""
    missing = [each for each in expected if not (root / each).is_dir()]
    if not missing:
        return
    wanted = "\n".join(f"  {root / each}{'   (missing)' if each in missing else ''}" for each in expected)
    found = sorted(each.name for each in root.glob("*") if each.is_dir() and each.name[0] != ".")[:20]
    there = f"Folders there: {', '.join(found)}\n" if found else ""
    raise FileNotFoundError(
        f"no images of classes at data.root={root}. Expected, each with a folder for every class:\n{wanted}"
        f"\n{there}"
        "Name other folders by data.train.images=... and data.val.images=...\n"
        "ImageNet has 1,281,167 images to train on and 50,000 to validate on, of 1000 classes (150 GB): "
        "register at image-net.org, unpack each class into a folder, and move the validation images into "
        "folders of the same names"
    )
