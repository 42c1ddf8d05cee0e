"""From a recipe's model section to a detector, its assigner and its losses.

`BUILDERS` lists the kinds of detectors: a second head is a file in heads/, a builder, and a line there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol, cast

from torch import Tensor, nn

from dettoolkit.backbones.build import build_backbone
from dettoolkit.backbones.initialize import initialize
from dettoolkit.backbones.mobilenet import MobileNet
from dettoolkit.backbones.padding import pad_same
from dettoolkit.config.detection import SSDLiteModel
from dettoolkit.config.recipe import DetectionRecipe
from dettoolkit.detection.anchors import cell_sizes, default_boxes
from dettoolkit.detection.losses import focal_loss, multibox_loss
from dettoolkit.detection.matching import Objects, Targets, match
from dettoolkit.detection.spec import Activation, Coder, Decoding, Level
from dettoolkit.heads.ssdlite import SSDLiteHead
from dettoolkit.network import Network

Outputs = tuple[Tensor, Tensor]
"""Class logits (N, A, S) and boxes (N, A, 4), as the coder codes them."""
Assigner = Callable[[Outputs, Tensor, Objects], Tensor]
"""(outputs, anchors_xyxy (A, 4), objects) -> the object of each default box, int64 (N, A); -1 for none."""
Losses = Callable[[Outputs, Targets], dict[str, Tensor]]
"""(outputs, targets) -> the parts of the loss, which add up to it."""


class HeadBuilder(Protocol):
    """What a kind of detector adds to the task. `model` is always its own section of the recipe.

    Such a section has input_hw, backbone, head.init and head.init_std (of the backbone's kernels too),
    postprocess and weights, as `config.detection.SSDLiteModel`.

    A head has `forward(*features) -> (class logits (N, A, S), boxes (N, A, 4))`, where A runs over levels,
    rows, columns and boxes of a cell; `features`, `num_classes`, `initialize()`; and the buffer
    `anchors_xyxy` (A, 4), not persistent: a head without default boxes has one box, the cell, in each cell.

    Attributes:
        coder: what the four numbers of a box mean.
        background: whether slot 0 of the classes is the background.
        torchvision_model: the network of torchvision's that `model.weights` may name.
    """

    coder: Coder
    background: bool
    torchvision_model: str

    def levels(self, model: Any, strides: Mapping[str, int]) -> tuple[Level, ...]:
        """Return the default boxes; `strides` are those of the backbone's features."""

    def head(
        self, model: Any, *, channels: Mapping[str, int], levels: tuple[Level, ...], num_classes: int
    ) -> nn.Module:
        """Build the head; `channels` are those of the backbone's features."""

    def assigner(self, model: Any) -> Assigner:
        """Return what decides which default box learns which object."""

    def losses(self, model: Any) -> Losses:
        """Return the losses."""

    def activation(self, model: Any) -> Activation:
        """Return what turns logits into scores, after training with these losses."""


class SSDLite:
    """SSDLite on a backbone's C4 and C5; see `heads/ssdlite.py`."""

    coder: Coder = "deltas"
    background = True
    torchvision_model = "ssdlite320_mobilenet_v3_large"

    def levels(self, model: SSDLiteModel, strides: Mapping[str, int]) -> tuple[Level, ...]:
        """Return the default boxes of C4, C5 and each extra layer."""
        grids = level_grids(
            input_hw=model.input_hw,
            strides=(strides["c4"], strides["c5"]),
            extra_levels=len(model.head.extra_channels),
        )
        sizes = cell_sizes(levels=len(grids), **model.anchors.model_dump())
        return tuple(Level(grid_hw=grid, sizes=each) for grid, each in zip(grids, sizes, strict=True))

    def head(
        self, model: SSDLiteModel, *, channels: Mapping[str, int], levels: tuple[Level, ...], num_classes: int
    ) -> SSDLiteHead:
        """Build the head."""
        return SSDLiteHead(
            in_channels=(channels["c4"], channels["c5"]),
            boxes_per_cell=[len(level.sizes) for level in levels],
            anchors_xyxy=default_boxes(levels, input_hw=model.input_hw),
            num_classes=num_classes,
            norm_eps=model.backbone.norm_eps,
            norm_momentum=model.backbone.norm_momentum,
            **model.head.model_dump(),
        )

    def assigner(self, model: SSDLiteModel) -> Assigner:
        """Return SSD's matching by IoU."""
        return partial(match, **model.matcher.model_dump())

    def losses(self, model: SSDLiteModel) -> Losses:
        """Return the focal or the multibox loss."""
        settings = model.loss.model_dump(exclude={"type"})
        return partial(focal_loss if model.loss.type == "focal" else multibox_loss, **settings)

    def activation(self, model: SSDLiteModel) -> Activation:
        """Return the sigmoid after focal loss, softmax after multibox loss."""
        return "sigmoid" if model.loss.type == "focal" else "softmax"


BUILDERS: dict[type, HeadBuilder] = {SSDLiteModel: SSDLite()}


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


def levels_of(model: Any, builder: HeadBuilder, backbone: nn.Module) -> tuple[Level, ...]:
    """Return the default boxes of a detector on a backbone."""
    return builder.levels(model, cast(MobileNet, backbone).strides)


def decoding_of(recipe: DetectionRecipe, builder: HeadBuilder) -> Decoding:
    """Return how the raw outputs of a recipe's detector become detections."""
    model, evaluation = recipe.model, recipe.evaluation
    return Decoding(
        activation=builder.activation(model),
        background=builder.background,
        coder=builder.coder,
        score_threshold=evaluation.score_threshold,
        nms_iou=model.postprocess.nms_iou,
        candidates_per_class=model.postprocess.candidates_per_class,
        max_detections=evaluation.max_detections,
    )


def build_network(model: Any, builder: HeadBuilder, *, num_classes: int) -> Network:
    """Build a detector with random weights."""
    backbone = build_backbone(model.backbone)
    levels = levels_of(model, builder, backbone)
    head = builder.head(model, channels=backbone.channels, levels=levels, num_classes=num_classes)
    network = Network(backbone=backbone, heads={"detection": head})
    # TensorFlow's config overrides the backbone's own initialization too
    # (override_base_feature_extractor_hyperparams).
    initialize(backbone, init=model.head.init, std=model.head.init_std)
    network.heads["detection"].initialize()  # type: ignore[operator]
    if model.backbone.padding == "same":
        pad_same(network)
    return network
