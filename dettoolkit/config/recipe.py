"""The recipe: one typed, strict description of a run. Torch-free, so a wrong recipe is refused at once.

The recipe is the only place where defaults live; constructors elsewhere take required keyword arguments
named as these fields.
"""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, ClassVar, Self, Union

from pydantic import Field, create_model, model_validator

from dettoolkit.config.classification import ClassificationData, ClassifierModel
from dettoolkit.config.detection import DetectionData, DetectionEvaluation, SSDLiteModel
from dettoolkit.config.distillation import (
    ClassificationDistill,
    DetectionDistill,
    Distill,
    SegmentationDistill,
)
from dettoolkit.config.joint import JointData, JointEvaluation, JointModel
from dettoolkit.config.model import Model
from dettoolkit.config.sections import Data, Evaluation, Optim, Section, Trainer
from dettoolkit.config.segmentation import LRASPPModel, RASPPModel, SegmentationData, SegmentationEvaluation


class Recipe(Section):
    """Everything about one run. model.type determines the task, and so the keys of data, evaluation, distill.

    `files` is the type of data that are files and not generated.
    """

    files: ClassVar[str]
    model: Model
    data: Data
    optim: Optim
    trainer: Trainer
    evaluation: Evaluation = Field(default_factory=Evaluation)  # type: ignore[arg-type]
    distill: Distill | None = None
    """A teacher to learn from. null: none."""


class DetectionRecipe(Recipe):
    """A detector and its data."""

    files: ClassVar[str] = "coco"
    model: SSDLiteModel
    data: DetectionData
    evaluation: DetectionEvaluation = Field(default_factory=DetectionEvaluation)  # type: ignore[arg-type]
    distill: DetectionDistill | None = None


class SegmentationRecipe(Recipe):
    """A segmenter and its data."""

    files: ClassVar[str] = "cityscapes"
    model: Annotated[LRASPPModel | RASPPModel, Field(discriminator="type")]
    data: SegmentationData
    evaluation: SegmentationEvaluation = Field(default_factory=SegmentationEvaluation)  # type: ignore[arg-type]
    distill: SegmentationDistill | None = None

    @model_validator(mode="after")
    def _cells_fit(self) -> Self:
        if self.data.eval_multiple is not None and self.model.align_corners:
            raise ValueError(
                f"data.eval_multiple={self.data.eval_multiple} is for model.align_corners=false: with true, "
                "sizes of 8n + 1 fit; set data.eval_hw to one, and data.eval_multiple=null"
            )
        return self


class ClassificationRecipe(Recipe):
    """A classifier and its data."""

    files: ClassVar[str] = "image_folder"
    model: ClassifierModel
    data: ClassificationData
    distill: ClassificationDistill | None = None


class JointRecipe(Recipe):
    """A network that detects and segments, and its data."""

    files: ClassVar[str] = "separate"
    model: JointModel
    data: JointData
    evaluation: JointEvaluation = Field(default_factory=JointEvaluation)  # type: ignore[arg-type]
    distill: None = None


def recipe_kinds() -> tuple[type[Recipe], ...]:
    """Return the kind of recipe of each task."""
    from dettoolkit.tasks import TASKS  # late: a task's spec imports its recipe from here

    return tuple(spec.recipe for spec in TASKS)


def any_recipe() -> type[Recipe]:
    """Return a recipe whose sections may be those of any task."""
    return _joined(recipe_kinds())


@cache
def _joined(kinds: tuple[type[Recipe], ...]) -> type[Recipe]:
    model, data, evaluation, distill = (
        Union[tuple(kind.model_fields[name].annotation for kind in kinds)]  # noqa: UP007
        for name in ("model", "data", "evaluation", "distill")
    )
    sections: dict[str, Any] = {"data": data, "evaluation": evaluation, "distill": (distill, None)}
    sections["model"] = Annotated[model, Field(discriminator="type")]
    return create_model("Recipe", __base__=Recipe, __doc__=Recipe.__doc__, **sections)
