"""SAME padding equals TensorFlow's rule, written out by hand."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dettoolkit.backbones.blocks import SameConv2d, pad_same
from dettoolkit.backbones.mobilenet import MobileNet
from dettoolkit.backbones.tables import named_table


def by_hand(x, conv):
    """Convolve by TensorFlow's rule, an axis at a time, with explicit zeros."""
    pads = []
    for axis in (1, 0):  # width first, as F.pad wants it
        size, kernel, stride = x.shape[axis + 2], conv.kernel_size[axis], conv.stride[axis]
        if size % stride == 0:
            total = max(kernel - stride, 0)
        else:
            total = max(kernel - size % stride, 0)
        pads += [total // 2, total - total // 2]
    return F.conv2d(F.pad(x, pads), conv.weight, conv.bias, conv.stride, 0, 1, conv.groups)


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (10, 7), (1, 1), (2, 3)])
@pytest.mark.parametrize("kernel", [3, 5])
def test_it_is_tensorflows_rule(size, kernel):
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 4, kernel, stride=2, padding=kernel // 2, groups=2)
    same = nn.Sequential(conv)
    pad_same(same)
    x = torch.randn(2, 4, *size)
    out = same(x)
    assert isinstance(conv, SameConv2d)
    assert out.shape[2:] == tuple(-(-side // 2) for side in size)
    torch.testing.assert_close(out, by_hand(x, conv))


def test_odd_sizes_are_padded_alike_and_even_ones_are_not():
    torch.manual_seed(0)
    plain = nn.Conv2d(3, 4, 3, stride=2, padding=1)
    same = nn.Conv2d(3, 4, 3, stride=2, padding=1)
    same.load_state_dict(plain.state_dict())
    pad_same(same)
    odd, even = torch.randn(1, 3, 9, 9), torch.randn(1, 3, 8, 8)
    torch.testing.assert_close(plain(odd), same(odd))
    assert not torch.allclose(plain(even), same(even))


def test_only_convolutions_that_halve_change_and_their_names_stay():
    network = MobileNet(
        table=named_table(
            "mobilenet_v3_small", width=1.0, tail="full", last_conv="keep", rounding="torchvision"
        ),
        output_stride=32,
        dilate_c4=False,
        norm_eps=1e-3,
        norm_momentum=0.01,
    ).eval()
    names = list(network.state_dict())
    pad_same(network)
    changed = [name for name, layer in network.named_modules() if isinstance(layer, SameConv2d)]
    assert changed == ["stem.0", *(f"blocks.{row}.depthwise.0" for row in (0, 1, 3, 8))]
    assert list(network.state_dict()) == names
    features = network(torch.zeros(1, 3, 65, 33))
    assert features["c5"].shape == (1, 576, 3, 2)
    assert network(torch.zeros(0, 3, 64, 64))["c5"].shape == (0, 576, 2, 2)


def test_it_passes_strict_export():
    layer = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1))
    pad_same(layer)
    exported = torch.export.export(layer, (torch.zeros(1, 3, 16, 15),), strict=True)
    x = torch.randn(1, 3, 16, 15)
    torch.testing.assert_close(exported.module()(x), layer(x))
