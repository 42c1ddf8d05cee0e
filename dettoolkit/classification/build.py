"""Classifier from its recipe section."""

from __future__ import annotations

from functools import partial

from dettoolkit.backbones.blocks import ACTIVATIONS, pad_same
from dettoolkit.backbones.initialize import initialize
from dettoolkit.backbones.mobilenet import build_backbone
from dettoolkit.backbones.tables import TABLES, make_divisible
from dettoolkit.config.classification import ClassifierModel
from dettoolkit.config.recipe import ClassificationRecipe
from dettoolkit.heads.classifier import ClassifierHead
from dettoolkit.network import Network
from dettoolkit.weights.load import load_pretrained


def build_network(
    recipe: ClassificationRecipe, *, num_classes: int, pretrained: bool = False, exact: bool = False
) -> Network:
    """Build the classifier; with `pretrained`, start it from the weights that the recipe names.

    With `exact`, weights of another number of classes are refused; without, their class layer starts fresh.
    """
    model, section = recipe.model, recipe.model.backbone
    backbone = build_backbone(section)
    init = partial(initialize, init=model.head.init, std=model.head.init_std)
    head = ClassifierHead(
        in_channels=backbone.channels["c5"],
        hidden_channels=hidden_channels(model),
        activation=ACTIVATIONS[TABLES[section.type].activation],
        num_classes=num_classes,
        dropout=model.head.dropout,
        init=init,
    )
    network = Network(backbone=backbone, heads={"classification": head})
    init(backbone)
    head.initialize()
    if section.padding == "same":
        pad_same(network)
    if pretrained:
        hint = "set data.val.images to the folder with its classes" if exact else None
        load_pretrained(network, model, torchvision_model=section.type, exact=hint)
    return network


def hidden_channels(model: ClassifierModel) -> int | None:
    """Count the channels of the hidden layer; None where the network has none.

    Table 3 has 4.0M parameters at width 0.75 of V3-Large, and 2.0M of Small: those with the layer whole, as
    TensorFlow has it with `finegrain_classification_mode`. torchvision lets the width change it.
    """
    features = TABLES[model.backbone.type].features
    if features is None or not model.head.scale_hidden:
        return features
    return make_divisible(features * model.backbone.width)
