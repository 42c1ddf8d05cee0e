"""From a recipe's data section to a data set: how samples are made of images."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from dettoolkit.config import SegmentationRecipe
from dettoolkit.config.segmentation import SegmentationData
from dettoolkit.datasets.cityscapes import SegmentationDataset
from dettoolkit.datasets.copy_paste import CopyPasteTransform
from dettoolkit.datasets.rare_classes import count_pixels, rarity
from dettoolkit.datasets.samples import Partners
from dettoolkit.datasets.segmentation_augment import CenterCrop, EvalTransform, SegmentationTransform
from dettoolkit.datasets.segmentation_files import SegmentationFiles
from dettoolkit.run import Split

Transform = SegmentationTransform | CopyPasteTransform | CenterCrop | EvalTransform


def build_dataset(
    recipe: SegmentationRecipe, files: SegmentationFiles, *, split: Split
) -> SegmentationDataset:
    """Build a split's data set; only training augments and crops."""
    data = recipe.data
    transform: Transform = EvalTransform(eval_hw=data.eval_hw, eval_multiple=data.eval_multiple)
    partners = None
    if split == "train":
        transform, partners = augmentation(data, files.classes.names, pixels_of(files, data))
    return SegmentationDataset(
        files=files,
        transform=transform,
        partners=partners,
        on_bad_image=data.on_bad_image,
        max_bad_images=data.max_bad_images,
        max_megapixels=data.max_megapixels,
        seed=recipe.trainer.seed,
        with_instances=split == "val",
    )


def pixels_of(files: SegmentationFiles, data: SegmentationData) -> NDArray[np.int64]:
    """Count the pixels of each class in each label file (I, K), if rare ones are treated differently."""
    augment = data.augment
    if augment is None or (augment.rare_crops == 0 and augment.copy_paste is None):
        return np.zeros((len(files), len(files.classes)), np.int64)
    return count_pixels(files, max_megapixels=data.max_megapixels)


def augmentation(
    data: SegmentationData, names: Sequence[str], pixels: NDArray[np.int64]
) -> tuple[Transform, Partners | None]:
    """Build what makes a sample of an image, and what says which image regions are pasted from.

    `pixels` (I, K) are those of each class, by name, in each image of the set.
    """
    augment = data.augment
    if augment is None:
        return CenterCrop(crop_hw=data.crop_hw, mean_fill=data.mean), None
    settings = augment.model_dump(exclude={"scale", "scale_of", "rare_crops", "copy_paste"})
    build = partial(
        SegmentationTransform,
        crop_hw=data.crop_hw,
        base_hw=data.eval_hw if augment.scale_of == "eval_hw" else None,
        mean_fill=data.mean,
        **settings,
    )
    rare = rarity(pixels, names, None).classes
    receiver = build(scale=augment.scale, rare_crops=augment.rare_crops, class_weights=rare)
    section = augment.copy_paste
    if section is None:
        return receiver, None
    images, classes = rarity(pixels, names, section.classes)
    transform = CopyPasteTransform(
        receiver=receiver,
        donor=build(scale=section.scale, rare_crops=1.0, class_weights=classes),
        class_weights=classes,
        max_regions=section.max_regions,
    )
    probability = section.probability if images.any() else 0.0  # there is nothing but void
    return transform, Partners(count=1, probability=probability, off_epochs=0, chances=images)
