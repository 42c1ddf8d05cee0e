"""The images that an exported file is compared on, and those that an int8 file is calibrated with."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from dettoolkit.datasets.data_report import BadImageError
from dettoolkit.inference.inputs import sources_of
from dettoolkit.manifest import Manifest
from dettoolkit.preprocessing import fit_image
from dettoolkit.results import Image
from dettoolkit.run import ImageFile

logger = logging.getLogger(__name__)

Item = TypeVar("Item")

CUT = (5 / 7, 3 / 4)
"""Fractions of rows and columns that are left of every other image where resizing is inside."""


def own_images(images: Path) -> list[ImageFile]:
    """List the images that a user names: a folder, a pattern or one file.

    Raises:
        FileNotFoundError, ValueError: there are none; the message says what was wanted.
    """
    found = sources_of(images)
    return [ImageFile(Path(str(each))) for each in ([images] if found is None else found)]


def evenly(items: Sequence[Item], count: int) -> list[Item]:
    """Take at most `count`, spread evenly over all, the first and the last among them."""
    if len(items) <= count:
        return list(items)
    return [items[int(index)] for index in np.linspace(0, len(items) - 1, count).round()]


def read(files: Sequence[ImageFile]) -> list[Image]:
    """Read images; those that cannot be read are warned of and left out.

    Raises:
        ValueError: none can be read.
    """
    found, broken = [], []
    for file in files:
        try:
            found.append(file.read())
        except BadImageError as error:
            broken.append(str(error))
    if not found:
        listing = "\n  ".join(broken[:5]) or "there are none"
        raise ValueError(f"no image can be read to try the exported file on:\n  {listing}")
    if broken:
        logger.warning("%d images cannot be read and are left out:\n  %s", len(broken), "\n  ".join(broken))
    return found


def views(images: Sequence[Image], manifest: Manifest) -> list[Image]:
    """Make of images, uint8 (H, W, 3), what a file that is described by a manifest is compared on.

    Where resizing is inside, every other image is cut, so that a file which ignores the size of what comes in
    is found out even if all images have the network's own size. A file that gives final outputs, but does not
    resize, gets images of the network's size: what enlarging does to its results is not the file's doing.
    """
    if manifest.takes_images:
        cut = [_cut(image) if number % 2 else image for number, image in enumerate(images)]
        cut += [_cut(image) for image in images[:1]] if len(images) == 1 else []
        return sorted(cut, key=lambda image: image.shape)  # of one size together, to make batches
    return [fit_image(image, manifest) for image in images] if manifest.final else list(images)


def _cut(image: Image) -> Image:
    height, width = (max(int(side * part), 1) for side, part in zip(image.shape[:2], CUT, strict=True))
    return np.ascontiguousarray(image[:height, -width:])
