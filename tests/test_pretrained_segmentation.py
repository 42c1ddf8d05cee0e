"""Pretrained weights of segmenters: torchvision's LR-ASPP and checkpoints of ours, whole or backbone only."""

import logging

import pytest
import torch
import torchvision.models._api
from random_weights import randomize
from torchvision.models import mobilenet_v3_large
from torchvision.models.detection import ssdlite320_mobilenet_v3_large
from torchvision.models.segmentation import LRASPP_MobileNet_V3_Large_Weights, lraspp_mobilenet_v3_large

from dettoolkit.backbones.mobilenet import MobileNet
from dettoolkit.backbones.tables import named_table
from dettoolkit.config import load_recipe
from dettoolkit.tasks import spec_of
from dettoolkit.weights.load import load_backbone, load_network

NETWORK = "mobilenet_v3_large"
CLASS_CONVOLUTIONS = [
    f"heads.segmentation.{name}.{kind}"
    for name in ("classifier", "low_classifier")
    for kind in ("weight", "bias")
]


def backbone_of(*, network=NETWORK, tail="full", width=1.0):
    return MobileNet(
        table=named_table(network, width=width, tail=tail, last_conv="keep", rounding="torchvision"),
        output_stride=16,
        dilate_c4=True,
        norm_eps=1e-3,
        norm_momentum=0.01,
    ).eval()


def segmenter_of(recipe, *overrides, num_classes=21):
    recipe = load_recipe(recipe, overrides).recipe
    return spec_of(recipe).build_network(recipe, num_classes=num_classes).eval()


def lraspp_of(*overrides, num_classes=21):
    return segmenter_of("lraspp_mnv3_large_torchvision", *overrides, num_classes=num_classes)


def raspp_of(num_classes=21):
    return segmenter_of("raspp_mnv3_large", "model.backbone.type=mobilenet_v3_small", num_classes=num_classes)


def start(segmenter, path):
    return load_network(segmenter, path, torchvision_model="lraspp_mobilenet_v3_large")


def small_of(*overrides, num_classes=4):
    """Build a segmenter of ours as the paper has it."""
    return segmenter_of("lraspp_mnv3_small", *overrides, num_classes=num_classes)


def checkpoint(segmenter, path):
    """Write what Lightning writes: the module's attribute comes before each name."""
    state = {f"network.{key}": value for key, value in segmenter.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, path)
    return str(path)


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 65, 96, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture(scope="module")
def theirs():
    return randomize(lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=21), seed=3)


@pytest.fixture(scope="module")
def file(theirs, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "lraspp.pth"
    torch.save(theirs.state_dict(), path)
    return str(path)


@pytest.fixture(scope="module")
def trained():
    """Stand in for a trained segmenter of ours."""
    return randomize(small_of(), seed=5)


# whole segmenters


@pytest.mark.parametrize("pool", ["global", "fixed"])
def test_torchvisions_segmenter_fits_with_nothing_left(pool, file, caplog):
    # That its numbers come out is in test_lraspp.
    segmenter = lraspp_of(f"model.head.pool={pool}")
    report = start(segmenter, file)
    assert report == ([], [], ())
    assert caplog.text == ""


def test_weights_are_fetched_by_torchvisions_enum(theirs, monkeypatch):
    urls = []

    def fetch(url, **options):
        urls.append(url)
        assert options["weights_only"] is options["check_hash"] is True
        return theirs.state_dict()

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", fetch)
    segmenter = lraspp_of()
    start(segmenter, "torchvision:COCO_WITH_VOC_LABELS_V1")
    assert urls == [LRASPP_MobileNet_V3_Large_Weights.COCO_WITH_VOC_LABELS_V1.url]
    assert torch.equal(segmenter.heads.segmentation.gate.weight, theirs.classifier.scale[1].weight)
    message = r"no weights 'COCO_V1' for lraspp_mobilenet_v3_large; it has \['COCO_WITH_VOC_LABELS_V1'"
    with pytest.raises(ValueError, match=message):
        start(segmenter, "torchvision:COCO_V1")


def test_class_convolutions_of_another_size_are_replaced_with_a_message(theirs, file, caplog):
    segmenter = lraspp_of(num_classes=11)
    fresh = {name: segmenter.get_parameter(name).clone() for name in CLASS_CONVOLUTIONS}
    report = start(segmenter, file)
    assert report.replaced == CLASS_CONVOLUTIONS
    assert report.surplus == []
    assert "4 tensors have a different size in the file and are newly initialized: " in caplog.text
    assert "heads.segmentation.classifier.weight (21, 128, 1, 1) -> (11, 128, 1, 1)" in caplog.text
    assert "heads.segmentation.low_classifier.bias (21,) -> (11,)" in caplog.text
    assert all(record.levelno == logging.WARNING for record in caplog.records)
    for name, tensor in fresh.items():
        assert torch.equal(segmenter.get_parameter(name), tensor)
    assert torch.equal(segmenter.heads.segmentation.branch[0].weight, theirs.classifier.cbr[0].weight)


def test_a_checkpoint_of_ours_starts_a_segmenter(trained, images, tmp_path, caplog):
    path = checkpoint(trained, tmp_path / "best.ckpt")
    segmenter = small_of()
    report = start(segmenter, path)
    assert report == ([], [], ())
    with torch.no_grad():
        assert torch.equal(segmenter(images), trained(images))
    assert caplog.text == ""
    other = small_of("model.head.pool=fixed", num_classes=9)
    assert start(other, path).replaced == CLASS_CONVOLUTIONS


def test_raspp_starts_from_its_own_checkpoint(tmp_path):
    trained = randomize(raspp_of(), seed=6)
    path = checkpoint(trained, tmp_path / "best.ckpt")
    segmenter = raspp_of(3)
    report = start(segmenter, path)
    assert report.replaced == ["heads.segmentation.classifier.weight", "heads.segmentation.classifier.bias"]
    assert torch.equal(
        segmenter.heads.segmentation.pooled[0].weight, trained.heads.segmentation.pooled[0].weight
    )


# what does not fit


def test_the_papers_variant_refuses_torchvisions_weights(file):
    segmenter = lraspp_of("model.head.gate_bias=true")
    with pytest.raises(
        ValueError, match=r"missing in the file \(1\): heads\.segmentation\.gate\.bias"
    ) as caught:
        start(segmenter, file)
    assert "check the recipe's model" in str(caught.value)


@pytest.mark.parametrize("num_classes", [21, 11])
def test_another_low_level_feature_is_no_matter_of_classes(num_classes, file):
    segmenter = lraspp_of("model.head.low=depthwise", num_classes=num_classes)
    message = (
        r"of a different shape \(1\): heads\.\w+\.low_classifier\.weight is \(21, 40, 1, 1\) in the file, "
        rf"\({num_classes}, 120, 1, 1\) in the network(.|\n)*head"
    )
    with pytest.raises(ValueError, match=message):
        start(segmenter, file)


def test_other_filters_and_heads_are_refused(file):
    segmenter = lraspp_of("model.head.filters=64")
    with pytest.raises(ValueError, match=r"heads\.segmentation\.branch\.0\.weight is \(128, .*\(64, "):
        start(segmenter, file)
    segmenter = segmenter_of("raspp_mnv3_large")
    with pytest.raises(ValueError, match=r"missing in the file \(\d+\): .*heads\.segmentation\.pooled"):
        start(segmenter, file)


@pytest.mark.parametrize("builder", [mobilenet_v3_large, ssdlite320_mobilenet_v3_large])
def test_weights_of_other_networks_are_no_segmenter(builder, tmp_path):
    more = {} if builder is mobilenet_v3_large else {"weights_backbone": None}
    path = tmp_path / "other.pth"
    torch.save(builder(weights=None, **more).state_dict(), path)
    segmenter = lraspp_of()
    message = r"missing in the file(.|\n)*weights of a backbone alone go to model\.backbone\.weights"
    with pytest.raises(ValueError, match=message):
        start(segmenter, str(path))


# backbones


def test_a_backbone_can_come_from_torchvisions_segmenter(theirs, file, images):
    backbone = backbone_of()
    report = load_backbone(backbone, file, network=NETWORK)
    assert report.replaced == []
    assert report.surplus
    assert all(key.startswith("classifier.") for key in report.surplus)
    with torch.no_grad():
        ours, features = backbone(images), theirs.backbone(images)
    torch.testing.assert_close(ours["low_first"], features["low"], rtol=0, atol=1e-5)
    torch.testing.assert_close(ours["c5"], features["high"], rtol=0, atol=1e-5)


def test_a_detectors_backbone_can_come_from_a_segmenter_of_ours(trained, images, tmp_path, caplog):
    path = checkpoint(trained, tmp_path / "best.ckpt")
    backbone = backbone_of(network="mobilenet_v3_small", tail="reduced")
    report = load_backbone(backbone, path, network="mobilenet_v3_small")
    assert all(key.startswith("heads.") for key in report.surplus)
    # RF2 halves the expansion of the C4 block, row 9, as well; all else is common.
    assert {name.rpartition("blocks.8.")[0] for name in report.replaced} == {""}
    assert "blocks.8.expand.0.weight (144, 48, 1, 1) -> (288, 48, 1, 1)" in caplog.text
    with torch.no_grad():
        ours, expected = backbone(images), trained.backbone(images)
    for name in ("low_first", "low_depthwise", "low"):
        assert torch.equal(ours[name], expected[name])


def test_another_width_is_refused(file):
    with pytest.raises(
        ValueError, match=r"of a different shape \(\d+\): (.|\n)*check model\.backbone\.type and width"
    ):
        load_backbone(backbone_of(width=0.75), file, network=NETWORK)
