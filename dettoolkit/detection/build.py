"""Detector and its losses from their recipe sections."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from dettoolkit.backbones.build import build_backbone, refuse_replaced
from dettoolkit.backbones.initialize import initialize
from dettoolkit.backbones.padding import pad_same
from dettoolkit.config.detection import FocalLoss, MultiboxLoss, SSDLiteModel
from dettoolkit.detection.anchors import boxes_per_cell, default_boxes
from dettoolkit.detection.losses import focal_loss, multibox_loss
from dettoolkit.detection.model import Detector, level_grids, set_class_bias
from dettoolkit.detection.postprocess import Activation
from dettoolkit.detection.task import Losses
from dettoolkit.heads.ssdlite import SSDLiteHead
from dettoolkit.weights.pretrained import load_backbone, load_ssdlite


def build_detector(
    model: SSDLiteModel, *, num_classes: int, pretrained: bool, exact: bool = False
) -> Detector:
    """Build the detector; with `pretrained`, start it from the weights that the recipe names.

    Raises:
        ValueError: with `exact`, weights of another number of classes; without, their predictors start fresh.
    """
    backbone = build_backbone(model.backbone, task="detection")
    levels = 2 + len(model.head.extra_channels)
    anchors = model.anchors
    cells = boxes_per_cell(
        levels=levels, aspect_ratios=anchors.aspect_ratios, reduce_first_level=anchors.reduce_first_level
    )
    head = SSDLiteHead(
        in_channels=(backbone.channels["c4"], backbone.channels["c5"]),
        extra_channels=model.head.extra_channels,
        boxes_per_cell=cells,
        num_classes=num_classes,
        norm_eps=model.backbone.norm_eps,
        norm_momentum=model.backbone.norm_momentum,
    )
    boxes = default_boxes(input_hw=model.input_hw, **anchor_arguments(model, backbone.strides))
    detector = Detector(backbone=backbone, head=head, anchors_xyxy=boxes)
    # TensorFlow's config overrides the backbone's own initialization too
    # (override_base_feature_extractor_hyperparams).
    initialize(detector, init=model.head.init, std=model.head.init_std)
    # The same config gives the predictors a plain normal (box_predictor: random_normal_initializer).
    for predictors in (head.class_predictors, head.box_predictors):
        initialize(predictors, init="normal", std=model.head.init_std)
    set_class_bias(head, model.head.class_bias)
    if model.backbone.padding == "same":
        pad_same(detector)
    if pretrained and model.backbone.weights is not None:
        load_backbone(backbone, model.backbone.weights, network=model.backbone.type)
    if pretrained and model.weights is not None:
        report = load_ssdlite(detector, backbone, model.weights)
        if exact:
            hint = "data.label_map=ids gives the 91 class slots of TensorFlow and torchvision"
            refuse_replaced(report, model.weights, num_classes=num_classes, hint=hint)
    return detector


def anchor_arguments(model: SSDLiteModel, strides: Mapping[str, int]) -> dict[str, Any]:
    """Return the arguments of `default_boxes` besides the input's size; `strides` are the backbone's."""
    grids = level_grids(
        input_hw=model.input_hw,
        strides=(strides["c4"], strides["c5"]),
        extra_levels=len(model.head.extra_channels),
    )
    return {"grids_hw": grids, **model.anchors.model_dump()}


def activation_of(loss: FocalLoss | MultiboxLoss) -> Activation:
    """Return what turns logits into scores after training with a loss."""
    return "sigmoid" if loss.type == "focal" else "softmax"


def build_losses(loss: FocalLoss | MultiboxLoss) -> Losses:
    """Return the loss function of head outputs and targets."""
    if loss.type == "focal":
        return partial(focal_loss, alpha=loss.alpha, gamma=loss.gamma)
    return partial(multibox_loss, negatives_per_positive=loss.negatives_per_positive)
