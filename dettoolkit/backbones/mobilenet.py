"""One builder for all tables, with the features that heads tap."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Literal, get_args

from torch import Tensor, nn
from torchvision.ops.misc import Conv2dNormActivation

from dettoolkit.backbones.blocks import ACTIVATIONS, InvertedResidual
from dettoolkit.backbones.scaling import Rounding, reduce_tail, scale_width, squeezed_channels
from dettoolkit.backbones.tables import TABLES, Table

Tail = Literal["full", "reduced", "reduced_c4"]
LastConv = Literal["keep", "scale", "none"]
OUTPUT_STRIDES = (16, 32)


class MobileNet(nn.Module):
    """A network of `tables` up to C5, the layer before pooling.

    `channels` and `strides` describe what `forward` returns, by name:

    - `low_first`: block output of the first row at stride 8;
    - `low_depthwise`, `low`: depthwise output and block output of the last row at stride 8;
    - `c4`: the expansion output of the first row at stride 32, which has stride 16 still: bneck 13 of
      V3-Large, 9 of V3-Small (paper, section 6.3), 14 of V2 (TensorFlow's `layer_15/expansion_output`);
    - `c5`: the last 1x1 convolution, or the last row's output.

    Args:
        network: name of the table.
        width: multiplier of every channel count (rounded to multiples of 8).
        tail: full; reduced (the dagger of Table 6); reduced_c4 (RF2 of Table 7).
        last_conv: what a width below 1 does to the last 1x1 convolution. keep: what the network's authors do,
            which is nothing in MobileNetV2 and MnasNet. scale: it shrinks with the rest, as in TensorFlow's
            detectors on those. none: there is none, as in DeepLab on MobileNetV2.
        rounding: of MobileNetV3's channels at widths other than 1; see `scaling.scale_width`.
        output_stride: stride of C5; at 16 the C4 block keeps the size and those after it are dilated by 2.
        dilate_c4: dilate the C4 block's depthwise convolution by 2 as well if `output_stride` is 16.
            TensorFlow dilates only what follows the stride it took away (slim's `mobilenet_base`),
            torchvision the block itself too.
        norm_eps: epsilon of batch normalization.
        norm_momentum: momentum of batch normalization, in PyTorch's sense (1 - decay).

    Raises:
        ValueError: no such network, tail or output stride, or a width that is not positive.
    """

    def __init__(
        self,
        *,
        network: str,
        width: float,
        tail: Tail,
        last_conv: LastConv,
        rounding: Rounding,
        output_stride: int,
        dilate_c4: bool,
        norm_eps: float,
        norm_momentum: float,
    ) -> None:
        super().__init__()
        _check(network, width, tail, last_conv, output_stride)
        table = _table(network, width, tail, last_conv, rounding)
        norm = partial(nn.BatchNorm2d, eps=norm_eps, momentum=norm_momentum)
        convolution = partial(
            Conv2dNormActivation, norm_layer=norm, activation_layer=ACTIVATIONS[table.activation]
        )

        self.stem = convolution(3, table.stem_channels, 3, stride=2)
        blocks = _blocks(table, output_stride=output_stride, dilate_c4=dilate_c4, norm=norm)
        self.blocks = nn.ModuleList(blocks)
        self.row_parts = [block.parts() for block in blocks]
        self.last = (
            convolution(table.rows[-1].channels, table.last_channels, 1)
            if table.last_channels is not None
            else nn.Identity()
        )

        self.c4_row, self.low_row, self.low_first_row = table.c4, table.low, table.low_first
        self.channels = {
            "low_first": table.rows[table.low_first - 1].channels,
            "low_depthwise": table.rows[table.low - 1].expansion,
            "low": table.rows[table.low - 1].channels,
            "c4": table.rows[table.c4 - 1].expansion,
            "c5": table.c5_channels,
        }
        self.strides = {"low_first": 8, "low_depthwise": 8, "low": 8, "c4": 16, "c5": output_stride}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Map images (N, 3, H, W), float, RGB, normalized, to the features of `channels` and `strides`.

        A feature of stride s is (N, channels, ceil(H / s), ceil(W / s)).
        """
        features = {}
        x = self.stem(images)
        for number, block in enumerate(self.blocks, start=1):
            expansion, depthwise, x = block(x)
            if number == self.low_first_row:
                features["low_first"] = x
            if number == self.low_row:
                features["low_depthwise"], features["low"] = depthwise, x
            if number == self.c4_row:
                features["c4"] = expansion
        features["c5"] = self.last(x)
        return features


def _blocks(
    table: Table, *, output_stride: int, dilate_c4: bool, norm: Callable[[int], nn.Module]
) -> list[InvertedResidual]:
    """Build the rows' blocks; at output stride 16 the C4 block keeps the size."""
    blocks = []
    in_channels = table.stem_channels
    for number, row in enumerate(table.rows, start=1):
        fine = output_stride == 16 and number >= table.c4
        dilated = fine and (dilate_c4 or number > table.c4)
        blocks.append(
            InvertedResidual(
                in_channels=in_channels,
                row=row,
                stride=1 if fine else row.stride,
                dilation=2 if dilated else 1,
                squeezed=squeezed_channels(table, row, in_channels),
                gate=table.gate,
                norm=norm,
            )
        )
        in_channels = row.channels
    return blocks


def _table(network: str, width: float, tail: Tail, last_conv: LastConv, rounding: Rounding) -> Table:
    table = TABLES[network]
    if tail != "full":
        table = reduce_tail(table, halve_c4_expansion=tail == "reduced_c4")
    table = scale_width(table, width, rounding=rounding, scale_last=last_conv == "scale")
    return replace(table, last_channels=None) if last_conv == "none" else table


def _check(network: str, width: float, tail: str, last_conv: str, output_stride: int) -> None:
    for name, value, known in (
        ("network", network, tuple(TABLES)),
        ("tail", tail, get_args(Tail)),
        ("last_conv", last_conv, get_args(LastConv)),
        ("output_stride", output_stride, OUTPUT_STRIDES),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}")
    if width <= 0:
        raise ValueError(f"width must be positive (1.0 is the paper's network), got {width}")
