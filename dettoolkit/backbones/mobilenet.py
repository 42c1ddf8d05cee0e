"""One builder for all tables, with the features that heads tap."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

from torch import Tensor, nn
from torchvision.ops.misc import Conv2dNormActivation

from dettoolkit.backbones.blocks import ACTIVATIONS, InvertedResidual
from dettoolkit.backbones.own_blocks import table_of
from dettoolkit.backbones.tables import Table, squeezed_channels, strides_of
from dettoolkit.config.model import Backbone


class MobileNet(nn.Module):
    """A network of `tables` up to C5, the layer before pooling.

    `channels` and `strides` describe what `forward` returns, by name:

    - `low_first`: block output of the first row at stride 8;
    - `low_depthwise`, `low`: depthwise output and block output of the last row at stride 8;
    - `c4`: the expansion output of the first row at stride 32, which has stride 16 still: bneck 13 of
      V3-Large, 9 of V3-Small (paper, section 6.3), 14 of V2 (TensorFlow's `layer_15/expansion_output`);
    - `c5`: the last 1x1 convolution, or the last row's output.

    `table` has every channel count. With output stride 16 the C4 block keeps the size, and those after it are
    dilated by 2: TensorFlow dilates only what follows the stride it took away (slim's `mobilenet_base`),
    torchvision the block itself too, as `dilate_c4` asks. The other arguments are those of a recipe's
    backbone.
    """

    def __init__(
        self,
        *,
        table: Table,
        output_stride: Literal[16, 32],
        dilate_c4: bool,
        norm_eps: float,
        norm_momentum: float,
    ) -> None:
        super().__init__()
        self.table = table
        self.low_first_row, self.low_row, self.c4_row = table.taps
        norm = partial(nn.BatchNorm2d, eps=norm_eps, momentum=norm_momentum)
        convolution = partial(
            Conv2dNormActivation, norm_layer=norm, activation_layer=ACTIVATIONS[table.activation]
        )

        self.stem = convolution(3, table.stem_channels, 3, stride=2)
        self.blocks = _blocks(table, output_stride=output_stride, dilate_c4=dilate_c4, norm=norm)
        last = table.rows[-1].channels
        self.last = (
            nn.Identity() if table.last_channels is None else convolution(last, table.last_channels, 1)
        )

        low_first, low, c4 = (table.rows[number - 1] for number in table.taps)
        self.channels = {
            "low_first": low_first.channels,
            "low_depthwise": low.expansion,
            "low": low.channels,
            "c4": c4.expansion,
            "c5": table.last_channels or last,
        }
        self.strides = strides_of(output_stride)

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
) -> nn.ModuleList:
    """Build the rows' blocks; at output stride 16 the C4 block keeps the size."""
    blocks, in_channels, c4 = nn.ModuleList(), table.stem_channels, table.taps[-1]
    for number, row in enumerate(table.rows, start=1):
        fine = output_stride == 16 and number >= c4
        dilated = fine and (dilate_c4 or number > c4)
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


def build_backbone(section: Backbone) -> MobileNet:
    """Build a recipe's backbone with random weights."""
    return MobileNet(
        table=table_of(section),
        output_stride=section.output_stride,
        dilate_c4=section.dilate_c4,
        norm_eps=section.norm_eps,
        norm_momentum=section.norm_momentum,
    )
