"""COCO-format images and boxes as a torch data set, and the batches made of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dettoolkit.datasets.coco_annotations import CocoAnnotations
from dettoolkit.datasets.data_report import Problem, Reason, clean_boxes, naming
from dettoolkit.datasets.images import Reduced, read_reduced
from dettoolkit.datasets.samplers import SampleKey
from dettoolkit.datasets.samples import ImageDataset, Partners, Reading, collate_images, to_tensor
from dettoolkit.datasets.shrunk_images import ShrunkImages


class BoxedImage(NamedTuple):
    """An image and its m objects; and the class of each pixel, where a data set has both."""

    image: NDArray[np.uint8]  # (H, W, 3) RGB
    boxes_xyxy: NDArray[np.floating[Any]]  # (m, 4) in its pixels
    labels: NDArray[np.int64]  # (m,)
    label_map: NDArray[np.uint8] | None = None  # (H, W), VOID is ignored


class CocoDetection(ImageDataset):
    """Images and boxes of a CocoAnnotations; item i is the i-th image that is kept.

    The transform, a `DetectionTransform` or `StrongTransform`, maps a BoxedImage and a seed to a BoxedImage
    of input_hw. A sample has boxes_xyxy float32 (m, 4), pixels at input size, and box_labels int64 (m,),
    0-based.
    """

    def __init__(
        self,
        *,
        annotations: CocoAnnotations,
        transform: Any,
        drop_empty: bool,
        partners: Partners | None = None,
        cache: Path | None = None,
        **reading: Unpack[Reading],
    ) -> None:
        """Choose the images; `drop_empty` leaves out those without a usable box.

        With a folder `cache`, large images are kept there, as small as the transform's `least_hw` allows.
        """
        super().__init__(transform=transform, partners=partners, **reading)
        self.annotations = annotations
        self._rows = np.flatnonzero(~annotations.empty) if drop_empty else np.arange(len(annotations))
        if not len(self._rows):
            raise ValueError(
                f"{annotations.path}: none of its {len(annotations)} images has a usable box and "
                "data.drop_empty=true drops them all: set it to false, or check the file\n"
                f"{annotations.problems.summary()}"
            )
        self.cache = None if cache is None else ShrunkImages(cache, least_hw=transform.least_hw)
        if self.cache is not None:
            self.cache.check_space(annotations.image_hw[self._rows])

    def __len__(self) -> int:
        return len(self._rows)

    def read_sample(self, key: SampleKey, seed: int) -> dict[str, Any]:
        """Read and transform one sample."""
        row, annotations = int(self._rows[key.index]), self.annotations
        path, image_id = annotations.image_path(row), int(annotations.image_ids[row])
        sample, hw = self.read_sized(key.index)
        problems = []
        height, width = annotations.image_hw[row].tolist()
        if (height, width) not in (hw, (0, 0)):  # 0: neither the json nor the file's header gave one at load
            text = f"{path} is {hw[0]} x {hw[1]}, but its annotations say {height} x {width} (height x width)"
            problems.append(Problem("size differs", image_id, None, text))
        sample = self.transform(sample, seed, *self.partners(key, seed))
        made = {
            "image": to_tensor(sample.image),
            "boxes_xyxy": torch.from_numpy(sample.boxes_xyxy),
            "box_labels": torch.from_numpy(sample.labels),
            "image_id": image_id,
            "file": str(path),
            "original_hw": hw,
            "problems": problems,
        }
        return made if sample.label_map is None else made | {"label_map": torch.from_numpy(sample.label_map)}

    def read(self, index: int) -> BoxedImage:
        """Read an image and its objects; boxes are cleaned for the size that the image really has."""
        return self.read_sized(index)[0]

    def read_sized(self, index: int) -> tuple[BoxedImage, tuple[int, int]]:
        """Read as `read`, and return the file's height and width too; the image may be a reduced one."""
        row, annotations = int(self._rows[index]), self.annotations
        with naming(f"{annotations.image_path(row)}: image id {annotations.image_ids[row]}"):
            image, hw, scale_xy = self._read(row)
        mine = slice(*annotations.offsets[row : row + 2])
        boxes = annotations.boxes_xywh[mine]
        corners = np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])
        clean, reasons = clean_boxes(corners, hw)
        keep = (reasons <= Reason.CLIPPED) & ~annotations.iscrowd[mine]
        boxes = (clean[keep] * (scale_xy * 2)).astype(np.float32)
        return BoxedImage(image, boxes, annotations.labels[mine][keep]), hw

    def _read(self, row: int) -> Reduced:
        path, (height, width) = self.annotations.image_path(row), self.annotations.image_hw[row].tolist()
        limits: Any = {"expected_hw": (height, width), "max_megapixels": self.max_megapixels}
        if self.cache is not None:
            return self.cache.read(path, **limits)
        return read_reduced(path, least_hw=self.least_hw, **limits)


def collate(samples: Sequence[Any]) -> dict[str, Any]:
    """Stack samples into a batch: `collate_images`', and the boxes, padded to M, the largest number.

    boxes_xyxy float32 (N, M, 4) has zeros beyond an image's boxes, box_labels int64 (N, M) -1; M may be 0.
    """
    good, batch = collate_images(samples)
    return batch | stack_boxes(good)


def stack_boxes(samples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """Return boxes_xyxy and box_labels of a batch of N samples, as `collate` has them."""
    count = max((len(each["box_labels"]) for each in samples), default=0)
    boxes = torch.zeros(len(samples), count, 4)
    labels = torch.full((len(samples), count), -1, dtype=torch.int64)
    for row, each in enumerate(samples):
        boxes[row, : len(each["box_labels"])] = each["boxes_xyxy"]
        labels[row, : len(each["box_labels"])] = each["box_labels"]
    return {"boxes_xyxy": boxes, "box_labels": labels}
