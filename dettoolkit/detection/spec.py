"""Detection as a task: what every command asks of it. Nothing heavy is imported before it is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from msgspec import Meta

from dettoolkit.config.recipe import DetectionRecipe
from dettoolkit.manifest import Count, Fraction, Manifest, ManifestError, Section, SizeHW
from dettoolkit.spec import ErrorKind, TaskSpec, late

if TYPE_CHECKING:
    from torch import Tensor

Activation = Literal["sigmoid", "softmax"]
Coder = Literal["deltas", "distances"]

MAX_BOXES = 4_000_000
"""Of default boxes, 64 MB; an input of 8192 x 8192 has 2 million."""
COCO_CLASSES, COCO_IDS = 80, 90
"""Of COCO's boxes: its categories, and the largest of their ids."""
INSIDE_SCORE_THRESHOLD = 0.05
"""Default of a file with final answers, which are meant to be shown."""

Side = Annotated[float, Meta(ge=1e-6, le=1e6)]
Sizes = Annotated[tuple[tuple[Side, Side], ...], Meta(min_length=1, max_length=256)]


@dataclass(frozen=True, kw_only=True)
class Level:
    """Default boxes of a feature map."""

    grid_hw: SizeHW  # cells in a column and in a row; boxes are centered in each
    sizes: Sizes  # width and height of each box of a cell, as fractions of the input's


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How a detector's raw outputs become detections."""

    activation: Activation  # turns logits into scores
    background: bool  # whether slot 0 of the classes is the background
    coder: Coder  # what the four numbers of a box mean; see `box_coding.CODERS`
    score_threshold: Fraction  # a detection's score is above it
    nms_iou: Fraction  # of two boxes of a class that overlap by more than this IoU, the weaker is dropped
    candidates_per_class: Count  # best boxes of each class of an image that enter NMS
    max_detections: Count  # of an image

    def __post_init__(self) -> None:
        if self.activation == "softmax" and not self.background:
            raise ManifestError("softmax without a background class finds an object in every default box")


@dataclass(frozen=True, kw_only=True)
class DetectionSection(Decoding, Section):
    """A detector's section of a manifest; see Section and Decoding too."""

    threshold: Fraction  # score from which a detection is shown, unless another is asked for
    levels: Annotated[tuple[Level, ...], Meta(min_length=1, max_length=32)]  # the default boxes

    def __post_init__(self) -> None:
        Section.__post_init__(self)
        Decoding.__post_init__(self)
        boxes = sum(level.grid_hw[0] * level.grid_hw[1] * len(level.sizes) for level in self.levels)
        if boxes > MAX_BOXES:
            raise ManifestError(f"levels have {boxes} default boxes, more than the maximum of {MAX_BOXES}")

    @property
    def default_threshold(self) -> float:
        """Return the score from which detections are shown by default."""
        return self.threshold


class DetectionSpec(TaskSpec):
    """Boxes, classes and scores of objects."""

    name = "detection"
    title = "Object detection"
    noun = "detector"
    pipeline_tag = "object-detection"
    recipe = DetectionRecipe
    section = DetectionSection
    raw_outputs = ("class_logits", "box_deltas")
    final_outputs = ("boxes_xyxy", "scores", "labels", "counts")
    errors: ClassVar[Mapping[str, ErrorKind]] = {
        "detections": ErrorKind(
            meaning="the fraction of unmatched detections is",
            max={"exact": 0.01, "resized": 0.03, "quantized": 0.25},
        ),
        "shown_detections": ErrorKind(
            meaning="the fraction of unmatched detections above the default threshold is",
            max={"exact": 0.005, "resized": 0.03, "quantized": 0.1},
            required=False,
        ),
    }
    size_scores = ("APs", "APm", "APl")
    saves = ("crops", "coco")
    csv_columns = ("class", "class_id", "score", "left", "top", "right", "bottom")
    record_key = "objects"
    arrow_columns: ClassVar[Mapping[str, tuple[str, str]]] = {
        "class_names": ("name", "string"),
        "class_ids": ("class_id", "int64"),
        "scores": ("score", "float32"),
        "boxes_xyxy": ("box_xyxy", "float32[4]"),
    }
    resizable = False

    build_network = late(".build")
    describe = late(".build")
    training_run = late(".run")
    evaluation_run = late(".run")
    training_images = late(".run")
    distiller = late(".distill")
    decoder = late(".decode", "DetectionDecoder")
    compare = late(".compare")
    onnx_answers = late(".onnx")
    torchvision_model = late(".build")
    published_classes = late(".build")
    examine = late(".doctor")
    suspects = late(".suspects")
    report = late(".report_page", "DetectionReport")

    def input_hw(self, recipe: DetectionRecipe) -> SizeHW:
        """Return the size to which images are resized."""
        return recipe.model.input_hw

    def count_classes(self, outputs: Sequence[Tensor], manifest: Manifest) -> int:
        """Return the number of classes that outputs have; of final ones, that they show at least."""
        if manifest.final:
            return super().count_classes(outputs, manifest)
        return outputs[0].shape[-1] - int(manifest.section.background)

    def csv_row(self, entry: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return the cells of an object."""
        return (entry["name"], entry["class_id"], entry["score"], *entry["box_xyxy"])

    def coco_entry(self, entry: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        """Return an object as COCO's results have it, without the image's id."""
        left, top, right, bottom = entry["box_xyxy"]
        box = [left, top, right - left, bottom - top]
        return {"category_id": entry["class_id"], "bbox": box, "score": entry["score"]}

    def export_section(
        self, section: DetectionSection, *, score_threshold: float | None, final: bool
    ) -> DetectionSection:
        """Return the section of an exported file: with a threshold of its own."""
        lowest = score_threshold
        if lowest is None:
            lowest = max(section.score_threshold, INSIDE_SCORE_THRESHOLD if final else 0.0)
        if not 0 <= lowest < 1:
            raise ValueError(f"a score threshold must be at least 0 and below 1, got {lowest}")
        return replace(section, score_threshold=lowest, threshold=max(section.threshold, lowest))

    def page(self, section: DetectionSection) -> dict[str, Any]:
        """Return the lowest score that the model gives and the one from which the page shows objects."""
        return {"lowest_score": section.score_threshold, "shown_score": section.threshold}

    def zoo_size(self, recipe: DetectionRecipe) -> tuple[int, SizeHW]:
        """Return the number of classes of the data that a recipe names, and the input's size."""
        from dettoolkit.datasets.cityscapes_boxes import BOXED
        from dettoolkit.datasets.scenes.stage import CATEGORIES

        coco = COCO_IDS if recipe.data.label_map == "ids" else COCO_CLASSES
        classes = {"coco": coco, "cityscapes": len(BOXED), "scenes": len(CATEGORIES)}
        return classes[recipe.data.type], recipe.model.input_hw

    def paper_classes(self, classes: int) -> int:
        """Return the classes without the background, which the paper counts."""
        return classes - 1
