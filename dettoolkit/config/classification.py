"""Sections of a classification recipe."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, PositiveInt, model_validator

from dettoolkit.config.model import Model
from dettoolkit.config.sections import (
    Data,
    Fraction,
    FractionBelow1,
    InitStd,
    PositiveFraction,
    Section,
    Side,
    SizeHW,
    Split,
    Text,
    ZeroOrMore,
    rising,
)

Area = Annotated[tuple[PositiveFraction, PositiveFraction], Field(strict=False), AfterValidator(rising)]
Ratio = Annotated[float, Field(ge=0.01, le=100)]
Aspect = Annotated[tuple[Ratio, Ratio], Field(strict=False), AfterValidator(rising)]


class ClassifierHead(Section):
    """The classifier layers after global average pooling."""

    scale_hidden: bool = False
    """Also scale the hidden layer of MobileNetV3 (1280 channels, Small: 1024) by the width, like torchvision.
    The published sizes at widths below 1 do not scale it."""
    dropout: FractionBelow1 = Field(0.2, description="Dropout probability before the class layer.")
    init: Literal["truncated_normal", "kaiming"] = "truncated_normal"
    """Distribution of the initial kernels. truncated_normal: the same for all layers (TensorFlow). kaiming:
    convolutions by fan-out, linear layers normal with 0.01 (torchvision)."""
    init_std: InitStd = Field(0.09, description="Standard deviation of truncated_normal.")


class ClassificationLoss(Section):
    """Cross-entropy with optional label smoothing, mixup and CutMix."""

    label_smoothing: FractionBelow1 = Field(0.0, description="Fraction of the target spread over classes.")
    mixup: ZeroOrMore = 0.0
    """Alpha of mixup: each image is blended with another of its batch. 0: none."""
    cutmix: ZeroOrMore = 0.0
    """Alpha of CutMix: a window of each image comes from another of its batch. 0: none. If mixup is also
    set, each batch uses one of the two at random."""


class ClassifierModel(Model):
    """A classifier of whole images."""

    type: Literal["classifier"]
    head: ClassifierHead = Field(default_factory=ClassifierHead)  # type: ignore[arg-type]
    loss: ClassificationLoss = Field(default_factory=ClassificationLoss)  # type: ignore[arg-type]

    @model_validator(mode="after")
    def _whole_backbone(self) -> Self:
        if self.backbone.tail != "full" or self.backbone.output_stride != 32:
            raise ValueError(
                "a classifier needs the backbone's full tail at stride 32: set backbone.tail to full "
                "and backbone.output_stride to 32. Detectors and segmenters that start from its weights may "
                "use other values"
            )
        return self


class ImageFolderSplit(Split):
    """One split; its path is relative to data.root."""

    images: Text = Field(description="Folder that contains one folder of images per class.")


class Augment(Section):
    """What both augmentations have: a random crop of the image, resized, and flipped."""

    area: Area = Field((0.08, 1.0), description="Minimum and maximum fraction of the image in the crop.")
    aspect: Aspect = Field((0.75, 1.3333), description="Minimum and maximum width / height of the crop.")
    flip: bool = Field(True, description="Flip half of the images horizontally.")


class InceptionAugment(Augment):
    """TensorFlow's Inception preprocessing, as in the paper."""

    type: Literal["inception"]
    area: Area = Field((0.05, 1.0), description="Minimum and maximum fraction of the image in the crop.")
    aspect: Aspect = Field((0.75, 1.33), description="Minimum and maximum width / height of the crop.")
    color: bool = Field(True, description="Change brightness by up to 1/8 and saturation by up to 1/2.")


class TorchvisionAugment(Augment):
    """torchvision's classification reference."""

    type: Literal["torchvision"]
    policy: Literal["none", "randaugment", "autoaugment"] = "none"
    """Augmentation policy. randaugment: random operations. autoaugment: the policy found on ImageNet."""
    num_ops: PositiveInt = Field(2, le=20, description="Number of RandAugment operations per image.")
    magnitude: int = Field(9, ge=0, le=30, description="Magnitude of RandAugment.")
    erasing: Fraction = Field(0.0, description="Probability of random erasing with the mean color.")


class ClassificationData(Data):
    """Images in one folder per class."""

    type: Literal["image_folder"]
    """image_folder: <split>/<class>/*.jpg, as ImageNet's training set is unpacked."""
    train: ImageFolderSplit = ImageFolderSplit(images="train")
    val: ImageFolderSplit = ImageFolderSplit(images="val")
    names: Text | None = None
    """Text file below data.root with one line per class: folder, a space, and name, like ImageNet's
    LOC_synset_mapping.txt. null: folder names are used."""
    input_hw: SizeHW = Field((224, 224), description="Height and width of training images.")
    eval_hw: SizeHW | None = None
    """Height and width of the center crop for evaluation; null uses input_hw."""
    eval_resize: Side = Field(256, description="Length of the shorter side before that crop.")
    antialias: bool = True
    """Use antialiasing when images are downscaled, like torchvision; TensorFlow does not."""
    reduced_decoding: Literal["never", "training", "always"] = "training"
    """Which large JPEGs are decoded smaller than they are, as long as no window of them becomes smaller than
    the input: faster, and without aliasing. never and training score images as `predict` reads them."""
    augment: Annotated[InceptionAugment | TorchvisionAugment, Field(discriminator="type")] | None = None
    """null: training images are resized and cropped as in evaluation."""

    @model_validator(mode="after")
    def _middle_is_inside(self) -> Self:
        largest = max(self.eval_hw or self.input_hw)
        if self.eval_resize < largest:
            key = "eval_hw" if self.eval_hw is not None else "input_hw"
            raise ValueError(
                f"eval_resize {self.eval_resize} is less than {key} {list(self.eval_hw or self.input_hw)}: "
                f"the center crop would exceed the image; raise eval_resize to {round(largest / 0.875)} "
                "(the usual 7/8)"
            )
        return self
