"""From a decoded image to what a network takes: the one fitting and normalizing everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from dettoolkit.datasets.images import MAX_ASPECT, crop_center, resize_image
from dettoolkit.manifest import Manifest, nearest_hw


def fit_image(image: NDArray[np.uint8], manifest: Manifest) -> NDArray[np.uint8]:
    """Fit an image (H, W, 3) RGB to the size that a network takes, (h, w, 3), as its evaluation does."""
    own_hw = image.shape[0], image.shape[1]
    input_hw = manifest.input_hw or nearest_hw(own_hw, manifest.multiple)
    if manifest.fit == "stretch":
        return image if own_hw == input_hw else resize_image(image, input_hw)
    cropped = crop_center(image, input_hw, short_side=manifest.short_side, antialias=manifest.antialias)
    return np.ascontiguousarray(cropped)


def fit_planes(planes: Tensor, manifest: Manifest) -> Tensor:
    """Fit images (N, 3, H, W) in [0, 255] as `fit_image` does, by operators that torch.export takes."""
    hw = manifest.input_hw
    if hw is None:
        return planes.float()
    size: Any = hw
    if manifest.fit == "crop":
        longest = MAX_ASPECT * torch.sym_min(*planes.shape[2:])
        size = [torch.sym_min(side, longest) for side in planes.shape[2:]]  # SymInt in a trace
        planes = _centers(planes, size)
        short = torch.sym_min(*size)
        size = [manifest.short_side * side // short for side in size]
    antialias = manifest.fit == "crop" and manifest.antialias
    resized = F.interpolate(planes.float(), size, mode="bilinear", align_corners=False, antialias=antialias)
    whole = (resized + 0.5).floor()  # as images are resized where the network is trained
    return _centers(whole, hw) if manifest.fit == "crop" else whole


def _centers(planes: Tensor, hw: Sequence[Any]) -> Tensor:
    """Crop the center (h, w) of planes (N, 3, H, W), placed as torchvision's center_crop places it."""
    for axis, want in enumerate(hw, start=2):
        surplus = planes.shape[axis] - want
        half = surplus // 2
        start = half + surplus % 2 * (half % 2)  # the exact half, rounded to an even number
        # Not a slice, whose bounds torch.export would have to prove.
        planes = planes.index_select(axis, torch.arange(want, device=planes.device) + start)
    return planes


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Turn uint8 images (N, 3, H, W) into float32: RGB in [0, 1], less `mean`, over `std`."""
    shape = (1, 3, 1, 1)
    offset = torch.tensor(mean, dtype=torch.float32, device=images.device).view(shape) * 255
    scale = torch.tensor(std, dtype=torch.float32, device=images.device).view(shape) * 255
    return (images.float() - offset) / scale


def normalize_on_cpu(
    images: Sequence[NDArray[np.uint8]], mean: Sequence[float], std: Sequence[float]
) -> NDArray[np.float32]:
    """Turn uint8 images (H, W, 3) of one size into what `normalize` gives, (N, 3, H, W), to the bit.

    By NumPy, in one thread: PyTorch's threads keep looking for work for a while and would take the cores
    from another runtime's, which doubled its time for a small network on two cores.
    """
    shape = (1, 3, 1, 1)
    offset, scale = (np.asarray(each, np.float32).reshape(shape) * np.float32(255) for each in (mean, std))
    height, width = images[0].shape[:2]
    result = np.empty((len(images), 3, height, width), np.float32)
    for row, image in zip(result, images, strict=True):
        row[:] = image.transpose(2, 0, 1)
    result -= offset
    result /= scale
    return result


def network_input(image: NDArray[np.uint8], manifest: Manifest) -> Tensor:
    """Return what a model takes of an image (H, W, 3): a batch of one, uint8 or fitted and normalized."""
    if manifest.takes_images:
        return torch.from_numpy(image)[None]
    return torch.from_numpy(normalize_on_cpu([fit_image(image, manifest)], manifest.mean, manifest.std))
