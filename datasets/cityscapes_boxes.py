"""Boxes of Cityscapes' objects, made of its instance files: a box is the extent of an object's pixels.

A pixel of `*_instanceIds.png` is 1000 x label id + number for an object, and the label id alone for objects
that the annotators did not tell apart (cityscapesscripts, README.md). All of those of a class are one crowd.
Letters: n = objects and crowds of an image.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dettoolkit.datasets.cityscapes_labels import CLASSES
from dettoolkit.datasets.coco_annotations import CocoAnnotations
from dettoolkit.datasets.coco_json import Columns
from dettoolkit.datasets.data_report import BadImageError, naming
from dettoolkit.datasets.images import header_hw
from dettoolkit.datasets.label_classes import VALUES, read_values
from dettoolkit.datasets.labels import LabelMap
from dettoolkit.datasets.regular_files import PackedStrings
from dettoolkit.datasets.segmentation_files import SegmentationFiles

READERS = 4  # threads that read all instance files; decoding leaves Python's lock
BOXED = tuple(label for label in CLASSES if label.has_instances)
"""The 8 classes whose objects have numbers."""

_LABEL_ID = np.zeros(VALUES, np.uint8)  # of each value of an instance file; 0 where it is none of BOXED
for _id in (label.id for label in BOXED):
    _LABEL_ID[_id] = _LABEL_ID[1000 * _id : 1000 * (_id + 1)] = _id


class ImageBoxes(NamedTuple):
    """The crowds and objects of an image, in the order of their values."""

    hw: tuple[int, int]
    label_ids: NDArray[np.int64]  # (n,)
    boxes_xywh: NDArray[np.float64]  # (n, 4) whole pixels: w = last column - first + 1
    areas: NDArray[np.int64]  # (n,) pixels
    iscrowd: NDArray[np.bool_]  # (n,)


def find_boxes(instance_ids: NDArray[Any]) -> ImageBoxes:
    """Find the objects and crowds in the values (H, W) of an instance file, unsigned integers."""
    height, width = instance_ids.shape
    rows, columns = np.nonzero(_LABEL_ID[instance_ids])  # of all pixels of all n
    counts = np.bincount(instance_ids[rows, columns], minlength=VALUES)
    values = np.flatnonzero(counts)  # (n,)
    number = np.zeros(VALUES, np.int64)  # of each value among those
    number[values] = np.arange(len(values))
    whose = number[instance_ids[rows, columns]]
    top, bottom = _extents(whose, rows, (len(values), height))
    left, right = _extents(whose, columns, (len(values), width))
    return ImageBoxes(
        hw=(height, width),
        label_ids=_LABEL_ID[values].astype(np.int64),
        boxes_xywh=np.column_stack([left, top, right - left, bottom - top]).astype(np.float64),
        areas=counts[values],
        iscrowd=values < 1000,
    )


def _extents(
    whose: NDArray[np.int64], places: NDArray[np.int64], shape: tuple[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first row or column of each of n, and the one after its last; `shape` is (n, side)."""
    met = np.zeros(shape, np.bool_)
    met[whose, places] = True
    return met.argmax(axis=1), shape[1] - met[:, ::-1].argmax(axis=1)


def load_boxes(
    root: Path, *, images: str, labels: str, label_map: LabelMap, max_megapixels: float
) -> CocoAnnotations:
    """Make the annotations of a split in Cityscapes' folders, which are relative to root.

    Images are those of SegmentationFiles in its order, with ids from 1; category ids are Cityscapes' label
    ids. Every instance file is read.

    Raises:
        FileNotFoundError: there is no image, or one has no instance file.
        ValueError: an instance file cannot be read, or has another size than its image.
    """
    files = SegmentationFiles.load(root, images=images, labels=labels, classes=None, layout="cityscapes")
    read = partial(_read, max_megapixels=max_megapixels)
    with ThreadPoolExecutor(READERS) as readers:
        found = list(readers.map(read, files.image_paths, _instance_paths(files)))
    annotations = CocoAnnotations.of_columns(
        _columns([path.relative_to(root / images).as_posix() for path in files.image_paths], found),
        path=files.path,
        images=root / images,
        label_map=label_map,
        keep_roots=None,
    )
    annotations.problems.extend(files.problems)
    return annotations


def _instance_paths(files: SegmentationFiles) -> list[Path]:
    missing = [path for path, own in zip(files.label_paths, files.instance_paths, strict=True) if own is None]
    if missing:
        wanted = missing[0].with_name(re.sub("_label(Train)?Ids", "_instanceIds", missing[0].name))
        raise FileNotFoundError(
            f"{len(missing)} of {len(files)} images have no instance file, which boxes are made of; the "
            f"first that is missing is {wanted}. Cityscapes' gtFine_trainvaltest.zip has them; for other "
            "data, give boxes in COCO JSON files, with data.type=coco"
        )
    return [path for path in files.instance_paths if path is not None]


def _read(image_path: Path, instance_path: Path, *, max_megapixels: float) -> ImageBoxes:
    try:
        with naming(instance_path):
            found = find_boxes(read_values(instance_path, max_megapixels=max_megapixels))
    except BadImageError as error:
        raise BadImageError(f"{error}. Repair it, or unpack gtFine_trainvaltest.zip again") from None
    hw = header_hw(image_path) or found.hw  # an unreadable image stops the run, or is skipped, in its turn
    if found.hw not in (hw, hw[::-1]):  # an image may be turned by its EXIF orientation
        raise ValueError(
            f"{instance_path} is {found.hw[0]} x {found.hw[1]}, but its image {image_path} is "
            f"{hw[0]} x {hw[1]} (height x width): scale one to the other, labels without interpolation"
        )
    return found


def _columns(file_names: Sequence[str], found: Sequence[ImageBoxes]) -> Columns:
    """Return what `coco_json.read_columns` would read of a file with these images and boxes."""
    counts = [len(each.label_ids) for each in found]
    total = sum(counts)
    return Columns(
        image_ids=np.arange(1, len(found) + 1),
        image_hw=np.array([each.hw for each in found], np.int64),
        file_names=PackedStrings.pack(file_names),
        annotation_ids=np.arange(1, total + 1),
        annotation_image_ids=np.repeat(np.arange(1, len(found) + 1), counts),
        annotation_category_ids=np.concatenate([each.label_ids for each in found]),
        has_bbox=np.ones(total, np.bool_),
        boxes_xywh=np.concatenate([each.boxes_xywh for each in found]),
        areas=np.concatenate([each.areas for each in found]).astype(np.float64),
        has_iscrowd=np.ones(total, np.bool_),
        iscrowd=np.concatenate([each.iscrowd for each in found]),
        categories=[(label.id, label.name) for label in BOXED],
        supercategories=[label.category for label in BOXED],
    )
