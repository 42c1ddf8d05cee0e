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
    """Count multiply-adds of the convolutions for one image; biases, BN and activations do not count.

    Args:
        module: takes images (N, 3, H, W); its modes and BN statistics stay as they are.
        input_hw: height and width of the image.
    """
    total = 0

    def add(layer: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Conv2d):
            kernel = layer.kernel_size[0] * layer.kernel_size[1]
            total += output.numel() * kernel * layer.in_channels // layer.groups

    hooks = [layer.register_forward_hook(add) for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    modes = [(layer, layer.training) for layer in module.modules()]  # frozen layers may differ from the rest
    module.eval()
    like = next(module.parameters(), torch.empty(0))
    try:
        with torch.no_grad():
            module(like.new_zeros(1, 3, *input_hw))
    finally:
        for hook in hooks:
            hook.remove()
        for layer, training in modes:
            layer.training = training
    return total
