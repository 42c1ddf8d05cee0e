"""Sections of a classification recipe."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, PositiveInt, model_validator

from dettoolkit.config.sections import (
    Data,
    Fraction,
    FractionBelow1,
    InitStd,
    Model,
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
    """What follows the backbone's mean."""

    scale_hidden: bool = False
    """Let the width change the hidden layer of MobileNetV3 (1280 channels, 1024 of Small) too, as torchvision
    does. The published sizes of widths below 1 have it whole."""
    dropout: FractionBelow1 = Field(0.2, description="Fraction of the last features that training drops.")
    init: Literal["truncated_normal", "kaiming"] = "truncated_normal"
    """Distribution of the initial kernels. truncated_normal: all alike (TensorFlow). kaiming: convolutions by
    their fan-out, linear layers normal with 0.01 (torchvision)."""
    init_std: InitStd = Field(0.09, description="Standard deviation of truncated_normal.")


class ClassificationLoss(Section):
    """Cross-entropy, and what softens its targets."""

    label_smoothing: FractionBelow1 = Field(0.0, description="Fraction of the target spread over classes.")
    mixup: ZeroOrMore = 0.0
    """Alpha of mixup: each image is blended with another of its batch. 0: none."""
    cutmix: ZeroOrMore = 0.0
    """Alpha of CutMix: a window of each image comes from another of its batch. 0: none. With mixup too, each
    batch takes one of them at random."""


class ClassifierModel(Model):
    """A classifier of whole images."""

    type: Literal["classifier"]
    head: ClassifierHead = Field(default_factory=ClassifierHead)  # type: ignore[arg-type]
    loss: ClassificationLoss = Field(default_factory=ClassificationLoss)  # type: ignore[arg-type]

    @model_validator(mode="after")
    def _whole_backbone(self) -> Self:
        if self.backbone.tail != "full" or self.backbone.output_stride != 32:
            raise ValueError(
                "a classifier has the backbone's full tail at stride 32: set backbone.tail to full "
                "and backbone.output_stride to 32. Detectors and segmenters that start from its weights may "
                "have others"
            )
        return self


class ImageFolderSplit(Split):
    """One split; its path is relative to data.root."""

    images: Text = Field(description="Folder with a folder of images for each class.")


class Augment(Section):
    """What both augmentations have: a random window of the image, resized, and mirrored."""

    area: Area = Field((0.08, 1.0), description="Minimum and maximum fraction of the image in the window.")
    aspect: Aspect = Field((0.75, 1.3333), description="Minimum and maximum width / height of the window.")
    flip: bool = Field(True, description="Mirror half of the images.")


class InceptionAugment(Augment):
    """TensorFlow's Inception preprocessing, the one of the paper."""

    type: Literal["inception"]
    area: Area = Field((0.05, 1.0), description="Minimum and maximum fraction of the image in the window.")
    aspect: Aspect = Field((0.75, 1.33), description="Minimum and maximum width / height of the window.")
    color: bool = Field(True, description="Change brightness by up to 1/8 and saturation by up to 1/2.")


class TorchvisionAugment(Augment):
    """torchvision's classification reference."""

    type: Literal["torchvision"]
    policy: Literal["none", "randaugment", "autoaugment"] = "none"
    """Further changes. randaugment: some at random. autoaugment: those found on ImageNet."""
    num_ops: PositiveInt = Field(2, le=20, description="Changes by randaugment, one after the other.")
    magnitude: int = Field(9, ge=0, le=30, description="How strong randaugment's are.")
    erasing: Fraction = Field(0.0, description="Probability that a rectangle is filled with the mean color.")


class ClassificationData(Data):
    """Images in a folder for each class."""

    type: Literal["image_folder"]
    """image_folder: <split>/<class>/*.jpg, as ImageNet's training set is unpacked."""
    train: ImageFolderSplit = ImageFolderSplit(images="train")
    val: ImageFolderSplit = ImageFolderSplit(images="val")
    names: Text | None = None
    """Text file below data.root with a line for each class: its folder, a blank and its name, as ImageNet's
    LOC_synset_mapping.txt. null: folders are named as their classes."""
    input_hw: SizeHW = Field((224, 224), description="Height and width of training images.")
    eval_hw: SizeHW | None = None
    """Height and width of the middle that is scored; null takes input_hw."""
    eval_resize: Side = Field(256, description="The short side before that middle is cut out.")
    antialias: bool = True
    """Average pixels where images shrink, as torchvision does; TensorFlow does not."""
    augment: Annotated[InceptionAugment | TorchvisionAugment, Field(discriminator="type")] | None = None
    """null: training images are cut as those that are scored."""

    @model_validator(mode="after")
    def _middle_is_inside(self) -> Self:
        largest = max(self.eval_hw or self.input_hw)
        if self.eval_resize < largest:
            key = "eval_hw" if self.eval_hw is not None else "input_hw"
            raise ValueError(
                f"eval_resize {self.eval_resize} is less than {key} {list(self.eval_hw or self.input_hw)}: "
                f"the middle would be larger than the image; raise eval_resize to {round(largest / 0.875)} "
                "(the usual 7/8)"
            )
        return self
