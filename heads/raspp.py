"""R-ASPP, the reduced atrous spatial pyramid pooling of MobileNetV2 (arXiv 1801.04381, section 6.3).

Of DeepLabv3's pyramid (arXiv 1706.05587) two branches are left: the 1x1 convolution and the image's average.
Layers as in TensorFlow's DeepLab (`research/deeplab/model.py`) without atrous rates.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torchvision.ops.misc import Conv2dNormActivation


class RASPPHead(nn.Module):
    """Predict classes from C5 and its average over the image; each branch makes `filters` channels."""

    features = ("c5",)
    class_layers = ("classifier.*",)
    feature_layers: ClassVar[dict[str, tuple[str, ...]]] = {"c5": ("branch.0", "pooled.0")}

    def __init__(
        self,
        *,
        in_channels: int,
        filters: int,
        num_classes: int,
        norm: Callable[[int], nn.Module],
        init: Callable[[nn.Module], None],
    ) -> None:
        super().__init__()
        convolution = partial(Conv2dNormActivation, kernel_size=1, norm_layer=norm, activation_layer=nn.ReLU)
        self.branch = convolution(in_channels, filters)
        self.pooled = convolution(in_channels, filters)
        self.project = convolution(2 * filters, filters)
        self.classifier = nn.Conv2d(filters, num_classes, 1)
        self.num_classes = num_classes
        self.init = init

    def initialize(self) -> None:
        """Fill the head's layers with random weights."""
        self.init(self)

    def forward(self, c5: Tensor) -> Tensor:
        """Map C5 (N, C, h, w) to logits (N, K, h, w)."""
        pooled = self.pooled(c5.mean((2, 3), keepdim=True))  # (N, F, 1, 1); bilinear keeps it constant
        both = torch.cat([self.branch(c5), pooled.expand(-1, -1, *c5.shape[2:])], dim=1)  # (N, 2F, h, w)
        logits: Tensor = self.classifier(self.project(both))
        return logits
