"""Detection and segmentation by one network as a task: both tasks' own parts, put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dettoolkit.config import JointRecipe
from dettoolkit.detection.spec import DetectionSection, DetectionSpec
from dettoolkit.joint.single_tasks import (
    DETECTION,
    RAW_BOXES,
    SEGMENTATION,
    count_boxed,
    detection_recipe,
    part,
    segmentation_recipe,
)
from dettoolkit.manifest import Manifest, ManifestError, Section, SizeHW
from dettoolkit.segmentation.spec import SegmentationSection, SegmentationSpec
from dettoolkit.spec import ErrorKind, TaskSpec, late

if TYPE_CHECKING:
    from torch import Tensor

BOXES, MAPS = DetectionSpec(), SegmentationSpec()


@dataclass(frozen=True, kw_only=True)
class JointSection(Section):
    """A joint model's section of a manifest: one for each of its tasks; see Section too."""

    detection: DetectionSection
    segmentation: SegmentationSection

    def __post_init__(self) -> None:
        super().__post_init__()
        named = [f"{DETECTION}/{name}" for name in self.detection.class_names]
        named += [f"{SEGMENTATION}/{name}" for name in self.segmentation.class_names]
        ids = (*self.detection.class_ids, *self.segmentation.class_ids)
        if list(self.class_names) != named or self.class_ids != ids:
            raise ManifestError("the classes of a joint model are not those of its two tasks")

    @property
    def default_threshold(self) -> float:
        """Return the score from which objects are shown by default."""
        return self.detection.threshold

    @property
    def colors(self) -> tuple[tuple[int, int, int] | None, ...]:
        """Return red, green, blue of each class in figures; None chooses."""
        mapped = self.segmentation.colors or (None,) * len(self.segmentation.class_names)
        return (None,) * len(self.detection.class_names) + mapped


class JointSpec(TaskSpec):
    """Boxes of objects, and the class of each pixel."""

    name = "joint"
    title = "Detection and segmentation"
    noun = "joint model"
    pipeline_tag = BOXES.pipeline_tag
    recipe = JointRecipe
    section = JointSection
    raw_outputs = (*BOXES.raw_outputs, "segmentation_logits")
    final_outputs = (*BOXES.final_outputs, "label_map")
    errors: ClassVar[Mapping[str, ErrorKind]] = {**BOXES.errors, **MAPS.errors}
    size_scores = BOXES.size_scores
    saves = tuple(dict.fromkeys((*BOXES.saves, *MAPS.saves)))
    default_saves = MAPS.default_saves
    resizable = False

    build_network = late(".build")
    describe = late(".build")
    torchvision_model = late(".build")
    training_run = late(".run")
    evaluation_run = late(".run")
    training_images = late(".run")
    examine = late(".doctor")
    decoder = late(".decode")
    compare = late(".compare")
    onnx_answers = late(".onnx")
    report = late(".report_page", "JointReport")

    @property
    def parts(self) -> tuple[TaskSpec, ...]:
        """Return the tasks whose results its own has."""
        return BOXES, MAPS

    def input_hw(self, recipe: JointRecipe) -> SizeHW:
        """Return the size to which images are resized."""
        return recipe.model.input_hw

    def sample_folder(self, recipe: JointRecipe) -> Path:
        """Return the folder of the validation images with label maps."""
        return MAPS.sample_folder(segmentation_recipe(recipe))

    def count_classes(self, outputs: Sequence[Tensor], manifest: Manifest) -> int:
        """Return the number of classes that outputs have; of final ones, that they show at least."""
        boxes, maps = part(manifest, DETECTION), part(manifest, SEGMENTATION)
        count = len(BOXES.final_outputs) if manifest.final else RAW_BOXES
        found = BOXES.count_classes(outputs[:count], boxes), MAPS.count_classes(outputs[count:], maps)
        named = len(boxes.class_names), len(maps.class_names)
        # One part's surplus must not make up for what the other lacks.
        surplus = any(own > names for own, names in zip(found, named, strict=True))
        return sum(named) + 1 if surplus else sum(found)

    def selectable(self, class_names: Sequence[str]) -> Sequence[str]:
        """Return the classes of boxes, whose objects can be kept alone."""
        return class_names[: count_boxed(class_names)]

    def categories(
        self, part: TaskSpec, class_names: Sequence[str], class_ids: Sequence[int]
    ) -> dict[int, str]:
        """Return COCO's categories, id to name, of one task's results."""
        own = f"{part.name}/"
        rows = zip(class_ids, class_names, strict=True)
        return {id_: name.removeprefix(own) for id_, name in rows if name.startswith(own)}

    def check_export(self, manifest: Manifest) -> None:
        """Refuse what a task refuses."""
        for spec in (BOXES, MAPS):
            spec.check_export(part(manifest, spec.name))

    def export_section(
        self, section: JointSection, *, score_threshold: float | None, final: bool
    ) -> JointSection:
        """Return the section of an exported file: with a threshold of its own."""
        boxes = BOXES.export_section(section.detection, score_threshold=score_threshold, final=final)
        return replace(section, detection=boxes)

    def page(self, section: JointSection) -> dict[str, Any]:
        """Return what the page must know of the detector, and how many classes are the detector's."""
        return {**BOXES.page(section.detection), "boxed_classes": count_boxed(section.class_names)}

    def zoo_size(self, recipe: JointRecipe) -> tuple[int, SizeHW]:
        """Return the number of classes of the data that a recipe names, and the input's size."""
        boxed, _ = BOXES.zoo_size(detection_recipe(recipe))
        mapped, _ = MAPS.zoo_size(segmentation_recipe(recipe))
        return boxed + mapped, recipe.model.input_hw
