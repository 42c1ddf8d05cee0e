"""The one guard against NaN and infinite values: in weights from any file, in outputs and in losses."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor


class NonFiniteError(ValueError):
    """A tensor with a NaN or an infinite value; the message names it."""


def require_finite(tensors: Iterable[tuple[str, Tensor]], *, source: str, remedy: str) -> None:
    """Raise an error, `source` … `remedy`, for the first tensor with a NaN or an infinite value."""
    for name, tensor in tensors:
        if not tensor.is_floating_point():
            continue
        # Where the sum is finite, so are all values, at a fortieth of the time of looking at each. A sum that
        # is not may be one of large values, which are looked at.
        if math.isfinite(_sum(tensor)):
            continue
        bad = int((~tensor.isfinite()).sum())
        if bad:
            raise NonFiniteError(
                f"{source}: {name} {tuple(tensor.shape)} has {bad} NaN or infinite values out of "
                f"{tensor.numel()}; {remedy}"
            )


def _sum(tensor: Tensor) -> float:
    """Add up a tensor; on a CPU by NumPy, in one thread: see `detection.postprocess.softmax`."""
    if tensor.device.type == "cpu" and tensor.dtype in (torch.float32, torch.float64):
        return float(tensor.detach().numpy().sum())
    return float(tensor.sum(dtype=torch.promote_types(tensor.dtype, torch.float32)))
