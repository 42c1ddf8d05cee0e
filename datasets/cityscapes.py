"""Images with a label for every pixel as a torch data set, and the batches made of them.

(h, w) is the size of an image as the network gets it, (H, W) that of a label map.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dettoolkit.datasets.cityscapes_labels import VOID
from dettoolkit.datasets.data_report import BadImageError, Problem, naming
from dettoolkit.datasets.images import read_image
from dettoolkit.datasets.label_classes import read_instances, read_labels
from dettoolkit.datasets.samplers import SampleKey
from dettoolkit.datasets.samples import ImageDataset, Partners, Reading, collate_images, to_tensor
from dettoolkit.datasets.segmentation_files import SegmentationFiles

READERS = 4  # threads that read all label files; decoding leaves Python's lock


class SegmentationDataset(ImageDataset):
    """Images and label maps of SegmentationFiles; labels are mapped in memory and nothing is written.

    The transform maps image (H, W, 3), labels (H, W) and a seed to the first two. Its `moves_labels` says
    whether labels come out at the image's new size: then they must have their image's size in the files too,
    else a difference is only counted. An image is bad too when its label or instance file cannot be read.

    A sample has label_map uint8 (H, W), 0-based, VOID is ignored; and with `with_instances`, for scores, the
    instances, see `collate`.
    """

    def __init__(
        self,
        *,
        files: SegmentationFiles,
        transform: Any,
        with_instances: bool,
        partners: Partners | None = None,
        **reading: Unpack[Reading],
    ) -> None:
        if with_instances and transform.moves_labels:
            raise ValueError(
                "with_instances=True needs a transform that leaves labels as they are: use EvalTransform"
            )
        super().__init__(transform=transform, partners=partners, **reading)
        self.files = files
        self.with_instances = with_instances

    def __len__(self) -> int:
        return len(self.files)

    def read_sample(self, key: SampleKey, seed: int) -> dict[str, Any]:
        """Read and transform one sample; a LabelError is never skipped: the recipe does not fit the data."""
        index = key.index
        labels, instances = self.load_maps(index)
        image = self._read_image(index, labels)
        original_hw, problems = _hw(image), self.problems_of(index, labels, _hw(image))
        image, labels = self.transform(image, labels, seed, *self.partners(key, seed))
        sample = {
            "image": to_tensor(image),
            "label_map": torch.from_numpy(np.ascontiguousarray(labels)),
            "image_id": index,
            "file": str(self.files.image_paths[index]),
            "original_hw": original_hw,
            "problems": problems,
        }
        return sample if instances is None else sample | {"instances": torch.from_numpy(instances)}

    def read(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Read an image (H, W, 3) and its labels (H, W)."""
        labels, _ = self.load_maps(index)
        return self._read_image(index, labels), labels

    def _read_image(self, index: int, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        path = self.files.image_paths[index]
        with naming(path):
            image = read_image(path, expected_hw=_hw(labels), max_megapixels=self.max_megapixels)
        self.check_size(index, labels, _hw(image))
        return image

    def check_size(self, index: int, labels: NDArray[np.uint8], image_hw: tuple[int, int]) -> None:
        """Raise BadImageError if labels (H, W) that are moved with their image have another size."""
        if self.transform.moves_labels and image_hw != _hw(labels):
            raise BadImageError(self._other_size(index, labels, image_hw))

    def problems_of(self, index: int, labels: NDArray[np.uint8], image_hw: tuple[int, int]) -> list[Problem]:
        """Return what is odd about labels (H, W), as in their file, for an image of some size."""
        problems = []
        if image_hw != _hw(labels):
            text = self._other_size(index, labels, image_hw)
            problems.append(Problem("label of another size", index, None, text))
        if (labels == VOID).all():
            problems.append(Problem("nothing but void", index, None, str(self.files.label_paths[index])))
        return problems

    def _other_size(self, index: int, labels: NDArray[np.uint8], image_hw: tuple[int, int]) -> str:
        return _sizes(self.files.image_paths[index], image_hw, self.files.label_paths[index], _hw(labels))

    def read_labels(self) -> set[tuple[int, int]]:
        """Read every label file once as for samples, record problems in `files.problems`, and give the sizes.

        Files that are to be skipped are left to the run, which counts them.
        """

        def look(index: int) -> tuple[tuple[int, int], bool] | None:
            maps = self.read_maps(index)
            return maps and (_hw(maps[0]), bool((maps[0] == VOID).all()))

        sizes = set()
        with ThreadPoolExecutor(READERS) as readers:
            for index, found in enumerate(readers.map(look, range(len(self)))):
                if found is not None:
                    sizes.add(found[0])
                    if found[1]:
                        path = str(self.files.label_paths[index])
                        self.files.problems.record([Problem("nothing but void", index, None, path)])
        return sizes

    def read_maps(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.int32] | None] | None:
        """Read labels and, where wanted, instances (H, W), as for samples; None for files to be skipped."""
        try:
            return self.load_maps(index)
        except BadImageError as error:
            self.refuse(error)
            return None

    def load_maps(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.int32] | None]:
        """Read labels and, where wanted, instances (H, W); a BadImageError names a file that is bad."""
        path, instance_path = self.files.label_paths[index], self.files.instance_paths[index]
        limit = self.max_megapixels
        with naming(path):
            labels = read_labels(path, self.files.classes, max_megapixels=limit)
        if not self.with_instances:
            return labels, None
        if instance_path is None:
            return labels, np.full(labels.shape, -1, np.int32)
        with naming(instance_path):
            instances = read_instances(instance_path, max_megapixels=limit)
        if instances.shape != labels.shape:
            raise BadImageError(_sizes(instance_path, _hw(instances), path, _hw(labels)))
        return labels, instances


def _hw(pixels: NDArray[Any]) -> tuple[int, int]:
    return pixels.shape[0], pixels.shape[1]


def _sizes(path: Path, hw: tuple[int, int], other: Path, other_hw: tuple[int, int]) -> str:
    return f"{path} is {hw[0]} x {hw[1]}, but {other} is {other_hw[0]} x {other_hw[1]} (height x width)"


def collate(samples: Sequence[Any]) -> dict[str, Any]:
    """Stack samples into a batch: `collate_images`', and label maps, padded right and below to the largest.

    label_map uint8 (N, H, W) is padded with VOID; label_map_hw int64 (N, 2) has the true sizes. instances,
    where samples have them, is int32 (N, H, W) as `read_instances` gives it: 0 beyond a map, and -1 all over
    where an image has no such file. A batch of N = 0 has none.
    """
    sizes = sorted({each["image"].shape[1:] for each in samples if isinstance(each, dict)})
    if len(sizes) > 1:
        met = ", ".join(f"{height} x {width}" for height, width in sizes)
        raise ValueError(
            f"images of {met} (height x width) cannot be one batch: set data.eval_hw, to which all are "
            "resized, or data.eval_batch_size=1"
        )
    good, batch = collate_images(samples)
    if not good:
        nothing = torch.zeros(0, 2, dtype=torch.int64)
        return batch | {"label_map": batch["images"][:, 0], "label_map_hw": nothing}
    return batch | stack_maps(good)


def stack_maps(samples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """Return label_map, label_map_hw and instances of a batch of N samples, as `collate` has them."""
    label_maps = [each["label_map"] for each in samples]
    maps = {
        "label_map": _stack(label_maps, fill=VOID),
        "label_map_hw": torch.tensor([each.shape for each in label_maps], dtype=torch.int64),
    }
    if "instances" in samples[0]:
        instances = _stack([each["instances"] for each in samples], fill=0)
        instances[instances[:, 0, 0] == -1] = -1  # beyond the map too
        maps["instances"] = instances
    return maps


def _stack(maps: Sequence[Tensor], *, fill: int) -> Tensor:
    """Stack maps (H, W), each padded right and below to the largest."""
    height, width = (max(each.shape[side] for each in maps) for side in (0, 1))
    stacked = maps[0].new_full((len(maps), height, width), fill)
    for row, each in zip(stacked, maps, strict=True):
        row[: each.shape[0], : each.shape[1]] = each
    return stacked
