"""Sections of a recipe whose network detects and segments: one backbone, a head for each."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from dettoolkit.config.detection import BoxedData, DetectionEvaluation, SSDLiteParts
from dettoolkit.config.model import Model
from dettoolkit.config.sections import Data, Fraction, PositiveFraction, Section, SizeHW, Text, Weight
from dettoolkit.config.segmentation import LabeledData, LRASPPParts


class LossWeights(Section):
    """Weights of the two tasks' losses, whose sum is trained."""

    detection: Weight = Field(1.0, description="Weight of the detector's loss.")
    segmentation: Weight = Field(1.0, description="Weight of the segmenter's loss.")


class JointModel(Model):
    """An SSDLite detector and a Lite R-ASPP segmenter on one backbone."""

    type: Literal["joint"]
    input_hw: SizeHW = Field((320, 640), description="Height and width that images are resized to.")
    detection: SSDLiteParts
    segmentation: LRASPPParts = Field(default_factory=LRASPPParts)
    loss_weights: LossWeights = Field(default_factory=LossWeights)  # type: ignore[arg-type]


class JointBoxes(BoxedData):
    """Images and boxes of a set of their own."""

    root: Text | None = Field(None, description="Folder of the data set; null: data.root.")
    type: Literal["coco", "cityscapes"] = "coco"
    """coco: a COCO-format data set. cityscapes: boxes of Cityscapes' instance files."""


class JointMaps(LabeledData):
    """Images and label maps."""

    root: Text | None = Field(None, description="Folder of the data set; null: data.root.")
    type: Literal["cityscapes", "folders"] = "cityscapes"
    """cityscapes: the folder as downloaded. folders: any two folders of images and index PNGs, with
    classes."""


class JointData(Data):
    """Boxes and label maps, of the same images or of two data sets."""

    type: Literal["scenes", "cityscapes", "separate"]
    """scenes: street scenes, generated at data.root if they do not exist. cityscapes: the folder as
    downloaded, with the boxes of its instance files. Both have boxes and label maps of the same images.
    separate: a data set with boxes and another one with label maps; an epoch is one pass through the larger
    one."""
    passes: Literal["one", "two"] = "one"
    """Forward passes of a training step on two data sets: one, in which batch normalization sees the images
    of both, or one for each."""
    detection: JointBoxes = Field(default_factory=JointBoxes)  # type: ignore[arg-type]
    """The data set with boxes; of the same images, only its augmentation and classes, which are used for
    both."""
    segmentation: JointMaps = Field(default_factory=JointMaps)  # type: ignore[arg-type]
    """The data set with label maps; of the same images, its folders and classes."""

    @model_validator(mode="after")
    def _one_set_or_two(self) -> Self:
        if self.type == "separate":
            return self
        for name in ("detection", "segmentation"):
            if getattr(self, name).root is not None:
                raise ValueError(
                    f"{name}.root is for two data sets, but type {self.type} has one: set data.root, or "
                    "type=separate"
                )
        if self.passes != JointData.model_fields["passes"].default:
            raise ValueError(f"passes is for two data sets, but type {self.type} has one: omit it")
        for key in ("type", "train", "val", "cache"):
            if getattr(self.detection, key) != JointBoxes.model_fields[key].default:
                raise ValueError(
                    f"detection.{key} is for two data sets, but with type {self.type} boxes are of the "
                    "images that have label maps: omit it, or set type=separate"
                )
        return self


class JointEvaluation(DetectionEvaluation):
    """What is scored and shown."""

    ap_share: Fraction = 0.5
    """Share of AP in the joint score, which says which checkpoint is best: ap_share * AP / ap_reference +
    (1 - ap_share) * mIoU / miou_reference."""
    ap_reference: PositiveFraction = Field(
        1.0, description="AP that counts as 1, such as a detector's alone."
    )
    miou_reference: PositiveFraction = 1.0
    """mIoU that counts as 1, such as a segmenter's alone."""
