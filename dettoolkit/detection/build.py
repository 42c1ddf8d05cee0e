"""From a detection recipe to its network, and to the section of its manifest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from torch import nn

from dettoolkit.backbones.blocks import pad_same
from dettoolkit.backbones.initialize import initialize
from dettoolkit.backbones.mobilenet import MobileNet, build_backbone
from dettoolkit.config.recipe import DetectionRecipe
from dettoolkit.detection.detectors import decoding_of, detector_of
from dettoolkit.detection.spec import DetectionSection
from dettoolkit.network import Network
from dettoolkit.run import Classes
from dettoolkit.weights.load import load_pretrained


def torchvision_model(recipe: DetectionRecipe) -> str:
    """Return torchvision's name of the detector whose weights fit."""
    return detector_of(recipe.model).torchvision_model


def published_classes(recipe: DetectionRecipe, categories: Sequence[str]) -> Classes:  # noqa: ARG001
    """Return the classes of torchvision's detector: slot 0 is the background, slot n has COCO's id n."""
    return Classes(list(categories[1:]), list(range(1, len(categories))))


def describe(recipe: DetectionRecipe, network: Network, *, classes: Classes) -> DetectionSection:
    """Return the section of a checkpoint's manifest."""
    return DetectionSection(
        class_names=tuple(classes.names),
        class_ids=tuple(classes.ids),
        threshold=recipe.evaluation.threshold,
        levels=detector_of(recipe.model).levels(cast(MobileNet, network.backbone).strides),
        **vars(decoding_of(recipe)),
    )


def build_network(
    recipe: DetectionRecipe, *, num_classes: int, pretrained: bool = False, exact: bool = False
) -> Network:
    """Build a recipe's detector; with `pretrained`, start it from the weights that the recipe names.

    With `exact`, weights of another number of classes are an error; else their class layers start fresh.
    """
    model: Any = recipe.model
    backbone = build_backbone(model.backbone)
    head = build_head(recipe, backbone, num_classes=num_classes)
    network = Network(backbone=backbone, heads={"detection": head})
    # As TensorFlow's override_base_feature_extractor_hyperparams: the backbone too.
    initialize(backbone, init=model.head.init, std=model.head.init_std)
    head.initialize()  # type: ignore[operator]
    if model.backbone.padding == "same":
        pad_same(network)
    if pretrained:
        hint = "data.label_map=ids gives the 91 class slots of TensorFlow and torchvision" if exact else None
        load_pretrained(network, model, torchvision_model=torchvision_model(recipe), exact=hint)
    return network


def build_head(recipe: DetectionRecipe, backbone: MobileNet, *, num_classes: int) -> nn.Module:
    """Build a recipe's head on a backbone's features; `initialize` still has to draw its weights."""
    detector = detector_of(recipe.model)
    levels = detector.levels(backbone.strides)
    return detector.head(channels=backbone.channels, levels=levels, num_classes=num_classes)
