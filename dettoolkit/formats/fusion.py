"""A network rewritten for inference; its outputs change by rounding only."""

from __future__ import annotations

import copy
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fused(network: nn.Module) -> nn.Module:
    """Copy a network for inference with its batch normalization folded into convolutions.

    Where a Sequential has a convolution and right after it the normalization of its output, one convolution
    does both; other normalization stays.

    Args:
        network: left as it is.

    Returns:
        the copy, in evaluation mode, without gradients.
    """
    result = copy.deepcopy(network).eval()
    for module in list(result.modules()):
        if isinstance(module, nn.Sequential):
            for (name, convolution), (norm_name, norm) in pairwise(list(module.named_children())):
                if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    setattr(module, name, fuse_conv_bn_eval(convolution, norm))
                    setattr(module, norm_name, nn.Identity())
    return result.eval().requires_grad_(False)


class Pointwise(nn.Module):
    """A 1x1 convolution as the matrix product that it is, for channels that lie together in memory.

    PyTorch's convolution copies its operands first. Converters know convolutions better.

    Args:
        convolution: of kernel 1x1, stride 1, no padding and one group.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.weight = nn.Parameter(convolution.weight.flatten(1), requires_grad=False)
        self.bias = convolution.bias

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H, W), both with channels last in memory."""
        return F.linear(x.permute(0, 2, 3, 1), self.weight, self.bias).permute(0, 3, 1, 2)


def with_products(network: nn.Module) -> nn.Module:
    """Replace a network's plain 1x1 convolutions by matrix products, in place, and give it."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Conv2d) and _is_pointwise(child):
                setattr(module, name, Pointwise(child))
    return network


def _is_pointwise(convolution: nn.Conv2d) -> bool:
    settings = (convolution.kernel_size, convolution.stride, convolution.padding)
    return settings == ((1, 1), (1, 1), (0, 0)) and convolution.groups == 1
