"""Default boxes of SSD (Liu et al. 2016, section 2.2), as TensorFlow and torchvision lay them out.

A: default boxes of all levels, ordered level, row, column, box of the cell. B: boxes of one cell.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from dettoolkit.detection.spec import Level

# TensorFlow, anchor_generators/multiple_grid_anchor_generator.py (reduce_boxes_in_lowest_layer): the
# first level has three boxes, (scale 0.1, ratio 1), (min_scale, ratio 2) and (min_scale, ratio 1/2).
REDUCED_RATIO = 2.0


def cell_sizes(
    *,
    levels: int,
    min_scale: float,
    max_scale: float,
    aspect_ratios: Sequence[float],
    reduce_first_level: bool,
    first_scale: float,
    clip: bool,
) -> list[tuple[tuple[float, float], ...]]:
    """List the (width, height) of the boxes of a cell, for each level, as fractions of the input's sides.

    Scales are evenly spaced from `min_scale` to `max_scale`. The one that follows the last is 1.0 (both
    libraries), with a single level max_scale (torchvision). Order: (s_k, s_k), the square of side sqrt(s_k
    s_k+1), then r and 1/r for each aspect ratio r above 1 (torchvision's DefaultBoxGenerator); a reduced
    first level is the square of `first_scale`, then min_scale at ratio 2 and 1/2 (TensorFlow, with 0.1).
    `clip` limits widths and heights, not corners (torchvision's meaning of clip).
    """

    def pair(scale: float, ratio: float) -> list[tuple[float, float]]:
        wide, high = scale * math.sqrt(ratio), scale / math.sqrt(ratio)
        return [(wide, high), (high, wide)]

    step = (max_scale - min_scale) / max(levels - 1, 1)
    scales = [*(min_scale + step * level for level in range(levels)), 1.0 if levels > 1 else max_scale]
    sizes = []
    for scale, following in itertools.pairwise(scales):
        between = math.sqrt(scale * following)
        sizes.append([(scale, scale), (between, between)])
        for ratio in aspect_ratios:
            sizes[-1].extend(pair(scale, ratio))
    if reduce_first_level:
        sizes[0] = [(first_scale, first_scale), *pair(min_scale, REDUCED_RATIO)]
    limit = 1.0 if clip else math.inf
    return [tuple((min(wide, limit), min(high, limit)) for wide, high in cell) for cell in sizes]


def default_boxes(levels: Sequence[Level], *, input_hw: tuple[int, int]) -> Tensor:
    """Lay out every level's default boxes: float32 (A, 4) xyxy pixels, centered in cells, not clipped."""
    grids = [level.grid_hw for level in levels]
    if not grids or min(min(grid) for grid in grids) < 1:
        raise ValueError(
            f"default boxes need at least one level of at least 1x1 cells, got grids {grids}; "
            "enlarge the input or use fewer extra layers"
        )
    boxes = []
    for level in levels:
        rows, columns = level.grid_hw
        center_y = (torch.arange(rows) + 0.5) / rows
        center_x = (torch.arange(columns) + 0.5) / columns
        grid_y, grid_x = torch.meshgrid(center_y, center_x, indexing="ij")
        centers = torch.stack((grid_x, grid_y), dim=-1).reshape(-1, 1, 2)  # (cells, 1, xy)
        half = 0.5 * torch.tensor(level.sizes)  # (B, wh)
        boxes.append(torch.cat((centers - half, centers + half), dim=-1).reshape(-1, 4))  # (cells * B, 4)
    height, width = input_hw
    return torch.cat(boxes) * torch.tensor([width, height, width, height])
