"""Initial weights of a network."""

from __future__ import annotations

from typing import Literal

from torch import nn


def initialise(module: nn.Module, *, init: Literal["truncated_normal", "normal"], std: float) -> None:
    """Draw convolution kernels from N(0, std), zero their biases; BN starts as the identity.

    TensorFlow cuts the normal off at two standard deviations; torchvision's SSDLite does not.
    """
    for layer in module.modules():
        if not isinstance(layer, nn.Conv2d):
            continue
        if init == "truncated_normal":
            nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
        else:
            nn.init.normal_(layer.weight, std=std)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
