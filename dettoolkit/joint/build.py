"""From a joint recipe to its network, and to the section of its manifest."""

from __future__ import annotations

from dettoolkit.backbones.blocks import pad_same
from dettoolkit.backbones.initialize import initialize
from dettoolkit.backbones.mobilenet import build_backbone
from dettoolkit.config import JointRecipe
from dettoolkit.datasets.cityscapes_labels import CLASSES
from dettoolkit.detection import build as detection
from dettoolkit.joint.single_tasks import (
    DETECTION,
    SEGMENTATION,
    detection_recipe,
    segmentation_recipe,
    split_classes,
)
from dettoolkit.joint.spec import JointSection
from dettoolkit.network import Network
from dettoolkit.run import Classes
from dettoolkit.segmentation import build as segmentation
from dettoolkit.weights.load import load_pretrained


def torchvision_model(recipe: JointRecipe) -> str:
    """Return torchvision's name of the detector whose weights fit the backbone and one head."""
    return detection.torchvision_model(detection_recipe(recipe))


def build_network(
    recipe: JointRecipe, *, num_classes: int, pretrained: bool = False, exact: bool = False
) -> Network:
    """Build the network; with `pretrained`, start it from the weights that the recipe names.

    `num_classes` counts those of both heads. A file of one task's network starts the backbone and that head.
    With `exact`, weights of another number of classes are refused; without, their class layers start fresh.
    """
    model, labeled = recipe.model, recipe.data.segmentation.classes
    mapped = len(CLASSES if labeled is None else labeled)
    if num_classes <= mapped:
        raise ValueError(f"{num_classes} classes, {mapped} of them of label maps, leave none for boxes")
    backbone = build_backbone(model.backbone)
    network = Network(
        backbone=backbone,
        heads={
            DETECTION: detection.build_head(
                detection_recipe(recipe), backbone, num_classes=num_classes - mapped
            ),
            SEGMENTATION: segmentation.build_head(segmentation_recipe(recipe), backbone, num_classes=mapped),
        },
    )
    initialize(backbone, init=model.detection.head.init, std=model.detection.head.init_std)
    for head in network.heads.values():
        head.initialize()  # type: ignore[operator]
    if model.backbone.padding == "same":
        pad_same(network)
    if pretrained:
        hint = "data.segmentation.classes lists those of pixels in the weights' order" if exact else None
        load_pretrained(network, model, torchvision_model=torchvision_model(recipe), exact=hint)
    return network


def describe(recipe: JointRecipe, network: Network, *, classes: Classes) -> JointSection:
    """Return the section of a checkpoint's manifest."""
    boxed, mapped = split_classes(classes)
    return JointSection(
        class_names=tuple(classes.names),
        class_ids=tuple(classes.ids),
        detection=detection.describe(detection_recipe(recipe), network, classes=boxed),
        segmentation=segmentation.describe(segmentation_recipe(recipe), network, classes=mapped),
    )
