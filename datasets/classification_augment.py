"""Augmentation of classification images: TensorFlow's Inception preprocessing and torchvision's reference.

(H, W) is a picture's size, (h, w) that of what the network gets. torchvision's v2 transforms draw from
torch's generator, which is set for each image and put back afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.transforms import v2

from dettoolkit.datasets.images import check_image, crop_center

Image = NDArray[np.uint8]
Policy = Literal["none", "randaugment", "autoaugment"]

# distort_color of slim's inception_preprocessing.py, whose fast_mode is the default: brightness changes by up
# to 32 of 255, which became a factor here as in torchvision (v2.RandomPhotometricDistort), and saturation.
BRIGHTNESS = (0.875, 1.125)
SATURATION = (0.5, 1.5)


class TrainTransform:
    """Cut a window out at random, resize, mirror and change it; picklable, a function of image and seed."""

    def __init__(
        self,
        *,
        input_hw: tuple[int, int],
        area: tuple[float, float],
        aspect: tuple[float, float],
        antialias: bool,
        flip: bool,
        changes: Sequence[Any],
    ) -> None:
        """Choose the window by its fraction of the image and its width / height; `changes` follow it."""
        self.input_hw = input_hw
        (smallest, _), (narrow, wide) = area, aspect
        height, width = input_hw
        # Of a square; of any other image windows are larger than those of a square of its shorter side.
        self.least_hw = (
            math.ceil(height / math.sqrt(smallest / wide)),
            math.ceil(width / math.sqrt(smallest * narrow)),
        )
        window = v2.RandomResizedCrop(input_hw, scale=area, ratio=aspect, antialias=antialias)
        mirror = [v2.RandomHorizontalFlip()] if flip else []
        self._transform = v2.Compose([window, *mirror, *changes])

    def __call__(self, image: Image, seed: int) -> Image:
        """Map image (H, W, 3) to (h, w, 3); `seed` decides everything random."""
        check_image(image)
        # Not torch.manual_seed: that would set the device's generators too, which stay as they are.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            changed = self._transform(torch.from_numpy(image).permute(2, 0, 1))
        return np.asarray(changed.permute(1, 2, 0))


class EvalTransform:
    """Resize an image by its shorter side and crop its center; picklable."""

    def __init__(self, *, input_hw: tuple[int, int], resize: int, antialias: bool) -> None:
        """Choose the size of the center, and of the shorter side before it is cropped."""
        self.input_hw, self.least_hw = input_hw, (resize, resize)
        self.resize = resize
        self.antialias = antialias

    def __call__(self, image: Image, seed: int) -> Image:  # noqa: ARG002
        """Map image (H, W, 3) to (h, w, 3)."""
        return crop_center(image, self.input_hw, short_side=self.resize, antialias=self.antialias)


def inception_changes(*, color: bool) -> list[Any]:
    """List what follows the window in Inception preprocessing: brightness and saturation, in any order."""
    return [v2.ColorJitter(brightness=BRIGHTNESS, saturation=SATURATION)] if color else []


def torchvision_changes(
    *, policy: Policy, num_ops: int, magnitude: int, erasing: float, mean: Sequence[float]
) -> list[Any]:
    """List what follows the window in torchvision's reference (references/classification/presets.py).

    `erasing` is the probability that a rectangle is filled: with `mean`, which normalization makes zero.
    """
    bilinear = v2.InterpolationMode.BILINEAR
    policies: dict[str, list[Any]] = {
        "none": [],
        "randaugment": [v2.RandAugment(num_ops=num_ops, magnitude=magnitude, interpolation=bilinear)],
        "autoaugment": [v2.AutoAugment(interpolation=bilinear)],
    }
    changes = policies[policy]
    if changes:  # Pillow turns and shears several times faster than torch does on one core
        changes = [v2.ToPILImage(), *changes, v2.PILToTensor()]
    if erasing:
        changes.append(v2.RandomErasing(p=erasing, value=[round(255 * each) for each in mean]))
    return changes
