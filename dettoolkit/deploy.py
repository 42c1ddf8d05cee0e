"""A checkpoint, or a recipe with weights, as a network that is ready to run and its manifest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from torch import nn

from dettoolkit.classification.build import build_classifier
from dettoolkit.config import (
    ClassificationRecipe,
    DetectionRecipe,
    Recipe,
    SegmentationRecipe,
    recipe_to_dict,
)
from dettoolkit.datasets.cityscapes_labels import CLASSES
from dettoolkit.detection.build import activation_of, anchor_arguments, build_detector
from dettoolkit.detection.model import Detector
from dettoolkit.manifest import Anchors, DetectionSection, Manifest, SegmentationSection
from dettoolkit.segmentation.build import build_segmenter


def build_network(recipe: Recipe, *, num_classes: int) -> nn.Module:
    """Build a recipe's network with random weights, for a checkpoint's to be loaded."""
    if isinstance(recipe, DetectionRecipe):
        return build_detector(recipe.model, num_classes=num_classes, pretrained=False)
    if isinstance(recipe, SegmentationRecipe):
        return build_segmenter(recipe.model, num_classes=num_classes, pretrained=False)
    if isinstance(recipe, ClassificationRecipe):
        return build_classifier(recipe.model, num_classes=num_classes, pretrained=False)
    raise TypeError(f"no network for a {type(recipe).__name__}")


def refuse_classifier(recipe: Recipe, name: str) -> None:
    """Refuse what can be scored and trained on, but neither run on images nor exported.

    Raises:
        ValueError: a classifier's recipe.
    """
    if isinstance(recipe, ClassificationRecipe):
        raise ValueError(
            f"{name} is a classifier, and only detectors and segmenters are run on images or exported: "
            "`dettoolkit evaluate` gives its top-1 and top-5, and model.backbone.weights=<its checkpoint> "
            "starts a detector or segmenter from it"
        )


def manifest_of(recipe: Recipe, network: nn.Module, description: Mapping[str, Any]) -> Manifest:
    """Write the manifest of a checkpoint.

    Args:
        recipe: what the checkpoint was trained by.
        network: as `build_network` built it.
        description: what the checkpoint says of itself; see `builders.run.describe`.

    Raises:
        ValueError: a classifier's.
    """
    refuse_classifier(recipe, str(description["name"]))
    names = tuple(description["class_names"])
    detection, segmentation, input_hw = None, None, None
    if isinstance(recipe, DetectionRecipe):
        detection, input_hw = _detection(recipe, cast(Detector, network)), recipe.model.input_hw
    elif isinstance(recipe, SegmentationRecipe):
        segmentation, input_hw = _segmentation(recipe, names), recipe.data.eval_hw
    return Manifest(
        name=str(description["name"]),
        class_names=names,
        class_ids=tuple(description["category_ids"]),
        mean=recipe.data.mean,
        std=recipe.data.std,
        input_hw=input_hw,
        recipe=recipe_to_dict(recipe),
        versions=dict(description["versions"]),
        detection=detection,
        segmentation=segmentation,
    )


def _detection(recipe: DetectionRecipe, network: Detector) -> DetectionSection:
    model, evaluation = recipe.model, recipe.evaluation
    return DetectionSection(
        activation=activation_of(model.loss),
        score_threshold=evaluation.score_threshold,
        nms_iou=model.postprocess.nms_iou,
        candidates_per_class=model.postprocess.candidates_per_class,
        max_detections=evaluation.max_detections,
        threshold=evaluation.threshold,
        anchors=cast(Anchors, anchor_arguments(model, network.backbone.strides)),
    )


def _segmentation(recipe: SegmentationRecipe, names: tuple[str, ...]) -> SegmentationSection:
    evaluation = recipe.evaluation
    own = recipe.data.classes
    colors = [each.color for each in own] if own is not None else [each.color for each in CLASSES]
    return SegmentationSection(
        align_corners=recipe.model.align_corners,
        mode=evaluation.mode,
        window_hw=evaluation.window_hw,
        stride_hw=evaluation.stride_hw,
        scales=tuple(evaluation.scales),
        flip=evaluation.flip,
        colors=tuple(colors) if len(colors) == len(names) else None,
    )
