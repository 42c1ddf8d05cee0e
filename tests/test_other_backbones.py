"""MobileNetV1, V2 and MnasNet: torchvision's outputs for the same weights, and the rows of their papers."""

import pytest
import torch
from random_weights import randomize
from torchvision import models

from dettoolkit.backbones.mobilenet import MobileNet
from dettoolkit.backbones.tables import TABLES, named_table, reduce_tail, scale_width
from dettoolkit.complexity import count_madds, count_parameters
from dettoolkit.weights.load import load_backbone

THEIRS = [
    ("mobilenet_v2", 1.0, lambda: models.mobilenet_v2()),
    ("mobilenet_v2", 0.35, lambda: models.mobilenet_v2(width_mult=0.35)),
    ("mobilenet_v2", 0.5, lambda: models.mobilenet_v2(width_mult=0.5)),
    ("mobilenet_v2", 1.4, lambda: models.mobilenet_v2(width_mult=1.4)),
    ("mnasnet_b1", 0.5, models.mnasnet0_5),
    ("mnasnet_b1", 0.75, models.mnasnet0_75),
    ("mnasnet_b1", 1.0, models.mnasnet1_0),
    ("mnasnet_b1", 1.3, models.mnasnet1_3),
]


def build(network, *, width=1.0, tail="full", last_conv="keep", rounding="torchvision", output_stride=32):
    return MobileNet(
        table=named_table(network, width=width, tail=tail, last_conv=last_conv, rounding="torchvision"),
        output_stride=output_stride,
        dilate_c4=False,
        norm_eps=1e-5,
        norm_momentum=0.01,
    ).eval()


@pytest.mark.parametrize(("network", "width", "theirs"), THEIRS)
def test_torchvisions_weights_give_torchvisions_features(network, width, theirs, tmp_path):
    theirs = theirs().eval()
    randomize(theirs)
    path = tmp_path / "theirs.pth"
    torch.save(theirs.state_dict(), path)
    ours = build(network, width=width)
    report = load_backbone(ours, str(path), network=network)
    assert not report.replaced
    images = torch.rand(1, 3, 96, 64) * 2 - 1
    with torch.no_grad():
        expected = theirs.features(images) if hasattr(theirs, "features") else theirs.layers(images)
        found = ours(images)["c5"]
    assert expected.std() > 0
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("network", sorted(TABLES))
@pytest.mark.parametrize("output_stride", [16, 32])
@pytest.mark.parametrize("width", [0.35, 1.0])
def test_features_have_the_channels_and_strides_that_are_told(network, output_stride, width):
    backbone = build(network, width=width, output_stride=output_stride)
    with torch.device("meta"):
        features = backbone.to("meta")(torch.zeros(1, 3, 96, 160, device="meta"))
    for name, feature in features.items():
        stride = backbone.strides[name]
        assert feature.shape == (1, backbone.channels[name], 96 // stride, 160 // stride), name


def test_c4_is_the_first_expansion_of_stride_32():
    for name, table in TABLES.items():
        halving = [number for number, row in enumerate(table.rows, start=1) if row.stride == 2]
        low_first, low, c4 = table.taps
        assert halving[-1] == c4, name
        assert [number for number in halving if number <= low][1:] == [low_first], name  # the stem halves too
        assert table.rows[low].stride == 2, name


def test_v2s_rows_are_those_of_its_paper():
    rows = TABLES["mobilenet_v2"].rows
    assert [row.channels for row in rows] == [16, *[24] * 2, *[32] * 3, *[64] * 4, *[96] * 3, *[160] * 3, 320]
    assert [row.expansion for row in rows][:5] == [32, 96, 144, 144, 192]
    assert build("mobilenet_v2").channels["c4"] == 576


def test_a_reduced_tail_of_v2_keeps_its_factors():
    """RF2 halves what the last blocks put out; their expansions stay six times their inputs."""
    table = reduce_tail(TABLES["mobilenet_v2"], halve_c4_expansion=True)
    tail = table.rows[13:]
    assert [row.channels for row in tail] == [80, 80, 80, 160]
    assert [row.expansion for row in tail] == [576, 480, 480, 480]


def test_the_last_convolution_at_small_widths():
    v2 = TABLES["mobilenet_v2"]
    assert scale_width(v2, 0.35, rounding="torchvision", scale_last=False).last_channels == 1280
    assert scale_width(v2, 0.35, rounding="torchvision", scale_last=True).last_channels == 448
    assert scale_width(v2, 1.4, rounding="torchvision", scale_last=False).last_channels == 1792
    assert (
        scale_width(TABLES["mnasnet_a1"], 1.4, rounding="torchvision", scale_last=False).last_channels == 1280
    )
    assert build("mobilenet_v2", last_conv="none").channels["c5"] == 320
    assert build("mobilenet_v1").channels["c5"] == 1024


def test_v1_is_plain_separable_convolutions():
    """1.1 and 569M of the paper's 4.2M and 569M: 1024 x 1001 more are its classifier."""
    backbone = build("mobilenet_v1")
    assert count_madds(backbone, (224, 224)) == pytest.approx(569e6 - 1.024e6, rel=0.002)
    assert count_parameters(backbone, norm_affine=True) + 1025 * 1000 == pytest.approx(4.2e6, rel=0.01)
    assert not any(block.adds_input for block in backbone.blocks)


@pytest.mark.parametrize(("network", "parameters"), [("large", "3.9"), ("small", "2.0")])
def test_minimalistic_networks_have_the_size_that_tensorflow_prints(network, parameters):
    """README of TensorFlow's slim/nets/mobilenet: 3.9M and 2.0M parameters, of 1001 classes."""
    name = f"mobilenet_v3_{network}_minimalistic"
    backbone = build(name)
    features = TABLES[name].features
    weights = backbone.channels["c5"] * features + features * 1001
    total = count_parameters(backbone, norm_affine=True) + weights + features + 1001
    assert f"{total / 1e6:.1f}" == parameters
    kinds = {type(layer).__name__ for layer in backbone.modules()}
    assert not kinds & {"Hardswish", "SqueezeExcite"}
    assert {row.kernel for row in TABLES[name].rows} == {3}
    if network == "large":  # Small's 65M there is as far from the paper's network as its 66M for V3-Small
        assert count_madds(backbone, (224, 224)) + weights == pytest.approx(209e6, rel=0.01)


def test_torchvisions_names_are_those_of_its_networks():
    with pytest.raises(
        ValueError, match="torchvision has no mnasnet_a1, so there is no 'torchvision:DEFAULT'"
    ):
        load_backbone(build("mnasnet_a1"), "torchvision:DEFAULT", network="mnasnet_a1")
