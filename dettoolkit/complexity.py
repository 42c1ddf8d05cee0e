"""Parameters and multiply-adds, by the conventions of the paper's tables."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(module: nn.Module, *, norm_affine: bool) -> int:
    """Count weights; `norm_affine` says whether BN's scale and offset count (Table 7 yes, Table 6 no)."""
    norms = (nn.BatchNorm2d, nn.SyncBatchNorm)
    return sum(
        parameter.numel()
        for layer in module.modules()
        if norm_affine or not isinstance(layer, norms)
        for parameter in layer.parameters(recurse=False)
    )


def count_madds(module: nn.Module, input_hw: tuple[int, int]) -> int:
    """Count multiply-adds of convolutions and linear layers for one image, by PyTorch's own counter.

    Biases, BN, activations, pooling and resizing do not count. The module takes images (N, 3, H, W); it stays
    as it is.
    """
    probe = deepcopy(module).eval()
    like = next(probe.parameters(), torch.empty(0))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        probe(like.new_zeros(1, 3, *input_hw))
    return int(counter.get_total_flops()) // 2  # a multiplication and an addition
