"""Images with a label for every pixel as a torch data set, and the batches made of them.

N images in a batch, (h, w) the size of an image as the network gets it, (H, W) that of a label map.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal, NotRequired, Protocol, TypedDict, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from dettoolkit.datasets.cityscapes_labels import VOID
from dettoolkit.datasets.data_report import BadImageError, Problem
from dettoolkit.datasets.images import read_image
from dettoolkit.datasets.label_files import read_instances, read_labels
from dettoolkit.datasets.samplers import SampleKey
from dettoolkit.datasets.samples import (
    BadImagePolicy,
    SkippedImage,
    collate_images,
    sample_key,
    sample_seed,
)
from dettoolkit.datasets.segmentation_files import SegmentationFiles

READERS = 4  # threads that read all label files; decoding leaves Python's lock


class Transform(Protocol):
    """What segmentation_augment has: a pure function of its arguments, picklable."""

    @property
    def input_hw(self) -> tuple[int, int] | None:
        """Size of what comes out; None: of what came in."""

    @property
    def moves_labels(self) -> bool:
        """Whether labels come out at the image's new size; else they stay as they are in the file."""

    def __call__(
        self, image: NDArray[np.uint8], labels: NDArray[np.uint8], seed: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Map image (H, W, 3) and labels (H, W)."""


class Sample(TypedDict):
    """One image with its label map."""

    image: Tensor  # uint8 (3, h, w) RGB
    label_map: Tensor  # uint8 (H, W) 0-based, VOID is ignored
    instances: NotRequired[Tensor]  # int32 (H, W), see Batch
    image_id: int  # index in the data set
    file: str  # path of the image
    original_hw: tuple[int, int]  # of the image file
    problems: list[Problem]  # what is wrong with the label file


class Batch(TypedDict):
    """Samples, stacked. N may be 0, when every image of the batch was skipped."""

    images: Tensor  # uint8 (N, 3, h, w) RGB
    label_map: Tensor  # uint8 (N, H, W) 0-based, VOID is ignored; maps are padded with it right and below
    label_map_hw: Tensor  # int64 (N, 2) the true size of each label map
    # int32 (N, H, W) as label_files.read_instances, only with the data set's `with_instances`: 0 beyond a
    # map, -1 all over where an image has no such file
    instances: NotRequired[Tensor]
    image_ids: Tensor  # int64 (N,) index in the data set
    files: list[str]  # path of each image
    original_hw: Tensor  # int64 (N, 2) of the image files
    bad_images: list[str]  # "path: reason" of each skipped image; record them in a BadImages
    problems: list[Problem]  # of the label files; record them in a DataReport


class SegmentationDataset(Dataset[Sample | SkippedImage]):
    """Images and label maps of SegmentationFiles; labels are mapped in memory and nothing is written."""

    def __init__(
        self,
        *,
        files: SegmentationFiles,
        transform: Transform,
        on_bad_image: Literal["error", "skip"],
        max_bad_images: int,
        max_megapixels: float,
        seed: int,
        with_instances: bool,
    ) -> None:
        """Compose.

        Args:
            files: of the split.
            transform: see Transform. One that moves labels needs them at their image's size; otherwise a
                difference is only counted.
            on_bad_image: see BadImagePolicy; an image is bad too when its label or instance file cannot be
                read, or does not fit.
            max_bad_images: see BadImagePolicy.
            max_megapixels: a larger image cannot be read.
            seed: of the augmentation; with the epoch and the index it decides everything random.
            with_instances: read the instance files too, for scores; only with labels that stay as they are.
        """
        if with_instances and transform.moves_labels:
            raise ValueError(
                "with_instances=True needs a transform that leaves labels as they are: give EvalTransform"
            )
        self.files = files
        self.transform = transform
        self.with_instances = with_instances
        self.seed = seed
        self.max_megapixels = max_megapixels
        self._policy = BadImagePolicy(on_bad_image=on_bad_image, max_bad_images=max_bad_images)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, key: int | SampleKey) -> Sample | SkippedImage:
        """Read, transform and return one sample; a plain index means epoch 0.

        Raises:
            BadImageError: see `on_bad_image`; names the file.
            LabelError: a label file has values without a meaning, or colors; names it. Never skipped: the
                recipe does not fit the data.
        """
        key = sample_key(key)
        try:
            labels, instances = self._read_maps(key.index)
            image = self._read_image(key.index, _hw(labels))
        except BadImageError as error:
            return self._policy.refuse(str(error), self.transform.input_hw or (0, 0))
        problems = self._problems(key.index, _hw(image), labels)
        original_hw = _hw(image)
        image, labels = self.transform(image, labels, sample_seed(self.seed, key))
        sample: Sample = {
            "image": torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))),
            "label_map": torch.from_numpy(np.ascontiguousarray(labels)),
            "image_id": key.index,
            "file": str(self.files.image_paths[key.index]),
            "original_hw": original_hw,
            "problems": problems,
        }
        if instances is not None:
            sample["instances"] = torch.from_numpy(instances)
        return sample

    def read_labels(self) -> set[tuple[int, int]]:
        """Read every label file once, record what is wrong in `files.problems`, and give the sizes met.

        Raises:
            LabelError: as when samples are read.
            BadImageError: likewise; files that are to be skipped are left to the run, which counts them.
        """
        sizes = set()
        with ThreadPoolExecutor(READERS) as readers:
            for index, (hw, void) in enumerate(readers.map(self._look, range(len(self)))):
                sizes |= {hw} if hw is not None else set()
                if void:
                    self.files.problems.record([self._nothing_but_void(index)])
        return sizes

    def _look(self, index: int) -> tuple[tuple[int, int] | None, bool]:
        """Return the size of a label map, None for one to be skipped, and whether it is nothing but void."""
        maps = self.read_maps(index)
        return (None, False) if maps is None else (_hw(maps[0]), bool((maps[0] == VOID).all()))

    def read_maps(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.int32] | None] | None:
        """Read labels and, where wanted, instances (H, W); None for files that are to be skipped.

        Raises:
            BadImageError, LabelError: as when samples are read.
        """
        try:
            return self._read_maps(index)
        except BadImageError as error:
            self._policy.refuse(str(error), (0, 0))
            return None

    def _read_maps(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.int32] | None]:
        """Read labels and, where wanted, instances (H, W)."""
        path, instance_path = self.files.label_paths[index], self.files.instance_paths[index]
        limit = self.max_megapixels
        labels = _read(path, partial(read_labels, classes=self.files.classes, max_megapixels=limit))
        if not self.with_instances:
            return labels, None
        if instance_path is None:
            return labels, np.full(labels.shape, -1, np.int32)
        instances = _read(instance_path, partial(read_instances, max_megapixels=limit))
        if instances.shape != labels.shape:
            raise BadImageError(_sizes(instance_path, _hw(instances), path, _hw(labels)))
        return labels, instances

    def _read_image(self, index: int, label_hw: tuple[int, int]) -> NDArray[np.uint8]:
        path = self.files.image_paths[index]
        image = _read(path, partial(read_image, expected_hw=label_hw, max_megapixels=self.max_megapixels))
        if self.transform.moves_labels and _hw(image) != label_hw:
            raise BadImageError(_sizes(path, _hw(image), self.files.label_paths[index], label_hw))
        return image

    def _problems(self, index: int, image_hw: tuple[int, int], labels: NDArray[np.uint8]) -> list[Problem]:
        path = self.files.label_paths[index]
        problems = []
        if _hw(labels) != image_hw:
            text = _sizes(self.files.image_paths[index], image_hw, path, _hw(labels))
            problems.append(Problem("label of another size", index, None, text))
        if (labels == VOID).all():
            problems.append(self._nothing_but_void(index))
        return problems

    def _nothing_but_void(self, index: int) -> Problem:
        return Problem("nothing but void", index, None, str(self.files.label_paths[index]))


Array = TypeVar("Array", bound=NDArray[Any])


def _read(path: Path, read: Callable[[Path], Array]) -> Array:
    try:
        return read(path)
    except BadImageError as error:
        raise BadImageError(f"{path}: {error}") from None


def _hw(pixels: NDArray[Any]) -> tuple[int, int]:
    return pixels.shape[0], pixels.shape[1]


def _sizes(path: Path, hw: tuple[int, int], other: Path, other_hw: tuple[int, int]) -> str:
    return f"{path} is {hw[0]} x {hw[1]}, but {other} is {other_hw[0]} x {other_hw[1]} (height x width)"


class BatchError(ValueError):
    """Samples that cannot make one batch."""


def collate(samples: Sequence[Sample | SkippedImage]) -> Batch:
    """Stack samples into a batch; skipped images are left out and listed in bad_images.

    When every image was skipped the batch has N = 0 and no instances, and is to be passed over.

    Raises:
        BatchError: images of different sizes.
        ValueError: no sample at all.
    """
    sizes = sorted({each["image"].shape[1:] for each in samples if not isinstance(each, SkippedImage)})
    if len(sizes) > 1:
        met = ", ".join(f"{height} x {width}" for height, width in sizes)
        raise BatchError(
            f"images of {met} (height x width) cannot be one batch: set data.eval_hw, to which all are "
            "resized, or data.eval_batch_size=1"
        )
    good, batch = collate_images(samples)
    label_maps = [each["label_map"] for each in good]
    batch["label_map"] = _stack(label_maps, fill=VOID) if good else batch["images"][:, 0]
    batch["label_map_hw"] = torch.tensor([each.shape for each in label_maps], dtype=torch.int64).reshape(
        -1, 2
    )
    if good and "instances" in good[0]:
        instances = _stack([each["instances"] for each in good], fill=0)
        instances[instances[:, 0, 0] == -1] = -1  # beyond the map too
        batch["instances"] = instances
    return cast(Batch, batch)


def _stack(maps: Sequence[Tensor], *, fill: int) -> Tensor:
    """Stack maps (H, W), each padded right and below to the largest."""
    height, width = (max(each.shape[side] for each in maps) for side in (0, 1))
    stacked = maps[0].new_full((len(maps), height, width), fill)
    for row, each in zip(stacked, maps, strict=True):
        row[: each.shape[0], : each.shape[1]] = each
    return stacked
