"""Batch normalisation folded into the convolution before it, as every runtime for inference does."""

from __future__ import annotations

import copy
from itertools import pairwise

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fused(network: nn.Module) -> nn.Module:
    """Copy a network for inference with its batch normalisation folded into convolutions.

    Where a Sequential has a convolution and right after it the normalisation of its output, one convolution
    gives the same up to rounding; other normalisation stays.

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
