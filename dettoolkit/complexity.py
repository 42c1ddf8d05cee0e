"""Parameters and multiply-adds, by the conventions of the paper's tables."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def count_parameters(module: nn.Module, *, norm_affine: bool) -> int:
    """Count weights; `norm_affine` says whether BN's scale and offset count (Table 7 yes, Table 6 no)."""
    norms = (nn.BatchNorm2d, nn.SyncBatchNorm)
    return sum(
        parameter.numel()
        for layer in module.modules()
        if norm_affine or not isinstance(layer, norms)
        for parameter in layer.parameters(recurse=False)
    )


def count_conv_madds(module: nn.Module, input_hw: tuple[int, int]) -> int:
    """Count multiply-adds of the convolutions for one image; biases, BN and activations do not count."""
    total = 0

    def add(layer: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        assert isinstance(layer, nn.Conv2d)  # hooked below on convolutions only
        kernel = layer.kernel_size[0] * layer.kernel_size[1]
        total += output.numel() * kernel * layer.in_channels // layer.groups

    hooks = [layer.register_forward_hook(add) for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    training = module.training
    module.eval()
    parameter = next(module.parameters())
    try:
        with torch.no_grad():
            module(torch.zeros(1, 3, *input_hw, device=parameter.device))
    finally:
        for hook in hooks:
            hook.remove()
        module.train(training)
    return total
