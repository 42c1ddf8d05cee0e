"""SSD's default boxes at 320 x 320, which several tests need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dettoolkit.detection.anchors import cell_sizes
from dettoolkit.detection.spec import Level

GRIDS_320 = ((20, 20), (10, 10), (5, 5), (3, 3), (2, 2), (1, 1))
PAPER: dict[str, Any] = {
    "min_scale": 0.2,
    "max_scale": 0.95,
    "aspect_ratios": [2.0, 3.0],
    "reduce_first_level": False,
    "first_scale": 0.1,
    "clip": True,
}


def ssd_levels(grids: Sequence[tuple[int, int]], **changes: Any) -> tuple[Level, ...]:
    """Lay out the paper's boxes on grids."""
    sizes = cell_sizes(levels=len(grids), **(PAPER | changes))
    return tuple(Level(grid_hw=grid, sizes=each) for grid, each in zip(grids, sizes, strict=True))
