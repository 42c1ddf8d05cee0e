"""A fully convolutional head on one feature: PSPNet's auxiliary classifier (arXiv 1612.01105, section 3.3).

The 3x3 convolution of torchvision's `FCNHead` is depthwise-separable here, as those of SSDLite are: a plain
one on C4 has eight times the weights, and makes a step of Lite R-ASPP almost half as long again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from torchvision.ops.misc import Conv2dNormActivation


class FCNHead(nn.Module):
    """Predict classes from one feature, by its name: depthwise 3x3, 1x1 to `channels`, 1x1 to classes."""

    def __init__(
        self,
        *,
        feature: str,
        in_channels: int,
        channels: int,
        num_classes: int,
        norm: Callable[[int], nn.Module],
        init: Callable[[nn.Module], None],
    ) -> None:
        super().__init__()
        self.features = (feature,)
        self.num_classes = num_classes
        convolution = partial(Conv2dNormActivation, norm_layer=norm, activation_layer=nn.ReLU)
        self.depthwise = convolution(in_channels, in_channels, 3, groups=in_channels)
        self.project = convolution(in_channels, channels, 1)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        self.init = init

    def initialize(self) -> None:
        """Fill the head's layers with random weights."""
        self.init(self)

    def forward(self, feature: Tensor) -> Tensor:
        """Map a feature (N, C, h, w) to logits (N, K, h, w)."""
        logits: Tensor = self.classifier(self.project(self.depthwise(feature)))
        return logits
