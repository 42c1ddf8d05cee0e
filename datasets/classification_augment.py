"""Augmentation of classification images: TensorFlow's Inception preprocessing and torchvision's reference.

(H, W) is a picture's size, (h, w) that of what the network gets. torchvision's v2 transforms do the work;
they draw from torch's generator, which is set for each image and put back afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import v2

from dettoolkit.datasets.images import MAX_ASPECT

Image = NDArray[np.uint8]
Policy = Literal["none", "randaugment", "autoaugment"]

# distort_color of slim's inception_preprocessing.py, whose fast_mode is the default: brightness changes by up
# to 32 of 255, which became a factor here as in torchvision (v2.RandomPhotometricDistort), and saturation.
BRIGHTNESS = (0.875, 1.125)
SATURATION = (0.5, 1.5)
BILINEAR = v2.InterpolationMode.BILINEAR


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
        """Compose.

        Args:
            input_hw: size of what comes out.
            area: smallest and largest fraction of the image in the window.
            aspect: smallest and largest width / height of the window.
            antialias: average pixels where the window shrinks.
            flip: mirror half of the images.
            changes: transforms of uint8 (3, h, w) that follow.
        """
        self.input_hw = input_hw
        window = v2.RandomResizedCrop(
            input_hw, scale=area, ratio=aspect, interpolation=BILINEAR, antialias=antialias
        )
        mirror = [v2.RandomHorizontalFlip()] if flip else []
        self._transform = v2.Compose([window, *mirror, *changes])

    def __call__(self, image: Image, seed: int) -> Tensor:
        """Map image (H, W, 3) to uint8 (3, h, w); `seed` decides everything random."""
        pixels = _tensor(image)
        # Not torch.manual_seed: that would set the device's generators too, which stay as they are.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            changed: Tensor = self._transform(pixels).contiguous()
        return changed


class EvalTransform:
    """Resize an image by its shorter side and crop its center; picklable."""

    def __init__(self, *, input_hw: tuple[int, int], resize: int, antialias: bool) -> None:
        """Choose the size of the center, and of the shorter side before."""
        self.input_hw = input_hw
        self.resize = resize
        self.antialias = antialias

    def __call__(self, image: Image, seed: int) -> Tensor:  # noqa: ARG002
        """Map image (H, W, 3) to uint8 (3, h, w)."""
        return crop_center(_tensor(image), self.input_hw, short_side=self.resize, antialias=self.antialias)


def crop_center(pixels: Tensor, input_hw: tuple[int, int], *, short_side: int, antialias: bool) -> Tensor:
    """Resize pixels, uint8 (3, H, W), by their shorter side and crop the center, uint8 (3, h, w)."""
    height, width = pixels.shape[1:]
    longest = MAX_ASPECT * min(height, width)
    if max(height, width) > longest:  # a strip would become large before its ends are cut off
        pixels = v2.functional.center_crop(pixels, [min(height, longest), min(width, longest)])
    resized = v2.functional.resize(pixels, [short_side], interpolation=BILINEAR, antialias=antialias)
    cropped: Tensor = v2.functional.center_crop(resized, list(input_hw)).contiguous()
    return cropped


def inception_changes(*, color: bool) -> list[Any]:
    """List what follows the window in Inception preprocessing: brightness and saturation, in any order."""
    return [v2.ColorJitter(brightness=BRIGHTNESS, saturation=SATURATION)] if color else []


def torchvision_changes(
    *, policy: Policy, num_ops: int, magnitude: int, erasing: float, mean: Sequence[float]
) -> list[Any]:
    """List what follows the window in torchvision's reference (references/classification/presets.py).

    Args:
        policy: further changes.
        num_ops: changes by randaugment.
        magnitude: how strong they are, of 30.
        erasing: probability that a rectangle is filled.
        mean: color of that rectangle, the normalization's mean, so that it becomes zero as there.
    """
    changes: list[Any] = []
    if policy != "none":
        chosen = (
            v2.RandAugment(num_ops=num_ops, magnitude=magnitude, interpolation=BILINEAR)
            if policy == "randaugment"
            else v2.AutoAugment(interpolation=BILINEAR)
        )
        # Pillow turns and shears several times faster than torch does on one core.
        changes += [v2.ToPILImage(), chosen, v2.PILToTensor()]
    if erasing:
        changes.append(v2.RandomErasing(p=erasing, value=[round(255 * each) for each in mean]))
    return changes


def _tensor(image: Image) -> Tensor:
    """View an image (H, W, 3) as a tensor (3, H, W).

    Raises:
        ValueError: another type or shape.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f"image must be uint8 (H, W, 3), got {image.dtype} {image.shape}: decode it to 8-bit RGB first"
        )
    return torch.from_numpy(image).permute(2, 0, 1)
