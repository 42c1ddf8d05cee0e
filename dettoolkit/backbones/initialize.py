"""Initial weights of a network."""

from __future__ import annotations

from typing import Literal

from torch import nn

LINEAR_STD = 0.01  # of linear layers with init kaiming: torchvision/models/mobilenetv3.py


def initialize(
    module: nn.Module, *, init: Literal["truncated_normal", "normal", "kaiming"], std: float
) -> None:
    """Draw the kernels of convolutions and linear layers, zero their biases; BN starts as the identity.

    truncated_normal is TensorFlow's N(0, std), cut off at two standard deviations, for every layer alike
    (slim's `mobilenet.training_scope`). normal is not cut off: torchvision's SSDLite. kaiming is that of
    torchvision's classifiers: by the fan-out, and N(0, 0.01) for linear layers.
    """
    for layer in module.modules():
        if not isinstance(layer, nn.Conv2d | nn.Linear):
            continue
        if init == "truncated_normal":
            nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
        elif init == "normal":
            nn.init.normal_(layer.weight, std=std)
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=LINEAR_STD)
        else:
            nn.init.kaiming_normal_(layer.weight, mode="fan_out")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
