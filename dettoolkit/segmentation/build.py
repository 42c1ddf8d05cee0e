"""Segmentation model and loss from their recipe sections."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dettoolkit.backbones.build import build_backbone, refuse_replaced
from dettoolkit.wording import listing
from dettoolkit.backbones.initialize import initialize
from dettoolkit.backbones.padding import pad_same
from dettoolkit.config.segmentation import CrossEntropy, LRASPPModel, RASPPModel
from dettoolkit.heads.lraspp import LRASPPHead
from dettoolkit.heads.raspp import RASPPHead
from dettoolkit.segmentation.losses import cross_entropy
from dettoolkit.segmentation.model import Segmenter
from dettoolkit.segmentation.task import Losses
from dettoolkit.weights.pretrained import load_backbone, load_segmenter

LOW_FEATURES = {"depthwise": "low_depthwise", "output": "low_first"}


def build_segmenter(
    model: LRASPPModel | RASPPModel, *, num_classes: int, pretrained: bool, exact: bool = False
) -> Segmenter:
    """Build the segmenter; with `pretrained`, start it from the weights that the recipe names.

    Raises:
        ValueError: with `exact`, weights of another number of classes; without, their class
            layers start fresh.
    """
    backbone = build_backbone(model.backbone, task="segmentation")
    head = model.head
    eps = head.norm_eps if head.norm_eps is not None else model.backbone.norm_eps
    momentum = head.norm_momentum if head.norm_momentum is not None else model.backbone.norm_momentum
    low = LOW_FEATURES[model.head.low] if isinstance(model, LRASPPModel) else None
    built: LRASPPHead | RASPPHead
    if isinstance(model, LRASPPModel):
        built = LRASPPHead(
            in_channels=(backbone.channels[LOW_FEATURES[model.head.low]], backbone.channels["c5"]),
            filters=head.filters,
            num_classes=num_classes,
            in_stride=backbone.strides["c5"],
            pool=model.head.pool,
            gate=model.head.gate,
            gate_bias=model.head.gate_bias,
            align_corners=model.align_corners,
            norm_eps=eps,
            norm_momentum=momentum,
        )
    else:
        built = RASPPHead(
            in_channels=backbone.channels["c5"],
            filters=head.filters,
            num_classes=num_classes,
            norm_eps=eps,
            norm_momentum=momentum,
        )
    segmenter = Segmenter(backbone=backbone, head=built, low=low)
    initialize(segmenter, init=head.init, std=head.init_std)
    if model.backbone.padding == "same":
        pad_same(segmenter)
    if pretrained and model.backbone.weights is not None:
        load_backbone(backbone, model.backbone.weights, network=model.backbone.type)
    if pretrained and model.weights is not None:
        report = load_segmenter(segmenter, backbone, model.weights)
        if exact:
            hint = "data.classes lists them in the order of the weights"
            refuse_replaced(report, model.weights, num_classes=num_classes, hint=hint)
    return segmenter


def build_loss(loss: CrossEntropy, names: Sequence[str], *, align_corners: bool) -> Losses:
    """Return the loss function of logits and labels.

    Raises:
        ValueError: a weight for a class that the data set has not.
    """
    weights = None
    if loss.class_weights is not None:
        if unknown := sorted(set(loss.class_weights) - set(names)):
            raise ValueError(
                f"model.loss.class_weights names {listing(unknown)}, but the classes are {listing(names)}: "
                "correct the names"
            )
        weights = torch.tensor([loss.class_weights.get(name, 1.0) for name in names])
    ohem = (loss.ohem.threshold, loss.ohem.min_kept) if loss.ohem is not None else None

    def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
        here = weights.to(logits.device) if weights is not None else None
        return cross_entropy(logits, labels, class_weights=here, ohem=ohem, align_corners=align_corners)

    return loss_of
