from __future__ import annotations

import csv
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from dettoolkit import load
from dettoolkit.config import load_recipe
from dettoolkit.training import commands
from dettoolkit.training.logs import drop_rows
from dettoolkit.training.resume import changed_keys, check_changes, describe_changes
from dettoolkit.training.run_folder import (
    RANKS,
    checkpoint_of,
    is_first_process,
    keep_config,
    new_evaluation_dir,
    new_run_dir,
    stored_recipe,
)
from dettoolkit.weights.read import read_checkpoint


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the tests run under a launcher too."""
    for name in RANKS:
        monkeypatch.delenv(name, raising=False)


# The folder


def test_every_run_has_a_folder_of_its_own(tmp_path: Path) -> None:
    folders = [new_run_dir(tmp_path / "runs", "tiny") for _ in range(3)]
    assert len(set(folders)) == 3
    assert all(folder.is_dir() and folder.parent == tmp_path / "runs" / "tiny" for folder in folders)
    assert [new_evaluation_dir(folders[0]).name for _ in range(3)] == [
        "evaluation",
        "evaluation_2",
        "evaluation_3",
    ]


@pytest.mark.parametrize("name", RANKS)
def test_only_the_first_process_makes_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "0")
    assert is_first_process()
    monkeypatch.setenv(name, "1")
    assert not is_first_process()
    new_run_dir(tmp_path, "tiny")
    new_evaluation_dir(tmp_path)
    assert not list(tmp_path.iterdir())


# Finding and reading checkpoints


def test_checkpoint_is_the_file_itself_or_the_best_of_a_run(tmp_path: Path) -> None:
    folder = tmp_path / "tiny" / "one" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "last.ckpt").touch()
    assert checkpoint_of(folder / "last.ckpt", names=("best",)) == folder / "last.ckpt"
    assert checkpoint_of(folder.parent, names=("best", "last")) == folder / "last.ckpt"
    (folder / "best.ckpt").touch()
    assert checkpoint_of(folder.parent, names=("best", "last")) == folder / "best.ckpt"


def test_path_that_is_no_run_lists_the_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as error:
        checkpoint_of(Path("nowhere"), names=("best", "last"))
    assert str(error.value) == (
        "nowhere is neither a checkpoint nor a run folder with checkpoints/best.ckpt or checkpoints/last.ckpt"
    )
    for time in ("2026-01-01_10-00-00", "2026-01-02_10-00-00"):
        folder = Path("runs", "tiny", time, "checkpoints")
        folder.mkdir(parents=True)
        (folder / "last.ckpt").touch()
    both = "; runs with checkpoints: runs/tiny/2026-01-0[12]_10-00-00, runs/tiny/2026-01-0[12]_10-00-00(, |$)"
    for asked in ("nowhere", "runs", "runs/tiny"):
        with pytest.raises(FileNotFoundError, match=both):
            checkpoint_of(Path(asked), names=("best", "last"))
    with pytest.raises(FileNotFoundError, match=r"with checkpoints/best.ckpt; runs with"):
        checkpoint_of(Path("runs/tiny/2026-01-01_10-00-00"), names=("best",))


@pytest.mark.parametrize("ending", [".onnx", ".tflite", ".XML"])
def test_an_exported_file_is_no_checkpoint(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"model{ending}"
    path.write_bytes(b"model")
    with pytest.raises(ValueError, match=r"is an exported file, .* use the run it was exported from"):
        checkpoint_of(path, names=("best",))


def test_checkpoint_describes_itself(tiny_run: Path, tiny: Any) -> None:
    path = tiny_run / "checkpoints" / "best.ckpt"
    content = torch.load(path, weights_only=True)
    description, state = read_checkpoint(path)
    assert content["dettoolkit"] == description
    assert description["name"] == "tiny"
    assert description["class_names"] == ["box", "bar"]
    assert description["class_ids"] == [3, 7]
    assert description["images_per_step"] == 4
    assert description["versions"]["torch"] == torch.__version__
    assert description["versions"].keys() == {"dettoolkit", "torch", "torchvision", "lightning", "python"}
    assert description["version"] == 2
    assert all(name.startswith(("backbone.", "heads.detection.")) for name in state)
    with stored_recipe(tiny_run) as config:
        assert config.name == "tiny.yaml"
        recipe = load_recipe(str(config)).recipe
    assert recipe == load_recipe(str(tiny_run / "config.yaml")).recipe
    assert recipe.data.root == str(tiny.data)


@pytest.mark.parametrize(("version", "whose"), [(..., "an earlier"), (1, "an earlier"), (3, "a later")])
def test_a_checkpoint_of_another_version_is_refused(
    tiny_run: Path, tmp_path: Path, version: Any, whose: str
) -> None:
    content = torch.load(tiny_run / "checkpoints" / "best.ckpt", weights_only=True)
    del content["dettoolkit"]["version"]
    if version is not ...:
        content["dettoolkit"]["version"] = version
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match=rf"other\.ckpt was written by {whose} version .* train it again"):
        load(tmp_path / "other.ckpt")


def test_what_is_no_checkpoint_of_ours_is_refused(tmp_path: Path) -> None:
    bare, damaged, evil = tmp_path / "bare.pth", tmp_path / "damaged.ckpt", tmp_path / "evil.ckpt"
    torch.save({"conv.weight": torch.zeros(3)}, bare)
    with pytest.raises(ValueError, match=r"bare.pth is not a dettoolkit checkpoint: .*bare state dict"):
        read_checkpoint(bare)
    damaged.write_bytes(bare.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"damaged.ckpt cannot be loaded safely .*damaged"):
        read_checkpoint(damaged)
    evil.write_bytes(pickle.dumps({"state_dict": Path("x"), "dettoolkit": {}}))
    with pytest.raises(ValueError, match=r"evil.ckpt cannot be loaded safely"):
        read_checkpoint(evil)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipe": ...}, "recipe"),
        ({"class_names": ...}, "class_names"),
        ({"class_ids": ...}, "class_ids"),
        ({"name": ...}, "name"),
        ({"versions": ...}, "versions"),
        ({"recipe": "ssdlite"}, "recipe"),
        ({"recipe": [1, 2]}, "recipe"),
        ({"recipe": {"trainer": 5}}, r"recipe\.trainer"),
        ({"class_names": []}, "class_names"),
        ({"class_names": "box"}, "class_names"),
        ({"class_names": ["box", 5]}, r"class_names\[1\]"),
        ({"class_ids": [3]}, "2 class names and 1"),
        ({"class_ids": [3, "7"]}, r"class_ids\[1\]"),
        ({"name": 5}, "name"),
        ({"name": "../../elsewhere"}, "name"),
        ({"name": "/elsewhere"}, "name"),
        ({"name": "a\0b"}, "name"),
        ({"name": "a" * 999}, "name"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_describes_itself_wrongly_is_refused(
    tiny_run: Path, tiny: Any, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    content = torch.load(tiny_run / "checkpoints" / "best.ckpt", weights_only=True)
    content["dettoolkit"].update(change)
    for key, value in change.items():
        if value is ...:
            del content["dettoolkit"][key]
    path = tmp_path / "deep" / "bad.ckpt"
    path.parent.mkdir()
    torch.save(content, path)
    match = rf"bad\.ckpt .*description .*{message}"
    with pytest.raises(ValueError, match=match):
        read_checkpoint(path)
    with pytest.raises(ValueError, match=match):
        load(path)
    with pytest.raises(ValueError, match=match), stored_recipe(path):
        pass
    recipe = tiny.load(tmp_path, f"model.weights={path}").recipe
    for out in (tmp_path / "out", None):
        with pytest.raises(ValueError, match=match):
            commands.evaluate(Path("tiny.yaml"), recipe=recipe, out=out)
    with pytest.raises(ValueError, match=match):
        commands.check("tiny", recipe)


@pytest.mark.parametrize(
    "recipe", [{}, {"model": {}}, {"model": {"type": "ssdlite"}, "trainer": {"seed": torch.zeros(3)}}, {5: 6}]
)
def test_a_checkpoint_with_a_recipe_of_another_kind_is_refused(
    tiny_run: Path, tmp_path: Path, recipe: dict[Any, Any]
) -> None:
    content = torch.load(tiny_run / "checkpoints" / "best.ckpt", weights_only=True)
    content["dettoolkit"]["recipe"] = recipe
    torch.save(content, tmp_path / "bad.ckpt")
    with pytest.raises(ValueError, match=r"bad\.ckpt"):
        load(tmp_path / "bad.ckpt")


@pytest.mark.parametrize("value", [5, "text", None, [1.0]])
def test_a_checkpoint_whose_weights_are_no_tensors_is_refused(
    tiny_run: Path, tmp_path: Path, value: object
) -> None:
    content = torch.load(tiny_run / "checkpoints" / "best.ckpt", weights_only=True)
    first = next(iter(content["state_dict"]))
    content["state_dict"][first] = value
    torch.save(content, tmp_path / "bad.ckpt")
    with pytest.raises(ValueError, match=rf"bad\.ckpt.*{re.escape(first)}.*{type(value).__name__}"):
        load(tmp_path / "bad.ckpt")


# What may change when a run is continued


def changes(tiny: Any, *overrides: str) -> dict[str, tuple[Any, Any]]:
    return changed_keys(tiny.load(tiny.data).recipe, tiny.load(tiny.data, *overrides).recipe)


def test_changed_keys_are_found_in_nested_sections_and_lists(tiny: Any) -> None:
    found = changes(
        tiny,
        "model.head.extra_channels=[32]",
        "trainer.ema={decay: 0.9}",
        "optim.lr=0.2",
        "trainer.devices=1",
    )
    assert found == {
        "model.head.extra_channels": ([32, 32], [32]),
        "optim.lr": (0.05, 0.2),
        "trainer.ema.decay": (None, 0.9),
        "trainer.ema.warmup_steps": (None, 2000),
    }


@pytest.mark.parametrize(
    "override",
    [
        "model.head.class_bias=-4.0",
        "optim.lr=0.2",
        "optim.schedule.warmup_steps=0",
        "data.augment=ssd",
        "data.label_map=ids",
        "data.train.annotations=other.json",
        "trainer.seed=1",
        "trainer.ema={decay: 0.9}",
        "trainer.precision=bf16-mixed",
        "trainer.gradient_clip=1.0",
    ],
)
def test_what_is_trained_cannot_change(tiny: Any, override: str) -> None:
    key = override.partition("=")[0]
    with pytest.raises(
        ValueError,
        match=rf"(?s)cannot change during a run:\n  {key}[\w.]*: .* in the checkpoint, .* requested\n.*"
        "start a new run",
    ):
        check_changes(changes(tiny, override))


def test_where_and_how_long_may_change(tiny: Any) -> None:
    found = changes(
        tiny,
        "trainer.max_epochs=5",
        "trainer.accumulate=2",
        "data.batch_size=2",
        "data.workers=1",
        "data.root=elsewhere",
        "trainer.strategy=ddp",
        "data.on_bad_image=skip",
        "evaluation.figures=0",
    )
    check_changes(found)
    assert len(found) == 8
    check_changes({})


def test_changes_are_told_with_their_effect_on_the_rate(tiny: Any) -> None:
    recipe = tiny.load(tiny.data).recipe
    longer = describe_changes({"trainer.max_epochs": (2, 5)}, recipe)
    assert longer[0] == "changed for the rest of the run: trainer.max_epochs: 2 -> 5"
    assert "follows the cosine schedule of the new length" in longer[1]
    assert len(describe_changes({"data.workers": (0, 1)}, recipe)) == 1
    constant = tiny.load(tiny.data, "optim.schedule.type=constant").recipe
    assert len(describe_changes({"trainer.max_epochs": (2, 5)}, constant)) == 1


def test_former_recipes_of_a_run_are_kept(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("a")
    for text in ("a", "b", "b", "c"):
        keep_config(config, text)
        assert config.read_text() == text
    found = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert found == {"config.yaml": "c", "config_1.yaml": "a", "config_2.yaml": "b"}


# metrics.csv


def test_rows_that_a_resumed_run_writes_again_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("AP,loss,step\n,3.5,0\n,3.25,1\n0.5,,1\n,3.0,2\n,2.7")  # killed in the last line
    assert drop_rows(path, steps_done=2) == ["AP", "loss", "step"]
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [["AP", "loss", "step"], ["", "3.5", "0"], ["", "3.25", "1"], ["0.5", "", "1"]]
    assert [each.name for each in tmp_path.iterdir()] == ["metrics.csv"]


def test_empty_metrics_file_is_no_trouble(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.touch()
    assert drop_rows(path, steps_done=2) == []
