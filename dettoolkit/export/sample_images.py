"""Which images an exported file is tried on, and which an int8 one is calibrated with."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from dettoolkit.datasets.data_report import BadImageError
from dettoolkit.datasets.images import resize_image
from dettoolkit.export.metric import Source, sources_of
from dettoolkit.inference import inputs as inference_images
from dettoolkit.manifest import Manifest

if TYPE_CHECKING:
    from dettoolkit.config import Recipe

logger = logging.getLogger(__name__)

Image = NDArray[np.uint8]
Item = TypeVar("Item")

CUT = (5 / 7, 3 / 4)
"""Rows and columns that are left of every other image where resizing is inside: other sizes and shapes."""


def own_sources(images: Path) -> list[Source]:
    """List the images of a person's own: a folder, a pattern or one file.

    Raises:
        FileNotFoundError, ValueError: there are none; the message says what was wanted.
    """
    found = inference_images.sources_of(images)
    return [Source(Path(str(each)), None) for each in ([images] if found is None else found)]


def training_sources(recipe: Recipe) -> list[Source]:
    """List the training images that a recipe names.

    Raises:
        FileNotFoundError: they are not there.
    """
    from dettoolkit.config import DetectionRecipe, SegmentationRecipe
    from dettoolkit.detection import run as detection  # which import Lightning
    from dettoolkit.segmentation import run as segmentation

    if isinstance(recipe, DetectionRecipe):
        detection.prepare_data(recipe.data, ["train"])
        annotations = detection.load_annotations(recipe.data, "train")
        return sources_of(detection.build_dataset(recipe, annotations, split="val"), "detection")
    if isinstance(recipe, SegmentationRecipe):
        segmentation.prepare_data(recipe.data, [recipe.data.train])
        files = segmentation.find_files(recipe.data, [recipe.data.train])
        return sources_of(segmentation.build_dataset(recipe, files, split="val"), "segmentation")
    raise TypeError(f"no images for a {type(recipe).__name__}")


def evenly(items: Sequence[Item], count: int) -> list[Item]:
    """Take at most `count`, spread evenly over all, the first and the last among them."""
    if len(items) <= count:
        return list(items)
    return [items[int(index)] for index in np.linspace(0, len(items) - 1, count).round()]


def read(sources: Sequence[Source]) -> list[Image]:
    """Read images; those that cannot be read are warned of and left out.

    Raises:
        ValueError: none can be read.
    """
    found, broken = [], []
    for source in sources:
        try:
            found.append(source.read())
        except BadImageError as error:
            broken.append(str(error))
    if not found:
        listing = "\n  ".join(broken[:5]) or "there are none"
        raise ValueError(f"no image can be read to try the exported file on:\n  {listing}")
    if broken:
        logger.warning("%d images cannot be read and are left out:\n  %s", len(broken), "\n  ".join(broken))
    return found


def views(images: Sequence[Image], manifest: Manifest) -> list[Image]:
    """Make of images, uint8 (H, W, 3), what a file that is described by a manifest is tried on.

    Where resizing is inside, every other image is cut, so that a file which ignores the size of what comes in
    is found out even if all images have the network's own size. A file that gives label maps of the network's
    size, because resizing is not inside, gets images of that size: what enlarging does to label maps is not
    the file's doing.
    """
    export = manifest.export
    if export is not None and export.preprocessing:
        cut = [_cut(image) if number % 2 else image for number, image in enumerate(images)]
        cut += [_cut(image) for image in images[:1]] if len(images) == 1 else []
        return sorted(cut, key=lambda image: image.shape)  # of one size together, to make batches
    if export is not None and export.postprocessing and manifest.task == "segmentation" and manifest.input_hw:
        return [resize_image(image, manifest.input_hw) for image in images]
    return list(images)


def _cut(image: Image) -> Image:
    height, width = (max(int(side * share), 1) for side, share in zip(image.shape[:2], CUT, strict=True))
    return np.ascontiguousarray(image[:height, -width:])
