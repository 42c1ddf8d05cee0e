"""Sections of `distill`: what a network learns from a teacher."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dettoolkit.config.sections import FeatureName, Section, Text, Weight

Temperature = Annotated[float, Field(ge=0.1, le=100)]
Names = Annotated[list[FeatureName], Field(min_length=1, max_length=5)]


class ChannelWise(Section):
    """Channel-wise distillation (CWD, arXiv 2011.13256): where each channel is strong."""

    type: Literal["cwd"]
    names: Names = Field(["c4", "c5"], description="The backbone's features that are learned.")
    weight: Weight = Field(10.0, description="Weight of the loss of each feature.")
    temperature: Temperature = Field(4.0, description="Temperature of the softmax over pixels.")


class Pearson(Section):
    """Distillation by Pearson's correlation (PKD, arXiv 2207.02039): each channel up to scale and offset."""

    type: Literal["pkd"]
    names: Names = Field(["c4", "c5"], description="The backbone's features that are learned.")
    weight: Weight = Field(6.0, description="Weight of the loss of each feature.")


class Distill(Section):
    """A teacher: a trained model of the same task and classes, which training asks at each step."""

    teacher: Text
    """A run's folder, a checkpoint, a published folder or hf:// address, or the name of a model that
    'dettoolkit models' lists."""
    features: Annotated[ChannelWise | Pearson, Field(discriminator="type")] | None = None
    """Learn the backbone's features too. null: none."""

    @model_validator(mode="after")
    def _learns_something(self) -> Self:
        if all(getattr(self, name, None) is None for name in ("outputs", "boxes", "features")):
            raise ValueError("nothing is learned from the teacher: set outputs, features or both")
        return self


class SoftLabels(Section):
    """The teacher's probabilities of an image's classes (arXiv 1503.02531)."""

    weight: Weight = Field(1.0, description="Weight of the loss.")
    temperature: Temperature = Field(4.0, description="Temperature of both softmaxes.")


class ClassificationDistill(Distill):
    """What a classifier learns from a teacher."""

    outputs: SoftLabels | None = Field(default_factory=SoftLabels)  # type: ignore[arg-type]
    """Learn its probabilities. null: none."""


class SoftMaps(Section):
    """The teacher's label maps."""

    type: Literal["cwd", "kl"] = "cwd"
    """cwd: channel-wise distillation, where on the image each class is likely (arXiv 2011.13256). kl: each
    pixel's class probabilities."""
    weight: Weight = Field(3.0, description="Weight of the loss.")
    temperature: Temperature = Field(4.0, description="Temperature of both softmaxes.")


class SegmentationDistill(Distill):
    """What a segmenter learns from a teacher."""

    outputs: SoftMaps | None = Field(default_factory=SoftMaps)  # type: ignore[arg-type]
    """Learn its label maps. null: none."""
    scale: float = Field(1.0, ge=0.25, le=4)
    """How many times as large the teacher's images are. It should have been trained on such."""


class SoftScores(Section):
    """The teacher's class scores of the default boxes."""

    weight: Weight = Field(1.0, description="Weight of the loss.")
    temperature: Temperature = Field(1.0, description="Temperature of both scores.")
    gamma: float = Field(2.0, ge=1, le=20)
    """Exponent of the difference of the scores, which weights each box, as in quality focal loss (arXiv
    2006.04388)."""


class SoftBoxes(Section):
    """The teacher's boxes, by GIoU (arXiv 1902.09630)."""

    weight: Weight = Field(1.0, description="Weight of the loss.")


class DetectionDistill(Distill):
    """What a detector learns from a teacher."""

    outputs: SoftScores | None = Field(default_factory=SoftScores)  # type: ignore[arg-type]
    """Learn its class scores. null: none."""
    boxes: SoftBoxes | None = None
    """Learn its boxes, where it is sure. null: none."""
