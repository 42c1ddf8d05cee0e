"""Sections of a segmentation recipe."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, PositiveInt, model_validator

from dettoolkit.config.model import Model
from dettoolkit.config.sections import (
    Data,
    Epsilon,
    Evaluation,
    FeatureName,
    Fraction,
    InitStd,
    PositiveFraction,
    Section,
    SizeHW,
    Split,
    Text,
    Weight,
    ZeroOrMore,
    rising,
)

Byte = Annotated[int, Field(ge=0, le=255)]
LabelId = Annotated[int, Field(ge=0, le=65535)]
Scale = Annotated[float, Field(ge=0.05, le=8)]


class SegmentationHead(Section):
    """What every segmentation head has."""

    filters: PositiveInt = Field(128, le=2048, description="Channels between C5 and classes (Table 7's F).")
    norm_eps: Epsilon | None = None
    """Epsilon of the head's batch normalization; null uses the backbone's."""
    norm_momentum: Fraction | None = None
    """Momentum of the head's batch normalization; null uses the backbone's."""
    init: Literal["truncated_normal", "normal"] = "truncated_normal"
    """Distribution of the initial kernels of backbone and head."""
    init_std: InitStd = Field(0.09, description="Standard deviation of the initial kernels.")


class LRASPPHead(SegmentationHead):
    """The Lite R-ASPP head."""

    pool: Literal["fixed", "global"] = "fixed"
    """Pooling of the gate. fixed: the paper's 49x49 windows (25x25 at output stride 32). global: the whole
    image. Weights are compatible."""
    gate: Literal["hard_sigmoid", "sigmoid"] = Field("hard_sigmoid", description="The gate's activation.")
    gate_bias: bool = Field(True, description="Bias of the gate's convolution; torchvision has none.")
    low: Literal["depthwise", "output"] = "depthwise"
    """Low-level feature at stride 8. depthwise: the depthwise output of the last block there (TensorFlow).
    output: the output of the first block there (torchvision)."""


class OHEM(Section):
    """Online hard example mining (arXiv 1604.03540), by pixels."""

    threshold: PositiveFraction = 0.7
    """Pixels whose true class has a lower probability than this are used."""
    min_kept: Fraction = Field(0.0625, description="Minimum fraction of the labeled pixels to use.")


class RegionLoss(Section):
    """A loss of the classes' regions, added to cross-entropy."""

    weight: Weight = Field(1.0, description="Weight of the loss; that of cross-entropy is 1.")


class CrossEntropy(Section):
    """Cross-entropy over the labeled pixels, and losses of regions."""

    type: Literal["cross_entropy"] = Field("cross_entropy", description="Loss.")
    class_weights: Annotated[dict[str, Weight], Field(max_length=255)] | None = None
    """Class weights by name; the default weight is 1."""
    ohem: OHEM | None = Field(None, description="Train only on the hardest pixels; null: on all.")
    dice: RegionLoss | None = None
    """Soft dice over the classes of a batch (arXiv 1608.04117). null: none."""
    lovasz: RegionLoss | None = None
    """Lovász-Softmax over the classes of a batch (arXiv 1705.08790), which stands for IoU. null: none."""


class Auxiliary(Section):
    """A second head that learns the same labels from an earlier feature, in training only."""

    feature: FeatureName = "c4"
    """The backbone's feature that it takes."""
    channels: PositiveInt = Field(128, le=2048, description="Channels between the feature and the classes.")
    weight: Weight = Field(0.4, description="Weight of its loss; 0.4 is PSPNet's (arXiv 1612.01105).")


class SegmentationParts(Section):
    """How a segmentation head's logits are resized and trained."""

    align_corners: bool = False
    """Align corners when features are resized. true: like TensorFlow, intended for sizes of 8n + 1 pixels."""
    loss: CrossEntropy = Field(default_factory=CrossEntropy)  # type: ignore[arg-type]
    auxiliary: Auxiliary | None = None
    """An auxiliary head; the network, its files and its speed stay the same. null: none."""


class SegmentationModel(SegmentationParts, Model):
    """What every segmentation model has."""

    type: Literal["lraspp", "raspp"]


class LRASPPParts(SegmentationParts):
    """What Lite R-ASPP adds to a backbone, and how it is trained."""

    head: LRASPPHead = Field(default_factory=LRASPPHead)  # type: ignore[arg-type]


class LRASPPModel(LRASPPParts, SegmentationModel):
    """Lite R-ASPP."""

    type: Literal["lraspp"]


class RASPPModel(SegmentationModel):
    """R-ASPP, the head of MobileNetV2 that the paper compares with."""

    type: Literal["raspp"]
    head: SegmentationHead = Field(default_factory=SegmentationHead)  # type: ignore[arg-type]


class SegmentationSplit(Split):
    """One split: a folder of images and a folder of labels; paths are relative to data.root."""

    labels: Text = Field(description="Folder of the label PNGs.")


class LabelClass(Section):
    """A custom class: its name and its values in the label files."""

    name: Text = Field(description="Name of the class.")
    ids: Annotated[list[LabelId], Field(min_length=1, max_length=65536)]
    """Values in the label files; the first is written into predictions."""
    color: Annotated[tuple[Byte, Byte, Byte], Field(strict=False)] | None = None
    """Red, green, blue in figures; null chooses one."""


class CopyPaste(Section):
    """Regions of rare classes, pasted from another training image (arXiv 2012.07177)."""

    probability: Fraction = Field(0.5, description="Fraction of crops that something is pasted into.")
    classes: Annotated[list[Text], Field(min_length=1, max_length=254)] | None = None
    """Names of the classes that are pasted, all equally often; null: those with fewer pixels than an even
    share, the rarest most often."""
    max_regions: PositiveInt = Field(5, le=1000)
    """Maximum number of connected regions that are pasted into a crop, all of one class."""
    scale: Annotated[tuple[Scale, Scale], Field(strict=False), AfterValidator(rising)] = (0.5, 2.0)
    """Minimum and maximum scale factor of the image that regions come from."""


class SegmentationAugment(Section):
    """Random changes of training images; each image is then cropped to data.crop_hw."""

    scale: Annotated[tuple[Scale, Scale], Field(strict=False), AfterValidator(rising)] = (0.5, 2.0)
    """Minimum and maximum scale factor."""
    scale_step: ZeroOrMore = Field(0.25, description="Step between scale factors; 0: continuous.")
    scale_of: Literal["image", "eval_hw"] = "image"
    """The size that scale factors multiply: each image's own, or data.eval_hw, to which images are resized in
    validation."""
    max_class_fraction: PositiveFraction = 0.75
    """A crop in which one class covers a larger fraction is drawn again, up to ten times."""
    flip: bool = Field(True, description="Flip half of the images horizontally.")
    color: bool = Field(False, description="Jitter brightness, contrast, saturation and hue.")
    rare_crops: Fraction = 0.0
    """Fraction of crops that are cut around a pixel of a rare class, if the image has one: a class with fewer
    pixels in the training set than an even share. The rarest are drawn most often."""
    copy_paste: CopyPaste | None = Field(None, description="null: nothing is pasted.")


class LabeledData(Section):
    """Which images and label maps there are, and how they are augmented."""

    type: str
    train: SegmentationSplit = SegmentationSplit(images="leftImg8bit/train", labels="gtFine/train")
    val: SegmentationSplit = SegmentationSplit(images="leftImg8bit/val", labels="gtFine/val")
    extra: list[SegmentationSplit] = Field(default_factory=list, max_length=100)
    """Additional training data, such as {images: leftImg8bit/train_extra, labels: gtCoarse/train_extra}."""
    classes: Annotated[list[LabelClass], Field(min_length=1, max_length=254)] | None = None
    """The classes, in the order of the network's outputs; null: Cityscapes' 19."""
    ignore: Annotated[list[LabelId], Field(max_length=65536)] | None = None
    """Ignored values in the label files: neither trained nor scored. With Cityscapes' classes they are added
    to its ignored labels; with your own classes null means 255."""
    augment: SegmentationAugment | None = Field(default_factory=SegmentationAugment)  # type: ignore[arg-type]
    """null: center crops."""

    @model_validator(mode="after")
    def _each_id_has_one_meaning(self) -> Self:
        owners: dict[int, str] = {}
        for each in self.classes or []:
            for value in each.ids:
                if value in owners:
                    raise ValueError(f"id {value} belongs to two classes, {owners[value]} and {each.name}")
                owners[value] = each.name
        for value in sorted(owners.keys() & set(self.ignore or [])):
            raise ValueError(f"id {value} is in classes ({owners[value]}) and also in ignore: remove one")
        if len({each.name for each in self.classes or []}) < len(self.classes or []):
            raise ValueError("two classes have the same name; one class may have several ids")
        return self

    @model_validator(mode="after")
    def _folders_have_classes(self) -> Self:
        if self.type == "folders" and self.classes is None:
            raise ValueError(
                "type folders needs classes, a list such as [{name: road, ids: [1]}, {name: car, "
                "ids: [2, 3]}], in the order of the outputs; put values without a class into ignore"
            )
        return self


class SegmentationData(LabeledData, Data):
    """Images and label maps."""

    type: Literal["cityscapes", "folders", "scenes"]
    """cityscapes: the folder as downloaded. folders: any two folders of images and index PNGs, with
    data.classes. scenes: street scenes, generated at data.root if they do not exist."""
    crop_hw: SizeHW = Field((769, 769), description="Height and width of training crops.")
    eval_hw: SizeHW | None = None
    """Size that images are resized to for validation; null: their own size."""
    eval_multiple: PositiveInt | None = Field(None, le=1024)
    """Images that keep their own size are resized in validation, predict and export, each side to the nearest
    multiple (of two the larger), which should be the backbone's output stride; null: not at all. At other
    sizes the last features are upsampled beside their place, which costs 0.03 mIoU on CamVid's images of 360
    rows."""
    eval_batch_size: PositiveInt = Field(1, le=16_384)
    """Images per device in validation; more than one requires images of the same size."""

    @model_validator(mode="after")
    def _scale_of_something(self) -> Self:
        if self.augment is not None and self.augment.scale_of == "eval_hw" and self.eval_hw is None:
            raise ValueError("augment.scale_of=eval_hw needs eval_hw: set it, or augment.scale_of=image")
        return self


class SegmentationEvaluation(Evaluation):
    """What is scored and shown."""

    mode: Literal["whole", "slide"] = "whole"
    """slide: overlapping windows, for images that do not fit into memory."""
    window_hw: SizeHW = Field((769, 769), description="Height and width of a sliding window.")
    stride_hw: SizeHW = Field((513, 513), description="Steps between windows, at most their size.")
    scales: Annotated[list[Scale], Field(min_length=1, max_length=16)] = Field([1.0])
    """Scale factors; predictions are averaged."""
    flip: bool = Field(False, description="Average with the mirrored image's prediction.")

    @model_validator(mode="after")
    def _windows_meet(self) -> Self:
        if self.mode == "slide" and any(s > w for s, w in zip(self.stride_hw, self.window_hw, strict=True)):
            raise ValueError(
                f"stride_hw {list(self.stride_hw)} is larger than window_hw {list(self.window_hw)}: pixels "
                "between the windows would get no prediction; make it at most the window size"
            )
        return self
