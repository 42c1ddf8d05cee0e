"""Models by name: torchvision's networks with their own class names, without a network connection."""

import json

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from random_weights import write_detector_of_cats
from torchvision.models import get_model_weights

from dettoolkit import load
from dettoolkit.cli import main
from dettoolkit.complexity import count_madds, count_parameters
from dettoolkit.named_models import published_of, ready_models
from dettoolkit.tasks import spec_of

DETECTOR, SEGMENTER = "ssdlite_mnv3_large_torchvision", "lraspp_mnv3_large_torchvision"
CLASSIFIER = "imagenet_mnv3_small_torchvision"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Return files as torchvision publishes them, with random weights that find something."""
    folder, files = tmp_path_factory.mktemp("weights"), {}
    builders = {
        SEGMENTER: lambda: torchvision.models.segmentation.lraspp_mobilenet_v3_large(
            weights=None, weights_backbone=None
        ),
        CLASSIFIER: lambda: torchvision.models.mobilenet_v3_small(weights=None),
    }
    for name, build in builders.items():
        torch.manual_seed(0)
        files[name] = folder / f"{name}.pth"
        torch.save(build().state_dict(), files[name])
    files[DETECTOR] = write_detector_of_cats(folder / f"{DETECTOR}.pth")
    return files


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.jpg"
    pixels = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_every_ready_model_is_what_torchvision_publishes():
    models = ready_models()
    assert {spec_of(recipe).name for recipe in models.values()} == {
        "detection",
        "segmentation",
        "classification",
    }
    assert {"imagenet_mnv2_torchvision", "imagenet_mnasnet_torchvision", DETECTOR, SEGMENTER} <= set(models)
    for recipe in models.values():
        spec, facts = spec_of(recipe), published_of(recipe)
        names = spec.published_classes(recipe, facts.categories).names
        network = spec.build_network(recipe, num_classes=len(names)).eval()
        assert count_parameters(network, norm_affine=True) == facts.parameters
        size = spec.input_hw(recipe)
        if size is not None:  # torchvision counts LR-ASPP at 520 x 520
            assert count_madds(network, size) / 1e9 == pytest.approx(facts.madds, rel=0.02)


@pytest.mark.parametrize(
    ("name", "count", "first", "ids"),
    [(DETECTOR, 90, "person", 1), (SEGMENTER, 21, "background", 0), (CLASSIFIER, 1000, "tench", 0)],
)
def test_class_names_and_ids_come_with_the_name(weights, name, count, first, ids):
    model = load(name, weights=weights[name])
    assert len(model.class_names) == count
    assert (model.class_names[0], model.manifest.section.class_ids[0]) == (first, ids)
    assert model.manifest.name == name


def test_boxes_have_cocos_names_and_ids(weights, photo):
    found = load(DETECTOR, weights=weights[DETECTOR])(photo, threshold=0.1)
    assert len(found)
    assert set(found.names) == {"cat"}
    assert {int(label) for label in found.labels} == {16}
    assert {each["class_id"] for each in found.record(masks=False)["objects"]} == {17}


def test_a_file_in_pytorchs_cache_is_taken(weights, photo, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    published = get_model_weights("mobilenet_v3_small")["IMAGENET1K_V1"]
    place = tmp_path / "checkpoints" / published.url.rpartition("/")[2]
    place.parent.mkdir()
    place.write_bytes(weights[CLASSIFIER].read_bytes())
    by_name, by_file = load(CLASSIFIER), load(CLASSIFIER, weights=weights[CLASSIFIER])
    assert by_name(photo).scores.tolist() == by_file(photo).scores.tolist()


def test_without_a_network_it_is_said_which_file_goes_where(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))

    def refuse(*_args, **_options):
        raise OSError("no route to host")

    monkeypatch.setattr("torch.hub.urlopen", refuse)
    with pytest.raises(RuntimeError, match=r"https://\S+/mobilenet_v3_small-\S+\.pth") as caught:
        load(CLASSIFIER)
    assert f"copy that file to {tmp_path}/checkpoints/mobilenet_v3_small-" in str(caught.value)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("ssdlite_mnv3_large_torchvison", "did you mean 'ssdlite_mnv3_large_torchvision'"),
        ("entirely_different", "no model 'entirely_different'"),
        ("nowhere/model", "neither a checkpoint nor a run folder"),
        ("ssdlite_mnv3_large", "names no weights of a trained network"),
    ],
)
def test_each_mistake_has_its_own_sentence(model, said):
    with pytest.raises((FileNotFoundError, ValueError), match=said):
        load(model)


def test_weights_that_do_not_fit_or_are_not_asked_for(weights, tiny_run, tmp_path):
    with pytest.raises(ValueError, match="does not fit this network"):
        load(DETECTOR, weights=weights[CLASSIFIER])
    with pytest.raises(FileNotFoundError, match="no weights at"):
        load(DETECTOR, weights=tmp_path / "nothing.pth")
    with pytest.raises(ValueError, match="omit weights"):
        load(tiny_run, weights=weights[DETECTOR])


def test_the_command_predicts_by_name_and_resumes(weights, photo, tmp_path, capsys):
    command = ["predict", DETECTOR, str(photo), "--weights", str(weights[DETECTOR])]
    assert main([*command, "--out", str(tmp_path / "out"), "--save", "json", "--threshold", "0.1"]) == 0
    (line,) = (tmp_path / "out/results.jsonl").read_text().splitlines()
    assert json.loads(line)["objects"][0]["name"] == "cat"
    assert main(["predict", "--resume", str(tmp_path / "out")]) == 0
    assert main(["predict", "ssdlite_mnv3_larg", str(photo)]) == 2
    assert "did you mean" in capsys.readouterr().err


def test_export_by_name(weights, photo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["export", CLASSIFIER, f"model.weights={weights[CLASSIFIER]}", "--images", str(photo)]
    assert main(command) == 0
    model = load(f"{CLASSIFIER}.onnx")
    direct = load(CLASSIFIER, weights=weights[CLASSIFIER])
    assert model.class_names == direct.class_names
    assert model(photo).labels.tolist() == direct(photo).labels.tolist()


def test_evaluate_by_name_wants_data(weights, tmp_path, capsys):
    assert main(["evaluate", DETECTOR, f"model.weights={weights[DETECTOR]}", f"data.root={tmp_path}"]) == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_the_list_of_models(capsys):
    assert main(["models"]) == 0
    text = capsys.readouterr().out
    for name in ready_models():
        assert name in text
    assert "21.3 mAP (COCO-val2017), by torchvision" in text
    assert main(["models", "--json"]) == 0
    entries = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert entries[DETECTOR]["classes"] == 90
    assert entries[DETECTOR]["url"].endswith(".pth")
    assert entries[CLASSIFIER]["license"] == "BSD-3-Clause"
