"""Each network's rows as data.

MobileNetV3: Searching for MobileNetV3, arXiv 1905.02244, Tables 1 and 2. MobileNetV2: arXiv 1801.04381,
Table 2. MobileNetV1: arXiv 1704.04861, Table 1. MnasNet: arXiv 1807.11626, figure 7.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Activation = Literal["relu", "relu6", "hardswish"]
Gate = Literal["hard_sigmoid", "sigmoid"]


@dataclass(frozen=True)
class Bneck:
    """One row of a table: an inverted residual with linear bottleneck.

    `channels` and `expansion` are absolute numbers at width 1.0. Where the expansion is a multiple of the
    input's channels, `factor` is that multiple, and decides at other widths. `linear` False is MobileNetV1's
    block: an activation after the last convolution, and nothing added.
    """

    kernel: int
    expansion: int
    channels: int
    squeeze: bool
    activation: Activation
    stride: int
    factor: int | None = None
    linear: bool = True


@dataclass(frozen=True)
class Table:
    """A network: stem, rows, the last 1x1 convolution (C5) and the rows that heads tap.

    `c4` is the 1-based row whose expansion output is C4; `low` the row whose depthwise and block outputs
    are the low-level features at stride 8 (the last row before stride 16). `last_channels` None: C5 is the
    last row's output. `last_width` says what the width does to it: ratio keeps its ratio to the last row,
    grows lets it grow above width 1 but not shrink below, fixed leaves it. `activation` is that of the stem
    and of the last convolution. `gate` and `squeeze_of_input` say how squeeze-and-excite is made: its gate,
    and whether it squeezes to a quarter of the block's input or of the expansion. `features` is the width of
    the hidden layer of the classifier, None where there is none.
    """

    stem_channels: int
    rows: tuple[Bneck, ...]
    last_channels: int | None
    c4: int
    low: int
    activation: Activation = "hardswish"
    last_width: Literal["ratio", "grows", "fixed"] = "ratio"
    gate: Gate = "hard_sigmoid"
    squeeze_of_input: bool = False
    features: int | None = None

    @property
    def low_first(self) -> int:
        """The first row at stride 8: the last one up to `low` that halves the size."""
        return max(number for number, row in enumerate(self.rows[: self.low], start=1) if row.stride == 2)

    @property
    def c5_channels(self) -> int:
        """Channels of C5."""
        return self.last_channels if self.last_channels is not None else self.rows[-1].channels


def _row(kernel: int, expansion: int, channels: int, squeeze: str, activation: str, stride: int) -> Bneck:
    """Write a row as the paper prints it: SE ticked or '-', NL as RE or HS."""
    return Bneck(
        kernel, expansion, channels, squeeze == "Y", "hardswish" if activation == "HS" else "relu", stride
    )


def _sequences(
    stem: int, activation: Activation, *lines: tuple[int, int, int, int, int, str]
) -> tuple[Bneck, ...]:
    """Write out lines (t, c, n, s, k, SE): n blocks of factor t, c channels, kernel k; stride s first."""
    rows: list[Bneck] = []
    for factor, channels, count, stride, kernel, squeeze in lines:
        for index in range(count):
            before = rows[-1].channels if rows else stem
            first = stride if index == 0 else 1
            rows.append(
                Bneck(kernel, factor * before, channels, squeeze == "Y", activation, first, factor=factor)
            )
    return tuple(rows)


def _separable(stem: int, *lines: tuple[int, int]) -> tuple[Bneck, ...]:
    """Write MobileNetV1's lines (channels, stride): a depthwise 3x3 and a 1x1, an activation after each."""
    before = [stem, *(channels for channels, _ in lines)]
    return tuple(
        Bneck(3, inputs, channels, False, "relu6", stride, factor=1, linear=False)
        for inputs, (channels, stride) in zip(before, lines, strict=False)
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
    features=1280,
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
    features=1024,
)

# Table 2 of MobileNetV2: t, c, n, s; all 3x3.
MOBILENET_V2 = Table(
    stem_channels=32,
    rows=_sequences(
        32,
        "relu6",
        (1, 16, 1, 1, 3, "-"),
        (6, 24, 2, 2, 3, "-"),
        (6, 32, 3, 2, 3, "-"),
        (6, 64, 4, 2, 3, "-"),
        (6, 96, 3, 1, 3, "-"),
        (6, 160, 3, 2, 3, "-"),
        (6, 320, 1, 1, 3, "-"),
    ),
    last_channels=1280,
    c4=14,
    low=6,
    activation="relu6",
    last_width="grows",
)

# Table 1 of MobileNetV1. C4 is what enters the first row at stride 32, C5 the last row's output.
MOBILENET_V1 = Table(
    stem_channels=32,
    rows=_separable(
        32,
        (64, 1),
        (128, 2),
        (128, 1),
        (256, 2),
        (256, 1),
        (512, 2),
        (512, 1),
        (512, 1),
        (512, 1),
        (512, 1),
        (512, 1),
        (1024, 2),
        (1024, 1),
    ),
    last_channels=None,
    c4=12,
    low=5,
    activation="relu6",
)

# Figure 7 of MnasNet.
MNASNET_A1 = Table(
    stem_channels=32,
    rows=_sequences(
        32,
        "relu",
        (1, 16, 1, 1, 3, "-"),
        (6, 24, 2, 2, 3, "-"),
        (3, 40, 3, 2, 5, "Y"),
        (6, 80, 4, 2, 3, "-"),
        (6, 112, 2, 1, 3, "Y"),
        (6, 160, 3, 2, 5, "Y"),
        (6, 320, 1, 1, 3, "-"),
    ),
    last_channels=1280,
    c4=13,
    low=6,
    activation="relu",
    last_width="fixed",
    gate="sigmoid",
    squeeze_of_input=True,
)

# The one that torchvision has under the name mnasnet.
MNASNET_B1 = Table(
    stem_channels=32,
    rows=_sequences(
        32,
        "relu",
        (1, 16, 1, 1, 3, "-"),
        (3, 24, 3, 2, 3, "-"),
        (3, 40, 3, 2, 5, "-"),
        (6, 80, 3, 2, 5, "-"),
        (6, 96, 2, 1, 3, "-"),
        (6, 192, 4, 2, 5, "-"),
        (6, 320, 1, 1, 3, "-"),
    ),
    last_channels=1280,
    c4=13,
    low=7,
    activation="relu",
    last_width="fixed",
)


def _minimalistic(table: Table) -> Table:
    """Remove squeeze-and-excite, h-swish and 5x5 kernels (TensorFlow's V3_*_MINIMALISTIC)."""
    rows = tuple(replace(row, kernel=3, squeeze=False, activation="relu") for row in table.rows)
    return replace(table, rows=rows, activation="relu")


TABLES = {
    "mobilenet_v3_large": MOBILENET_V3_LARGE,
    "mobilenet_v3_small": MOBILENET_V3_SMALL,
    "mobilenet_v3_large_minimalistic": _minimalistic(MOBILENET_V3_LARGE),
    "mobilenet_v3_small_minimalistic": _minimalistic(MOBILENET_V3_SMALL),
    "mobilenet_v2": MOBILENET_V2,
    "mobilenet_v1": MOBILENET_V1,
    "mnasnet_a1": MNASNET_A1,
    "mnasnet_b1": MNASNET_B1,
}
