"""A recipe's segmenter, its loss, its task, and its section of a manifest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import nn

from dettoolkit.backbones.blocks import pad_same
from dettoolkit.backbones.initialize import initialize
from dettoolkit.backbones.mobilenet import MobileNet, build_backbone
from dettoolkit.config import SegmentationRecipe
from dettoolkit.config.segmentation import CrossEntropy, LRASPPModel, RASPPModel
from dettoolkit.datasets.cityscapes_labels import CLASSES
from dettoolkit.datasets.label_classes import LabelClasses
from dettoolkit.heads.fcn import FCNHead
from dettoolkit.heads.lraspp import LRASPPHead
from dettoolkit.heads.raspp import RASPPHead
from dettoolkit.network import Network
from dettoolkit.run import Classes
from dettoolkit.segmentation.losses import Loss, cross_entropy
from dettoolkit.segmentation.region_losses import dice, lovasz_softmax
from dettoolkit.segmentation.spec import SegmentationSection
from dettoolkit.segmentation.task import AUXILIARY, SegmentationTask
from dettoolkit.weights.load import load_pretrained
from dettoolkit.wording import listing

LOW_FEATURES = {"depthwise": "low_depthwise", "output": "low_first"}


def torchvision_model(recipe: SegmentationRecipe) -> str:  # noqa: ARG001
    """Return torchvision's name of the only segmenter whose weights fit one of ours."""
    return "lraspp_mobilenet_v3_large"


def build_network(
    recipe: SegmentationRecipe, *, num_classes: int, pretrained: bool = False, exact: bool = False
) -> Network:
    """Build the network; with `pretrained`, start it from the weights that the recipe names.

    With `exact`, weights of another number of classes are refused; without, their class layers start fresh.
    """
    model, backbone = recipe.model, build_backbone(recipe.model.backbone)
    head = build_head(recipe, backbone, num_classes=num_classes)
    _, init = _layers(model)
    init(backbone)
    head.initialize()
    network = Network(backbone=backbone, heads={"segmentation": head})
    if model.backbone.padding == "same":
        pad_same(network)
    if pretrained:
        hint = "data.classes lists them in the order of the weights" if exact else None
        load_pretrained(network, model, torchvision_model=torchvision_model(recipe), exact=hint)
    return network


def build_head(
    recipe: SegmentationRecipe, backbone: MobileNet, *, num_classes: int
) -> LRASPPHead | RASPPHead:
    """Build a recipe's head on a backbone's features; `initialize` still has to draw its weights."""
    model, head = recipe.model, recipe.model.head
    norm, init = _layers(model)
    shared: dict[str, Any] = {"filters": head.filters, "num_classes": num_classes, "norm": norm, "init": init}
    if not isinstance(model, LRASPPModel):
        return RASPPHead(in_channels=backbone.channels["c5"], **shared)
    return LRASPPHead(
        in_channels={name: backbone.channels[name] for name in (LOW_FEATURES[model.head.low], "c5")},
        in_stride=backbone.strides["c5"],
        pool=model.head.pool,
        gate=model.head.gate,
        gate_bias=model.head.gate_bias,
        align_corners=model.align_corners,
        **shared,
    )


def _layers(
    model: LRASPPModel | RASPPModel,
) -> tuple[Callable[[int], nn.Module], Callable[[nn.Module], None]]:
    """Return what makes a head's normalization of so many channels, and what draws its initial weights."""
    head, backbone = model.head, model.backbone
    eps = head.norm_eps if head.norm_eps is not None else backbone.norm_eps
    momentum = head.norm_momentum if head.norm_momentum is not None else backbone.norm_momentum
    norm = partial(nn.BatchNorm2d, eps=eps, momentum=momentum)
    return norm, partial(initialize, init=head.init, std=head.init_std)


def build_auxiliary(recipe: SegmentationRecipe, network: Network, *, num_classes: int) -> nn.ModuleDict:
    """Build the head that only training has, if the recipe asks for one.

    Its weights come from the recipe's seed; torch's generator stays as it was.
    """
    section = recipe.model.auxiliary
    if section is None:
        return nn.ModuleDict()
    norm, init = _layers(recipe.model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.trainer.seed)
        head = FCNHead(
            feature=section.feature,
            in_channels=cast(MobileNet, network.backbone).channels[section.feature],
            channels=section.channels,
            num_classes=num_classes,
            norm=norm,
            init=init,
        )
        head.initialize()
    return nn.ModuleDict({AUXILIARY: head})


def describe(
    recipe: SegmentationRecipe,
    network: Network,  # noqa: ARG001
    *,
    classes: Classes,
) -> SegmentationSection:
    """Return how a recipe's network is run on images, and the classes in its order."""
    colors = {each.name: each.color for each in recipe.data.classes or CLASSES}
    inference = recipe.evaluation.model_dump(exclude={"figures", "scales"})
    return SegmentationSection(
        class_names=tuple(classes.names),
        class_ids=tuple(classes.ids),
        align_corners=recipe.model.align_corners,
        scales=tuple(recipe.evaluation.scales),
        colors=tuple(colors.get(name) for name in classes.names),
        **inference,
    )


def build_loss(loss: CrossEntropy, names: Sequence[str], *, align_corners: bool) -> Loss:
    """Build the task's loss: a function of logits (N, K, h, w) and labels (N, H, W)."""
    given = loss.class_weights or {}
    if unknown := sorted(set(given) - set(names)):
        raise ValueError(
            f"model.loss.class_weights names {listing(unknown)}, but the classes are {listing(names)}: "
            "correct the names"
        )
    return partial(
        cross_entropy,
        class_weights=torch.tensor([given.get(name, 1.0) for name in names]) if given else None,
        ohem=None if loss.ohem is None else (loss.ohem.threshold, loss.ohem.min_kept),
        align_corners=align_corners,
    )


def build_region_losses(loss: CrossEntropy, *, align_corners: bool) -> dict[str, Loss]:
    """Build the losses of regions that a recipe adds, by name: functions as that of `build_loss`."""
    wanted = {"dice": (loss.dice, dice), "lovasz": (loss.lovasz, lovasz_softmax)}
    return {
        name: partial(function, weight=section.weight, align_corners=align_corners)
        for name, (section, function) in wanted.items()
        if section is not None
    }


def build_task(recipe: SegmentationRecipe, network: Network, classes: LabelClasses) -> SegmentationTask:
    """Compose network, loss, inference and evaluation."""
    model, auxiliary = recipe.model, recipe.model.auxiliary
    return SegmentationTask(
        network=network,
        loss_of=build_loss(model.loss, classes.names, align_corners=model.align_corners),
        region_losses=build_region_losses(model.loss, align_corners=model.align_corners),
        auxiliary_weight=auxiliary.weight if auxiliary is not None else 0.0,
        mean=recipe.data.mean,
        std=recipe.data.std,
        inference=describe(recipe, network, classes=Classes(classes.names, list(classes.label_ids))),
        classes=classes,
        categories=classes.categories,
    )
