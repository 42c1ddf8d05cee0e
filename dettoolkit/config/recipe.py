"""The recipe: one typed, strict description of a run. Torch-free, so a wrong recipe is refused at once.

The recipe is the only place where defaults live; constructors elsewhere take required keyword arguments
named as these fields.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from dettoolkit.config.classification import (
    ClassificationData,
    ClassificationEvaluation,
    ClassifierModel,
)
from dettoolkit.config.detection import DetectionData, DetectionEvaluation, SSDLiteModel
from dettoolkit.config.sections import Optim, Section, Trainer
from dettoolkit.config.segmentation import LRASPPModel, RASPPModel, SegmentationData, SegmentationEvaluation


class Recipe(Section):
    """Everything about one run. The model's type decides the task, and so what data and evaluation are.

    `files` is the type of data that are files and not generated.
    """

    files: ClassVar[str]
    model: Annotated[SSDLiteModel | LRASPPModel | RASPPModel | ClassifierModel, Field(discriminator="type")]
    data: DetectionData | SegmentationData | ClassificationData
    optim: Optim
    trainer: Trainer
    evaluation: DetectionEvaluation | SegmentationEvaluation | ClassificationEvaluation


class DetectionRecipe(Recipe):
    """A detector and its data."""

    files: ClassVar[str] = "coco"
    model: SSDLiteModel
    data: DetectionData
    evaluation: DetectionEvaluation = Field(default_factory=DetectionEvaluation)  # type: ignore[arg-type]


class SegmentationRecipe(Recipe):
    """A segmentation model and its data."""

    files: ClassVar[str] = "cityscapes"
    model: Annotated[LRASPPModel | RASPPModel, Field(discriminator="type")]
    data: SegmentationData
    evaluation: SegmentationEvaluation = Field(default_factory=SegmentationEvaluation)  # type: ignore[arg-type]


class ClassificationRecipe(Recipe):
    """A classifier and its data."""

    files: ClassVar[str] = "image_folder"
    model: ClassifierModel
    data: ClassificationData
    evaluation: ClassificationEvaluation = Field(default_factory=ClassificationEvaluation)  # type: ignore[arg-type]


RECIPES: tuple[type[Recipe], ...] = (DetectionRecipe, SegmentationRecipe, ClassificationRecipe)
