"""Boxes of Cityscapes' instance files: the extent of each instance of its eight classes of objects.

A pixel of `*_instanceIds.png` is 1000 x label id + number, or the label id alone where objects are not told
apart: a crowd, as COCO has them. I images, A annotations.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dettoolkit.datasets.cityscapes_labels import CLASSES
from dettoolkit.datasets.coco_annotations import CocoAnnotations
from dettoolkit.datasets.data_report import DataReport, naming
from dettoolkit.datasets.label_classes import VALUES, read_instances
from dettoolkit.datasets.regular_files import PackedStrings
from dettoolkit.datasets.segmentation_files import SegmentationFiles

READERS = 4  # threads that read instance files; decoding leaves Python's lock
OBJECTS = tuple(label for label in CLASSES if label.has_instances)
"""The eight classes, in the order of their train ids."""
_OF_OBJECTS = np.zeros(VALUES, np.bool_)  # whether a value of an instance file is of one of them
for _label in OBJECTS:
    _OF_OBJECTS[[_label.id, *range(1000 * _label.id, 1000 * (_label.id + 1))]] = True


class Extents(NamedTuple):
    """The objects of an image, in the order of their values."""

    hw: tuple[int, int]
    values: NDArray[np.int64]  # (m,) in the instance file
    boxes_xywh: NDArray[np.float64]  # (m, 4) pixels
    areas: NDArray[np.float64]  # (m,) pixels


def extents(instances: NDArray[np.int32]) -> Extents:
    """Return the extent and area of each object of instance ids (H, W).

    Example:
        >>> extents(np.array([[7, 26000, 26000], [7, 7, 26000]], np.int32)).boxes_xywh.tolist()
        [[1.0, 0.0, 2.0, 2.0]]
    """
    rows, columns = np.nonzero(_OF_OBJECTS[instances])
    counts = np.bincount(instances[rows, columns], minlength=VALUES)
    values = np.flatnonzero(counts)
    place = np.zeros(VALUES, np.int64)  # of each value among those
    place[values] = np.arange(len(values))
    which = place[instances[rows, columns]]
    (left, right), (top, bottom) = (
        _span(which, at, (len(values), side))
        for at, side in zip((columns, rows), instances.shape[::-1], strict=True)
    )
    boxes = np.column_stack([left, top, right - left, bottom - top]).astype(np.float64)
    hw = instances.shape[0], instances.shape[1]
    return Extents(hw, values, boxes, counts[values].astype(np.float64))


def _span(
    which: NDArray[np.int64], at: NDArray[np.int64], shape: tuple[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first row or column of each of m objects, and the one after its last; shape is (m, side)."""
    met = np.zeros(shape, np.bool_)
    met[which, at] = True
    return met.argmax(axis=1), shape[1] - met[:, ::-1].argmax(axis=1)


def load_boxes(root: Path, *, images: str, labels: str, max_megapixels: float) -> CocoAnnotations:
    """Read the instance files of a split in Cityscapes' layout; folders are relative to root.

    An image's id is its place among the pairs of files, from 1; a category's is the label's.

    Raises:
        FileNotFoundError: a folder or an instance file is not there.
        BadImageError: an instance file cannot be read.
    """
    files = SegmentationFiles.load(root, images=images, labels=labels, classes=None, layout="cityscapes")
    paths = [path for path in files.instance_paths if path is not None]
    if len(paths) < len(files):
        lonely = files.instance_paths.index(None)
        raise FileNotFoundError(
            f"{len(files) - len(paths)} of {len(files)} label files have no *_instanceIds.png beside "
            f"them, such as {files.label_paths[lonely]}: boxes are made of these. "
            "Download gtFine with them, or set "
            "data.type=coco and data.*.annotations to a COCO file"
        )
    with ThreadPoolExecutor(READERS) as readers:
        found = list(readers.map(partial(_read, max_megapixels=max_megapixels), paths))
    return _annotations(files, images=root / images, found=found)


def _read(path: Path, *, max_megapixels: float) -> Extents:
    with naming(path):
        return extents(read_instances(path, max_megapixels=max_megapixels))


def _annotations(files: SegmentationFiles, *, images: Path, found: Sequence[Extents]) -> CocoAnnotations:
    values = np.concatenate([each.values for each in found])  # (A,)
    crowd = values < 1000
    label_of = {label.id: number for number, label in enumerate(OBJECTS)}
    ids = np.where(crowd, values, values // 1000)
    counts = [len(each.values) for each in found]
    names = [path.relative_to(images).as_posix() for path in files.image_paths]
    return CocoAnnotations(
        path=files.path,
        images=images,
        class_names=[label.name for label in OBJECTS],
        category_ids=[label.id for label in OBJECTS],
        image_ids=np.arange(1, len(files) + 1),
        image_hw=np.array([each.hw for each in found], np.int64).reshape(-1, 2),
        file_names=PackedStrings.pack(names),
        roots=[],
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        annotation_ids=np.arange(1, len(values) + 1),
        boxes_xywh=np.concatenate([each.boxes_xywh for each in found]),
        labels=np.array([label_of[int(each)] for each in ids], np.int64),
        areas=np.concatenate([each.areas for each in found]),
        iscrowd=crowd,
        usable=~crowd,  # an extent has an area and is inside its image
        problems=DataReport(files.path, boxes=len(values)),
    )
