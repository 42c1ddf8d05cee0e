"""Each network's rows as data, and what widths and reduced tails make of them.

MobileNetV3: Searching for MobileNetV3, arXiv 1905.02244, Tables 1 and 2. MobileNetV2: arXiv 1801.04381,
Table 2. MobileNetV1: arXiv 1704.04861, Table 1. MnasNet: arXiv 1807.11626, figure 7.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

Activation = Literal["relu", "relu6", "hardswish"]
Gate = Literal["hard_sigmoid", "sigmoid"]
Rounding = Literal["torchvision", "tensorflow"]


@dataclass(frozen=True)
class Bneck:
    """One row of a table: an inverted residual with linear bottleneck.

    `channels` and `expansion` are absolute numbers at width 1.0. Where the expansion is a multiple of the
    input's channels, `factor` is that multiple, and decides at other widths. `linear` False is MobileNetV1's
    block: an activation after the last convolution, and nothing added. `fused`: one plain convolution expands
    and filters.
    """

    kernel: int
    expansion: int
    channels: int
    squeeze: bool
    activation: Activation
    stride: int
    factor: int | None = None
    linear: bool = True
    fused: bool = False

    def adds_input(self, inputs: int) -> bool:
        """Return whether a row on so many channels adds its input to its output."""
        return self.linear and self.stride == 1 and inputs == self.channels


@dataclass(frozen=True)
class Table:
    """A network: stem, rows and the last 1x1 convolution (C5).

    `last_channels` None: C5 is the last row's output. `last_width` says what the width does to it: ratio
    keeps its ratio to the last row, grows lets it grow above width 1 but not shrink below, fixed leaves it.
    `activation` is that of the stem and of the last convolution. `gate` and `squeeze_of_input` say how
    squeeze-and-excite is made: its gate, and whether it squeezes to a quarter of the block's input or of the
    expansion. `features` is the width of the classifier's hidden layer, None where there is none.
    """

    stem_channels: int
    rows: tuple[Bneck, ...]
    last_channels: int | None
    activation: Activation = "hardswish"
    last_width: Literal["ratio", "grows", "fixed"] = "ratio"
    gate: Gate = "hard_sigmoid"
    squeeze_of_input: bool = False
    features: int | None = None

    @property
    def taps(self) -> tuple[int, int, int]:
        """Return the 1-based rows that heads tap: the first and last at stride 8, the first at 32 (C4)."""
        low_first, beyond, c4 = [number for number, row in enumerate(self.rows, 1) if row.stride == 2][-3:]
        return low_first, beyond - 1, c4

    @property
    def inputs(self) -> tuple[int, ...]:
        """Return the input channels of each row, and of what follows the last one."""
        return (self.stem_channels, *(row.channels for row in self.rows))

    @property
    def groups(self) -> tuple[int, ...]:
        """Return which outputs are added up, and so have channels in common: a group for stem and each row.

        The stem is 0, rows count from 1; a group has the number of the first of its outputs.
        """
        groups = [0]
        for number, (row, inputs) in enumerate(zip(self.rows, self.inputs, strict=False), start=1):
            groups.append(groups[-1] if row.adds_input(inputs) else number)
        return tuple(groups)


def _as_printed(*lines: tuple[int, int, int, str, str, int]) -> tuple[Bneck, ...]:
    """Read rows as the paper prints them: kernel, expansion, channels, SE (Y or -), NL (RE or HS), stride."""
    activations: dict[str, Activation] = {"RE": "relu", "HS": "hardswish"}
    return tuple(
        Bneck(kernel, expansion, channels, squeeze == "Y", activations[activation], stride)
        for kernel, expansion, channels, squeeze, activation, stride in lines
    )


def _sequences(
    stem: int, activation: Activation, *lines: tuple[int, int, int, int, int, str]
) -> tuple[Bneck, ...]:
    """Write out lines (t, c, n, s, k, SE): n blocks of factor t, c channels, kernel k; stride s first."""
    rows, before = [], stem
    for factor, channels, count, first_stride, kernel, squeeze in lines:
        for stride in (first_stride, *[1] * (count - 1)):
            rows.append(Bneck(kernel, factor * before, channels, squeeze == "Y", activation, stride, factor))
            before = channels
    return tuple(rows)


def _minimalistic(table: Table) -> Table:
    """Remove squeeze-and-excite, h-swish and 5x5 kernels (TensorFlow's V3_*_MINIMALISTIC)."""
    rows = tuple(replace(row, kernel=3, squeeze=False, activation="relu") for row in table.rows)
    return replace(table, rows=rows, activation="relu")


# Table 1.
V3_LARGE_ROWS = _as_printed(
    (3, 16, 16, "-", "RE", 1),
    (3, 64, 24, "-", "RE", 2),
    (3, 72, 24, "-", "RE", 1),
    (5, 72, 40, "Y", "RE", 2),
    (5, 120, 40, "Y", "RE", 1),
    (5, 120, 40, "Y", "RE", 1),
    (3, 240, 80, "-", "HS", 2),
    (3, 200, 80, "-", "HS", 1),
    (3, 184, 80, "-", "HS", 1),
    (3, 184, 80, "-", "HS", 1),
    (3, 480, 112, "Y", "HS", 1),
    (3, 672, 112, "Y", "HS", 1),
    (5, 672, 160, "Y", "HS", 2),
    (5, 960, 160, "Y", "HS", 1),
    (5, 960, 160, "Y", "HS", 1),
)
V3_LARGE = Table(16, V3_LARGE_ROWS, last_channels=960, features=1280)

# Table 2; the SE tick on its last 1x1 convolution is a slip of the paper: Table 6's parameter counts and
# TensorFlow's V3_SMALL have none there.
V3_SMALL_ROWS = _as_printed(
    (3, 16, 16, "Y", "RE", 2),
    (3, 72, 24, "-", "RE", 2),
    (3, 88, 24, "-", "RE", 1),
    (5, 96, 40, "Y", "HS", 2),
    (5, 240, 40, "Y", "HS", 1),
    (5, 240, 40, "Y", "HS", 1),
    (5, 120, 48, "Y", "HS", 1),
    (5, 144, 48, "Y", "HS", 1),
    (5, 288, 96, "Y", "HS", 2),
    (5, 576, 96, "Y", "HS", 1),
    (5, 576, 96, "Y", "HS", 1),
)
V3_SMALL = Table(16, V3_SMALL_ROWS, last_channels=576, features=1024)

# Table 2 of MobileNetV2: t, c, n, s; all 3x3.
V2_ROWS = _sequences(
    32,
    "relu6",
    (1, 16, 1, 1, 3, "-"),
    (6, 24, 2, 2, 3, "-"),
    (6, 32, 3, 2, 3, "-"),
    (6, 64, 4, 2, 3, "-"),
    (6, 96, 3, 1, 3, "-"),
    (6, 160, 3, 2, 3, "-"),
    (6, 320, 1, 1, 3, "-"),
)

# Table 1 of MobileNetV1: a depthwise 3x3 and a 1x1, an activation after each. C5 is the last row's output.
V1_CHANNELS = (64, 128, 128, 256, 256, *[512] * 6, 1024, 1024)
V1_STRIDES = (1, 2, 1, 2, 1, 2, *[1] * 5, 2, 1)
V1_ROWS = tuple(
    Bneck(3, inputs, channels, False, "relu6", stride, factor=1, linear=False)
    for (inputs, channels), stride in zip(itertools.pairwise((32, *V1_CHANNELS)), V1_STRIDES, strict=True)
)

# Figure 7 of MnasNet.
A1_ROWS = _sequences(
    32,
    "relu",
    (1, 16, 1, 1, 3, "-"),
    (6, 24, 2, 2, 3, "-"),
    (3, 40, 3, 2, 5, "Y"),
    (6, 80, 4, 2, 3, "-"),
    (6, 112, 2, 1, 3, "Y"),
    (6, 160, 3, 2, 5, "Y"),
    (6, 320, 1, 1, 3, "-"),
)

# The one that torchvision has under the name mnasnet.
B1_ROWS = _sequences(
    32,
    "relu",
    (1, 16, 1, 1, 3, "-"),
    (3, 24, 3, 2, 3, "-"),
    (3, 40, 3, 2, 5, "-"),
    (6, 80, 3, 2, 5, "-"),
    (6, 96, 2, 1, 3, "-"),
    (6, 192, 4, 2, 5, "-"),
    (6, 320, 1, 1, 3, "-"),
)

TABLES = {
    "mobilenet_v3_large": V3_LARGE,
    "mobilenet_v3_small": V3_SMALL,
    "mobilenet_v3_large_minimalistic": _minimalistic(V3_LARGE),
    "mobilenet_v3_small_minimalistic": _minimalistic(V3_SMALL),
    "mobilenet_v2": Table(32, V2_ROWS, last_channels=1280, activation="relu6", last_width="grows"),
    "mobilenet_v1": Table(32, V1_ROWS, last_channels=None, activation="relu6"),
    "mnasnet_a1": Table(32, A1_ROWS, 1280, "relu", last_width="fixed", gate="sigmoid", squeeze_of_input=True),
    "mnasnet_b1": Table(32, B1_ROWS, last_channels=1280, activation="relu", last_width="fixed"),
}


def named_table(
    network: str,
    *,
    width: float,
    tail: Literal["full", "reduced", "reduced_c4"],
    last_conv: Literal["keep", "scale", "none"],
    rounding: Rounding,
) -> Table:
    """Return a network's table at a width and with a tail; the arguments are those of a recipe's backbone."""
    table = TABLES[network]
    if tail != "full":
        table = reduce_tail(table, halve_c4_expansion=tail == "reduced_c4")
    table = scale_width(table, width, rounding=rounding, scale_last=last_conv == "scale")
    return replace(table, last_channels=None) if last_conv == "none" else table


def strides_of(output_stride: int) -> dict[str, int]:
    """Return the strides of the features that heads tap, by their names in `mobilenet.MobileNet`."""
    return {"low_first": 8, "low_depthwise": 8, "low": 8, "c4": 16, "c5": output_stride}


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

    `rounding` is that of MobileNetV3's expansions and C5. torchvision rounds each expansion for itself, and
    C5 keeps its ratio to the last row. tensorflow keeps each expansion's ratio to its block's input, and
    rounds C5 for itself; with it, the published sizes at other widths come out. `scale_last` lets a last
    convolution that keeps its size at widths below 1 shrink too.
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
    kept, tail = table.rows[: table.taps[-1] - 1], table.rows[table.taps[-1] - 1 :]
    rows = [replace(row, expansion=row.expansion // 2, channels=row.channels // 2) for row in tail]
    if not halve_c4_expansion:
        rows[0] = replace(rows[0], expansion=tail[0].expansion)
    last = table.last_channels // 2 if table.last_channels is not None else None
    return replace(table, rows=_expanded(table.stem_channels, [*kept, *rows]), last_channels=last)
