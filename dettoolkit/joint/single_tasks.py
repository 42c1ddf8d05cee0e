"""A joint recipe, its classes and its manifest as those of its two tasks, which do all the work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dettoolkit.config import DetectionRecipe, JointRecipe, SegmentationRecipe
from dettoolkit.config.detection import CocoSplit, DetectionData, DetectionEvaluation, SSDLiteModel
from dettoolkit.config.sections import Data, Section
from dettoolkit.config.segmentation import LRASPPModel, SegmentationData, SegmentationEvaluation
from dettoolkit.manifest import Manifest

if TYPE_CHECKING:
    from dettoolkit.run import Classes

DETECTION, SEGMENTATION = "detection", "segmentation"  # names of heads, and of what belongs to them
RAW_BOXES = 2
"""How many of the network's outputs are the detector's, the first ones."""


def same_images(recipe: JointRecipe) -> bool:
    """Return whether boxes and label maps are of the same images."""
    return recipe.data.type != "separate"


def detection_recipe(recipe: JointRecipe) -> DetectionRecipe:
    """Return the recipe of the detector alone, without pretrained weights."""
    model, data = recipe.model, recipe.data
    own = _values(data.detection)
    if data.type == "cityscapes":
        splits = {"train": data.segmentation.train, "val": data.segmentation.val}
        own["type"] = "cityscapes"  # instance files are beside the label files
        own |= {name: CocoSplit(images=each.images, annotations=each.labels) for name, each in splits.items()}
    elif data.type == "scenes":
        own["type"] = "scenes"
    return DetectionRecipe(
        model=SSDLiteModel(
            type="ssdlite",
            input_hw=model.input_hw,
            backbone=model.backbone.model_copy(update={"weights": None}),
            **_values(model.detection),
        ),
        data=DetectionData(**_shared(data) | own | {"root": data.detection.root or data.root}),
        evaluation=DetectionEvaluation(
            **{name: getattr(recipe.evaluation, name) for name in DetectionEvaluation.model_fields}
        ),
        optim=recipe.optim,
        trainer=recipe.trainer,
    )


def segmentation_recipe(recipe: JointRecipe) -> SegmentationRecipe:
    """Return the recipe of the segmenter alone, without pretrained weights."""
    model, data = recipe.model, recipe.data
    own = _values(data.segmentation) | {"root": data.segmentation.root or data.root}
    if data.type == "scenes":
        own["type"] = "scenes"
    if data.segmentation.augment is not None:  # images are resized in training as in validation
        own["augment"] = data.segmentation.augment.model_copy(update={"scale_of": "eval_hw"})
    sizes = {"crop_hw": model.input_hw, "eval_hw": model.input_hw, "eval_batch_size": data.batch_size}
    return SegmentationRecipe(
        model=LRASPPModel(
            type="lraspp",
            backbone=model.backbone.model_copy(update={"weights": None}),
            **_values(model.segmentation),
        ),
        data=SegmentationData(**_shared(data) | own | sizes),
        evaluation=SegmentationEvaluation(figures=recipe.evaluation.figures),  # type: ignore[call-arg]
        optim=recipe.optim,
        trainer=recipe.trainer,
    )


def _values(section: Section) -> dict[str, Any]:
    """Return a section's values by name, sections as they are."""
    return {name: getattr(section, name) for name in type(section).model_fields}


def _shared(data: Data) -> dict[str, Any]:
    """Return what the data of every task have."""
    return {name: getattr(data, name) for name in Data.model_fields if name not in ("type", "root")}


def join_classes(detection: Classes, segmentation: Classes) -> Classes:
    """Return one list of the classes of both tasks, each name with its task in front: "detection/car"."""
    from dettoolkit.run import Classes

    return Classes(
        [f"{DETECTION}/{name}" for name in detection.names]
        + [f"{SEGMENTATION}/{name}" for name in segmentation.names],
        [*detection.ids, *segmentation.ids],
    )


def split_classes(classes: Classes) -> tuple[Classes, Classes]:
    """Return the classes of the detector and of the segmenter, of what `join_classes` gave."""
    from dettoolkit.run import Classes

    count = count_boxed(classes.names)
    return (
        Classes([_bare(name) for name in classes.names[:count]], list(classes.ids[:count])),
        Classes([_bare(name) for name in classes.names[count:]], list(classes.ids[count:])),
    )


def count_boxed(names: Sequence[str]) -> int:
    """Return how many of a joint model's classes, which come first, are the detector's."""
    kinds = [name.partition("/")[0] for name in names]
    count = kinds.count(DETECTION)
    if kinds != [DETECTION] * count + [SEGMENTATION] * (len(kinds) - count) or not 0 < count < len(kinds):
        raise ValueError(
            f"a joint model's classes are {DETECTION}/NAME, then {SEGMENTATION}/NAME, got {list(names)[:6]}: "
            "use a checkpoint of a joint model"
        )
    return count


def _bare(name: str) -> str:
    return name.partition("/")[2]


def part(manifest: Manifest, task: str) -> Manifest:
    """Return the manifest as if the model had one of its two tasks only."""
    return replace(manifest, tasks={task: getattr(manifest.section, task)})
