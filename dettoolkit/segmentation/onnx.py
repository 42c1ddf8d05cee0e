"""From logits to a label map, as ONNX nodes that a segmentation network ends with.

Bilinear upsampling mixes the logits of four neighbors, so where these agree on the best class it is the best
of all pixels between them. Such a cell is painted; only the others, those at the borders of objects, are
upsampled.

N: images, K: classes, (h, w): the logits' size, (H, W): the label map's. A cell is what lies between four
neighboring logits, the rim included, where they repeat: (h + 1) x (w + 1). C: cells of the batch that are
upsampled, (R, Q): largest number of rows and columns of pixels in a cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import onnx_ir as ir

from dettoolkit.formats.onnx.nodes import Nodes
from dettoolkit.manifest import Manifest


class Axis(NamedTuple):
    """How the pixels of one axis lie in the cells."""

    cell: ir.Value  # int64 (pixels,) the cell of each
    fraction: ir.Value  # float32 (pixels,) how far it lies from the cell's first logit to the second
    first: ir.Value  # int64 (cells,) number of the first pixel of each
    pixels: ir.Value  # int64 (cells,) pixels of each
    low: ir.Value  # int64 (cells,) the first logit of each
    high: ir.Value  # int64 (cells,) the second


def onnx_answers(
    graph: Nodes, raw: Sequence[ir.Value], manifest: Manifest, image_hw: tuple[ir.Value, ir.Value] | None
) -> list[tuple[ir.Value, list[int | str], ir.DataType]]:
    """Turn logits into labels of the input's size, or of `image_hw`; see `TaskSpec.onnx_answers`."""
    if manifest.input_hw is None:
        raise ValueError("a label map of an exported file has a size: set input_hw")
    height, width = manifest.input_hw
    out_hw = image_hw or (graph.integers(height), graph.integers(width))
    labels = label_map(graph, raw[0], out_hw, align_corners=manifest.section.align_corners)
    return [(labels, ["H", "W"] if image_hw else [height, width], ir.DataType.UINT8)]


def label_map(
    g: Nodes, logits: ir.Value, out_hw: tuple[ir.Value, ir.Value], *, align_corners: bool
) -> ir.Value:
    """Upsample logits bilinearly and take each pixel's best class, the first where equal.

    Logits are (N, K, h, w), H and W int64 (1,) each; the labels uint8 (N, H, W).
    """
    down, across = (
        _axis(g, g.size(logits, dimension), pixels, align_corners=align_corners)
        for dimension, pixels in zip((2, 3), out_hw, strict=True)
    )
    best = g.op("ArgMax", logits, axis=1, keepdims=0)  # (N, h, w)
    rows = [g.op("Gather", best, each, axis=1) for each in (down.low, down.high)]
    corners = [g.op("Gather", each, at, axis=2) for each in rows for at in (across.low, across.high)]
    agree = [g.op("Equal", corners[0], other) for other in corners[1:]]
    mixed = g.op("Not", g.op("And", g.op("And", agree[0], agree[1]), agree[2]))  # (N, h + 1, w + 1)
    for axis, place in ((down, 1), (across, 0)):  # enlarged less than twice, some cells have no pixel
        seen = g.op("Greater", axis.pixels, g.integer(0))
        mixed = g.op("And", mixed, g.op("Unsqueeze", seen, g.integers(1)) if place else seen)
    painted = g.op("Gather", g.cast(corners[0], ir.DataType.UINT8), across.cell, axis=2)
    painted = g.op("Gather", painted, down.cell, axis=1)  # (N, H, W)
    cells = g.several("Split", g.op("NonZero", mixed), outputs=3, axis=0, num_outputs=3)
    image, row, column = (g.op("Reshape", each, g.integers(-1)) for each in cells)  # (C,) each
    y, weight_y = _pixels(g, down, row)  # (R, C)
    x, weight_x = _pixels(g, across, column)  # (Q, C)
    labels = _resolved(g, _corner_logits(g, logits, image, (down, row), (across, column)), weight_y, weight_x)
    lines = g.op("Add", g.op("Mul", image, out_hw[0]), y)  # (R, C) of the batch's N * H
    places = g.op("Add", g.op("Unsqueeze", g.op("Mul", lines, out_hw[1]), g.integers(1)), x)  # (R, Q, C)
    flat = [g.op("Reshape", each, g.integers(-1)) for each in (painted, places, labels)]
    return g.op("Reshape", g.op("ScatterElements", *flat, axis=0), g.op("Shape", painted))


def _axis(g: Nodes, length: ir.Value, pixels: ir.Value, *, align_corners: bool) -> Axis:
    """Lay `pixels` over `length` logits, both int64 (1,), as torch's interpolate does."""
    one, zero = g.integer(1), g.integer(0)
    number = g.op("Range", zero, g.op("Squeeze", pixels), one)
    position = g.cast(number, ir.DataType.FLOAT)
    logits, points = (g.cast(each, ir.DataType.FLOAT) for each in (length, pixels))
    if align_corners:
        steps = g.op("Max", g.op("Sub", points, g.number(1.0)), g.number(1.0))
        position = g.op("Mul", position, g.op("Div", g.op("Sub", logits, g.number(1.0)), steps))
    else:
        half = g.number(0.5)
        position = g.op("Mul", g.op("Add", position, half), g.op("Div", logits, points))
        position = g.op("Sub", position, half)
    floor = g.op("Floor", position)
    cell = g.op("Add", g.cast(floor, ir.DataType.INT64), one)  # the rim's first cell is 0
    cells = g.op("Range", zero, g.op("Squeeze", g.op("Add", length, one)), one)
    same = g.op("Equal", g.op("Unsqueeze", cells, g.integers(1)), cell)  # (cells, pixels)
    # In floats, which ONNX Runtime adds up several times as fast.
    count = g.op("ReduceSum", g.cast(same, ir.DataType.FLOAT), g.integers(1), keepdims=0)
    count = g.cast(count, ir.DataType.INT64)
    return Axis(
        cell=cell,
        fraction=g.op("Sub", position, floor),
        first=g.op("CumSum", count, zero, exclusive=1),
        pixels=count,
        low=g.op("Max", g.op("Sub", cells, one), zero),
        high=g.op("Min", cells, g.op("Sub", length, one)),
    )


def _pixels(g: Nodes, axis: Axis, cells: ir.Value) -> tuple[ir.Value, ir.Value]:
    """List the numbers and fractions, (largest, C) each, of the pixels of cells (C,) along an axis.

    Where there are fewer than in others, the last comes again.
    """
    largest = g.op("ReduceMax", axis.pixels, keepdims=0)
    step = g.op("Unsqueeze", g.op("Range", g.integer(0), largest, g.integer(1)), g.integers(1))
    last = g.op("Sub", g.op("Gather", axis.pixels, cells, axis=0), g.integer(1))
    pixel = g.op("Add", g.op("Gather", axis.first, cells, axis=0), g.op("Min", step, last))
    return pixel, g.op("Gather", axis.fraction, pixel, axis=0)


def _corner_logits(
    g: Nodes, logits: ir.Value, image: ir.Value, down: tuple[Axis, ir.Value], across: tuple[Axis, ir.Value]
) -> list[ir.Value]:
    """Return the four logits around cells, row after row: (K, 1, 1, C) each."""
    shape = g.op("Concat", g.integers(-1), g.size(logits, 1), axis=0)
    flat = g.op("Reshape", g.op("Transpose", logits, perm=[0, 2, 3, 1]), shape)
    found = []
    for y in (down[0].low, down[0].high):
        line = g.op("Mul", image, g.size(logits, 2))
        line = g.op("Mul", g.op("Add", line, g.op("Gather", y, down[1], axis=0)), g.size(logits, 3))
        for x in (across[0].low, across[0].high):
            place = g.op("Add", line, g.op("Gather", x, across[1], axis=0))
            corner = g.op("Transpose", g.op("Gather", flat, place, axis=0), perm=[1, 0])  # (K, C)
            found.append(g.op("Unsqueeze", corner, g.integers(1, 2)))
    return found


def _resolved(g: Nodes, corners: list[ir.Value], weight_y: ir.Value, weight_x: ir.Value) -> ir.Value:
    """Interpolate between four logits (K, 1, 1, C) and take the best class: uint8 (R, Q, C)."""

    def between(first: ir.Value, second: ir.Value, weight: ir.Value) -> ir.Value:
        return g.op("Add", first, g.op("Mul", g.op("Sub", second, first), weight))

    top, bottom = (between(corners[at], corners[at + 1], weight_x) for at in (0, 2))  # (K, 1, Q, C)
    values = between(top, bottom, g.op("Unsqueeze", weight_y, g.integers(1)))  # (K, R, Q, C)
    return g.cast(g.op("ArgMax", values, axis=0, keepdims=0), ir.DataType.UINT8)
