"""Lite R-ASPP (Searching for MobileNetV3, arXiv 1905.02244, section 6.4 and figure 10).

Details that the paper leaves open are those of TensorFlow's DeepLab (`research/deeplab/model.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops.misc import Conv2dNormActivation

from dettoolkit.backbones.blocks import GATES
from dettoolkit.backbones.tables import Gate

# Kernel and (vertical, horizontal) stride of the fixed pooling, in cells of C5, by C5's stride. At 16 the
# paper's (figure 10); at 32 those of TensorFlow's released models: image_pooling_crop_size 769, so
# (769 - 1) / 32 + 1 cells, and image_pooling_stride 4,5.
WINDOWS = {16: (49, (16, 20)), 32: (25, (4, 5))}

# Letters: N images, F filters, K classes, (H, W) the size of the low-level feature, (h, w) that of C5.


class LRASPPHead(nn.Module):
    """Predict classes from C5, gated by its averages, plus classes from a low-level feature at stride 8.

    `in_channels` are those of the low-level feature and of C5, in this order, by name; `filters` the channels
    between C5 and the classes. `pool` is what the gate averages over. fixed: windows of the paper's size at
    `in_stride`, C5's, clipped to it, so that it is global on small images. global: all of C5. The weights are
    the same. `align_corners` True is TensorFlow's way to resize features.
    """

    class_layers = ("classifier.*", "low_classifier.*")
    torchvision_names = (
        ("classifier.cbr.", "branch."),
        ("classifier.scale.1.", "gate."),
        ("classifier.low_classifier.", "low_classifier."),
        ("classifier.high_classifier.", "classifier."),
    )

    def __init__(
        self,
        *,
        in_channels: Mapping[str, int],
        filters: int,
        num_classes: int,
        in_stride: int,
        pool: Literal["fixed", "global"],
        gate: Gate,
        gate_bias: bool,
        align_corners: bool,
        norm: Callable[[int], nn.Module],
        init: Callable[[nn.Module], None],
    ) -> None:
        super().__init__()
        self.features = tuple(in_channels)
        self.feature_layers = dict(
            zip(self.features, (("low_classifier",), ("branch.0", "gate")), strict=True)
        )
        self.num_classes = num_classes
        low_channels, channels = in_channels.values()
        self.branch = Conv2dNormActivation(channels, filters, 1, norm_layer=norm, activation_layer=nn.ReLU)
        self.gate = nn.Conv2d(channels, filters, 1, bias=gate_bias)
        self.gate_activation = GATES[gate]()
        self.classifier = nn.Conv2d(filters, num_classes, 1)
        self.low_classifier = nn.Conv2d(low_channels, num_classes, 1)
        self.window, self.window_stride = WINDOWS[in_stride]
        self.pool = pool
        self.align_corners = align_corners
        self.init = init

    def initialize(self) -> None:
        """Fill the head's layers with random weights."""
        self.init(self)

    def forward(self, low: Tensor, c5: Tensor) -> Tensor:
        """Map the low-level feature (N, C, H, W) and C5 (N, C, h, w) to logits (N, K, H, W)."""
        if self.pool == "global":
            average = c5.mean((2, 3), keepdim=True)  # a plain reduction, as in SqueezeExcite
        else:
            kernel = [min(self.window, side) for side in c5.shape[2:]]
            average = F.avg_pool2d(c5, kernel, self.window_stride)
        gate = self.gate_activation(self.gate(average))  # (N, F, windows down, windows across)
        if gate.shape[2:] != (1, 1):  # a single window's is broadcast
            gate = self._resize(gate, c5)
        gated = self._resize(self.branch(c5) * gate, low)  # (N, F, H, W)
        # The classes come after the resize: the other order gives the same logits, from fewer multiply-adds
        # than Table 7 has.
        logits: Tensor = self.classifier(gated) + self.low_classifier(low)
        return logits

    def _resize(self, x: Tensor, like: Tensor) -> Tensor:
        return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=self.align_corners)
