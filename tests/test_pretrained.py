"""Pretrained weights: torchvision's give its numbers, differences are named, and nothing unsafe runs."""

import logging
import os
import pickle
import urllib.error

import pytest
import torch
import torchvision.models._api
from random_weights import randomize
from torch import nn
from torchvision.models import (
    MobileNet_V3_Large_Weights,
    MobileNet_V3_Small_Weights,
    mobilenet_v3_large,
    mobilenet_v3_small,
)
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

from dettoolkit.backbones.mobilenet import MobileNet
from dettoolkit.backbones.tables import named_table
from dettoolkit.config import load_recipe
from dettoolkit.tasks import spec_of
from dettoolkit.weights.load import load_backbone, load_network, load_pretrained
from dettoolkit.weights.read import load_checkpoint, read_weights

BUILDERS = {"mobilenet_v3_large": mobilenet_v3_large, "mobilenet_v3_small": mobilenet_v3_small}
NETWORKS = tuple(BUILDERS)
LOW_FIRST_ROW = {"mobilenet_v3_large": 4, "mobilenet_v3_small": 2}
LOW_ROW = {"mobilenet_v3_large": 6, "mobilenet_v3_small": 3}
C4_ROW = {"mobilenet_v3_large": 13, "mobilenet_v3_small": 9}


def build(network, *, width=1.0, tail="full", output_stride=32, dilate_c4=False):
    return MobileNet(
        table=named_table(network, width=width, tail=tail, last_conv="keep", rounding="torchvision"),
        output_stride=output_stride,
        dilate_c4=dilate_c4,
        norm_eps=1e-3,
        norm_momentum=0.03,
    ).eval()


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 96, 128, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture(scope="module")
def classifiers():
    """Torchvision's classification networks with full tails and random weights, by name."""
    return {name: randomize(builder(weights=None, num_classes=7)) for name, builder in BUILDERS.items()}


@pytest.fixture(scope="module")
def small_file(classifiers, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "small.pth"
    torch.save(classifiers["mobilenet_v3_small"].state_dict(), path)
    return str(path)


def detector_of(recipe, num_classes=90, overrides=()):
    recipe = load_recipe(recipe, overrides).recipe
    return spec_of(recipe).build_network(recipe, num_classes=num_classes).eval()


def start(detector, path):
    return load_network(detector, path, torchvision_model="ssdlite320_mobilenet_v3_large")


@pytest.fixture(scope="module")
def trained():
    """Stand in for a trained detector of ours: Small, 4 classes."""
    return randomize(detector_of("ssdlite_mnv3_small", 4), seed=5)


def checkpoint(detector, path, **more):
    """Write what Lightning writes: the module's attribute comes before each name."""
    state = {f"network.{key}": value for key, value in detector.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3, **more}, path)
    return str(path)


def taps_of_torchvision(network, features, images):
    """Compute with torchvision's modules what our backbone names."""
    low, c4 = LOW_ROW[network], C4_ROW[network]
    with torch.no_grad():
        before = features[:low](images)
        return {
            "low_first": features[: LOW_FIRST_ROW[network] + 1](images),
            "low_depthwise": features[low].block[:2](before),  # expansion and depthwise convolution
            "low": features[low](before),
            "c4": features[c4].block[0](features[:c4](images)),
            "c5": features(images),
        }


def assert_features_equal(backbone, network, features, images):
    with torch.no_grad():
        ours = backbone(images)
    theirs = taps_of_torchvision(network, features, images)
    assert ours.keys() == theirs.keys()
    for name, feature in ours.items():
        torch.testing.assert_close(feature, theirs[name], rtol=0, atol=1e-5)


# torchvision's weights, from files


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("reduced", [False, True])
def test_classification_weights_give_torchvisions_features(network, reduced, images, tmp_path, caplog):
    theirs = randomize(BUILDERS[network](weights=None, num_classes=7, reduced_tail=reduced), seed=2)
    path = tmp_path / "weights.pth"
    torch.save(theirs.state_dict(), path)
    backbone = build(network, tail="reduced" if reduced else "full")
    report = load_backbone(backbone, str(path), network=network)
    assert_features_equal(backbone, network, theirs.features, images)
    surplus = ["classifier.0.weight", "classifier.0.bias", "classifier.3.weight", "classifier.3.bias"]
    assert report.surplus == surplus
    assert report.replaced == []
    assert f"4 tensors of the file are not in the network: {', '.join(surplus)}" in caplog.text


@pytest.mark.parametrize(
    ("network", "file", "surplus"),
    [
        ("mobilenet_v3_large", "mobilenet_v3_large_features_torchvision.pth", 0),
        ("mobilenet_v3_small", "mobilenet_v3_small_imagenet_torchvision.pth", 4),
    ],
)
def test_real_weights_give_torchvisions_features(network, file, surplus, images, shared_weights):
    path = shared_weights / file
    theirs = BUILDERS[network](weights=None).eval()
    loaded = theirs.load_state_dict(torch.load(path, weights_only=True), strict=False)
    assert not [key for key in loaded.missing_keys if key.startswith("features.")]
    for output_stride in (32, 16):
        backbone = build(network, output_stride=output_stride, dilate_c4=True)
        report = load_backbone(backbone, str(path), network=network)
        assert (len(report.surplus), len(report.replaced)) == (surplus, 0)
        if output_stride == 32:
            assert_features_equal(backbone, network, theirs.features, images)
    dilated = BUILDERS[network](weights=None, dilated=True).eval()
    dilated.load_state_dict(theirs.state_dict())
    assert_features_equal(backbone, network, dilated.features, images)


def test_a_reduced_tail_starts_fresh_from_a_full_one(classifiers, small_file, images, caplog):
    network = "mobilenet_v3_small"
    backbone = build(network, tail="reduced")
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    report = load_backbone(backbone, small_file, network=network)
    # Of rows 9 to 11 and C5, all that changes size with the outputs of those rows, by torchvision's shapes.
    halved = BUILDERS[network](weights=None, num_classes=7, reduced_tail=True).features.state_dict()
    full = classifiers[network].features.state_dict()
    expected = [key for key in full if full[key].shape != halved[key].shape]
    assert len(report.replaced) == len(expected) > 30
    assert f"{len(expected)} tensors have a different size in the file and are newly init" in caplog.text
    assert "blocks.8.project.0.weight (96, 288, 1, 1) -> (48, 288, 1, 1)" in caplog.text
    assert "last.0.weight (576, 96, 1, 1) -> (288, 48, 1, 1)" in caplog.text
    after = backbone.state_dict()
    for name in report.replaced:
        assert torch.equal(after[name], before[name])
        assert name in caplog.text
    with torch.no_grad():
        ours = backbone(images)
    theirs = taps_of_torchvision(network, classifiers[network].features, images)
    for name in ("low_first", "low_depthwise", "low", "c4"):  # before the tail nothing is lost
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("keys", ["state_dict", "model", "model_state_dict"])
def test_state_dicts_are_found_inside_a_file(keys, small_file, tmp_path):
    path = tmp_path / "inside.pth"
    state = torch.load(small_file, weights_only=True)
    torch.save({"epoch": 3, keys: state}, path)
    found = read_weights(str(path), torchvision_model="mobilenet_v3_small")
    assert list(found) == list(state)


# torchvision's weights, fetched


def test_weights_are_fetched_by_torchvisions_enum(classifiers, images, monkeypatch):
    calls = []

    def fetch(url, **options):
        calls.append((url, options))
        return classifiers["mobilenet_v3_small"].state_dict()

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", fetch)
    backbone = build("mobilenet_v3_small")
    load_backbone(backbone, "torchvision:DEFAULT", network="mobilenet_v3_small")
    assert_features_equal(backbone, "mobilenet_v3_small", classifiers["mobilenet_v3_small"].features, images)
    [(url, options)] = calls
    assert url == MobileNet_V3_Small_Weights.DEFAULT.url
    assert options["check_hash"] is True  # a broken transfer is noticed
    assert options["weights_only"] is True  # PyTorch's default here would run a tampered file
    assert options["map_location"] == "cpu"


def test_each_name_of_the_enum_is_its_own_file(monkeypatch):
    urls = []
    monkeypatch.setattr(
        torchvision.models._api, "load_state_dict_from_url", lambda url, **_: urls.append(url) or {}
    )
    for name in ("IMAGENET1K_V1", "IMAGENET1K_V2"):
        read_weights(f"torchvision:{name}", torchvision_model="mobilenet_v3_large")
    read_weights("torchvision:COCO_V1", torchvision_model="ssdlite320_mobilenet_v3_large")
    large = MobileNet_V3_Large_Weights
    assert urls[:2] == [large.IMAGENET1K_V1.url, large.IMAGENET1K_V2.url]
    assert "ssdlite320_mobilenet_v3_large_coco" in urls[2]


def test_an_unknown_name_lists_those_that_exist(monkeypatch):
    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", pytest.fail)
    message = r"no weights 'IMAGENET1K_V2' for mobilenet_v3_small; it has \['IMAGENET1K_V1', 'DEFAULT'\]"
    with pytest.raises(ValueError, match=message):
        load_backbone(build("mobilenet_v3_small"), "torchvision:IMAGENET1K_V2", network="mobilenet_v3_small")


@pytest.mark.parametrize(
    "error",
    [
        urllib.error.URLError("no route to host"),
        RuntimeError('invalid hash value (expected "047dcff4", got "no route to host")'),
        pickle.UnpicklingError("no route to host"),
    ],
)
def test_a_failed_fetch_says_how_to_do_without(error, monkeypatch):
    def fail(url, **_):
        raise error

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", fail)
    message = r"torchvision:DEFAULT cannot be downloaded from https://.*small.*no route to host.*use its path"
    with pytest.raises(RuntimeError, match=message):
        read_weights("torchvision:DEFAULT", torchvision_model="mobilenet_v3_small")


# whole detectors


@pytest.fixture(scope="module")
def torchvision_detector_file(tmp_path_factory):
    theirs = randomize(
        ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=91), seed=3
    )
    path = tmp_path_factory.mktemp("ssdlite") / "ssdlite.pth"
    torch.save(theirs.state_dict(), path)
    return theirs, str(path)


def test_torchvisions_detector_fits_with_nothing_left(torchvision_detector_file, caplog):
    # That its numbers come out is in test_ssdlite.
    _, path = torchvision_detector_file
    detector = detector_of("ssdlite_mnv3_large_torchvision")
    report = start(detector, path)
    assert report == ([], [], ())
    assert caplog.text == ""


def test_a_backbone_can_come_from_torchvisions_detector(torchvision_detector_file, images):
    theirs, path = torchvision_detector_file
    backbone = build("mobilenet_v3_large", tail="reduced")
    report = load_backbone(backbone, path, network="mobilenet_v3_large")
    assert report.replaced == []
    assert report.surplus
    assert all(key.startswith(("extra.", "head.")) for key in report.surplus)
    with torch.no_grad():
        ours, features = backbone(images), theirs.backbone(images)
    torch.testing.assert_close(ours["c4"], features["0"], rtol=0, atol=1e-5)
    torch.testing.assert_close(ours["c5"], features["1"], rtol=0, atol=1e-5)


def test_a_class_head_of_another_size_is_replaced_with_a_message(torchvision_detector_file, caplog):
    theirs, path = torchvision_detector_file
    detector = detector_of("ssdlite_mnv3_large_torchvision", num_classes=2)
    fresh = [predictor[1].weight.clone() for predictor in detector.heads.detection.class_predictors]
    report = start(detector, path)
    names = [
        f"heads.detection.class_predictors.{level}.1.{kind}"
        for level in range(6)
        for kind in ("weight", "bias")
    ]
    assert report.replaced == names
    assert report.surplus == []
    assert "12 tensors have a different size in the file and are newly initialized: " in caplog.text
    assert "heads.detection.class_predictors.0.1.weight (546, 672, 1, 1) -> (18, 672, 1, 1)" in caplog.text
    assert all(record.levelno == logging.WARNING for record in caplog.records)
    their_heads = theirs.head
    for level, predictor in enumerate(detector.heads.detection.class_predictors):
        assert torch.equal(predictor[1].weight, fresh[level])
        # The rest of the head, the predictor's depthwise part included, is theirs.
        depthwise = their_heads.classification_head.module_list[level][0]
        assert torch.equal(predictor[0][0].weight, depthwise[0].weight)
        assert torch.equal(
            detector.heads.detection.box_predictors[level][1].weight,
            their_heads.regression_head.module_list[level][1].weight,
        )


def test_a_checkpoint_of_ours_starts_a_detector(trained, tmp_path, images, caplog):
    path = checkpoint(trained, tmp_path / "best.ckpt", dettoolkit={"class_names": ["a", "b", "c", "d"]})
    detector = detector_of("ssdlite_mnv3_small", 4)
    report = start(detector, path)
    assert report == ([], [], ())
    with torch.no_grad():
        for ours, expected in zip(detector(images), trained(images), strict=True):
            assert torch.equal(ours, expected)
    assert caplog.text == ""
    other = detector_of("ssdlite_mnv3_small", 9)
    report = start(other, path)
    assert len(report.replaced) == 12
    assert "heads.detection.class_predictors.5.1.bias (30,) -> (60,)" in caplog.text


def test_a_checkpoint_of_ours_starts_a_backbone(trained, tmp_path, images):
    backbone = build("mobilenet_v3_small", tail="reduced")
    path = checkpoint(trained, tmp_path / "best.ckpt")
    report = load_backbone(backbone, path, network="mobilenet_v3_small")
    assert report.replaced == []
    assert all(key.startswith("heads.") for key in report.surplus)
    with torch.no_grad():
        for name, feature in backbone(images).items():
            assert torch.equal(feature, trained.backbone(images)[name])


def test_the_recipes_weights_are_loaded(small_file, trained, tmp_path):
    def started(*overrides, num_classes=4, exact=None):
        recipe = load_recipe("ssdlite_mnv3_small", overrides).recipe
        network = spec_of(recipe).build_network(recipe, num_classes=num_classes)
        load_pretrained(network, recipe.model, torchvision_model="ssdlite320_mobilenet_v3_large", exact=exact)
        return network

    state = torch.load(small_file, weights_only=True)
    full = "model.backbone.tail=full"
    detector = started(full, f"model.backbone.weights={small_file}")
    assert torch.equal(detector.backbone.stem[0].weight, state["features.0.0.weight"])
    assert not torch.equal(started(full).backbone.stem[0].weight, state["features.0.0.weight"])
    own = f"model.weights={checkpoint(trained, tmp_path / 'best.ckpt')}"
    detector = started(own, exact="take others")
    kernel = "heads.detection.extras.0.0.0.weight"
    assert torch.equal(detector.state_dict()[kernel], trained.state_dict()[kernel])
    started(own, num_classes=5)
    with pytest.raises(
        ValueError, match=r"a different number of classes than the 5 .* \(12 tensors .*take others"
    ):
        started(own, num_classes=5, exact="take others")


# what does not fit


def test_missing_and_surplus_names_are_listed(small_file, tmp_path):
    state = torch.load(small_file, weights_only=True)
    del state["features.0.0.weight"], state["features.4.block.2.fc1.bias"], state["classifier.0.bias"]
    state["features.3.block.9.0.weight"] = state["extra"] = torch.zeros(1)
    path = tmp_path / "odd.pth"
    torch.save(state, path)
    with pytest.raises(ValueError, match="does not fit this network") as caught:
        load_backbone(build("mobilenet_v3_small"), str(path), network="mobilenet_v3_small")
    text = str(caught.value)
    assert "missing in the file (2): stem.0.weight, blocks.3.squeeze.fc1.bias" in text
    surplus = (
        "classifier.0.weight, classifier.3.weight, classifier.3.bias, features.3.block.9.0.weight, extra"
    )
    assert f"in the file only (5): {surplus}" in text
    assert str(path) in text


def test_counters_of_bn_may_be_missing(classifiers, images, tmp_path):
    """They are not used, and files of old PyTorch have none."""
    state = classifiers["mobilenet_v3_small"].state_dict()
    path = tmp_path / "old.pth"
    torch.save({k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}, path)
    backbone = build("mobilenet_v3_small")
    load_backbone(backbone, str(path), network="mobilenet_v3_small")
    assert_features_equal(backbone, "mobilenet_v3_small", classifiers["mobilenet_v3_small"].features, images)


@pytest.mark.parametrize(
    ("width", "shapes"),
    [
        (0.75, r"blocks\.1\.expand\.0\.weight is \(72, 16, 1, 1\) in the file, \(56, 16, 1, 1\)"),
        (1.25, r"stem\.0\.weight is \(16, 3, 3, 3\) in the file, \(24, 3, 3, 3\)"),
    ],
)
def test_another_width_is_refused_by_names(width, shapes, small_file):
    backbone = build("mobilenet_v3_small", width=width)
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    told = rf"of a different shape \(\d+\): .*{shapes} in the network.* and \d+ more"
    message = rf"{told}(.|\n)*check model\.backbone\.type and width"
    with pytest.raises(ValueError, match=message):
        load_backbone(backbone, small_file, network="mobilenet_v3_small")
    assert all(torch.equal(before[name], tensor) for name, tensor in backbone.state_dict().items())


def test_another_network_is_refused(small_file):
    with pytest.raises(
        ValueError, match=r"missing in the file \(\d+\): .*blocks\.6\.project.* and \d+ more"
    ) as caught:
        load_backbone(build("mobilenet_v3_large"), small_file, network="mobilenet_v3_large")
    assert "check model.backbone.type" in str(caught.value)


def test_a_file_with_a_classifier_only_is_refused(tmp_path):
    path = tmp_path / "classifier.pth"
    torch.save({"classifier.0.weight": torch.zeros(4, 4), "classifier.0.bias": torch.zeros(4)}, path)
    message = (
        r"missing in the file \(\d+\): stem\.0\.weight.*\n.*in the file only \(2\): classifier\.0\.weight"
    )
    with pytest.raises(ValueError, match=message):
        load_backbone(build("mobilenet_v3_small"), str(path), network="mobilenet_v3_small")


def test_other_default_boxes_are_refused(torchvision_detector_file):
    """The paper has three boxes a cell on the first level, torchvision six: its box predictors do not fit."""
    _, path = torchvision_detector_file
    detector = detector_of("ssdlite_mnv3_large")
    message = r"heads\.detection\.box_predictors\.0\.1\.weight is \(24, .*\(12, (.|\n)*anchors"
    with pytest.raises(ValueError, match=message):
        start(detector, path)


def test_weights_of_a_backbone_are_no_detector(small_file):
    detector = detector_of("ssdlite_mnv3_small", 4)
    with pytest.raises(ValueError, match=r"weights of a backbone alone go to model\.backbone\.weights"):
        start(detector, small_file)


# files that are none


class Malicious:
    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("legacy", [False, True])
def test_nothing_in_a_file_can_run(legacy, tmp_path):
    marker, path = tmp_path / "it_ran", tmp_path / "evil.pth"
    content = {"state_dict": {"stem.0.weight": Malicious(str(marker))}}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    message = (
        rf"evil\.pth cannot be loaded safely \(weights_only\): it refers to {os.mkdir.__module__}\.mkdir"
    )
    with pytest.raises(ValueError, match=message) as caught:
        load_backbone(build("mobilenet_v3_small"), str(path), network="mobilenet_v3_small")
    assert not marker.exists()
    # PyTorch's own message tells how to load the file all the same; ours must not.
    assert "`weights_only` set to `False`" not in str(caught.value)
    torch.load(path, weights_only=False)
    assert marker.exists(), "the file was harmless, so this test shows nothing"


def test_a_pickled_network_is_refused_with_advice(tmp_path):
    path = tmp_path / "network.pth"
    torch.save(nn.Linear(1, 1), path)
    with pytest.raises(ValueError, match=r"refers to torch\.nn.*Linear\. .*save only its state_dict"):
        read_weights(str(path), torchvision_model="mobilenet_v3_small")


def damaged():
    """Yield (name, bytes): no files of torch.save, or parts of one."""
    for text in ("hello world, I am a text file\n" * 9, "this is text", "Text", "<!DOCTYPE html>", "{}", ""):
        yield f"text {text[:6]!r}", text.encode()
    yield "lfs pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0a\nsize 10315037\n"


@pytest.mark.parametrize("content", [pytest.param(data, id=name) for name, data in damaged()])
def test_no_checkpoint(content, tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"weights\.pth cannot be loaded safely.*damaged, not a PyTorch"):
        read_weights(str(path), torchvision_model="mobilenet_v3_small")


@pytest.mark.parametrize("legacy", [False, True])
def test_a_truncated_file_is_refused_wherever_it_ends(legacy, tmp_path):
    path = tmp_path / "weights.pth"
    state = {"a": torch.arange(300.0), "b": torch.zeros(2, 2)}
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    whole = path.read_bytes()
    for end in range(0, len(whole) - 1, 41 if legacy else 97):
        path.write_bytes(whole[:end])
        with pytest.raises(ValueError, match=r"weights\.pth cannot be loaded safely.*The file is damaged"):
            load_checkpoint(path)


def test_a_missing_file_says_what_can_be_given(tmp_path):
    message = r"no weights at .*nothing\.pth: use a .*file, or 'torchvision:DEFAULT'"
    with pytest.raises(FileNotFoundError, match=message):
        read_weights(str(tmp_path / "nothing.pth"), torchvision_model="mobilenet_v3_small")
    with pytest.raises(FileNotFoundError, match="no weights at"):
        read_weights(str(tmp_path), torchvision_model="mobilenet_v3_small")


def test_a_runs_folder_is_told_its_checkpoint(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for name in ("last", "best"):
        (tmp_path / "checkpoints" / f"{name}.ckpt").touch()
    with pytest.raises(
        FileNotFoundError, match=r"a run folder, not a file: use its checkpoint, .*/best\.ckpt$"
    ):
        read_weights(str(tmp_path), torchvision_model="mobilenet_v3_small")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "contains a list, not a state dict"),
        (torch.zeros(3), "contains a Tensor, not a state dict"),
        ({}, r"has no tensors: its keys are \[\]"),
        ({"epoch": 3, "state_dict": {}}, "has no tensors"),
        ({"epoch": 3, "lr": 0.1}, r"has no tensors: its keys are \['epoch', 'lr'\]; is it a state dict\?"),
    ],
)
def test_a_file_without_weights(content, message, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    with pytest.raises(ValueError, match=message):
        read_weights(str(path), torchvision_model="mobilenet_v3_small")
