"""From a decoded image to what a network takes: the one normalisation of training, evaluation and export."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Turn uint8 images (N, 3, H, W) into float32: RGB in [0, 1], less `mean`, over `std`."""
    shape = (1, 3, 1, 1)
    offset = torch.tensor(mean, dtype=torch.float32, device=images.device).view(shape) * 255
    scale = torch.tensor(std, dtype=torch.float32, device=images.device).view(shape) * 255
    return (images.float() - offset) / scale
