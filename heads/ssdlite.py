"""SSDLite's head: extra layers and depthwise-separable predictors.

MobileNetV2 (arXiv 1801.04381, section 6.2) introduced SSDLite; Searching for MobileNetV3 (section 6.3) puts
its first layer on C4, its second on C5. Layer sizes and ReLU6 as in TensorFlow's
`ssd_mobilenet_v3_feature_extractor.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torchvision.ops.misc import Conv2dNormActivation

from dettoolkit.backbones.initialize import initialize

Norm = Callable[[int], nn.Module]

# Letters: N images, A default boxes, K classes, S = K + 1 class slots, B boxes per cell, C channels.


def _extra_layer(in_channels: int, out_channels: int, norm: Norm) -> nn.Sequential:
    """Halve the size: 1x1 to half the channels, depthwise 3x3 of stride 2, 1x1."""
    middle = out_channels // 2
    convolution = partial(Conv2dNormActivation, norm_layer=norm, activation_layer=nn.ReLU6)
    return nn.Sequential(
        convolution(in_channels, middle, 1),
        convolution(middle, middle, 3, stride=2, groups=middle),
        convolution(middle, out_channels, 1),
    )


def _predictor(channels: int, out_channels: int, norm: Norm) -> nn.Sequential:
    """Predict by a depthwise 3x3 and a plain 1x1 with bias."""
    depthwise = Conv2dNormActivation(
        channels, channels, 3, groups=channels, norm_layer=norm, activation_layer=nn.ReLU6
    )
    return nn.Sequential(depthwise, nn.Conv2d(channels, out_channels, 1))


def _predict(predictors: nn.ModuleList, levels: Sequence[Tensor], values: int) -> list[Tensor]:
    """Map each level (N, C, H, W) to (N, H * W * B, values): row, column, box of the cell."""
    boxes = []
    for predictor, level in zip(predictors, levels, strict=True):
        raw = predictor(level)  # (N, B * values, H, W)
        n, _, h, w = raw.shape
        count = raw.shape[1] // values
        split = raw.view(n, count, values, h, w).permute(0, 3, 4, 1, 2)  # (N, H, W, B, values)
        boxes.append(split.reshape(n, h * w * count, values))
    return boxes


class SSDLiteHead(nn.Module):
    """Predict class logits and box deltas for the default boxes of all levels.

    The levels are C4, C5 (`in_channels`) and the extra layers (`extra_channels`), with `boxes_per_cell` each;
    `anchors_xyxy` are float32 (A, 4) pixels of the input. Slot 0 of the logits is the background, not among
    `num_classes`. `init` is the distribution of the extra layers' initial kernels; the predictors' is normal.
    """

    features = ("c4", "c5")
    class_layers = ("class_predictors.*.1.*",)
    feature_layers: ClassVar[dict[str, tuple[str, ...]]] = {
        "c4": ("class_predictors.0.*", "box_predictors.0.*"),
        "c5": ("class_predictors.1.*", "box_predictors.1.*", "extras.0.0.0"),
    }
    torchvision_names = (
        ("backbone.extra.", "extras."),
        ("head.classification_head.module_list.", "class_predictors."),
        ("head.regression_head.module_list.", "box_predictors."),
    )
    anchors_xyxy: Tensor

    def __init__(
        self,
        *,
        in_channels: tuple[int, int],
        extra_channels: Sequence[int],
        boxes_per_cell: Sequence[int],
        anchors_xyxy: Tensor,
        num_classes: int,
        init: Literal["truncated_normal", "normal"],
        init_std: float,
        class_bias: float,
        norm_eps: float,
        norm_momentum: float,
    ) -> None:
        super().__init__()
        levels = [*in_channels, *extra_channels]
        if len(boxes_per_cell) != len(levels):
            raise ValueError(
                f"boxes_per_cell needs {len(levels)} entries (C4, C5 and {len(extra_channels)} extra "
                f"layers), got {len(boxes_per_cell)}: {list(boxes_per_cell)}"
            )
        norm = partial(nn.BatchNorm2d, eps=norm_eps, momentum=norm_momentum)
        self.num_classes = num_classes
        self.slots = num_classes + 1
        self.init, self.init_std, self.class_bias = init, init_std, class_bias
        # Computed from the recipe, so not part of the weights.
        self.register_buffer("anchors_xyxy", anchors_xyxy, persistent=False)
        self.extras = nn.ModuleList(
            _extra_layer(before, after, norm)
            for before, after in zip(levels[1:-1], extra_channels, strict=True)
        )
        self.class_predictors, self.box_predictors = (
            nn.ModuleList(
                _predictor(channels, boxes * values, norm)
                for channels, boxes in zip(levels, boxes_per_cell, strict=True)
            )
            for values in (self.slots, 4)
        )

    def initialize(self) -> None:
        """Fill the layers with random weights, as TensorFlow's and torchvision's recipes do."""
        initialize(self.extras, init=self.init, std=self.init_std)
        # TensorFlow's config gives the predictors a plain normal (box_predictor: random_normal_initializer).
        for predictors in (self.class_predictors, self.box_predictors):
            initialize(predictors, init="normal", std=self.init_std)
        for predictor in self.class_predictors:
            nn.init.constant_(predictor[1].bias, self.class_bias)  # type: ignore[index]

    def forward(self, c4: Tensor, c5: Tensor) -> tuple[Tensor, Tensor]:
        """Map C4 (N, C, H, W) and C5 to class logits (N, A, S) and box deltas (N, A, 4).

        A runs over levels, rows, columns, boxes of a cell; deltas are (dx, dy, dw, dh) of the coder in
        `detection/box_coding.py`.
        """
        levels = [c4, c5]
        for extra in self.extras:
            levels.append(extra(levels[-1]))
        logits = _predict(self.class_predictors, levels, self.slots)
        deltas = _predict(self.box_predictors, levels, 4)
        return torch.cat(logits, dim=1), torch.cat(deltas, dim=1)
