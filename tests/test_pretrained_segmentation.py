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
from dettoolkit.heads.lraspp import LRASPPHead
from dettoolkit.heads.raspp import RASPPHead
from dettoolkit.segmentation.model import Segmenter
from dettoolkit.weights.pretrained import load_backbone, load_segmenter

NETWORK = "mobilenet_v3_large"
CLASS_CONVOLUTIONS = [
    f"head.{name}.{kind}" for name in ("classifier", "low_classifier") for kind in ("weight", "bias")
]


def backbone_of(*, network=NETWORK, tail="full", width=1.0):
    return MobileNet(
        network=network,
        width=width,
        tail=tail,
        output_stride=16,
        last_conv="keep",
        rounding="torchvision",
        dilate_c4=True,
        norm_eps=1e-3,
        norm_momentum=0.01,
    ).eval()


def lraspp_of(backbone, *, num_classes=21, filters=128, low="low_first", gate_bias=False, pool="global"):
    head = LRASPPHead(
        in_channels=(backbone.channels[low], backbone.channels["c5"]),
        filters=filters,
        num_classes=num_classes,
        in_stride=16,
        pool=pool,
        gate="sigmoid",
        gate_bias=gate_bias,
        align_corners=False,
        norm_eps=1e-5,
        norm_momentum=0.1,
    )
    return Segmenter(backbone=backbone, head=head, low=low).eval()


def raspp_of(backbone, *, num_classes=21):
    head = RASPPHead(
        in_channels=backbone.channels["c5"],
        filters=64,
        num_classes=num_classes,
        norm_eps=1e-3,
        norm_momentum=0.01,
    )
    return Segmenter(backbone=backbone, head=head, low=None).eval()


def small_of(**changes):
    """Build a segmenter of ours as the paper has it."""
    backbone = backbone_of(network="mobilenet_v3_small", tail="segmentation")
    return lraspp_of(backbone, **({"low": "low_depthwise", "gate_bias": True, "num_classes": 4} | changes))


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
    segmenter = lraspp_of(backbone_of(), pool=pool)
    report = load_segmenter(segmenter, segmenter.backbone, file)
    assert (report.missing, report.surplus, report.replaced) == ([], [], [])
    assert caplog.text == ""


def test_weights_are_fetched_by_torchvisions_enum(theirs, monkeypatch):
    urls = []

    def fetch(url, **options):
        urls.append(url)
        assert options["weights_only"] is options["check_hash"] is True
        return theirs.state_dict()

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", fetch)
    segmenter = lraspp_of(backbone_of())
    load_segmenter(segmenter, segmenter.backbone, "torchvision:COCO_WITH_VOC_LABELS_V1")
    assert urls == [LRASPP_MobileNet_V3_Large_Weights.COCO_WITH_VOC_LABELS_V1.url]
    assert torch.equal(segmenter.head.gate.weight, theirs.classifier.scale[1].weight)
    message = r"no weights 'COCO_V1' for lraspp_mobilenet_v3_large; it has \['COCO_WITH_VOC_LABELS_V1'"
    with pytest.raises(ValueError, match=message):
        load_segmenter(segmenter, segmenter.backbone, "torchvision:COCO_V1")


def test_class_convolutions_of_another_size_are_replaced_with_a_message(theirs, file, caplog):
    segmenter = lraspp_of(backbone_of(), num_classes=11)
    fresh = {name: segmenter.get_parameter(name).clone() for name in CLASS_CONVOLUTIONS}
    report = load_segmenter(segmenter, segmenter.backbone, file)
    assert report.replaced == CLASS_CONVOLUTIONS
    assert (report.missing, report.surplus) == ([], [])
    assert "4 tensors have another size in the file and start fresh: " in caplog.text
    assert "head.classifier.weight (21, 128, 1, 1) -> (11, 128, 1, 1)" in caplog.text
    assert "head.low_classifier.bias (21,) -> (11,)" in caplog.text
    assert all(record.levelno == logging.WARNING for record in caplog.records)
    for name, tensor in fresh.items():
        assert torch.equal(segmenter.get_parameter(name), tensor)
    assert torch.equal(segmenter.head.branch[0].weight, theirs.classifier.cbr[0].weight)


def test_a_checkpoint_of_ours_starts_a_segmenter(trained, images, tmp_path, caplog):
    path = checkpoint(trained, tmp_path / "best.ckpt")
    segmenter = small_of()
    report = load_segmenter(segmenter, segmenter.backbone, path)
    assert (report.missing, report.surplus, report.replaced) == ([], [], [])
    with torch.no_grad():
        assert torch.equal(segmenter(images), trained(images))
    assert caplog.text == ""
    other = small_of(num_classes=9, pool="fixed")
    assert load_segmenter(other, other.backbone, path).replaced == CLASS_CONVOLUTIONS


def test_raspp_starts_from_its_own_checkpoint(tmp_path):
    trained = randomize(raspp_of(backbone_of(network="mobilenet_v3_small")), seed=6)
    path = checkpoint(trained, tmp_path / "best.ckpt")
    segmenter = raspp_of(backbone_of(network="mobilenet_v3_small"), num_classes=3)
    report = load_segmenter(segmenter, segmenter.backbone, path)
    assert report.replaced == ["head.classifier.weight", "head.classifier.bias"]
    assert torch.equal(segmenter.head.pooled[0].weight, trained.head.pooled[0].weight)


# what does not fit


def test_the_papers_variant_refuses_torchvisions_weights(file):
    segmenter = lraspp_of(backbone_of(), gate_bias=True)
    with pytest.raises(ValueError, match=r"missing in the file \(1\): head\.gate\.bias") as caught:
        load_segmenter(segmenter, segmenter.backbone, file)
    assert "check model.type, model.backbone" in str(caught.value)
    assert "gate_bias" in str(caught.value)


@pytest.mark.parametrize("num_classes", [21, 11])
def test_another_low_level_feature_is_no_matter_of_classes(num_classes, file):
    segmenter = lraspp_of(backbone_of(), low="low_depthwise", num_classes=num_classes)
    message = (
        r"of another shape \(1\): head\.low_classifier\.weight is \(21, 40, 1, 1\) in the file, "
        rf"\({num_classes}, 120, 1, 1\) in the network(.|\n)*model\.head \(filters, low"
    )
    with pytest.raises(ValueError, match=message):
        load_segmenter(segmenter, segmenter.backbone, file)


def test_other_filters_and_heads_are_refused(file):
    segmenter = lraspp_of(backbone_of(), filters=64)
    with pytest.raises(ValueError, match=r"head\.branch\.0\.weight is \(128, .*\(64, "):
        load_segmenter(segmenter, segmenter.backbone, file)
    segmenter = raspp_of(backbone_of())
    with pytest.raises(
        ValueError, match=r"missing in the file \(\d+\): .*head\.pooled(.|\n)*check model\.type"
    ):
        load_segmenter(segmenter, segmenter.backbone, file)


@pytest.mark.parametrize("builder", [mobilenet_v3_large, ssdlite320_mobilenet_v3_large])
def test_weights_of_other_networks_are_no_segmenter(builder, tmp_path):
    more = {} if builder is mobilenet_v3_large else {"weights_backbone": None}
    path = tmp_path / "other.pth"
    torch.save(builder(weights=None, **more).state_dict(), path)
    segmenter = lraspp_of(backbone_of())
    message = r"missing in the file(.|\n)*weights of a backbone alone go to model\.backbone\.weights"
    with pytest.raises(ValueError, match=message):
        load_segmenter(segmenter, segmenter.backbone, str(path))


# backbones


def test_a_backbone_can_come_from_torchvisions_segmenter(theirs, file, images):
    backbone = backbone_of()
    report = load_backbone(backbone, file, network=NETWORK)
    assert (report.missing, report.replaced) == ([], [])
    assert report.surplus
    assert all(key.startswith("head.") for key in report.surplus)
    with torch.no_grad():
        ours, features = backbone(images), theirs.backbone(images)
    torch.testing.assert_close(ours["low_first"], features["low"], rtol=0, atol=1e-5)
    torch.testing.assert_close(ours["c5"], features["high"], rtol=0, atol=1e-5)


def test_a_detectors_backbone_can_come_from_a_segmenter_of_ours(trained, images, tmp_path, caplog):
    path = checkpoint(trained, tmp_path / "best.ckpt")
    backbone = backbone_of(network="mobilenet_v3_small", tail="detection")
    report = load_backbone(backbone, path, network="mobilenet_v3_small")
    assert report.missing == []
    assert all(key.startswith("head.") for key in report.surplus)
    # RF2 halves the expansion of the C4 block, row 9, as well; all else is common.
    assert {name.rpartition("blocks.8.")[0] for name in report.replaced} == {""}
    assert "blocks.8.expand.0.weight (144, 48, 1, 1) -> (288, 48, 1, 1)" in caplog.text
    with torch.no_grad():
        ours, expected = backbone(images), trained.backbone(images)
    for name in ("low_first", "low_depthwise", "low"):
        assert torch.equal(ours[name], expected[name])


def test_another_width_is_refused(file):
    with pytest.raises(
        ValueError, match=r"of another shape \(\d+\): (.|\n)*check model\.backbone\.type and width"
    ):
        load_backbone(backbone_of(width=0.75), file, network=NETWORK)
