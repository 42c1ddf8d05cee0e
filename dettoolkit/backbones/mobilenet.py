"""One builder for all MobileNetV3 tables, with the features that heads tap."""

from __future__ import annotations

from functools import partial
from typing import Literal, get_args

from torch import Tensor, nn
from torchvision.ops.misc import Conv2dNormActivation

from dettoolkit.backbones.blocks import InvertedResidual
from dettoolkit.backbones.tables import TABLES, reduce_tail, scale_width

Tail = Literal["full", "detection", "segmentation"]
OUTPUT_STRIDES = (16, 32)


class MobileNetV3(nn.Module):
    """MobileNetV3 up to C5, the layer before pooling.

    `channels` and `strides` describe what `forward` returns, by name:

    - `low_first`: block output of the first row at stride 8;
    - `low_depthwise`, `low`: depthwise output and block output of the last row at stride 8;
    - `c4`: the expansion output of bneck 13 (Large) or 9 (Small), stride 16 (paper, section 6.3);
    - `c5`: the last 1x1 convolution.

    Args:
        network: name of the table.
        width: multiplier of every channel count (rounded to multiples of 8).
        tail: full; detection (the dagger of Table 6); segmentation (RF2 of Table 7).
        output_stride: stride of C5; at 16 the C4 block keeps the size and those after it are dilated by 2.
        dilate_c4: dilate the C4 block's depthwise convolution by 2 as well if `output_stride` is 16.
            TensorFlow dilates only what follows the stride it took away (slim's `mobilenet_base`),
            torchvision the block itself too.
        norm_eps: epsilon of batch normalisation.
        norm_momentum: momentum of batch normalisation, in PyTorch's sense (1 - decay).

    Raises:
        ValueError: no such network, tail or output stride, or a width that is not positive.
    """

    def __init__(
        self,
        *,
        network: str,
        width: float,
        tail: Tail,
        output_stride: int,
        dilate_c4: bool,
        norm_eps: float,
        norm_momentum: float,
    ) -> None:
        super().__init__()
        _check(network, width, tail, output_stride)
        table = TABLES[network]
        if tail != "full":
            table = reduce_tail(table, halve_c4_expansion=tail == "segmentation")
        table = scale_width(table, width)
        norm = partial(nn.BatchNorm2d, eps=norm_eps, momentum=norm_momentum)
        convolution = partial(Conv2dNormActivation, norm_layer=norm, activation_layer=nn.Hardswish)

        self.stem = convolution(3, table.stem_channels, 3, stride=2)
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
                    norm=norm,
                )
            )
            in_channels = row.channels
        self.blocks = nn.ModuleList(blocks)
        self.row_parts = [block.parts() for block in blocks]
        self.last = convolution(in_channels, table.last_channels, 1)

        self.c4_row, self.low_row, self.low_first_row = table.c4, table.low, table.low_first
        self.channels = {
            "low_first": table.rows[table.low_first - 1].channels,
            "low_depthwise": table.rows[table.low - 1].expansion,
            "low": table.rows[table.low - 1].channels,
            "c4": table.rows[table.c4 - 1].expansion,
            "c5": table.last_channels,
        }
        self.strides = {"low_first": 8, "low_depthwise": 8, "low": 8, "c4": 16, "c5": output_stride}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Map images (N, 3, H, W), float, RGB, normalised, to the features of `channels` and `strides`.

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


def _check(network: str, width: float, tail: str, output_stride: int) -> None:
    for name, value, known in (
        ("network", network, tuple(TABLES)),
        ("tail", tail, get_args(Tail)),
        ("output_stride", output_stride, OUTPUT_STRIDES),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}")
    if width <= 0:
        raise ValueError(f"width must be positive (1.0 is the paper's network), got {width}")
