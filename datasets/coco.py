"""COCO-format images and boxes as a torch data set, and the batches made of them.

N images in a batch, M boxes of the one with most, m boxes of one sample, (h, w) the input size.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol, TypedDict, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from dettoolkit.datasets.coco_annotations import CocoAnnotations
from dettoolkit.datasets.data_report import (
    BadImageError,
    BadImages,
    DataReport,
    Problem,
    Reason,
    clean_boxes,
)
from dettoolkit.datasets.images import read_image
from dettoolkit.datasets.labels import LabelMap
from dettoolkit.datasets.samplers import SampleKey
from dettoolkit.datasets.samples import (
    BadImagePolicy,
    SkippedImage,
    collate_images,
    sample_key,
    sample_seed,
)

__all__ = [
    "BadImageError",
    "BadImages",
    "Batch",
    "CocoAnnotations",
    "CocoDetection",
    "DataReport",
    "LabelMap",
    "Problem",
    "Sample",
    "SkippedImage",
    "Transform",
    "check_root",
    "collate",
]


class Transform(Protocol):
    """What augment.build_transform makes: a pure function of its arguments, picklable."""

    input_hw: tuple[int, int]

    def __call__(
        self, image: NDArray[np.uint8], boxes_xyxy: NDArray[np.float32], labels: NDArray[np.int64], seed: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int64]]:
        """Map image (H, W, 3), boxes (m, 4) in its pixels and labels (m,) to input_hw."""


class Sample(TypedDict):
    """One image at input size with its boxes."""

    image: Tensor  # uint8 (3, h, w) RGB
    boxes_xyxy: Tensor  # float32 (m, 4) pixels at input size
    box_labels: Tensor  # int64 (m,) 0-based
    image_id: int  # the file's
    file: str  # path of the image
    original_hw: tuple[int, int]  # of the image file
    problems: list[Problem]  # what is wrong with the image file


class Batch(TypedDict):
    """Samples of equal size, stacked. N may be 0, when every image of the batch was skipped."""

    images: Tensor  # uint8 (N, 3, h, w) RGB
    boxes_xyxy: Tensor  # float32 (N, M, 4) pixels at input size, zeros beyond an image's boxes; M may be 0
    box_labels: Tensor  # int64 (N, M) 0-based, -1 beyond an image's boxes
    image_ids: Tensor  # int64 (N,) the file's
    files: list[str]  # path of each image
    original_hw: Tensor  # int64 (N, 2) of the image files
    bad_images: list[str]  # "path: image id 7: reason" of each skipped image; record them in a BadImages
    problems: list[Problem]  # images of another size than the json says; record them in a DataReport


class CocoDetection(Dataset[Sample | SkippedImage]):
    """Images and boxes of a CocoAnnotations; item i is the i-th image that is kept."""

    def __init__(
        self,
        *,
        annotations: CocoAnnotations,
        transform: Transform,
        on_bad_image: Literal["error", "skip"],
        max_bad_images: int,
        max_megapixels: float,
        drop_empty: bool,
        seed: int,
    ) -> None:
        """Choose the images.

        Args:
            annotations: of the split.
            transform: see Transform.
            on_bad_image: see BadImagePolicy.
            max_bad_images: see BadImagePolicy.
            max_megapixels: a larger image cannot be read.
            drop_empty: leave out images without a usable box.
            seed: of the augmentation; with the epoch and the index it decides everything random.
        """
        self.annotations = annotations
        self.transform = transform
        self.seed = seed
        self.max_megapixels = max_megapixels
        self._policy = BadImagePolicy(on_bad_image=on_bad_image, max_bad_images=max_bad_images)
        empty = annotations.empty
        self._rows = np.flatnonzero(~empty) if drop_empty else np.arange(len(annotations))
        if not len(self._rows):
            raise ValueError(
                f"{annotations.path}: none of its {len(annotations)} images has a usable box and "
                "data.drop_empty=true drops them all: set it to false, or check the file\n"
                f"{annotations.problems.summary()}"
            )

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: int | SampleKey) -> Sample | SkippedImage:
        """Read, transform and return one sample; a plain index means epoch 0."""
        key = sample_key(key)
        row = int(self._rows[key.index])
        try:
            image = self._read(row)
        except BadImageError as error:
            return self._policy.refuse(f"{self._where(row)}: {error}", self.transform.input_hw)
        hw = (image.shape[0], image.shape[1])
        boxes, labels = self._targets(row, hw)
        image, boxes, labels = self.transform(image, boxes, labels, sample_seed(self.seed, key))
        return {
            "image": torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))),
            "boxes_xyxy": torch.from_numpy(boxes),
            "box_labels": torch.from_numpy(labels),
            "image_id": int(self.annotations.image_ids[row]),
            "file": str(self.annotations.image_path(row)),
            "original_hw": hw,
            "problems": self._size_differs(row, hw),
        }

    def _read(self, row: int) -> NDArray[np.uint8]:
        path = self.annotations.image_path(row)
        return read_image(path, expected_hw=self._json_hw(row), max_megapixels=self.max_megapixels)

    def _json_hw(self, row: int) -> tuple[int, int]:
        height, width = self.annotations.image_hw[row].tolist()
        return height, width

    def _targets(self, row: int, hw: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the boxes (m, 4) and labels (m,) to train on, cleaned for the size the image really has."""
        start, stop = self.annotations.offsets[row : row + 2]
        boxes = self.annotations.boxes_xywh[start:stop]
        corners = np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])
        clean, reasons = clean_boxes(corners, hw)
        keep = (reasons <= Reason.CLIPPED) & ~self.annotations.iscrowd[start:stop]
        return clean[keep].astype(np.float32), self.annotations.labels[start:stop][keep]

    def _where(self, row: int) -> str:
        return f"{self.annotations.image_path(row)}: image id {self.annotations.image_ids[row]}"

    def _size_differs(self, row: int, hw: tuple[int, int]) -> list[Problem]:
        json_hw = self._json_hw(row)
        if json_hw in (hw, (0, 0)):  # 0: the json gives none and the header could not be read at load
            return []
        text = (
            f"{self.annotations.image_path(row)} is {hw[0]} x {hw[1]}, the json says "
            f"{json_hw[0]} x {json_hw[1]} (height x width)"
        )
        return [Problem("size differs", int(self.annotations.image_ids[row]), None, text)]


def collate(samples: Sequence[Sample | SkippedImage]) -> Batch:
    """Stack samples into a batch; see `samples.collate_images`."""
    good, batch = collate_images(samples)
    count = max((len(each["box_labels"]) for each in good), default=0)
    boxes = torch.zeros(len(good), count, 4)
    labels = torch.full((len(good), count), -1, dtype=torch.int64)
    for row, each in enumerate(good):
        boxes[row, : len(each["box_labels"])] = each["boxes_xyxy"]
        labels[row, : len(each["box_labels"])] = each["box_labels"]
    return cast(Batch, {**batch, "boxes_xyxy": boxes, "box_labels": labels})


def check_root(root: Path, *, expected: Sequence[str]) -> None:
    """Raise FileNotFoundError, saying how to get data, unless everything expected is under root.

    Args:
        root: data.root.
        expected: image folders and json files of the splits, relative to root.
    """
    missing = [each for each in expected if not (root / each).exists()]
    if not missing:
        return
    lines = [f"  {root / each}{'   (missing)' if each in missing else ''}" for each in expected]
    found = (each for pattern in ("*.json", "*/*.json") for each in root.glob(pattern))  # root may be large
    jsons = sorted(str(each.relative_to(root)) for each in found)[:10]
    there = f"json files there: {', '.join(jsons)}\n" if jsons else ""
    own = "data.root=..., data.train.images=..., data.train.annotations=..., and the same for data.val"
    listing = "\n".join(lines)
    if jsons or len(missing) < len(expected):  # a data set is there, under other names
        raise FileNotFoundError(
            f"the data set at data.root={root} is incomplete. Expected:\n{listing}\n{there}"
            f"Name what is there by {own}"
        )
    raise FileNotFoundError(
        f"no COCO data set at data.root={root}. Expected:\n{listing}\n"
        f"To fetch COCO 2017 (about 19 GB): tools/download_coco.py {root} "
        f"(or: dettoolkit download-coco {root})\n"
        "To try the embedded data instead: tools/train.py RECIPE configs/overlays/scenes.yaml\n"
        f"For a set of your own: {own}"
    )
