"""What widths and reduced tails make of a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from dettoolkit.backbones.tables import Bneck, Table

Rounding = Literal["torchvision", "tensorflow"]


def make_divisible(value: float, divisor: int = 8) -> int:
    """Round to a multiple of `divisor`, at least `divisor`, never losing over 10 %.

    The rule of TensorFlow's slim (`research/slim/nets/mobilenet/mobilenet.py`), which torchvision follows.
    """
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def squeezed_channels(table: Table, row: Bneck, in_channels: int) -> int:
    """Count the channels between squeeze and excitation of a row."""
    if table.squeeze_of_input:
        return max(1, in_channels // 4)  # MnasNet's se_ratio 0.25, not rounded
    return make_divisible(row.expansion // 4)  # section 5.3, rounded as TensorFlow does


def scale_width(table: Table, width: float, *, rounding: Rounding, scale_last: bool) -> Table:
    """Multiply every channel count by `width`, in multiples of 8.

    Args:
        table: at width 1.
        width: the factor.
        rounding: of MobileNetV3's expansions and C5. torchvision rounds each expansion for itself, and C5
            keeps its ratio to the last row. tensorflow keeps each expansion's ratio to its block's input, and
            rounds C5 for itself; with it, the published sizes at other widths come out.
        scale_last: let a last convolution that keeps its size at widths below 1 shrink too.
    """
    if width == 1.0:
        return table
    stem = make_divisible(table.stem_channels * width)
    rows, before, now = [], table.stem_channels, stem
    for row in table.rows:
        factor = now / before if rounding == "tensorflow" else width
        before, now = row.channels, make_divisible(row.channels * width)
        rows.append(replace(row, expansion=make_divisible(row.expansion * factor), channels=now))
    last = table.last_channels
    if last is not None and table.last_width == "ratio" and rounding == "torchvision":
        last = last // table.rows[-1].channels * rows[-1].channels
    elif last is not None:
        grows = table.last_width == "grows" and width > 1
        last = make_divisible(last * width) if scale_last or grows or table.last_width == "ratio" else last
    return replace(table, stem_channels=stem, rows=_expanded(stem, rows), last_channels=last)


def _expanded(stem: int, rows: Sequence[Bneck]) -> tuple[Bneck, ...]:
    """Make the expansions that are multiples of their inputs so again."""
    before = [stem, *(row.channels for row in rows)]
    return tuple(
        row if row.factor is None else replace(row, expansion=row.factor * inputs)
        for row, inputs in zip(rows, before, strict=False)
    )


def reduce_tail(table: Table, *, halve_c4_expansion: bool) -> Table:
    """Halve the blocks from C4 to C5.

    Detection's dagger (Table 6) halves the outputs of those blocks, so the later ones' expansions too,
    and C5, and keeps C4's own expansion. Segmentation's RF2 (Table 7) halves that expansion as well:
    only so do the published parameter counts of either table come out. Expansions that are multiples of
    their inputs (MobileNetV2, MnasNet) stay so.
    """
    tail: list[Bneck] = []
    for number, row in enumerate(table.rows, start=1):
        if number < table.c4:
            tail.append(row)
            continue
        keep = number == table.c4 and not halve_c4_expansion
        expansion = row.expansion if keep else row.expansion // 2
        tail.append(replace(row, expansion=expansion, channels=row.channels // 2))
    last = table.last_channels // 2 if table.last_channels is not None else None
    return replace(table, rows=_expanded(table.stem_channels, tail), last_channels=last)
