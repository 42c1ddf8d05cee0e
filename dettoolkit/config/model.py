"""What every network has in a recipe: the backbone, its blocks, and where weights come from."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dettoolkit.config.errors import join_words
from dettoolkit.config.sections import Epsilon, Fraction, Section, Text

V3 = Literal["mobilenet_v3_large", "mobilenet_v3_small"]
Minimalistic = Literal["mobilenet_v3_large_minimalistic", "mobilenet_v3_small_minimalistic"]
Width = Annotated[int, Field(ge=1, le=8192)]
HALVINGS = 4  # of the blocks; the stem halves too, so C5 has stride 32


class Block(Section):
    """A row of the paper's Tables 1 and 2."""

    kernel: Literal[3, 5, 7]
    """Side of the depthwise convolution; of a fused block, of the convolution that expands."""
    expansion: Width = Field(description="Channels inside the block.")
    out: Width = Field(description="Output channels.")
    squeeze_excite: bool = Field(False, description="Squeeze and excite before the projection.")
    activation: Literal["relu", "relu6", "hardswish"] = Field(description="Activation (the tables' NL).")
    stride: Literal[1, 2] = Field(1, description="2 halves the size.")
    fused: bool = False
    """One plain convolution expands and filters, in the place of a 1x1 and a depthwise one (MobileDets, arXiv
    2004.14525)."""


class Backbone(Section):
    """The feature extractor."""

    type: Literal[V3, Minimalistic, "mobilenet_v2", "mobilenet_v1", "mnasnet_a1", "mnasnet_b1"]
    """Network, by its table; mnasnet_b1 is torchvision's mnasnet."""
    blocks: Annotated[list[Block], Field(min_length=HALVINGS, max_length=100)] | None = None
    """Rows in the place of that table's, in its columns: networks that no table has. The stem, the last
    convolution, and how squeeze-and-excite is made, are the table's still. null: the table's rows."""
    stem_channels: Width | None = Field(
        None, description="With blocks: the stem's channels; null: the table's."
    )
    last_channels: Width | None = None
    """With blocks: channels of the last 1x1 convolution (C5). null: as many as the table has."""
    width: float = Field(1.0, gt=0, le=4, description="Width multiplier of every channel count.")
    tail: Literal["full", "reduced", "reduced_c4"] = "full"
    """Channels of the last blocks. reduced: the outputs of the C4-C5 blocks and C5 are halved (the paper's
    dagger, for detection). reduced_c4: the expansion of the C4 block too (RF2, for segmentation)."""
    last_conv: Literal["keep", "scale", "none"] = "keep"
    """What a width below 1 does to the last 1x1 convolution of MobileNetV2 and MnasNet. keep: nothing, as in
    classification. scale: it is scaled by the width, as in TensorFlow's detectors. none: no such layer at
    any width, as in DeepLab."""
    rounding: Literal["torchvision", "tensorflow"] = "torchvision"
    """How MobileNetV3's channels are rounded at widths other than 1. tensorflow gives the paper's sizes,
    torchvision matches torchvision's weights."""
    output_stride: Literal[16, 32] = Field(32, description="Stride of C5; 16 dilates the last blocks.")
    dilate_c4: bool = False
    """With output_stride 16, dilate the C4 block's depthwise convolution too, as torchvision does; TensorFlow
    dilates only the blocks after it."""
    padding: Literal["symmetric", "same"] = "symmetric"
    """Padding of stride-2 convolutions, including those in heads. same: more on the right and bottom, like
    TensorFlow, for weights trained there."""
    norm_eps: Epsilon = Field(0.001, description="Epsilon of batch normalization.")
    norm_momentum: Fraction = Field(0.01, description="Batch normalization's momentum, as in PyTorch.")
    weights: Text | None = None
    """Pretrained weights of the backbone: a file, or 'torchvision:IMAGENET1K_V1' or another name, downloaded
    by torchvision. null: random initialization."""

    @property
    def title(self) -> str:
        """Return what it is called, for people."""
        return self.type if self.blocks is None else f"{len(self.blocks)} blocks of its own ({self.type})"

    @model_validator(mode="after")
    def _rows_say_everything(self) -> Self:
        if self.blocks is None:
            given = [name for name in ("stem_channels", "last_channels") if getattr(self, name) is not None]
            if given:
                raise ValueError(
                    f"{join_words(given, 'and')} without blocks: set width, which scales every layer, or "
                    "write out the blocks"
                )
            return self
        changed = {
            "width": self.width != 1,
            "tail": self.tail != "full",
            "last_conv": self.last_conv == "scale",
        }
        if any(changed.values()):
            keys = join_words([name for name, is_set in changed.items() if is_set], "and")
            raise ValueError(
                f"blocks and {keys} are both set, but blocks are the channel counts themselves: write those "
                f"that you want there, and omit {keys}"
            )
        if self.last_conv == "none" and self.last_channels is not None:
            raise ValueError("last_channels is set, but last_conv is none: omit one of the two")
        self._check_strides(self.blocks)
        return self

    def _check_strides(self, blocks: list[Block]) -> None:
        """Refuse rows whose features have other strides than heads expect; rows count from 1."""
        halving = [number for number, block in enumerate(blocks, 1) if block.stride == 2]
        if len(halving) != HALVINGS:
            rows = f"rows {join_words([str(number) for number in halving], 'and')}" if halving else "none"
            raise ValueError(
                f"blocks: {HALVINGS} rows must have stride 2, so that C5 has stride 32, got {len(halving)} "
                f"({rows}): change the stride of {abs(len(halving) - HALVINGS)} of them"
            )
        if blocks[halving[-1] - 1].fused:
            raise ValueError(
                f"blocks: row {halving[-1]}, the last one of stride 2, cannot be fused: heads read its "
                "expansion at stride 16 (C4), where a fused block has none. Omit its fused"
            )


class Model(Section):
    """What every model has."""

    type: str
    backbone: Backbone
    weights: Text | None = None
    """Weights of the whole model to start from: a checkpoint, a .pth file, or a torchvision name, such as
    'torchvision:COCO_V1' for SSDLite, 'torchvision:COCO_WITH_VOC_LABELS_V1' for Lite R-ASPP and
    'torchvision:DEFAULT' for a classifier. Class layers of a different size are replaced, with a message."""

    @model_validator(mode="after")
    def _one_source_of_weights(self) -> Self:
        if self.weights is not None and self.backbone.weights is not None:
            raise ValueError(
                "weights and backbone.weights are both set, but the first includes the backbone; "
                "set one of them to null"
            )
        return self
