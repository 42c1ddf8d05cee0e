"""Recipe to objects: this module and its builders are all that knows every type."""

from __future__ import annotations

from dettoolkit.classification import run as classification
from dettoolkit.config import ClassificationRecipe, DetectionRecipe, Recipe, SegmentationRecipe
from dettoolkit.detection import run as detection
from dettoolkit.run import Classes, Run, build_data_module, describe
from dettoolkit.segmentation import run as segmentation

__all__ = ["Classes", "Run", "build_data_module", "describe", "evaluation_run", "training_run"]


def training_run(name: str, recipe: Recipe, *, pretrained: bool) -> Run:
    """Load the data and build the network of a training.

    Without `pretrained` the weights that the recipe starts from are not needed: a checkpoint brings its own.
    """
    if isinstance(recipe, DetectionRecipe):
        return detection.training_run(name, recipe, pretrained=pretrained)
    if isinstance(recipe, SegmentationRecipe):
        return segmentation.training_run(name, recipe, pretrained=pretrained)
    if isinstance(recipe, ClassificationRecipe):
        return classification.training_run(name, recipe, pretrained=pretrained)
    raise TypeError(f"no task for a {type(recipe).__name__}")


def evaluation_run(name: str, recipe: Recipe, *, own: Classes | None, what: str) -> Run:
    """Load the validation data and build the network that is scored.

    Args:
        name: of the run.
        recipe: by which to score.
        own: classes of a checkpoint, whose weights the caller loads; None takes the recipe's model.weights,
            and the data set's classes.
        what: the weights' name, for messages.

    Raises:
        ValueError: the data set has other classes.
    """
    if isinstance(recipe, DetectionRecipe):
        return detection.evaluation_run(name, recipe, own=own, what=what)
    if isinstance(recipe, SegmentationRecipe):
        return segmentation.evaluation_run(name, recipe, own=own, what=what)
    if isinstance(recipe, ClassificationRecipe):
        return classification.evaluation_run(name, recipe, own=own, what=what)
    raise TypeError(f"no task for a {type(recipe).__name__}")
