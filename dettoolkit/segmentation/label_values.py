"""What label files hold: the values as stored, for the checks of label maps."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dettoolkit.datasets.data_report import BadImageError
from dettoolkit.datasets.label_classes import UNKNOWN, VALUES, LabelClasses, LabelError, read_values
from dettoolkit.datasets.segmentation_files import SegmentationFiles
from dettoolkit.doctor.examination import Progress
from dettoolkit.doctor.examine import cores
from dettoolkit.doctor.looks import look_at_header

SAMPLE = 30
"""Label files of a split that the quick part reads."""

CROPS = 3
"""Crops along each side of a label map in which classes are looked for."""


class Seen(NamedTuple):
    """What a label file holds.

    Attributes:
        row: of its image.
        path: the file.
        trouble: "color", why it cannot be read, or none.
        hw: its size.
        image_hw: its image's, (0, 0) where that cannot be read.
        values: those that occur, ascending.
        counts: their pixels.
        first: row and column of the first pixel that is of no class and not void; none where all are.
        in_crops: fraction of crops with each class (K,).
    """

    row: int
    path: Path
    trouble: str = ""
    hw: tuple[int, int] = (0, 0)
    image_hw: tuple[int, int] = (0, 0)
    values: NDArray[np.int64] = np.zeros(0, np.int64)
    counts: NDArray[np.int64] = np.zeros(0, np.int64)
    first: dict[int, tuple[int, int]] = {}  # noqa: RUF012  never changed
    in_crops: NDArray[np.float64] = np.zeros(0)


def read_all(
    files: SegmentationFiles,
    *,
    crop_hw: tuple[int, int],
    max_megapixels: float,
    deep: bool,
    progress: Progress,
) -> list[Seen]:
    """Read all label files of a split, or SAMPLE evenly over it, with all cores."""
    rows = np.arange(len(files))
    if not deep and len(files) > SAMPLE:
        rows = np.linspace(0, len(files) - 1, SAMPLE).astype(int)
    read = partial(_read, files, crop_hw, max_megapixels)
    with ThreadPoolExecutor(cores()) as pool:
        return list(progress(pool.map(read, rows.tolist()), len(rows), "label files"))


def count_images(seen: Sequence[Seen], classes: LabelClasses) -> dict[str, int]:
    """Count the label files that have a class, by its name."""
    counts = np.zeros(256, np.int64)
    for each in seen:
        counts[np.unique(classes.lookup[each.values])] += 1
    return dict(zip(classes.names, counts.tolist(), strict=False))


def count_pixels(seen: Sequence[Seen], classes: LabelClasses) -> dict[str, int]:
    """Count the pixels of each class, by its name."""
    totals = totals_of(seen)
    return {name: int(totals[classes.lookup == label].sum()) for label, name in enumerate(classes.names)}


def _read(files: SegmentationFiles, crop_hw: tuple[int, int], max_megapixels: float, row: int) -> Seen:
    path = files.label_paths[row]
    try:
        values = read_values(path, max_megapixels=max_megapixels)
    except LabelError:
        return Seen(row, path, "color")
    except BadImageError as error:
        return Seen(row, path, str(error))
    present, counts = _count(values)
    unknown = present[files.classes.lookup[present] == UNKNOWN].tolist()
    width = values.shape[1]
    return Seen(
        row=row,
        path=path,
        hw=(values.shape[0], width),
        image_hw=_image_hw(files.image_paths[row], values.shape, max_megapixels),
        values=present,
        counts=counts,
        first={value: divmod(int(np.argmax(values == value)), width) for value in unknown},
        in_crops=_in_crops(files.classes, values, crop_hw),
    )


def _image_hw(path: Path, labels_hw: tuple[int, ...], max_megapixels: float) -> tuple[int, int]:
    """Return an image's size as training reads it: turned by its EXIF orientation where the labels are."""
    look = look_at_header(path, max_megapixels)
    turned = look.hw[::-1]
    return turned if look.orientation >= 5 and turned == labels_hw else look.hw


def _count(values: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the values that occur and their pixels."""
    counts = np.bincount(values.reshape(-1))
    present = np.flatnonzero(counts)
    return present, counts[present]


def _in_crops(classes: LabelClasses, values: NDArray[Any], crop_hw: tuple[int, int]) -> NDArray[np.float64]:
    """Return the fraction of evenly spread crops that show each class (K,)."""
    tops, lefts = (
        sorted(set(np.linspace(0, max(side - crop, 0), CROPS).astype(int).tolist()))
        for side, crop in zip(values.shape, crop_hw, strict=True)
    )
    shown = np.zeros(len(classes))
    for top in tops:
        for left in lefts:
            present, _ = _count(values[top : top + crop_hw[0], left : left + crop_hw[1]])
            labels = np.unique(classes.lookup[present])
            shown[labels[labels < len(classes)]] += 1
    return shown / (len(tops) * len(lefts))


def totals_of(seen: Sequence[Seen]) -> NDArray[np.int64]:
    """Count the pixels of each value (65536,)."""
    totals = np.zeros(VALUES, np.int64)
    for each in seen:
        totals[each.values] += each.counts
    return totals
