"""The backbone publishes what it returns; for the same weights, every tapped feature equals torchvision's."""

import itertools
import math

import pytest
import torch
from random_weights import randomize
from torch import nn
from torchvision.models import mobilenet_v3_large, mobilenet_v3_small
from torchvision.models.mobilenetv3 import _mobilenet_v3_conf

from dettoolkit.backbones.blocks import InvertedResidual
from dettoolkit.backbones.mobilenet import MobileNet
from dettoolkit.backbones.tables import TABLES, make_divisible, named_table
from dettoolkit.weights.load import load_weights
from dettoolkit.weights.translate import translate_backbone

NETWORKS = ("mobilenet_v3_large", "mobilenet_v3_small")
BUILDERS = {"mobilenet_v3_large": mobilenet_v3_large, "mobilenet_v3_small": mobilenet_v3_small}
TAILS = ("full", "reduced", "reduced_c4")
WIDTHS = (0.35, 0.75, 1.0, 1.25)
# Where torchvision's `features` hold what heads tap: the row of C4, and the first and last row at stride 8.
C4_ROW = {"mobilenet_v3_large": 13, "mobilenet_v3_small": 9}
LOW_FIRST_ROW = {"mobilenet_v3_large": 4, "mobilenet_v3_small": 2}
LOW_ROW = {"mobilenet_v3_large": 6, "mobilenet_v3_small": 3}


def build(
    network,
    *,
    width=1.0,
    tail="full",
    output_stride=32,
    dilate_c4=False,
    norm_eps=1e-3,
    norm_momentum=0.03,
):
    return MobileNet(
        table=named_table(network, width=width, tail=tail, last_conv="keep", rounding="torchvision"),
        output_stride=output_stride,
        dilate_c4=dilate_c4,
        norm_eps=norm_eps,
        norm_momentum=norm_momentum,
    ).eval()


def random_images(*shape, seed=1):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def taps_of_torchvision(network, features, images):
    """Run torchvision's `features` and catch what our backbone names, by hooks on its modules."""
    caught = {}

    def catch(name):
        def hook(_layer, _inputs, output):
            caught[name] = output.clone()  # torchvision adds the residual in place

        return hook

    low, c4 = features[LOW_ROW[network]], features[C4_ROW[network]]
    hooks = [
        features[LOW_FIRST_ROW[network]].register_forward_hook(catch("low_first")),
        low.block[1].register_forward_hook(catch("low_depthwise")),
        low.register_forward_hook(catch("low")),
        c4.block[0].register_forward_hook(catch("c4")),
        features[-1].register_forward_hook(catch("c5")),
    ]
    with torch.no_grad():
        features(images)
    for hook in hooks:
        hook.remove()
    return caught


def assert_same_taps(ours, theirs):
    assert list(ours) == ["low_first", "low_depthwise", "low", "c4", "c5"]
    assert theirs.keys() == ours.keys()
    for name, expected in theirs.items():
        assert expected.std() > 0.01, f"{name} says nothing"
        torch.testing.assert_close(ours[name], expected, rtol=0, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


# what it publishes


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("output_stride", [16, 32])
def test_channels_and_strides_are_those_of_the_features(network, tail, output_stride):
    for width in WIDTHS:
        backbone = build(network, width=width, tail=tail, output_stride=output_stride)
        assert backbone.channels.keys() == backbone.strides.keys()
        assert backbone.strides == {
            "low_first": 8,
            "low_depthwise": 8,
            "low": 8,
            "c4": 16,
            "c5": output_stride,
        }
        for height, breadth in [(64, 64), (33, 1), (65, 97), (47, 80)]:
            with torch.no_grad():
                features = backbone(random_images(1, 3, height, breadth))
            assert list(features) == list(backbone.channels)
            for name, feature in features.items():
                stride = backbone.strides[name]
                cells = (math.ceil(height / stride), math.ceil(breadth / stride))
                assert feature.shape == (1, backbone.channels[name], *cells), (name, width, height, breadth)


def test_an_empty_batch_passes():
    backbone = build("mobilenet_v3_small")
    features = backbone(torch.zeros(0, 3, 64, 64))
    assert features["c5"].shape == (0, 576, 2, 2)


@pytest.mark.parametrize(("network", "reduced"), itertools.product(NETWORKS, [False, True]))
def test_channels_equal_torchvisions_at_any_width(network, reduced):
    for width in (0.2, *WIDTHS, 1.5):
        rows, _ = _mobilenet_v3_conf(network, width_mult=width, reduced_tail=reduced)
        backbone = build(network, width=width, tail="reduced" if reduced else "full")
        ours = [(b.depthwise[0].in_channels, b.project[0].out_channels) for b in backbone.blocks]
        assert ours == [(row.expanded_channels, row.out_channels) for row in rows]
        assert backbone.stem[0].out_channels == rows[0].input_channels
        assert backbone.channels["c5"] == 6 * rows[-1].out_channels  # lastconv_output_channels


def test_tails_halve_what_the_paper_and_tensorflow_halve():
    def numbers(network, tail):
        backbone = build(network, tail=tail)
        start = C4_ROW[network] - 1
        rows = [
            (b.depthwise[0].out_channels, b.project[0].out_channels)
            for b in list(backbone.blocks)[start - 1 :]
        ]
        return rows, backbone.channels["c5"]

    # The row before C4 comes first and stays whole.
    large = [(672, 112), (672, 160), (960, 160), (960, 160)]
    assert numbers("mobilenet_v3_large", "full") == (large, 960)
    # Table 6, dagger: TensorFlow's V3_LARGE_DETECTION halves outputs, and expansions follow their inputs.
    reduced = [(672, 112), (672, 80), (480, 80), (480, 80)]
    assert numbers("mobilenet_v3_large", "reduced") == (reduced, 480)
    # Table 7, RF2: DeepLab's mobilenet_v3_large_seg has 336, 480, 480.
    assert numbers("mobilenet_v3_large", "reduced_c4") == ([reduced[0], (336, 80), *reduced[2:]], 480)
    small = [(144, 48), (288, 48), (288, 48), (288, 48)]
    assert numbers("mobilenet_v3_small", "reduced") == (small, 288)
    # mobilenet_v3_small_seg: 144, 288, 288.
    assert numbers("mobilenet_v3_small", "reduced_c4") == ([small[0], (144, 48), *small[2:]], 288)


@pytest.mark.parametrize("network", NETWORKS)
def test_norm_settings_reach_every_layer(network):
    backbone = build(network, norm_eps=0.007, norm_momentum=0.3)
    norms = [layer for layer in backbone.modules() if isinstance(layer, nn.BatchNorm2d)]
    convolutions = [layer for layer in backbone.modules() if isinstance(layer, nn.Conv2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(0.007, 0.3)}
    # Every convolution has a BN but the two of each squeeze-and-excite, which have biases instead.
    gates = 2 * sum(row.squeeze for row in TABLES[network].rows)
    assert len(norms) == len(convolutions) - gates
    assert sum(layer.bias is not None for layer in convolutions) == gates


def test_make_divisible_keeps_nine_tenths():
    assert [make_divisible(value) for value in (0.1, 8, 11.9, 12, 20, 22.4)] == [8, 8, 16, 16, 24, 24]
    for value in range(1, 2000):
        rounded = make_divisible(value)
        assert rounded % 8 == 0
        assert rounded >= 8
        assert rounded >= 0.9 * value


# the same numbers as torchvision


@pytest.mark.parametrize(
    ("network", "reduced", "dilated", "width"),
    [
        *itertools.product(NETWORKS, [False, True], [False, True], [1.0]),
        *itertools.product(NETWORKS, [True], [False], [0.35, 0.75, 1.25]),
    ],
)
def test_features_equal_torchvisions(network, reduced, dilated, width):
    reference = randomize(
        BUILDERS[network](
            weights=None, width_mult=width, reduced_tail=reduced, dilated=dilated, num_classes=2
        )
    )
    backbone = build(
        network,
        width=width,
        tail="reduced" if reduced else "full",
        output_stride=16 if dilated else 32,
        dilate_c4=True,  # which does nothing at an output stride of 32
    )
    state = translate_backbone(reference.state_dict(), backbone)
    report = load_weights(backbone, state, source="random", remedy="")
    assert report.replaced == []
    assert all(key.startswith("classifier.") for key in report.surplus)
    images = random_images(2, 3, 97, 130)
    with torch.no_grad():
        ours = backbone(images)
    assert_same_taps(ours, taps_of_torchvision(network, reference.features, images))


@pytest.mark.parametrize("network", NETWORKS)
def test_training_mode_equals_torchvisions_too(network):
    """Batch statistics, their running averages and the gradients, not only inference."""
    norm = lambda channels: nn.BatchNorm2d(channels, eps=1e-3, momentum=0.03)  # noqa: E731
    reference = randomize(BUILDERS[network](weights=None, num_classes=2, norm_layer=norm)).train()
    backbone = build(network).train()
    state = translate_backbone(reference.state_dict(), backbone)
    load_weights(backbone, state, source="random", remedy="")
    images = random_images(4, 3, 64, 64)
    reference.features(images).square().mean().backward()
    backbone(images)["c5"].square().mean().backward()
    theirs = translate_backbone(
        {name: parameter.grad for name, parameter in reference.features.named_parameters("features")},
        backbone,
    )
    for name, parameter in backbone.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[name], rtol=1e-4, atol=1e-5)
    averages = translate_backbone(reference.state_dict(), backbone)
    for name, buffer in backbone.named_buffers():
        torch.testing.assert_close(buffer, averages[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("dilate_c4", [False, True])
def test_dilation_changes_c5_only(network, tail, dilate_c4):
    plain = randomize(build(network, tail=tail, output_stride=32))
    dilated = build(network, tail=tail, output_stride=16, dilate_c4=dilate_c4)
    dilated.load_state_dict(plain.state_dict())
    images = random_images(1, 3, 96, 65)
    with torch.no_grad():
        coarse, fine = plain(images), dilated(images)
    for name in ("low_first", "low_depthwise", "low", "c4"):
        assert torch.equal(coarse[name], fine[name])
    assert coarse["c5"].shape[2:] == (3, 3)
    assert fine["c5"].shape[2:] == fine["c4"].shape[2:] == (6, 5)
    kernels = [block.depthwise[0] for block in dilated.blocks]
    # torchvision dilates from the C4 block on, TensorFlow after it.
    first = C4_ROW[network] if dilate_c4 else C4_ROW[network] + 1
    assert [kernel.dilation[0] for kernel in kernels] == [
        2 if row >= first else 1 for row in range(1, len(kernels) + 1)
    ]


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("tail", TAILS)
def test_tensorflows_dilation_computes_the_coarse_answer_and_those_between(network, tail):
    """Atrous convolution only undoes the stride: every second cell of C5 is the coarse network's.

    Squeeze-and-excite averages over more cells and has to go for that.
    """
    plain, dilated = (build(network, tail=tail, output_stride=stride) for stride in (32, 16))
    for backbone in (plain, dilated):
        for block in backbone.blocks:
            block.squeeze = nn.Identity()
    dilated.load_state_dict(randomize(plain).state_dict())
    images = random_images(1, 3, 96, 160)
    with torch.no_grad():
        coarse, fine = plain(images)["c5"], dilated(images)["c5"]
    rounding = 1e-6 * float(coarse.abs().max())  # convolutions of other sizes may add in another order
    torch.testing.assert_close(fine[:, :, ::2, ::2], coarse, rtol=0, atol=rounding)


@pytest.mark.parametrize(("network", "channels"), [("mobilenet_v3_large", 40), ("mobilenet_v3_small", 24)])
def test_the_first_feature_at_stride_8_is_torchvisions_for_lraspp(network, channels):
    backbone = build(network)
    assert backbone.low_first_row == LOW_FIRST_ROW[network]
    assert backbone.channels["low_first"] == channels
    # torchvision's _lraspp_mobilenetv3: the blocks with stride, the stem and the last layer; the fourth
    # from the end.
    features = BUILDERS[network](weights=None).features
    strided = [number for number, layer in enumerate(features) if getattr(layer, "_is_cn", False)]
    assert [0, *strided, len(features) - 1][-4] == backbone.low_first_row


def test_a_block_names_its_parts_as_torchvision_numbers_them():
    network = "mobilenet_v3_large"
    theirs = BUILDERS[network](weights=None, num_classes=2).features
    ours = build(network)
    for number, block in enumerate(ours.blocks, start=1):
        assert isinstance(block, InvertedResidual)
        parts = block.parts
        assert len(parts) == len(theirs[number].block)
        assert ("squeeze" in parts) == TABLES[network].rows[number - 1].squeeze
    assert ours.blocks[0].parts == ["depthwise", "project"]  # no expansion in the first row


@pytest.mark.parametrize("network", NETWORKS)
def test_every_parameter_gets_a_gradient(network):
    backbone = randomize(build(network, tail="reduced")).train()
    features = backbone(random_images(2, 3, 64, 64))
    features["c5"].square().mean().backward()
    without = [name for name, parameter in backbone.named_parameters() if parameter.grad is None]
    assert without == []
    assert all(parameter.grad.isfinite().all() for parameter in backbone.parameters())
