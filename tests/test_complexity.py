"""The counts equal the paper's tables, torchvision's meta data, PyTorch's flop counter and a hand count."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.detection import SSDLite320_MobileNet_V3_Large_Weights

from dettoolkit.backbones.mobilenet import MobileNet
from dettoolkit.backbones.tables import named_table
from dettoolkit.complexity import count_madds, count_parameters
from dettoolkit.config import load_recipe
from dettoolkit.tasks import spec_of

# Table 6 of the paper: recipe, overrides, parameters in millions as printed, MAdds in billions.
TABLE_6 = [
    pytest.param("ssdlite_mnv3_large_full", [], "4.97", 0.62, id="V3"),
    pytest.param("ssdlite_mnv3_large", [], "3.22", 0.51, id="V3-dagger"),
    pytest.param("ssdlite_mnv3_small", ["model.backbone.tail=full"], "2.49", 0.21, id="V3-Small"),
    pytest.param("ssdlite_mnv3_small", [], "1.77", 0.16, id="V3-Small-dagger"),
]


def detector_of(recipe, overrides=()):
    """Build a shipped recipe's detector for the 91 class slots of COCO's ids, which Table 6 counts with."""
    recipe = load_recipe(recipe, overrides).recipe
    return spec_of(recipe).build_network(recipe, num_classes=90), recipe.model


@pytest.mark.parametrize(("recipe", "overrides", "parameters", "madds"), TABLE_6)
def test_recipes_have_the_size_of_table_6(recipe, overrides, parameters, madds):
    detector, model = detector_of(recipe, overrides)
    assert model.input_hw == (320, 320)
    assert detector.heads.detection.anchors_xyxy.shape == (2034, 4)
    assert f"{count_parameters(detector, norm_affine=False) / 1e6:.2f}" == parameters
    assert count_madds(detector, model.input_hw) / 1e9 == pytest.approx(madds, rel=0.02)


def test_the_torchvision_recipe_has_torchvisions_size():
    published = SSDLite320_MobileNet_V3_Large_Weights.COCO_V1.meta
    detector, model = detector_of("ssdlite_mnv3_large_torchvision")
    assert count_parameters(detector, norm_affine=True) == published["num_params"] == 3_440_060
    # torchvision prints billions of multiply-adds as _ops, to three digits.
    assert f"{count_madds(detector, model.input_hw) / 1e9:.3f}" == f"{published['_ops']:.3f}"


@pytest.mark.parametrize(
    ("network", "printed"), [("mobilenet_v3_large", "1.51"), ("mobilenet_v3_small", "0.47")]
)
def test_segmentations_tail_has_the_size_of_table_7(network, printed):
    """Rows 8 and 11: the head (F = 128, 19 classes) is counted by hand, BN's scale and offset included."""
    backbone = MobileNet(
        table=named_table(network, width=1.0, tail="reduced_c4", last_conv="keep", rounding="torchvision"),
        output_stride=16,
        dilate_c4=False,
        norm_eps=1e-3,
        norm_momentum=0.01,
    )
    c5, low = backbone.channels["c5"], backbone.channels["low_depthwise"]
    branch = c5 * 128 + 2 * 128  # 1x1 convolution and BN
    pooled = c5 * 128 + 128  # 1x1 convolution with bias
    logits = 128 * 19 + 19 + low * 19 + 19
    total = count_parameters(backbone, norm_affine=True) + branch + pooled + logits
    assert f"{total / 1e6:.2f}" == printed


@pytest.mark.parametrize("recipe", ["ssdlite_mnv3_small", "ssdlite_mnv3_large_torchvision"])
def test_madds_are_half_of_pytorchs_flops(recipe):
    detector, _ = detector_of(recipe)
    detector.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        detector(torch.zeros(1, 3, 96, 160))
    assert 2 * count_madds(detector, (96, 160)) == counter.get_total_flops()


def test_by_hand():
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),  # 5x7 -> 3x4; 8*3*9 weights + 8 biases
        nn.BatchNorm2d(8),  # 16
        nn.Conv2d(8, 8, (3, 1), groups=4, bias=False),  # 3x4 -> 1x4; 8*2*3
    )
    assert count_parameters(module, norm_affine=False) == 216 + 8 + 48
    assert count_parameters(module, norm_affine=True) == 216 + 8 + 48 + 16
    assert count_parameters(nn.SyncBatchNorm(8), norm_affine=False) == 0
    assert count_madds(module, (5, 7)) == 3 * 4 * 216 + 1 * 4 * 48


def test_nothing_to_count():
    assert count_parameters(nn.Identity(), norm_affine=True) == 0
    assert count_madds(nn.Identity(), (8, 8)) == 0
    assert count_madds(nn.BatchNorm2d(3), (8, 8)) == 0


def test_counting_leaves_the_module_as_it_was():
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Sequential(nn.BatchNorm2d(4)))
    module.train()
    module[2].eval()  # a part that is frozen
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    count_madds(module, (4, 4))
    assert [layer.training for layer in module.modules()] == [True, True, True, False, False]
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert not any(layer._forward_hooks for layer in module.modules())
    with pytest.raises(RuntimeError, match=r"channels"):
        count_madds(nn.Sequential(module, nn.Conv2d(5, 1, 1)), (4, 4))
    assert not any(layer._forward_hooks for layer in module.modules())  # after an error too
    assert module.training


def test_half_precision_is_counted_too():
    module = nn.Conv2d(3, 4, 1).bfloat16()
    assert count_madds(module, (2, 2)) == 2 * 2 * 12
