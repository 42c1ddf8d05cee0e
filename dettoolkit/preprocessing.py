"""From a decoded image to what a network takes: the one normalization of training, evaluation and export."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


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

    By NumPy, in one thread: PyTorch's threads go on looking for work for a while and would take the cores
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
