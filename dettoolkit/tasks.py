"""The list of tasks: the one place that names them all. A new task is a folder, and a line here."""

from __future__ import annotations

from dettoolkit.classification.spec import ClassificationSpec
from dettoolkit.config.recipe import Recipe
from dettoolkit.detection.spec import DetectionSpec
from dettoolkit.joint.spec import JointSpec
from dettoolkit.manifest import Manifest, ManifestError, Section
from dettoolkit.segmentation.spec import SegmentationSpec
from dettoolkit.spec import TaskSpec

TASKS: tuple[TaskSpec, ...] = (DetectionSpec(), SegmentationSpec(), ClassificationSpec(), JointSpec())


def spec_of(recipe: Recipe) -> TaskSpec:
    """Return the task that a recipe is for."""
    for spec in TASKS:
        if type(recipe) is spec.recipe:
            return spec
    raise TypeError(f"no task has recipes of the class {type(recipe).__name__}: list its spec in tasks.TASKS")


def spec_named(name: str) -> TaskSpec:
    """Return the task of a name; a file of a later version may name one that is not there."""
    for spec in TASKS:
        if spec.name == name:
            return spec
    known = ", ".join(spec.name for spec in TASKS)
    raise ManifestError(f"there is no task '{name}', only {known}: update dettoolkit")


def spec_for(manifest: Manifest) -> TaskSpec:
    """Return the task of a model that has one only."""
    return spec_named(manifest.task)


def sections() -> dict[str, type[Section]]:
    """Return the section that each task has in a manifest, by the task's name."""
    return {spec.name: spec.section for spec in TASKS}
