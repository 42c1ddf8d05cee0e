"""Segmenters: torchvision's numbers for its weights, the paper's sizes, the heads by hand, export."""

import itertools
import math
from functools import partial

import cv2
import pytest
import torch
from random_weights import randomize
from torch import nn
from torch.nn import functional as F
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

from dettoolkit.backbones.initialize import initialize
from dettoolkit.backbones.mobilenet import MobileNet
from dettoolkit.backbones.tables import named_table
from dettoolkit.complexity import count_madds, count_parameters
from dettoolkit.heads.lraspp import LRASPPHead
from dettoolkit.heads.raspp import RASPPHead
from dettoolkit.network import Network
from dettoolkit.weights.load import load_network
from dettoolkit.weights.translate import translate_network

LARGE, SMALL = "mobilenet_v3_large", "mobilenet_v3_small"
PAPER = {"pool": "fixed", "gate": "hard_sigmoid", "gate_bias": True, "align_corners": False}
INIT = partial(initialize, init="truncated_normal", std=0.09)
TORCHVISION = {"pool": "global", "gate": "sigmoid", "gate_bias": False, "align_corners": False}


def backbone_of(network=SMALL, *, tail="reduced_c4", output_stride=16, dilate_c4=False, width=1.0):
    return MobileNet(
        table=named_table(network, width=width, tail=tail, last_conv="keep", rounding="torchvision"),
        output_stride=output_stride,
        dilate_c4=dilate_c4,
        norm_eps=1e-3,
        norm_momentum=0.01,
    )


def lraspp_of(backbone, *, low="low_depthwise", filters=128, num_classes=19, norm=(1e-3, 0.01), **changes):
    head = LRASPPHead(
        in_channels={name: backbone.channels[name] for name in (low, "c5")},
        filters=filters,
        num_classes=num_classes,
        in_stride=backbone.strides["c5"],
        norm=norm_of(*norm),
        init=INIT,
        **(PAPER | changes),
    )
    return Network(backbone=backbone, heads={"segmentation": head}).eval()


def norm_of(eps, momentum):
    return partial(nn.BatchNorm2d, eps=eps, momentum=momentum)


def head_in(segmenter):
    return segmenter.heads["segmentation"]


def raspp_of(backbone, *, filters=256, num_classes=19):
    head = RASPPHead(
        in_channels=backbone.channels["c5"],
        filters=filters,
        num_classes=num_classes,
        norm=norm_of(1e-3, 0.01),
        init=INIT,
    )
    return Network(backbone=backbone, heads={"segmentation": head}).eval()


def torchvisions_variant(num_classes):
    """Build what torchvision's weights fit; its head has PyTorch's default BN, other than its backbone."""
    backbone = backbone_of(LARGE, tail="full", dilate_c4=True)
    return lraspp_of(backbone, low="low_first", num_classes=num_classes, norm=(1e-5, 0.1), **TORCHVISION)


def load(segmenter, path):
    return load_network(segmenter, str(path), torchvision_model="lraspp_mobilenet_v3_large")


def uniform(*shape, seed=1):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


# torchvision's lraspp_mobilenet_v3_large as a whole


@pytest.fixture(scope="module")
def theirs():
    return randomize(lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=21), seed=3)


@pytest.fixture(scope="module")
def ours(theirs, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "lraspp.pth"
    torch.save(theirs.state_dict(), path)
    segmenter = torchvisions_variant(21)
    load(segmenter, path)
    return segmenter


def full_size(segmenter, images):
    """Return logits of a segmenter of ours at the images' own size, as torchvision's network does."""
    with torch.no_grad():
        return F.interpolate(segmenter(images), images.shape[2:], mode="bilinear", align_corners=False)


@pytest.mark.parametrize("hw", [(64, 64), (97, 130), (33, 1), (1, 1), (225, 321), (360, 480), (513, 1025)])
def test_outputs_equal_torchvisions_at_full_size(ours, theirs, hw):
    images = uniform(2 if max(hw) < 200 else 1, 3, *hw)
    with torch.no_grad():
        expected = theirs(images)["out"]
    assert expected.std() > 0.1
    torch.testing.assert_close(full_size(ours, images), expected, rtol=0, atol=1e-4)


def test_training_mode_equals_torchvisions_too():
    """Batch statistics, their running averages and the gradients, not only inference."""
    reference = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=5)
    randomize(reference).train()
    segmenter = torchvisions_variant(5).train()
    segmenter.load_state_dict(translate_network(reference.state_dict(), segmenter))
    images = uniform(4, 3, 96, 65)
    reference(images)["out"].square().mean().backward()
    F.interpolate(segmenter(images), (96, 65), mode="bilinear").square().mean().backward()
    gradients = {name: parameter.grad for name, parameter in reference.named_parameters()}
    for name, gradient in translate_network(gradients, segmenter).items():
        ours = segmenter.get_parameter(name).grad
        torch.testing.assert_close(ours, gradient, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    averages = translate_network(dict(reference.named_buffers()), segmenter)
    for name, average in averages.items():
        torch.testing.assert_close(segmenter.get_buffer(name), average, rtol=1e-5, atol=1e-6)


def photos(shared_data):
    """Return real images by name, normalized as ImageNet's: driving frames, and photos of several sizes."""
    frames = sorted((shared_data / "camvid_cityscapes/leftImg8bit/test").rglob("*.jpg"))[::80]
    others = sorted((shared_data / "coco256/val2017").glob("*.jpg"))[::40]
    assert len(frames) >= 3
    assert len(others) >= 3
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    for path in (*frames, *others):
        pixels = torch.from_numpy(cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)).float() / 255
        yield path.name, ((pixels - mean) / std).permute(2, 0, 1)[None]


def test_real_weights_decide_as_torchvisions_on_real_images(shared_data, shared_weights):
    path = shared_weights / "lraspp_mobilenet_v3_large_2cls_torchvision.pth"
    reference = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=2).eval()
    reference.load_state_dict(torch.load(path, weights_only=True))
    segmenter = torchvisions_variant(2)
    report = load(segmenter, path)
    assert report == ([], [], ())
    found = set()
    for name, image in photos(shared_data):
        with torch.no_grad():
            expected = reference(image)["out"]
        logits = full_size(segmenter, image)
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
        assert torch.equal(logits.argmax(1), expected.argmax(1)), name
        found |= set(expected.argmax(1).unique().tolist())
    assert found == {0, 1}  # both classes occur, so that equality says something


# Tables 7 and 8

# Row of Table 7: the segmenter, parameters in millions as printed, multiply-adds in billions.
TABLE_7 = [
    pytest.param(lambda: raspp_of(backbone_of(LARGE, tail="full")), "3.60", 18.43, id="row 5"),
    pytest.param(lambda: raspp_of(backbone_of(LARGE)), "1.76", 11.24, id="row 6"),
    pytest.param(lambda: lraspp_of(backbone_of(LARGE), filters=256), "1.63", 10.33, id="row 7"),
    pytest.param(lambda: lraspp_of(backbone_of(LARGE)), "1.51", 9.74, id="row 8"),
    pytest.param(lambda: lraspp_of(backbone_of(SMALL)), "0.47", 2.90, id="row 11"),
]


@pytest.mark.parametrize(("build", "parameters", "madds"), TABLE_7)
def test_segmenters_have_the_size_of_table_7(build, parameters, madds):
    with torch.device("meta"):  # shapes without arithmetic
        segmenter = build()
    assert f"{count_parameters(segmenter, norm_affine=True) / 1e6:.2f}" == parameters
    # DeepLab evaluates Cityscapes at crops of 1025x2049. The paper's figures are a little above the
    # convolutions' alone.
    assert count_madds(segmenter, (1025, 2049)) / 1e9 == pytest.approx(madds, rel=0.05)


@pytest.mark.parametrize(
    ("network", "output_stride", "full", "half"),
    [
        (LARGE, 16, 9.74, 2.48),
        (LARGE, 32, 7.74, 1.98),
        (SMALL, 16, 2.90, 0.74),
        (SMALL, 32, 2.06, 0.53),
    ],
)
def test_segmenters_have_the_multiply_adds_of_table_8(network, output_stride, full, half):
    with torch.device("meta"):
        segmenter = lraspp_of(backbone_of(network, output_stride=output_stride))
    assert count_madds(segmenter, (1025, 2049)) / 1e9 == pytest.approx(full, rel=0.05)
    # The half is printed to two digits only: 0.53 stands for anything up to 1 % off.
    assert count_madds(segmenter, (513, 1025)) / 1e9 == pytest.approx(half, rel=0.06)


def test_torchvisions_variant_has_torchvisions_size():
    published = 3_221_538  # LRASPP_MobileNet_V3_Large_Weights.COCO_WITH_VOC_LABELS_V1, 21 classes
    segmenter = torchvisions_variant(21)
    assert count_parameters(segmenter, norm_affine=True) == published
    assert f"{count_madds(segmenter, (520, 520)) / 1e9:.3f}" == "2.086"  # its _ops


# the heads by hand


def interpolation(before, after, align_corners):
    """Return the matrix (after, before) of linear interpolation, written from its definition."""
    matrix = torch.zeros(after, before, dtype=torch.float64)
    for index in range(after):
        if align_corners:
            place = index * (before - 1) / (after - 1) if after > 1 else 0.0
        else:
            place = (index + 0.5) * before / after - 0.5
        place = min(max(place, 0.0), before - 1.0)
        low = min(int(place), before - 1)
        high = min(low + 1, before - 1)
        matrix[index, low] += 1 - (place - low)
        matrix[index, high] += place - low
    return matrix


def resized(x, size, align_corners):
    rows, columns = (
        interpolation(before, after, align_corners) for before, after in zip(x.shape[2:], size, strict=True)
    )
    return torch.einsum("nchw,Hh,Ww->ncHW", x, rows, columns)


def pointwise(layer, x):
    result = torch.einsum("nchw,oc->nohw", x, layer.weight.double()[:, :, 0, 0])
    return result if layer.bias is None else result + layer.bias.double().view(1, -1, 1, 1)


def normalized(norm, x):
    mean, var, scale, offset = (
        tensor.double().view(1, -1, 1, 1)
        for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    return (x - mean) / (var + norm.eps).sqrt() * scale + offset


def averages(c5, kernel_hw, stride_hw):
    """Average windows that fit into C5 (N, C, h, w), one by one."""
    height, width = c5.shape[2:]
    rows = [
        [
            c5[:, :, top : top + kernel_hw[0], left : left + kernel_hw[1]].mean((2, 3))
            for left in range(0, width - kernel_hw[1] + 1, stride_hw[1])
        ]
        for top in range(0, height - kernel_hw[0] + 1, stride_hw[0])
    ]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def expected_lraspp(head, low, c5, *, kernel_hw, stride_hw, gate, align_corners):
    low, c5 = low.double(), c5.double()
    branch = normalized(head.branch[1], pointwise(head.branch[0], c5)).clamp(min=0)
    raw = pointwise(head.gate, averages(c5, kernel_hw, stride_hw))
    factors = torch.sigmoid(raw) if gate == "sigmoid" else ((raw + 3) / 6).clamp(0, 1)
    factors = resized(factors, c5.shape[2:], align_corners)
    high = resized(branch * factors, low.shape[2:], align_corners)
    return pointwise(head.classifier, high) + pointwise(head.low_classifier, low)


def head_of(in_stride, **changes):
    head = LRASPPHead(
        in_channels={"low": 5, "c5": 7},
        filters=6,
        num_classes=3,
        in_stride=in_stride,
        norm=norm_of(0.01, 0.01),
        init=INIT,
        **(PAPER | changes),
    )
    return randomize(head, seed=4)


@pytest.mark.parametrize(
    ("in_stride", "kernel_hw", "stride_hw", "low_hw", "c5_hw"),
    [
        pytest.param(16, (49, 49), (16, 20), (128, 256), (64, 128), id="Cityscapes"),  # 1 x 4 windows
        pytest.param(16, (49, 49), (16, 20), (131, 139), (66, 70), id="2x2 windows"),
        pytest.param(16, (49, 49), (16, 20), (97, 97), (49, 49), id="one window"),
        pytest.param(16, (30, 49), (16, 20), (59, 200), (30, 100), id="low and wide"),
        pytest.param(16, (2, 3), (16, 20), (4, 5), (2, 3), id="tiny"),
        pytest.param(32, (25, 25), (4, 5), (128, 128), (32, 32), id="stride 32"),
        pytest.param(32, (25, 7), (4, 5), (116, 27), (29, 7), id="stride 32, narrow"),
    ],
)
@pytest.mark.parametrize(("gate", "align_corners"), [("hard_sigmoid", True), ("sigmoid", False)])
def test_lraspp_is_the_paper_written_out(in_stride, kernel_hw, stride_hw, low_hw, c5_hw, gate, align_corners):
    head = head_of(in_stride, gate=gate, align_corners=align_corners)
    low, c5 = uniform(2, 5, *low_hw), 4 * uniform(2, 7, *c5_hw, seed=2)
    with torch.no_grad():
        logits = head(low, c5)
        expected = expected_lraspp(
            head, low, c5, kernel_hw=kernel_hw, stride_hw=stride_hw, gate=gate, align_corners=align_corners
        )
    assert logits.shape == (2, 3, *low_hw)
    torch.testing.assert_close(logits.double(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("in_stride", "size"), [(16, 49), (32, 25)])
def test_the_same_weights_serve_both_poolings(in_stride, size):
    fixed, whole = head_of(in_stride), head_of(in_stride, pool="global")
    whole.load_state_dict(fixed.state_dict())  # strict
    low = uniform(1, 5, 2 * size, 2 * size)
    for hw in [(size, size), (1, 1), (size, 3), (size - 1, size)]:
        c5 = uniform(1, 7, *hw)
        with torch.no_grad():
            torch.testing.assert_close(fixed(low, c5), whole(low, c5), rtol=0, atol=1e-5)
    c5 = uniform(1, 7, 2 * size, size) * torch.linspace(0, 9, 2 * size).view(1, 1, -1, 1)
    with torch.no_grad():
        assert (fixed(low, c5) - whole(low, c5)).abs().max() > 0.01
        written_out = expected_lraspp(
            whole,
            low,
            c5,
            kernel_hw=tuple(c5.shape[2:]),
            stride_hw=(1, 1),
            gate="hard_sigmoid",
            align_corners=False,
        )
        torch.testing.assert_close(whole(low, c5).double(), written_out, rtol=0, atol=1e-4)


def test_raspp_is_the_paper_written_out():
    head = RASPPHead(in_channels=7, filters=6, num_classes=3, norm=norm_of(0.01, 0.01), init=INIT)
    randomize(head, seed=5)
    c5 = 4 * uniform(2, 7, 5, 9)
    with torch.no_grad():
        logits = head(c5)
        x = c5.double()
        branch = normalized(head.branch[1], pointwise(head.branch[0], x)).clamp(min=0)
        mean = x.mean((2, 3), keepdim=True)
        pooled = normalized(head.pooled[1], pointwise(head.pooled[0], mean)).clamp(min=0)
        both = torch.cat([branch, resized(pooled, (5, 9), align_corners=True)], dim=1)
        projected = normalized(head.project[1], pointwise(head.project[0], both)).clamp(min=0)
        expected = pointwise(head.classifier, projected)
    assert logits.shape == (2, 3, 5, 9)
    torch.testing.assert_close(logits.double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("gate_bias", [False, True])
def test_lraspps_gate_has_a_bias_or_none_and_never_bn(gate_bias):
    head = head_of(16, gate_bias=gate_bias)
    assert (head.gate.bias is not None) == gate_bias
    assert head.classifier.bias is not None
    assert head.low_classifier.bias is not None
    [norm] = [layer for layer in head.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert norm is head.branch[1]


def norm_settings(module):
    return {(n.eps, n.momentum) for n in module.modules() if isinstance(n, nn.BatchNorm2d)}


def test_norm_settings_of_a_head_are_its_own():
    segmenter = torchvisions_variant(2)
    assert norm_settings(head_in(segmenter)) == {(1e-5, 0.1)}
    assert norm_settings(segmenter.backbone) == {(1e-3, 0.01)}
    assert norm_settings(head_in(raspp_of(backbone_of()))) == {(1e-3, 0.01)}


# the segmenter

SEGMENTERS = {
    "fixed": lambda stride: lraspp_of(backbone_of(output_stride=stride), num_classes=4),
    "global": lambda stride: lraspp_of(backbone_of(output_stride=stride), num_classes=4, pool="global"),
    "torchvision": lambda stride: lraspp_of(
        backbone_of(output_stride=stride, dilate_c4=True), num_classes=4, low="low_first", **TORCHVISION
    ),
    "raspp": lambda stride: raspp_of(backbone_of(output_stride=stride), num_classes=4),
}


@pytest.mark.parametrize(("kind", "output_stride"), itertools.product(SEGMENTERS, [16, 32]))
def test_any_input_size_has_logits_at_the_heads_stride(kind, output_stride):
    segmenter = randomize(SEGMENTERS[kind](output_stride))
    assert head_in(segmenter).num_classes == 4
    stride = output_stride if kind == "raspp" else 8
    for height, width in [(1, 1), (7, 300), (64, 64), (65, 97), (250, 33)]:
        with torch.no_grad():
            logits = segmenter(uniform(2, 3, height, width))
        assert logits.shape == (2, 4, math.ceil(height / stride), math.ceil(width / stride))
        assert logits.isfinite().all()


@pytest.mark.parametrize("kind", SEGMENTERS)
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_an_empty_batch_passes(kind, mode):
    segmenter = SEGMENTERS[kind](16).train(mode == "train")
    stride = 16 if kind == "raspp" else 8
    assert segmenter(torch.zeros(0, 3, 64, 96)).shape == (0, 4, 64 // stride, 96 // stride)


def assert_exports(module, examples, others):
    """Export with a fixed and with a free batch size, and compare with the module on other batches."""
    batch = torch.export.Dim("batch", min=1, max=64)
    for shapes, batches in ((None, [examples]), (tuple({0: batch} for _ in examples), [examples, *others])):
        program = torch.export.export(module, examples, dynamic_shapes=shapes, strict=True)
        for inputs in batches:
            with torch.no_grad():
                exported, expected = program.module()(*inputs), module(*inputs)
            assert isinstance(exported, torch.Tensor)
            torch.testing.assert_close(exported, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["fixed", "raspp"])
def test_forward_passes_strict_export(kind):
    images = [(uniform(n, 3, 33, 65, seed=n),) for n in (2, 1, 3)]
    assert_exports(randomize(SEGMENTERS[kind](16)), images[0], images[1:])


@pytest.mark.parametrize(
    ("changes", "hw"),
    [
        ({"pool": "fixed"}, (3, 5)),
        ({"pool": "fixed", "align_corners": True}, (50, 70)),  # two windows
        ({"pool": "global"}, (50, 70)),
        (TORCHVISION, (3, 5)),
    ],
)
def test_every_variant_of_the_head_passes_strict_export(changes, hw):
    height, width = hw
    features = [
        (uniform(n, 5, 2 * height, 2 * width - 1, seed=n), uniform(n, 7, height, width)) for n in (2, 1, 3)
    ]
    assert_exports(head_of(16, **changes), features[0], features[1:])


@pytest.mark.parametrize("kind", SEGMENTERS)
def test_every_parameter_gets_a_gradient(kind):
    segmenter = randomize(SEGMENTERS[kind](16)).train()
    segmenter(uniform(2, 3, 64, 64)).square().mean().backward()
    assert [name for name, each in segmenter.named_parameters() if each.grad is None] == []
    assert all(each.grad.isfinite().all() for each in segmenter.parameters())


def test_a_head_names_the_features_that_it_takes():
    backbone = backbone_of()
    assert head_in(lraspp_of(backbone, low="low_first")).features == ("low_first", "c5")
    assert head_in(raspp_of(backbone)).features == ("c5",)


@pytest.mark.parametrize("kind", ["fixed", "raspp"])
def test_a_head_initializes_its_own_layers_and_no_others(kind):
    segmenter = SEGMENTERS[kind](16)
    before = {name: value.clone() for name, value in segmenter.state_dict().items()}
    torch.manual_seed(0)
    head_in(segmenter).initialize()
    biases = ("classifier.bias", "gate.bias")
    for name, value in segmenter.state_dict().items():
        drawn = name.startswith("heads.") and (value.dim() == 4 or name.endswith(biases))
        assert torch.equal(value, before[name]) != drawn, name
        if drawn:
            assert value.abs().max() <= (0.0 if name.endswith(biases) else 2 * 0.09)
