"""Data of a network with two tasks: boxes and label maps of the same images, or of two data sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from dettoolkit.datasets.cityscapes import SegmentationDataset, stack_maps
from dettoolkit.datasets.coco import BoxedImage, CocoDetection, stack_boxes
from dettoolkit.datasets.samplers import SampleKey
from dettoolkit.datasets.samples import SkippedImage, collate_images, sample_key


class BothLabels(CocoDetection):
    """Images with boxes, and label maps of the same images, which are found by the image's file.

    Where the label maps' own transform moves labels, in training, they are moved with image and boxes;
    otherwise they stay as in their files, for scores.
    """

    def __init__(self, *, maps: SegmentationDataset, same: Callable[[Path], Path], **boxes: Any) -> None:
        """Find the label maps; `same` returns the file of an image as the set of label maps names it."""
        super().__init__(**boxes)
        self.least_hw = None  # label maps are of whole images
        self.maps = maps
        places = {path: row for row, path in enumerate(maps.files.image_paths)}
        paths = [same(self.annotations.image_path(row)) for row in range(len(self.annotations))]
        if lonely := [path for path in paths if path not in places]:
            raise ValueError(
                f"{len(lonely)} of {len(paths)} images with boxes have no label map, such as {lonely[0]}: "
                f"add its label file to {maps.files.path}, or remove the image"
            )
        if lonely := sorted(places.keys() - set(paths)):
            raise ValueError(
                f"{len(lonely)} of {len(places)} images with a label map are not among those with boxes of "
                f"{self.annotations.path}, such as {lonely[0]}: add them there, even without a box, or "
                "remove them (data.segmentation.extra needs data.type=separate)"
            )
        self._map_rows = [places[paths[row]] for row in self._rows]

    def map_row(self, index: int) -> int:
        """Return the index of an image in the data set of label maps."""
        return self._map_rows[index]

    def read_sized(self, index: int) -> tuple[BoxedImage, tuple[int, int]]:
        """Read an image, its objects and, if it is moved with them, its label map."""
        sample, hw = super().read_sized(index)
        if not self.maps.transform.moves_labels:
            return sample, hw
        row = self.map_row(index)
        labels, _ = self.maps.load_maps(row)
        self.maps.check_size(row, labels, hw)
        return sample._replace(label_map=labels), hw

    def read_sample(self, key: SampleKey, seed: int) -> dict[str, Any]:
        """Read and transform one sample: that of CocoDetection, and its label map."""
        sample, row = super().read_sample(key, seed), self.map_row(key.index)
        if "label_map" not in sample:
            labels, instances = self.maps.load_maps(row)
            sample["label_map"] = torch.from_numpy(labels)
            if instances is not None:
                sample["instances"] = torch.from_numpy(instances)
            sample["problems"] += self.maps.problems_of(row, labels, sample["original_hw"])
        return sample | {"label_map_id": row}


class _TwoSets(Dataset[Any]):
    """A data set with boxes and another one with label maps, whose samples have one size."""

    def __init__(self, boxes: CocoDetection, maps: SegmentationDataset) -> None:
        if boxes.transform.input_hw != maps.transform.input_hw:
            raise ValueError(
                f"images with boxes come out at {boxes.transform.input_hw}, those with label maps at "
                f"{maps.transform.input_hw}: one network needs one size"
            )
        self.boxes, self.maps, self.transform = boxes, maps, boxes.transform


class Paired(_TwoSets):
    """For training: an item is a sample of each set; there are as many as the larger set has.

    Item i of epoch e, of n, is number e * n + i of the smaller set's samples, which is gone through again and
    again, shuffled anew each time. So each is used equally often, and a sampler of items needs to know
    nothing of it: not when training is resumed, nor with several processes.
    """

    def __init__(self, boxes: CocoDetection, maps: SegmentationDataset) -> None:
        """Choose the larger set; of two equal ones, that with boxes."""
        super().__init__(boxes, maps)
        self._larger = boxes if len(boxes) >= len(maps) else maps

    def __len__(self) -> int:
        return len(self._larger)

    @property
    def epochs(self) -> int | None:
        """Return the epochs of the run; None where there is none."""
        return self._larger.epochs

    @epochs.setter
    def epochs(self, epochs: int) -> None:
        for each in (self.boxes, self.maps):
            each.epochs = -(-epochs * len(self) // len(each))

    def __getitem__(self, key: int | SampleKey) -> tuple[Any, Any]:
        """Return a sample of each set, or a SkippedImage in its place. A plain index means epoch 0."""
        key = sample_key(key)
        return self._sample(self.boxes, key), self._sample(self.maps, key)

    def _sample(self, data: CocoDetection | SegmentationDataset, key: SampleKey) -> Any:
        if data is self._larger:
            return data[key]
        turn, place = divmod(key.epoch * len(self) + key.index, len(data))
        return data[SampleKey(int(_shuffled(len(data), data.seed, turn)[place]), turn)]


@lru_cache(maxsize=4)
def _shuffled(size: int, seed: int, turn: int) -> NDArray[np.int64]:
    return np.random.default_rng((seed, turn)).permutation(size)


class Either(_TwoSets):
    """For validation: the images with boxes, then those with label maps."""

    def __len__(self) -> int:
        return len(self.boxes) + len(self.maps)

    def __getitem__(self, key: int | SampleKey) -> Any:
        """Return a sample of one of the sets, or a SkippedImage. A plain index means epoch 0."""
        key, boxed = sample_key(key), len(self.boxes)
        if key.index < boxed:
            return self.boxes[key]
        return self.maps[SampleKey(key.index - boxed, key.epoch)]


def collate(samples: Sequence[Any]) -> dict[str, Any]:
    """Stack samples, or pairs of them, into a batch of N images: first all that were first in their pair.

    It has what `collate_images` gives; of the B images with boxes, box_rows int64 (B,), boxes_xyxy and
    box_labels as `coco.collate`; of the P images with a label map, map_rows int64 (P,), label_map and more
    as `cityscapes.collate`, and label_map_ids int64 (P,), their index in their data set.
    """
    if isinstance(samples[0], tuple) and not isinstance(samples[0], SkippedImage):
        samples = [each for side in zip(*samples, strict=True) for each in side]
    good, batch = collate_images(samples)
    boxed = [row for row, each in enumerate(good) if "boxes_xyxy" in each]
    mapped = [row for row, each in enumerate(good) if "label_map" in each]
    nothing = {
        "label_map": torch.zeros(0, *batch["images"].shape[2:], dtype=torch.uint8),
        "label_map_hw": torch.zeros(0, 2, dtype=torch.int64),
    }
    ids = [good[row].get("label_map_id", good[row]["image_id"]) for row in mapped]
    return {
        **batch,
        "box_rows": torch.tensor(boxed, dtype=torch.int64),
        **stack_boxes([good[row] for row in boxed]),
        "map_rows": torch.tensor(mapped, dtype=torch.int64),
        **(stack_maps([good[row] for row in mapped]) if mapped else nothing),
        "label_map_ids": torch.tensor(ids, dtype=torch.int64),
    }
