"""Which range of a tensor's values 8 bits hold, chosen on values met.

A wide range makes coarse steps, a narrow one cuts values off. That is taken which gives the least squared
error.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Range = tuple[np.float32, np.float32]

STEPS = 255
"""Of a number of 8 bits."""

LARGEST_BIAS = 2**30
"""A bias is a number of 32 bits; half of its range is left to the sum of products."""

VALUES = 2048
"""Drawn at random from a tensor of one image."""

WIDTHS = np.geomspace(0.05, 1.0, 40)
"""Tried for a range, as fractions of the widest."""


def best_range(values: NDArray[np.float32]) -> Range:
    """Choose the range, with 0 in it, that loses least of values (any number of them, finite) in 8 bits."""
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    tried = [(max(low, -width), min(high, width)) for width in WIDTHS[::-1] * max(-low, high)]
    best = min(tried, key=lambda limits: _error(values, *limits))
    return np.float32(best[0]), np.float32(best[1])


def _error(values: NDArray[np.float32], low: float, high: float) -> float:
    """Sum the squared errors of values in steps from `low` to `high`; 0 is a step."""
    if high <= low:
        return float(np.square(values).sum())
    step = (high - low) / STEPS
    zero = np.rint(-low / step)
    kept = (np.clip(np.rint(values / step) + zero, 0, STEPS) - zero) * step
    return float(np.square(kept - values).sum())
