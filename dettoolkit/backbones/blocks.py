"""Building blocks of MobileNetV3 (arXiv 1905.02244, sections 3, 5.2 and 5.3)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops.misc import Conv2dNormActivation

from dettoolkit.backbones.tables import Activation, Bneck, Gate

Norm = Callable[[int], nn.Module]

ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "hardswish": nn.Hardswish,
}
GATES: dict[Gate, type[nn.Module]] = {"hard_sigmoid": nn.Hardsigmoid, "sigmoid": nn.Sigmoid}


class SqueezeExcite(nn.Module):
    """Scale channels by a gate computed from their means.

    The mean is a plain reduction rather than adaptive pooling, which several converters lack.
    """

    def __init__(self, channels: int, *, squeezed: int, gate: Gate) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.relu = nn.ReLU(inplace=True)
        self.gate = GATES[gate]()

    def forward(self, x: Tensor) -> Tensor:
        """Gate `x` (N, C, H, W) by (N, C, 1, 1) factors in [0, 1]; the shape stays."""
        mean = x.mean((2, 3), keepdim=True)  # (N, C, 1, 1)
        gate: Tensor = self.gate(self.fc2(self.relu(self.fc1(mean))))
        return gate * x


class InvertedResidual(nn.Module):
    """Expand by 1x1, filter depthwise, squeeze and excite, project by a linear 1x1; add the input if it fits.

    No expansion convolution where the expansion equals the input (row 1 of both tables). A fused row expands
    by the convolution that filters: of the row's kernel, without a depthwise one after it. `stride` is the
    row's own, or 1 where the output stride ends the halving; `squeezed` are the channels between squeeze and
    excitation, whose activation is `gate`.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        row: Bneck,
        stride: int,
        dilation: int,
        squeezed: int,
        gate: Gate,
        norm: Norm,
    ) -> None:
        super().__init__()
        activation = ACTIVATIONS[row.activation]
        self.adds_input = row.adds_input(in_channels)
        convolution = partial(Conv2dNormActivation, norm_layer=norm, activation_layer=activation)
        filtering = partial(
            convolution, out_channels=row.expansion, kernel_size=row.kernel, stride=stride, dilation=dilation
        )
        self.expand: nn.Module = nn.Identity()
        self.depthwise: nn.Module = nn.Identity()
        if row.fused:
            self.expand = filtering(in_channels)
        else:
            if row.expansion != in_channels:
                self.expand = convolution(in_channels, row.expansion, 1)
            self.depthwise = filtering(row.expansion, groups=row.expansion)
        self.squeeze = (
            SqueezeExcite(row.expansion, squeezed=squeezed, gate=gate) if row.squeeze else nn.Identity()
        )
        self.project = Conv2dNormActivation(
            row.expansion,
            row.channels,
            1,
            norm_layer=norm,
            activation_layer=None if row.linear else activation,
        )

    @property
    def parts(self) -> list[str]:
        """Return the names of the modules that exist, in order; torchvision numbers them so."""
        return [name for name, part in self.named_children() if not isinstance(part, nn.Identity)]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map (N, C_in, H, W) to the expansion, the depthwise output and the block's output.

        The expansion has the input's size; that of a fused row is the depthwise output too, and has its.
        """
        expansion = self.expand(x)
        depthwise = self.depthwise(expansion)  # after BN and activation, before SE: where DeepLab taps
        output = self.project(self.squeeze(depthwise))
        return expansion, depthwise, output + x if self.adds_input else output


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
