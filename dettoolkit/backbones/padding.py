"""TensorFlow's SAME padding, for weights that were trained with it."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow's SAME: ceil(size / stride) outputs, an odd pixel right and below.

    With stride 1 and an odd kernel that is symmetric padding. With stride 2 it depends on the size: of a 3x3
    kernel on an even one, all padding is right and below, where symmetric padding needs it left and above.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C_out, ceil(H / stride), ceil(W / stride))."""
        height, width = (
            _padding(x.shape[axis + 2], self.kernel_size[axis], self.stride[axis], self.dilation[axis])
            for axis in (0, 1)
        )
        return F.conv2d(
            F.pad(x, (*width, *height)), self.weight, self.bias, self.stride, 0, self.dilation, self.groups
        )


def _padding(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """Return the pixels before and after (tensorflow.org/api_docs/python/tf/nn, notes on padding)."""
    total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


def pad_same(network: nn.Module) -> None:
    """Pad every convolution that halves the size as TensorFlow's SAME; weights and their names stay."""
    for layer in network.modules():
        if type(layer) is nn.Conv2d and max(layer.stride) > 1 and max(layer.kernel_size) > 1:
            layer.__class__ = SameConv2d
