"""Classifier from its recipe section."""

from __future__ import annotations

from dettoolkit.backbones.blocks import ACTIVATIONS
from dettoolkit.backbones.build import build_backbone, refuse_replaced
from dettoolkit.backbones.initialize import initialize_classifier
from dettoolkit.backbones.padding import pad_same
from dettoolkit.backbones.scaling import make_divisible
from dettoolkit.backbones.tables import TABLES
from dettoolkit.classification.model import Classifier
from dettoolkit.config.classification import ClassifierModel
from dettoolkit.heads.classifier import ClassifierHead
from dettoolkit.weights.pretrained import load_backbone, load_classifier


def build_classifier(
    model: ClassifierModel, *, num_classes: int, pretrained: bool, exact: bool = False
) -> Classifier:
    """Build the classifier; with `pretrained`, start it from the weights that the recipe names.

    Raises:
        ValueError: with `exact`, weights of another number of classes; without, their class layer starts
            fresh.
    """
    section, head = model.backbone, model.head
    backbone = build_backbone(section, task="classification")
    table = TABLES[section.type]
    classifier = Classifier(
        backbone=backbone,
        head=ClassifierHead(
            in_channels=backbone.channels["c5"],
            hidden_channels=hidden_channels(model),
            activation=ACTIVATIONS[table.activation],
            num_classes=num_classes,
            dropout=head.dropout,
        ),
    )
    initialize_classifier(classifier, init=head.init, std=head.init_std)
    if section.padding == "same":
        pad_same(classifier)
    if pretrained and section.weights is not None:
        load_backbone(backbone, section.weights, network=section.type)
    if pretrained and model.weights is not None:
        report = load_classifier(classifier, backbone, model.weights, network=section.type)
        if exact:
            hint = "data.val.images names the folder of its classes"
            refuse_replaced(report, model.weights, num_classes=num_classes, hint=hint)
    return classifier


def hidden_channels(model: ClassifierModel) -> int | None:
    """Count the channels of the hidden layer; None where the network has none.

    Table 3 has 4.0M parameters at width 0.75 of V3-Large, and 2.0M of Small: those with the layer whole, as
    TensorFlow has it with `finegrain_classification_mode`. torchvision lets the width change it.
    """
    features = TABLES[model.backbone.type].features
    if features is None or not model.head.scale_hidden:
        return features
    return make_divisible(features * model.backbone.width)
