"""Detection as a task: what every command asks of it. Nothing heavy is imported before it is needed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from msgspec import Meta

from dettoolkit.config.recipe import DetectionRecipe
from dettoolkit.manifest import Count, Fraction, Manifest, ManifestError, Section, SizeHW
from dettoolkit.spec import Comparison, Decoder, ErrorKind, Strictness, TaskSpec

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from dettoolkit.detection.build import HeadBuilder
    from dettoolkit.detection.run import DetectionRun
    from dettoolkit.network import Network
    from dettoolkit.results import Result
    from dettoolkit.run import Classes, ImageFile

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
    """Default boxes of a feature map.

    Attributes:
        grid_hw: cells in a column and in a row; boxes are centered in each.
        sizes: width and height of each box of a cell, as fractions of the input's.
    """

    grid_hw: SizeHW
    sizes: Sizes


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How a detector's raw outputs become detections.

    Attributes:
        activation: what turns logits into scores.
        background: whether slot 0 of the classes is the background.
        coder: what the four numbers of a box mean; see `box_coding.CODERS`.
        score_threshold: a detection's score is above it.
        nms_iou: of two boxes of a class that overlap by more than this IoU, the weaker is dropped.
        candidates_per_class: best boxes of each class of an image that enter NMS.
        max_detections: detections of an image at most.
    """

    activation: Activation
    background: bool
    coder: Coder
    score_threshold: Fraction
    nms_iou: Fraction
    candidates_per_class: Count
    max_detections: Count

    def __post_init__(self) -> None:
        if self.activation == "softmax" and not self.background:
            raise ManifestError("softmax without a background finds an object in every default box")


@dataclass(frozen=True, kw_only=True)
class DetectionSection(Decoding, Section):
    """A detector's section of a manifest: see Section and Decoding too.

    Attributes:
        threshold: score from which a detection is shown, unless another is asked for.
        levels: the default boxes.
    """

    threshold: Fraction
    levels: Annotated[tuple[Level, ...], Meta(min_length=1, max_length=32)]

    def __post_init__(self) -> None:
        Section.__post_init__(self)
        Decoding.__post_init__(self)
        boxes = sum(level.grid_hw[0] * level.grid_hw[1] * len(level.sizes) for level in self.levels)
        if boxes > MAX_BOXES:
            raise ManifestError(f"levels make {boxes} default boxes, where {MAX_BOXES} are the most")

    @property
    def default_threshold(self) -> float:
        """Return the score from which detections are shown by default."""
        return self.threshold


class DetectionSpec(TaskSpec):
    """Boxes, classes and scores of objects."""

    name = "detection"
    title = "Object detection"
    noun = "detector"
    recipe = DetectionRecipe
    section = DetectionSection
    raw_outputs = ("class_logits", "box_deltas")
    final_outputs = ("boxes_xyxy", "scores", "labels", "counts")
    errors: ClassVar[Mapping[str, ErrorKind]] = {
        "detections": ErrorKind(
            meaning="the fraction of detections without a partner is",
            max={"exact": 0.01, "resized": 0.03, "quantized": 0.25},
        ),
        "shown_detections": ErrorKind(
            meaning="the fraction of detections without a partner, of those that are shown by default, is",
            max={"exact": 0.005, "resized": 0.03, "quantized": 0.1},
            required=False,
        ),
    }
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

    def builder(self, recipe: DetectionRecipe) -> HeadBuilder:
        """Return what builds the head of a recipe's model, its assigner and its losses."""
        from dettoolkit.detection.build import BUILDERS

        return BUILDERS[type(recipe.model)]

    # Training and evaluation

    def build_network(self, recipe: DetectionRecipe, *, num_classes: int) -> Network:
        """Build a recipe's network with random weights."""
        from dettoolkit.detection.build import build_network

        return build_network(recipe.model, self.builder(recipe), num_classes=num_classes)

    def training_run(self, name: str, recipe: DetectionRecipe, *, pretrained: bool) -> DetectionRun:
        """Load the data and build the network of a training."""
        from dettoolkit.detection.run import training_run

        return training_run(self, name, recipe, pretrained=pretrained)

    def evaluation_run(
        self, name: str, recipe: DetectionRecipe, *, own: Classes | None, what: str
    ) -> DetectionRun:
        """Load the validation data and build the network that is scored."""
        from dettoolkit.detection.run import evaluation_run

        return evaluation_run(self, name, recipe, own=own, what=what)

    def training_images(self, recipe: DetectionRecipe) -> list[ImageFile]:
        """Return the training images that a recipe names."""
        from dettoolkit.detection.run import image_files, load_annotations, prepare_data

        prepare_data(recipe.data, ["train"])
        return image_files(load_annotations(recipe.data, "train"), recipe.data.max_megapixels)

    # A model that is run

    def describe(self, recipe: DetectionRecipe, network: Network, *, classes: Classes) -> DetectionSection:
        """Return the section of a checkpoint's manifest."""
        from dettoolkit.detection.build import decoding_of, levels_of

        builder = self.builder(recipe)
        return DetectionSection(
            class_names=tuple(classes.names),
            class_ids=tuple(classes.ids),
            threshold=recipe.evaluation.threshold,
            levels=levels_of(recipe.model, builder, network.backbone),
            **vars(decoding_of(recipe, builder)),
        )

    def input_hw(self, recipe: DetectionRecipe) -> SizeHW:
        """Return the size to which images are resized."""
        return recipe.model.input_hw

    def decoder(self, manifest: Manifest, device: torch.device) -> Decoder:
        """Return what turns a model's outputs into detections."""
        from dettoolkit.detection.decode import DetectionDecoder

        return DetectionDecoder(manifest, device)

    def count_classes(self, outputs: Sequence[Tensor], manifest: Manifest) -> int:
        """Return the number of classes that outputs have; of final ones, that they show at least."""
        if manifest.final:
            labels = outputs[self.final_outputs.index("labels")]
            return int(labels.max()) + 1 if labels.numel() else 0
        return int(outputs[0].shape[-1]) - int(manifest.section.background)

    # Results in files

    def csv_row(self, entry: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return the cells of an object."""
        return (entry["name"], entry["class_id"], entry["score"], *entry["box_xyxy"])

    def coco_entry(self, entry: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
        """Return an object as COCO's results have it, without the image's id."""
        del record
        left, top, right, bottom = entry["box_xyxy"]
        box = [left, top, right - left, bottom - top]
        return {"category_id": entry["class_id"], "bbox": box, "score": entry["score"]}

    # Export

    def compare(
        self, pairs: Iterable[tuple[Result, Result]], section: Section, strictness: Strictness
    ) -> Comparison:
        """Compare detections as sets."""
        from dettoolkit.detection.compare import compare_detections, matching_of

        return compare_detections(pairs, matching_of(section, strictness))  # type: ignore[arg-type]

    def export_section(
        self, section: DetectionSection, *, score_threshold: float | None, final: bool
    ) -> DetectionSection:
        """Return the section of an exported file: with a threshold of its own.

        Raises:
            ValueError: a threshold out of range.
        """
        lowest = score_threshold
        if lowest is None:
            lowest = max(section.score_threshold, INSIDE_SCORE_THRESHOLD if final else 0.0)
        if not 0 <= lowest < 1:
            raise ValueError(f"a score threshold must be at least 0 and below 1, got {lowest}")
        return replace(section, score_threshold=lowest, threshold=max(section.threshold, lowest))

    def onnx_answers(
        self, graph: Any, raw: Sequence[Any], manifest: Manifest, image_hw: tuple[Any, Any] | None
    ) -> list[tuple[Any, list[int | str], Any]]:
        """Add the nodes that turn raw outputs into detections."""
        from dettoolkit.detection.onnx import final_answers

        return final_answers(graph, raw, manifest, image_hw)

    def page(self, section: DetectionSection) -> dict[str, Any]:
        """Return the lowest score that the model gives and the one from which the page shows objects."""
        return {"lowest_score": section.score_threshold, "shown_score": section.threshold}

    # The paper's tables

    def zoo_size(self, recipe: DetectionRecipe) -> tuple[int, SizeHW]:
        """Return the number of classes of the data that a recipe names, and the input's size."""
        from dettoolkit.datasets.scenes.render import CATEGORIES

        if recipe.data.type == "scenes":
            return len(CATEGORIES), recipe.model.input_hw
        return COCO_IDS if recipe.data.label_map == "ids" else COCO_CLASSES, recipe.model.input_hw

    def paper_classes(self, classes: int) -> int:
        """Return the classes without the background, which the paper counts."""
        return classes - 1
