"""Published folders: the same answers to the last bit, a card of what was measured, the hub's stand-in."""

import json
import re
import shutil
import struct

import msgspec
import pytest
import torch
import yaml
from hub_server import hub_server
from safetensors import safe_open
from safetensors.torch import save_file

from dettoolkit import load
from dettoolkit.cli import main
from dettoolkit.config import load_recipe
from dettoolkit.hub import FILES
from dettoolkit.manifest import from_json
from dettoolkit.publishing.card import Terms
from dettoolkit.publishing.publish import publish
from dettoolkit.tasks import sections
from dettoolkit.training.trained import open_model
from dettoolkit.weights.read import read_checkpoint, read_weights

TERMS = Terms(license="apache-2.0", data_license="CC BY 4.0", dataset="tiny shapes")
OPTIONS = ["--license", "apache-2.0", "--data-license", "CC BY 4.0", "--dataset", "tiny shapes"]
RUNS = ["tiny_learnt_run", "tiny_segmentation_run", "tiny_classification_run"]
IMAGES = dict(zip(RUNS, ["val", "leftImg8bit/val", "val"], strict=True))
PIPELINES = ["object-detection", "image-segmentation", "image-classification"]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Measure a latency twice only."""
    monkeypatch.setattr("dettoolkit.paper.counts.ROUNDS", 1)
    monkeypatch.setattr("dettoolkit.paper.counts.TURNS", 2)
    monkeypatch.setattr("dettoolkit.segmentation.spec.CITYSCAPES_HW", (64, 128))


@pytest.fixture(scope="module")
def published(request, tmp_path_factory):
    """Return a function that publishes the run of a fixture once."""
    made = {}

    def published(name):
        if name not in made:
            out = tmp_path_factory.mktemp("published") / "model"
            made[name] = publish(request.getfixturevalue(name), out, terms=TERMS)
        return made[name]

    return published


@pytest.fixture
def model_file(published, tmp_path):
    """Return a published model's file, to be changed."""
    return shutil.copy(published("tiny_learnt_run") / "model.safetensors", tmp_path / "model.safetensors")


def images_of(name, request):
    """Return the folder of the validation images of a run's data."""
    data = {"tiny_learnt_run": "tiny"}.get(name, name.removesuffix("_run"))
    return request.getfixturevalue(data).data / IMAGES[name]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Let the hub's library talk to a stand-in, with a cache and a token of its own."""
    constants = pytest.importorskip("huggingface_hub.constants")
    with hub_server() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setenv("HF_TOKEN", "hf_nobody")
        yield server


def front_matter(folder):
    _, front, body = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(front), body


def same(one, other):
    record, expected = one.record(masks=True), other.record(masks=True)
    return msgspec.json.encode(record) == msgspec.json.encode(expected)


# The same model


@pytest.mark.parametrize("name", RUNS)
def test_a_published_model_is_the_run_to_the_last_bit(name, request, published):
    run, folder = request.getfixturevalue(name), published(name)
    (manifest, network), (expected, original) = open_model(folder), open_model(run)
    state, theirs = network.state_dict(), original.state_dict()
    assert state.keys() == theirs.keys()
    assert all(torch.equal(state[key], theirs[key]) for key in state)
    assert manifest.tasks == expected.tasks
    there = from_json((folder / "manifest.json").read_bytes(), source="there", sections=sections())
    assert there == manifest
    before, after = load(run, device="cpu"), load(folder, device="cpu")
    for image in images_of(name, request).rglob("*.png"):
        assert same(before(image), after(image))


@pytest.mark.parametrize("name", RUNS)
def test_a_file_exported_from_either_gives_the_same_answers(name, request, published, tmp_path):
    pytest.importorskip("onnxruntime")
    images = images_of(name, request)
    files = [tmp_path / "run.onnx", tmp_path / "published.onnx"]
    for source, out in zip((request.getfixturevalue(name), published(name)), files, strict=True):
        assert main(["export", str(source), "--out", str(out), "--images", str(images)]) == 0
    one, other = (load(path) for path in files)
    for image in images.rglob("*.png"):
        assert same(one(image), other(image))


def test_the_recipe_travels_without_folders_of_this_machine(published, tiny, tmp_path):
    folder = published("tiny_learnt_run")
    recipe = load_recipe(str(folder / "recipe.yaml")).recipe
    assert (recipe.data.root, recipe.trainer.out) == ("data", "tiny_learnt_run")
    for path in folder.iterdir():
        assert str(tiny.data.parent).encode() not in path.read_bytes()
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)


def test_it_is_evaluated_and_trained_from_as_a_run_is(published, tiny, tiny_learnt_run, tmp_path):
    folder, out = published("tiny_learnt_run"), tmp_path / "evaluation"
    command = ["evaluate", str(folder), f"data.root={tiny.data}", "--out", str(out)]
    assert main(command) == 0
    before, after = (json.loads((each / "evaluation.json").read_text()) for each in (tiny_learnt_run, out))
    assert after["numbers"] == before["numbers"]
    run, _ = tiny.train(
        tmp_path / "runs", f"model.weights={folder}/model.safetensors", "trainer.max_epochs=1"
    )
    assert (run / "checkpoints/best.ckpt").is_file()
    with pytest.raises(FileNotFoundError, match=r"use .*model\.safetensors"):
        tiny.train(tmp_path / "runs", f"model.weights={folder}")


def test_a_published_folder_and_a_checkpoint_are_published_too(published, tiny_learnt_run, tmp_path):
    first = published("tiny_learnt_run")
    again = publish(first, tmp_path / "again", terms=TERMS)
    one, other = (read_checkpoint(folder / "model.safetensors") for folder in (again, first))
    assert one[0] == other[0]
    assert all(torch.equal(value, other[1][key]) for key, value in one[1].items())
    assert front_matter(again)[0] == front_matter(first)[0]  # with the scores
    best = publish(tiny_learnt_run / "checkpoints/best.ckpt", tmp_path / "best", terms=TERMS)
    assert front_matter(best)[0] == front_matter(first)[0]
    last = publish(tiny_learnt_run / "checkpoints/last.ckpt", tmp_path / "last", terms=TERMS)
    assert "It was not scored" in front_matter(last)[1]  # its run's evaluation is the best checkpoint's
    report = tiny_learnt_run / "evaluation.json"
    own = publish(last, tmp_path / "own", terms=TERMS, evaluation=report)
    assert front_matter(own)[0] == front_matter(first)[0]


# The card


@pytest.mark.parametrize(("name", "pipeline"), zip(RUNS, PIPELINES, strict=True))
def test_the_card_says_what_was_measured(name, pipeline, request, published):
    run, folder = request.getfixturevalue(name), published(name)
    front, body = front_matter(folder)
    assert front["license"] == "apache-2.0"
    assert front["library_name"] == "dettoolkit"
    assert front["pipeline_tag"] == pipeline
    assert front["datasets"] == ["tiny shapes"]
    assert {"dettoolkit", "mobilenet_v3_small"} <= set(front["tags"])
    numbers = json.loads((run / "evaluation.json").read_text())["numbers"]
    (index,) = front["model-index"]
    (result,) = index["results"]
    scores = {each["type"]: each["value"] for each in result["metrics"]}
    assert scores == {key: round(value, 4) for key, value in numbers.items() if value is not None}
    assert front["metrics"] == list(scores)
    assert result["task"] == {"type": pipeline}
    assert re.fullmatch(r"data/\S+ \(\d images\)", result["dataset"]["name"])
    assert index["name"] == "tiny"
    for class_name in load(folder).class_names:
        assert f"`{class_name}`" in body
    assert "from dettoolkit import load" in body
    assert "1 thread of" in body
    assert "CC BY 4.0" in body
    assert "None was compared with PyTorch yet" in body


def test_the_card_has_the_gates_verdict(tiny_classification, tiny_classification_run, tmp_path):
    pytest.importorskip("onnxruntime")
    run = shutil.copytree(tiny_classification_run, tmp_path / "run")
    images = tiny_classification.data / "val"
    assert main(["export", str(run), "--images", str(images), "--tolerance", "raw=0.5"]) == 0
    body = front_matter(publish(run, tmp_path / "out", terms=TERMS))[1]
    assert "`model.onnx` agrees on 7 images: raw " in body
    assert "(at most 0.5)" in body
    (run / "model.onnx.report.json").write_text("[]")
    with pytest.raises(ValueError, match=r"model\.onnx\.report\.json is not as dettoolkit writes it"):
        publish(run, tmp_path / "other", terms=TERMS)


def test_text_of_others_is_no_markdown(tiny_run, tmp_path):
    checkpoint = torch.load(tiny_run / "checkpoints/best.ckpt", weights_only=True)
    checkpoint["dettoolkit"]["class_names"] = ["<script>|`x`", "# no\n---\n"]
    torch.save(checkpoint, tmp_path / "odd.ckpt")
    front, body = front_matter(publish(tmp_path / "odd.ckpt", tmp_path / "out", terms=TERMS))
    assert "`<script>/'x'`, `# no ---`" in body
    assert front["license"] == "apache-2.0"


def test_missing_licenses_are_asked_for_in_one_sentence(tiny_run, tmp_path, capsys):
    command = ["publish", str(tiny_run), "--out", str(tmp_path / "out")]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert "--license and --data-license and --dataset" in said
    assert main([*command, "--license", "mit"]) == 2
    said = capsys.readouterr().err
    assert "needs --data-license and --dataset from you" in said
    assert main([*command, *OPTIONS, "--license", "do what you like"]) == 2
    assert "apache-2.0 or mit" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(tiny_run, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    assert main(["publish", str(tiny_run), "--out", str(tmp_path / "out"), *OPTIONS]) == 2
    assert "not overwritten" in capsys.readouterr().err
    assert not list((tmp_path / "out").iterdir())
    assert main(["publish", str(tiny_run), *OPTIONS]) == 2
    assert "--out DIR" in capsys.readouterr().err


def test_a_named_model_has_torchvisions_score(tmp_path, monkeypatch, capsys):
    from torchvision.models import get_model_weights, mobilenet_v3_small

    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    place = (
        tmp_path / "checkpoints" / get_model_weights("mobilenet_v3_small")["IMAGENET1K_V1"].url.split("/")[-1]
    )
    place.parent.mkdir()
    torch.save(mobilenet_v3_small(weights=None).state_dict(), place)
    command = ["publish", "imagenet_mnv3_small_torchvision", "--out", str(tmp_path / "out")]
    assert main(command) == 2
    assert "BSD-3-Clause" in capsys.readouterr().err
    assert main([*command, *OPTIONS]) == 0
    front, body = front_matter(tmp_path / "out")
    (result,) = front["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "top-1", "value": 0.6767, "name": "top-1"}]
    assert "Measured by torchvision on `ImageNet-1K`" in body
    assert len(load(tmp_path / "out").class_names) == 1000


# safetensors


def test_a_flipped_byte_is_found(model_file):
    whole = model_file.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    where = [start, start + 1001, len(whole) - 1, whole.index(b"class_names") + 20]
    for place in where:
        changed = bytearray(whole)
        changed[place] ^= 1
        model_file.write_bytes(changed)
        with pytest.raises(ValueError, match=r"model\.safetensors cannot be loaded: its checksum"):
            load(model_file)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "does not fit into the file's 0"),
        (struct.pack("<Q", 1 << 40) + b"{}", "header of 1099511627776 bytes does not fit"),
        (struct.pack("<Q", 17 << 20) + b" " * (17 << 20), "where 16777216 are the most"),
        (struct.pack("<Q", 4) + b"{}}}", "cannot be loaded"),
        (b"PK\x03\x04" + bytes(100), "does not fit into the file's"),
    ],
)
def test_a_damaged_header_is_refused(content, why, tmp_path):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=why):
        load(path)


def test_a_truncated_file_is_refused(model_file):
    whole = model_file.read_bytes()
    for length in (5, 100, len(whole) - 10):
        model_file.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="damaged, cut off"):
            load(model_file)


def test_a_foreign_file_gives_weights_and_no_run(tiny, tiny_run, tmp_path):
    _, state = read_checkpoint(tiny_run / "checkpoints/best.ckpt")
    path = tmp_path / "foreign.safetensors"
    save_file({name: value.contiguous() for name, value in state.items()}, path)
    assert read_weights(str(path), torchvision_model="").keys() == state.keys()
    with pytest.raises(ValueError, match="is not a dettoolkit checkpoint"):
        load(path)
    tiny.train(tmp_path / "runs", f"model.weights={path}", "trainer.max_epochs=1")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"class_ids": [1]}, "2 class names and 1 class ids"),
        ({"name": "../x"}, "has an invalid description"),
        ({"version": 99}, "later version of dettoolkit"),
        ({"class_names": ["a", "b", "c"], "class_ids": [1, 2, 3]}, "does not fit this network"),
        ({"recipe": {"model": {"type": "nothing"}}}, "nothing"),
    ],
)
def test_a_description_that_lies_is_refused(change, why, model_file, tmp_path):
    from dettoolkit.weights.safe import write_safetensors

    description, state = read_checkpoint(model_file)
    path = tmp_path / "lie.safetensors"
    write_safetensors(path, state, {**description, **change})
    with pytest.raises(ValueError, match=why):
        load(path)


def test_the_file_is_one_for_everybody(published):
    with safe_open(published("tiny_learnt_run") / "model.safetensors", framework="pt") as file:
        assert file.metadata()["format"] == "pt"
        assert any(name.startswith("backbone.") for name in file.keys())  # noqa: SIM118


# The hub


def test_push_load_predict_and_export_from_the_hub(
    hub, tiny_classification, tiny_classification_run, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    run, images = tiny_classification_run, tiny_classification.data / "val"
    command = ["publish", str(run), "--push", "me/tiny", "--private", *OPTIONS]
    assert main(command) == 0
    assert f"pushed: {hub.address}/me/tiny/commit/" in capsys.readouterr().out
    files = hub.repositories["me/tiny"][-1][1]
    assert sorted(files) == sorted(FILES)
    assert hub.private == {"me/tiny": True}
    assert b'load("hf://me/tiny")' in files["README.md"]
    hub.commit("me/tiny", {"pytorch_model.bin": b"pickle", "setup.py": b"code"})
    image = images / "box/1.png"
    assert same(load("hf://me/tiny")(image), load(run)(image))
    assert set(hub.asked) <= set(FILES)  # nothing else is fetched
    assert main(["predict", "hf://me/tiny", str(image), "--out", "p", "--save", "json"]) == 0
    assert main(["predict", "--resume", "p"]) == 0
    assert main(["export", "hf://me/tiny", "--images", str(images)]) == 0
    assert (tmp_path / "tiny.onnx").is_file()


def test_evaluate_from_the_hub_writes_nothing_into_its_cache(hub, published, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["publish", str(published("tiny_learnt_run")), "--push", "me/evaluated"]) == 0
    assert main(["evaluate", "hf://me/evaluated", f"data.root={tiny.data}", "trainer.out=runs"]) == 0
    assert (tmp_path / "runs/evaluated/evaluation/evaluation.json").is_file()
    assert not list((tmp_path / "hub").rglob("evaluation.json"))


def test_a_revision_is_taken_and_a_push_keeps_the_former(hub, published):
    assert main(["publish", str(published("tiny_learnt_run")), "--push", "me/two"]) == 0
    first = hub.repositories["me/two"][-1][0]
    assert main(["publish", str(published("tiny_classification_run")), "--push", "me/two"]) == 0
    assert load(f"hf://me/two@{first}").manifest.task == load(published("tiny_learnt_run")).manifest.task
    assert load("hf://me/two").class_names == ("bar", "box", "disc")


def test_each_mistake_about_the_hub_has_its_sentence(hub, published, tmp_path, monkeypatch, capsys):
    hub.commit("me/other", {"pytorch_model.bin": b"pickle"})
    for model, said in (
        ("hf://me", "no address on the hub"),
        ("hf://me/nothing", "is not there, or is private"),
        ("hf://me/other@v9", "no such branch, tag or commit"),
        ("hf://me/other", "has no model.safetensors"),
    ):
        with pytest.raises((ValueError, OSError), match=said):
            load(model)
    folder = str(published("tiny_learnt_run"))
    for arguments, said in (
        ([folder, "--push", "nobody"], "write owner/name"),
        ([folder, "--push", "me/x", "--license", "mit"], "has a card already"),
        ([folder, "--private"], "use both"),
        ([folder, "--out", str(tmp_path / "x"), "--weights", "file", *OPTIONS], "omit --weights"),
    ):
        assert main(["publish", *arguments]) == 2
        assert said in capsys.readouterr().err
    hub.shutdown()
    hub.server_close()
    with pytest.raises(OSError, match="cannot be fetched"):
        load("hf://me/unreachable")


def test_without_the_hubs_library_the_extra_is_named(monkeypatch, tiny_run, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'dettoolkit\[hub\]'"):
        load("hf://me/model")
