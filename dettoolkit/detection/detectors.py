"""Kinds of detectors, by a recipe's model section: default boxes, head, assigner, losses, decoding.

`BUILDERS` lists them: a second head is a file in heads/, a function here, and a line there. No network is
needed to ask for default boxes, so heads are imported when one is built: they load torchvision.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from dettoolkit.config.detection import AnyLoss, Matcher, SSDLiteModel
from dettoolkit.config.recipe import DetectionRecipe
from dettoolkit.detection.anchors import cell_sizes, default_boxes
from dettoolkit.detection.atss import atss
from dettoolkit.detection.box_coding import CODERS
from dettoolkit.detection.losses import (
    BoxLoss,
    detection_losses,
    focal_loss,
    giou,
    multibox_loss,
    quality_focal_loss,
    smooth_l1,
    varifocal_loss,
)
from dettoolkit.detection.matching import Assignment, Objects, Targets, match
from dettoolkit.detection.spec import Activation, Coder, Decoding, Level
from dettoolkit.detection.task_aligned import task_aligned

CODE_SIZE = 4  # numbers per box
CLASS_LOSSES: dict[str, Callable[..., Tensor]] = {
    "focal": focal_loss,
    "multibox": multibox_loss,
    "varifocal": varifocal_loss,
    "quality_focal": quality_focal_loss,
}
BOX_LOSSES: dict[str, BoxLoss] = {"smooth_l1": smooth_l1, "giou": giou}

Outputs = tuple[Tensor, Tensor]
"""Class logits (N, A, S) and boxes (N, A, 4), as the coder codes them."""
Assigner = Callable[[Outputs, Tensor, Objects], Assignment]
"""(outputs, anchors_xyxy (A, 4), objects) -> which default box learns which object."""
Losses = Callable[[Outputs, Tensor, Targets], dict[str, Tensor]]
"""(outputs, anchors_xyxy (A, 4), targets) -> the parts of the loss, which add up to it."""


@dataclass(frozen=True, kw_only=True)
class Detector:
    """What a kind of detector adds to the task, by its section of a recipe.

    Such a section has input_hw, backbone, head.init and head.init_std (of the backbone's kernels too),
    postprocess and weights, as `config.detection.SSDLiteModel`.

    A head has `forward(*features) -> (class logits (N, A, S), boxes (N, A, 4))`, where A runs over levels,
    rows, columns and boxes of a cell; `features`, `num_classes`, `initialize()`; and the buffer
    `anchors_xyxy` (A, 4), not persistent. One without default boxes has one box, the cell, in each cell.
    """

    levels: Callable[[Mapping[str, int]], tuple[Level, ...]]  # default boxes, of the features' strides
    head: Callable[..., nn.Module]  # of the features' `channels`, `levels` and `num_classes`
    coder: Coder  # what the four numbers of a box mean
    background: bool  # whether slot 0 of the classes is the background
    activation: Activation  # turns logits into scores, after training with these losses
    assigner: Callable[[Sequence[Level]], Assigner]  # of the levels; decides which default box learns what
    losses_of: Losses
    torchvision_model: str  # that `model.weights` may name


def ssdlite(model: SSDLiteModel) -> Detector:
    """Describe SSDLite on a backbone's C4 and C5; see `heads/ssdlite.py`."""

    def levels(strides: Mapping[str, int]) -> tuple[Level, ...]:
        grids = level_grids(
            input_hw=model.input_hw,
            strides=(strides["c4"], strides["c5"]),
            extra_levels=len(model.head.extra_channels),
        )
        sizes = cell_sizes(levels=len(grids), **model.anchors.model_dump())
        return tuple(Level(grid_hw=grid, sizes=each) for grid, each in zip(grids, sizes, strict=True))

    def head(*, channels: Mapping[str, int], levels: tuple[Level, ...], num_classes: int) -> nn.Module:
        from dettoolkit.heads.ssdlite import SSDLiteHead

        return SSDLiteHead(
            in_channels=(channels["c4"], channels["c5"]),
            boxes_per_cell=[len(level.sizes) for level in levels],
            anchors_xyxy=default_boxes(levels, input_hw=model.input_hw),
            num_classes=num_classes,
            norm_eps=model.backbone.norm_eps,
            norm_momentum=model.backbone.norm_momentum,
            **model.head.model_dump(),
        )

    activation: Activation = "softmax" if model.loss.type == "multibox" else "sigmoid"
    return Detector(
        levels=levels,
        head=head,
        coder="deltas",
        background=True,
        activation=activation,
        assigner=partial(assigner_of, model.matcher, activation=activation),
        losses_of=losses_of(model.loss),
        torchvision_model="ssdlite320_mobilenet_v3_large",
    )


def assigner_of(matcher: Matcher, levels: Sequence[Level], *, activation: Activation) -> Assigner:
    """Build a recipe's assigner, for the default boxes of some levels."""
    settings = matcher.model_dump(exclude={"type"})
    if matcher.type == "task_aligned":
        return partial(task_aligned, activation=activation, coder="deltas", **settings)
    if matcher.type == "atss":
        return partial(atss, levels=levels, **settings)
    return partial(match, **settings)


def losses_of(loss: AnyLoss) -> Losses:
    """Build a recipe's losses."""
    # TensorFlow divides smooth L1 by the numbers of a box (normalize_loc_loss_by_codesize); torchvision's
    # multibox loss does not.
    by_number = loss.box == "smooth_l1" and loss.type != "multibox"
    return partial(
        detection_losses,
        class_loss=partial(CLASS_LOSSES[loss.type], **loss.model_dump(exclude={"type", "box", "box_weight"})),
        box_loss=BOX_LOSSES[loss.box],
        box_weight=loss.box_weight / CODE_SIZE if by_number else loss.box_weight,
        coder=CODERS["deltas"],
        by_quality=loss.type in ("varifocal", "quality_focal"),
    )


BUILDERS: dict[type, Callable[[Any], Detector]] = {SSDLiteModel: ssdlite}


def detector_of(model: Any) -> Detector:
    """Describe the detector of a recipe's model section."""
    return BUILDERS[type(model)](model)


def level_grids(
    *, input_hw: tuple[int, int], strides: tuple[int, int], extra_levels: int
) -> list[tuple[int, int]]:
    """Return (rows, columns) of each level: the backbone's two, then a halving for each extra layer.

    Symmetric padding makes a stride-s feature ceil(size / s) long.
    """
    height, width = input_hw
    grids = [(-(-height // stride), -(-width // stride)) for stride in strides]
    for _ in range(extra_levels):
        rows, columns = grids[-1]
        grids.append((-(-rows // 2), -(-columns // 2)))
    return grids


def decoding_of(recipe: DetectionRecipe) -> Decoding:
    """Return how the raw outputs of a recipe's detector become detections."""
    detector, evaluation = detector_of(recipe.model), recipe.evaluation
    return Decoding(
        activation=detector.activation,
        background=detector.background,
        coder=detector.coder,
        score_threshold=evaluation.score_threshold,
        max_detections=evaluation.max_detections,
        **recipe.model.postprocess.model_dump(),
    )
