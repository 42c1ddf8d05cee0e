"""Each network's rows as data (Searching for MobileNetV3, arXiv 1905.02244, Tables 1 and 2)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Activation = Literal["relu", "hardswish"]


@dataclass(frozen=True)
class Bneck:
    """One row of a table: an inverted residual with linear bottleneck.

    `channels` and `expansion` are absolute numbers at width 1.0.
    """

    kernel: int
    expansion: int
    channels: int
    squeeze: bool
    activation: Activation
    stride: int


@dataclass(frozen=True)
class Table:
    """A network: stem, rows, the last 1x1 convolution (C5) and the rows that heads tap.

    `c4` is the 1-based row whose expansion output is C4; `low` the row whose depthwise and block outputs
    are the low-level features at stride 8 (the last row before stride 16).
    """

    stem_channels: int
    rows: tuple[Bneck, ...]
    last_channels: int
    c4: int
    low: int

    @property
    def low_first(self) -> int:
        """The first row at stride 8: the last one up to `low` that halves the size."""
        return max(number for number, row in enumerate(self.rows[: self.low], start=1) if row.stride == 2)


def _row(kernel: int, expansion: int, channels: int, squeeze: str, activation: str, stride: int) -> Bneck:
    """Write a row as the paper prints it: SE ticked or '-', NL as RE or HS."""
    return Bneck(
        kernel, expansion, channels, squeeze == "Y", "hardswish" if activation == "HS" else "relu", stride
    )


# Table 1.
MOBILENET_V3_LARGE = Table(
    stem_channels=16,
    rows=(
        _row(3, 16, 16, "-", "RE", 1),
        _row(3, 64, 24, "-", "RE", 2),
        _row(3, 72, 24, "-", "RE", 1),
        _row(5, 72, 40, "Y", "RE", 2),
        _row(5, 120, 40, "Y", "RE", 1),
        _row(5, 120, 40, "Y", "RE", 1),
        _row(3, 240, 80, "-", "HS", 2),
        _row(3, 200, 80, "-", "HS", 1),
        _row(3, 184, 80, "-", "HS", 1),
        _row(3, 184, 80, "-", "HS", 1),
        _row(3, 480, 112, "Y", "HS", 1),
        _row(3, 672, 112, "Y", "HS", 1),
        _row(5, 672, 160, "Y", "HS", 2),
        _row(5, 960, 160, "Y", "HS", 1),
        _row(5, 960, 160, "Y", "HS", 1),
    ),
    last_channels=960,
    c4=13,
    low=6,
)

# Table 2; the SE tick on its last 1x1 convolution is a slip of the paper: Table 6's parameter counts and
# TensorFlow's V3_SMALL have none there.
MOBILENET_V3_SMALL = Table(
    stem_channels=16,
    rows=(
        _row(3, 16, 16, "Y", "RE", 2),
        _row(3, 72, 24, "-", "RE", 2),
        _row(3, 88, 24, "-", "RE", 1),
        _row(5, 96, 40, "Y", "HS", 2),
        _row(5, 240, 40, "Y", "HS", 1),
        _row(5, 240, 40, "Y", "HS", 1),
        _row(5, 120, 48, "Y", "HS", 1),
        _row(5, 144, 48, "Y", "HS", 1),
        _row(5, 288, 96, "Y", "HS", 2),
        _row(5, 576, 96, "Y", "HS", 1),
        _row(5, 576, 96, "Y", "HS", 1),
    ),
    last_channels=576,
    c4=9,
    low=3,
)

TABLES = {"mobilenet_v3_large": MOBILENET_V3_LARGE, "mobilenet_v3_small": MOBILENET_V3_SMALL}


def make_divisible(value: float, divisor: int = 8) -> int:
    """Round to a multiple of `divisor`, at least `divisor`, never losing over 10 %.

    The rule of TensorFlow's slim (`research/slim/nets/mobilenet/mobilenet.py`), which torchvision shares.
    """
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def scale_width(table: Table, width: float) -> Table:
    """Multiply every channel count by `width`, in multiples of 8, as torchvision does.

    C5 keeps its ratio to the last row (6, torchvision's `lastconv_output_channels`). TensorFlow rounds it,
    and each expansion, in other ways: V3-Small at 0.35 has 200 channels at C5 there, and 192 here.
    """
    if width == 1.0:
        return table
    rows = tuple(
        replace(
            row,
            expansion=make_divisible(row.expansion * width),
            channels=make_divisible(row.channels * width),
        )
        for row in table.rows
    )
    return replace(
        table,
        stem_channels=make_divisible(table.stem_channels * width),
        rows=rows,
        last_channels=table.last_channels // table.rows[-1].channels * rows[-1].channels,
    )


def reduce_tail(table: Table, *, halve_c4_expansion: bool) -> Table:
    """Halve the blocks from C4 to C5.

    Detection's dagger (Table 6) halves the outputs of those blocks, so the later ones' expansions too,
    and C5, and keeps C4's own expansion. Segmentation's RF2 (Table 7) halves that expansion as well:
    only so do the published parameter counts of either table come out.
    """
    tail = []
    for number, row in enumerate(table.rows, start=1):
        if number < table.c4:
            tail.append(row)
            continue
        keep = number == table.c4 and not halve_c4_expansion
        expansion = row.expansion if keep else row.expansion // 2
        tail.append(replace(row, expansion=expansion, channels=row.channels // 2))
    return replace(table, rows=tuple(tail), last_channels=table.last_channels // 2)
