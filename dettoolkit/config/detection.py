"""Sections of a detection recipe."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, PositiveInt, model_validator

from dettoolkit.config.model import Model
from dettoolkit.config.sections import (
    Data,
    Evaluation,
    Fraction,
    InitStd,
    PositiveFraction,
    Section,
    SizeHW,
    Split,
    Text,
    Weight,
    rising,
)

# An extra layer has half as many channels inside, so two at least.
Channels = Annotated[int, Field(ge=2, le=2048)]
Power = Annotated[float, Field(ge=0, le=20)]


class SSDLiteHead(Section):
    """Extra layers and predictors of SSDLite."""

    extra_channels: Annotated[list[Channels], Field(min_length=1, max_length=8)] = Field([512, 256, 256, 128])
    """Output channels of the extra stride-2 layers after C5."""
    init: Literal["truncated_normal", "normal"] = "truncated_normal"
    """Distribution of the initial kernels of backbone and extra layers; predictors: normal."""
    init_std: InitStd = Field(0.03, description="Standard deviation of the initial kernels.")
    class_bias: float = Field(0.0, ge=-100, le=100)
    """Initial bias of the class logits; -4.6 makes every score start at 0.01."""


class Anchors(Section):
    """Default boxes, as fractions of the input's sides."""

    min_scale: PositiveFraction = Field(0.2, description="Scale of the first level's boxes.")
    max_scale: PositiveFraction = Field(0.95, description="Scale of the last level's boxes.")
    aspect_ratios: list[Annotated[float, Field(gt=1, le=100)]] = Field([2.0, 3.0], max_length=8)
    """Aspect ratios; each stands for itself and its inverse."""
    reduce_first_level: bool = True
    """Three boxes on the first level, as in the paper: a square of first_scale, and min_scale at ratio 2."""
    first_scale: PositiveFraction = Field(0.1, description="Scale of the square of a reduced first level.")
    clip: bool = Field(False, description="Limit the widths and heights of default boxes to the input's.")

    @model_validator(mode="after")
    def _scales_rise(self) -> Self:
        if self.min_scale >= self.max_scale:
            raise ValueError(
                f"min_scale {self.min_scale} is not below max_scale {self.max_scale}: "
                "the first level is meant for the smallest objects; swap them"
            )
        return self


class MaxIoUMatcher(Section):
    """Assignment by the IoU of default boxes and objects, as in SSD (arXiv 1512.02325, section 2.2)."""

    type: Literal["max_iou"] = Field("max_iou", description="Assigner.")
    iou_threshold: PositiveFraction = Field(0.5, description="Minimum IoU of a default box and its object.")
    force_match: bool = Field(True, description="Assign every object to its best default box, at any IoU.")


class ATSSMatcher(Section):
    """Adaptive training sample selection (arXiv 1912.02424): each object has an IoU threshold of its own."""

    type: Literal["atss"]
    candidates_per_level: PositiveInt = Field(9, le=1000)
    """Default boxes per level, those with the nearest centers, whose IoUs set the threshold."""


class TaskAlignedMatcher(Section):
    """Task-aligned assignment (TOOD, arXiv 2108.07755): to the default boxes that predict an object best.

    Best is the highest score ** score_power * iou ** iou_power, of the predicted score and box.
    """

    type: Literal["task_aligned"]
    candidates: PositiveInt = Field(27, le=1000)
    """Default boxes per object, those with the highest IoU, among which the best are chosen."""
    assigned: PositiveInt = Field(9, le=1000, description="Default boxes per object that are assigned.")
    score_power: Power = Field(1.0, description="Exponent of the score of the object's class.")
    iou_power: Power = Field(6.0, description="Exponent of the IoU of the predicted box and the object.")


Matcher = Annotated[MaxIoUMatcher | ATSSMatcher | TaskAlignedMatcher, Field(discriminator="type")]


class Loss(Section):
    """What every detection loss has: the box loss. Class and box loss are sums over the default boxes."""

    type: str
    box: Literal["smooth_l1", "giou"] = "smooth_l1"
    """smooth_l1: of the coded numbers (SSD). giou: 1 - GIoU of the predicted box and the object (arXiv
    1902.09630)."""
    box_weight: Weight = Field(1.0, description="Weight of the box loss.")


class FocalLoss(Loss):
    """Sigmoid focal loss, as in TensorFlow."""

    type: Literal["focal"]
    alpha: Fraction = Field(0.75, description="Weight of positives; negatives have 1 - alpha.")
    gamma: Power = Field(2.0, description="Focusing exponent.")


class MultiboxLoss(Loss):
    """Softmax cross-entropy with hard negative mining, as in torchvision."""

    type: Literal["multibox"]
    negatives_per_positive: Weight = Field(3.0, description="Hard negatives kept per positive.")


class VarifocalLoss(Loss):
    """Varifocal loss (arXiv 2008.13367): the score learns the quality of the box.

    The quality is what the matcher assigns (task_aligned), else the IoU of the predicted box and the object.
    It weights the box loss too, and both losses are divided by the sum of the qualities.
    """

    type: Literal["varifocal"]
    alpha: Weight = Field(0.75, description="Weight of negatives; positives have their quality.")
    gamma: Power = Field(2.0, description="Focusing exponent of negatives.")


class QualityFocalLoss(Loss):
    """Quality focal loss (arXiv 2006.04388): the score learns the quality of the box, as in varifocal."""

    type: Literal["quality_focal"]
    beta: Power = Field(2.0, description="Focusing exponent.")


AnyLoss = Annotated[FocalLoss | MultiboxLoss | VarifocalLoss | QualityFocalLoss, Field(discriminator="type")]


class Postprocess(Section):
    """From raw predictions to detections."""

    nms_iou: Fraction = Field(0.6, description="IoU above which the lower-scoring box of a class is dropped.")
    candidates_per_class: PositiveInt = Field(100, le=100_000, description="Best boxes per class before NMS.")


class SSDLiteParts(Section):
    """What SSDLite adds to a backbone, and how it is trained."""

    head: SSDLiteHead = Field(default_factory=SSDLiteHead)  # type: ignore[arg-type]
    anchors: Anchors = Field(default_factory=Anchors)  # type: ignore[arg-type]
    matcher: Matcher = MaxIoUMatcher()  # type: ignore[call-arg]
    loss: AnyLoss
    postprocess: Postprocess = Field(default_factory=Postprocess)  # type: ignore[arg-type]


class SSDLiteModel(SSDLiteParts, Model):
    """An SSDLite detector."""

    type: Literal["ssdlite"]
    input_hw: SizeHW = Field((320, 320), description="Height and width that images are resized to.")


class CocoSplit(Split):
    """One split; paths are relative to data.root."""

    annotations: Text = Field(description="The COCO JSON file; of Cityscapes, the folder of the label files.")


ZoomFactor = Annotated[float, Field(ge=0.1, le=10)]
ZoomRange = Annotated[tuple[ZoomFactor, ZoomFactor], Field(strict=False), AfterValidator(rising)]
Smaller = Annotated[float, Field(ge=0.1, le=1)]


class ZoomIn(Section):
    """A window around one of an image's objects, enlarged to the input size."""

    probability: Fraction = Field(0.6, description="Fraction of images that are zoomed into.")
    zoom: ZoomRange = (1.0, 3.0)
    """Minimum and maximum size of objects, 1 being their size in the whole image at the input size. Of a
    large object, less, so that it stays inside the window."""


class ZoomOut(Section):
    """The whole image, made smaller than the input, on the mean color."""

    probability: Fraction = Field(0.1, description="Fraction of the other images that are made smaller.")
    zoom: Annotated[tuple[Smaller, Smaller], Field(strict=False), AfterValidator(rising)] = (0.6, 1.0)
    """Minimum and maximum size of objects, 1 being their size in the whole image at the input size."""


class Mosaic(Section):
    """Four images in one (arXiv 2004.10934): in each quarter a window around an object."""

    probability: Fraction = Field(0.5, description="Fraction of images that are mosaics.")
    zoom: ZoomRange = (0.75, 2.0)
    """Minimum and maximum size of objects, 1 being their size in the whole image at the input size. Of a
    large object, less, so that it stays inside the window."""
    off_epochs: int = Field(10, ge=0, le=10**6)
    """The last epochs, at most half of the run, which have no mosaics, as in YOLOX (arXiv 2107.08430)."""


class StrongAugment(Section):
    """Mosaics, windows around objects, color and flip: for small data sets and small objects."""

    type: Literal["strong"]
    mosaic: Mosaic = Field(default_factory=Mosaic)  # type: ignore[arg-type]
    zoom_in: ZoomIn = Field(default_factory=ZoomIn)  # type: ignore[arg-type]
    """Of the images that are no mosaics."""
    zoom_out: ZoomOut = Field(default_factory=ZoomOut)  # type: ignore[arg-type]
    """Of the images that are neither mosaics nor zoomed into."""
    max_aspect: float = Field(1.25, ge=1, le=4)
    """Maximum change of width / height by a window, in either direction."""
    flip: bool = Field(True, description="Flip half of the images horizontally.")
    color: bool = Field(True, description="Change brightness, contrast, saturation and hue, as SSD.")


Preset = Literal["ssdlite", "ssd", "none", "strong"]


def _strong(value: Any) -> Any:
    """Let the name stand for the section with its defaults, as recipes are printed and kept whole."""
    return {"type": "strong"} if value == "strong" else value


class BoxedData(Section):
    """Which images and boxes there are, and how they are augmented."""

    train: CocoSplit = CocoSplit(images="train2017", annotations="annotations/instances_train2017.json")
    val: CocoSplit = CocoSplit(images="val2017", annotations="annotations/instances_val2017.json")
    label_map: Literal["contiguous", "ids"] = "contiguous"
    """contiguous: a class slot for each category of the file. ids: a slot for every id up to the largest (91
    with background for COCO), as in TensorFlow and torchvision."""
    keep_root_category: bool = False
    """Whether a category without boxes that is the supercategory of others, as labeling services add, is a
    class."""
    augment: Annotated[Preset | StrongAugment, BeforeValidator(_strong)] = "ssdlite"
    """ssdlite: IoU crop, flip. ssd: color, zoom-out, IoU crop, flip. none: resize only. strong: mosaics and
    windows around objects, for small data sets and small objects; its settings: {type: strong, ...}."""
    drop_empty: bool = Field(False, description="Drop images without boxes from training.")
    reduced_decoding: Literal["never", "training", "always"] = "training"
    """Which large JPEGs are decoded smaller than they are, as long as no window of them becomes smaller than
    the input: faster, and without aliasing. never and training score images as `predict` reads them."""
    cache: Text | None = None
    """Folder, outside the data set, where large images to train on are kept, as small as the augmentation
    allows, when they are read for the first time; such as ~/.cache/dettoolkit. null: none."""


class DetectionData(BoxedData, Data):
    """Images and boxes, in COCO's format."""

    type: Literal["coco", "cityscapes", "scenes"]
    """coco: your own files. cityscapes: boxes around the objects in the instance files of Cityscapes' layout,
    in its 8 classes of vehicles and people; its splits are {images: leftImg8bit/train, annotations:
    gtFine/train} and the same with val. scenes: street scenes, generated at data.root if they do not exist.
    """


class DetectionEvaluation(Evaluation):
    """What is scored and shown."""

    score_threshold: Fraction = Field(1e-8, description="Minimum score of a detection that is scored.")
    max_detections: PositiveInt = Field(100, le=10_000, description="Detections per image that are scored.")
    threshold: Fraction = Field(0.3, description="Minimum score of a detection that is drawn.")
