"""Runs of a classifier, and what its user types and is told. What runs of any task have: test_training.py."""

from __future__ import annotations

import csv
import json
import math
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from command_line import Errors, refused
from learning_margins import at_least
from training_runs import (
    Killed,
    checkpoint,
    column,
    comparable,
    differences,
    explode,
    kill,
    on_two_processes,
    the_run,
)

from dettoolkit import cli
from dettoolkit.config import load_recipe
from dettoolkit.training import commands
from dettoolkit.training.run_folder import stored_recipe

QUICK = "evaluation.figures=0"
NUMBERS = {"top-1", "top-5", "mean class top-1"}
pytestmark = pytest.mark.usefixtures("alone")


def report_of(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "evaluation.json").read_text())
    return comparable(report)


def answers_of(folder: Path) -> list[dict[str, Any]]:
    answers: list[dict[str, Any]] = json.loads((folder / "predictions.json").read_text())
    return answers


def evaluated(source: object, out: Path, *arguments: object) -> dict[str, Any]:
    """Evaluate from the command line and return the report."""
    command = ["evaluate", source, "--out", out, QUICK, *arguments]
    assert cli.main(list(map(str, command))) == 0
    return report_of(out)


@pytest.fixture
def data(tiny_classification: Any, tmp_path: Path) -> Path:
    """Return a data set to be spoilt."""
    written: Path = tiny_classification.write(tmp_path / "data")
    return written


@pytest.fixture
def train_arguments(tiny_classification: Any, tmp_path: Path) -> list[str]:
    data, out = f"data.root={tiny_classification.data}", f"trainer.out={tmp_path / 'runs'}"
    return ["train", str(tiny_classification.recipe), data, out, QUICK]


@pytest.fixture
def train_error(train_arguments: list[str], capsys: pytest.CaptureFixture[str]) -> Errors:
    def run(*overrides: str) -> str:
        assert cli.main([*train_arguments, *overrides]) == 2
        return refused(capsys)

    return run


# A run's folder


def test_folder_holds_what_the_architecture_says(tiny_classification_run: Path) -> None:
    run = tiny_classification_run
    files = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    files = {name for name in files if not name.startswith("figures/report/")}
    assert files - {"figures/wrong_1.jpg"} == {
        ".lock",
        "config.yaml",
        "metrics.csv",
        "data_report.json",
        "doctor.json",
        "evaluation.json",
        "image_scores.json",
        "report.html",
        "predictions.json",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "checkpoints/previous.ckpt",
        "figures/training_batch.jpg",
        "figures/predictions_1.jpg",
    }
    for path in (run / "figures").glob("*.jpg"):
        assert cv2.imread(str(path)).std() > 10  # something is on it
    content = checkpoint(run)
    assert content["global_step"] == 60
    assert content["dettoolkit"]["class_names"] == ["bar", "box", "disc"]
    assert content["dettoolkit"]["class_ids"] == [0, 1, 2]
    assert content["dettoolkit"]["recipe"]["model"]["type"] == "classifier"
    with stored_recipe(run) as carried:
        assert load_recipe(str(carried)).recipe == load_recipe(str(run / "config.yaml")).recipe


@pytest.mark.learnt
def test_classifier_learns_and_says_so(tiny_classification_run: Path, tiny_classification: Any) -> None:
    run = tiny_classification_run
    losses = list(column(run, "loss").values())
    assert column(run, "loss") == column(run, "loss/class")
    at_least("classifier: fall of the loss", np.mean(losses[:5]) / np.mean(losses[-5:]), 3)
    for name in NUMBERS:
        assert column(run, name).keys() == {29, 59}
    report = report_of(run)
    assert report["numbers"].keys() == NUMBERS
    assert report["numbers"]["top-1"] == pytest.approx(max(column(run, "top-1").values()))
    at_least("classifier: top-1", report["numbers"]["top-1"], 6 / 7)
    assert (report["images"], [entry["images"] for entry in report["per_class"]]) == (7, [3, 3, 1])
    assert json.loads((run / "evaluation.json").read_text())["what"] == (
        f"{run}/checkpoints/best.ckpt on {tiny_classification.data}/val"
    )


def test_predictions_say_what_was_counted(tiny_classification_run: Path) -> None:
    answers, report = answers_of(tiny_classification_run), report_of(tiny_classification_run)
    assert [each["file"] for each in answers] == [
        *(f"{kind}/{number}.png" for kind in ("bar", "box") for number in (1, 2, 3)),
        "disc/1.png",
    ]
    assert [each["class"] for each in answers] == ["bar"] * 3 + ["box"] * 3 + ["disc"]
    assert sum(each["class"] == each["predicted"][0] for each in answers) == report["right"]
    for each in answers:
        assert sorted(each["predicted"]) == ["bar", "box", "disc"]
        assert each["scores"] == sorted(each["scores"], reverse=True)
        assert sum(each["scores"]) == pytest.approx(1, abs=1e-5)


def test_wrong_answers_are_drawn_the_surest_first(tiny_classification: Any, tmp_path: Path) -> None:
    run, result = tiny_classification.train(tmp_path, "optim.lr=1e-9", "trainer.max_epochs=1")
    assert result.numbers["top-1"] < 1
    assert (run / "figures" / "wrong_1.jpg").is_file()
    quiet, _ = tiny_classification.train(tmp_path / "quiet", QUICK, "trainer.max_epochs=1")
    assert not (quiet / "figures").exists()


@pytest.mark.parametrize(
    "overrides",
    [
        (
            "model.loss={mixup: 0.2, cutmix: 1.0, label_smoothing: 0.1}",
            "data.augment={type: torchvision, policy: randaugment, erasing: 0.3}",
            "optim={type: rmsprop_tf, lr: 0.01, schedule: {type: exponential, decay: 0.5, decay_epochs: 1, "
            "warmup_steps: 0}}",
            "data.workers=1",
        ),
        (
            "model.backbone={type: mobilenet_v2, padding: same}",
            "data.augment={type: inception}",
            "optim.type=rmsprop",
            "trainer={precision: bf16-mixed, gradient_clip: 0.5, channels_last: false}",
        ),
        ("model.backbone={type: mnasnet_a1, width: 0.5}", "trainer.accumulate=2", "optim.lr=0.01"),
    ],
)
def test_other_recipes_train(tiny_classification: Any, tmp_path: Path, overrides: tuple[str, ...]) -> None:
    run, result = tiny_classification.train(tmp_path, QUICK, *overrides)
    losses = column(run, "loss")
    assert losses
    assert all(math.isfinite(loss) and loss > 0 for loss in losses.values())
    assert 0 <= result.numbers["top-1"] <= 1
    if "exponential" in overrides[-2]:
        with (run / "metrics.csv").open(newline="") as file:
            rates = [float(row["lr"]) for row in csv.DictReader(file) if row["lr"]]
        assert rates == pytest.approx([0.01, 0.01, 0.005, 0.005])


# Resuming, several processes

LONG = (
    "trainer.max_epochs=3",
    "trainer.ema={decay: 0.9, warmup_steps: 3}",
    "data.augment={type: torchvision, policy: autoaugment, erasing: 0.3}",
    "model.loss={mixup: 0.2, cutmix: 1.0}",
    "model.head.dropout=0.5",
    "optim={type: rmsprop_tf, lr: 0.01, schedule: {type: exponential, decay: 0.1, decay_epochs: 1, "
    "warmup_steps: 0}}",
    QUICK,
)


@pytest.fixture(scope="module")
def whole(tiny_classification: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of 3 epochs with 2 steps each that nothing interrupted."""
    run: Path = tiny_classification.train(tmp_path_factory.mktemp("whole"), *LONG)[0]
    return run


@pytest.mark.parametrize(
    ("at", "hook"),
    [(3, "training_step"), (4, "on_validation_epoch_start")],  # both in mid-epoch, after step 3 was saved
)
def test_resumed_run_equals_one_that_was_never_interrupted(
    tiny_classification: Any,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    at: int,
    hook: str,
) -> None:
    """What dropout, mixup and CutMix draw is the same too, though the generator is not saved."""
    saving = (*LONG, "trainer.checkpoint_every_steps=1")
    torch.manual_seed(at)
    kill(monkeypatch, at, hook)
    with pytest.raises(Killed):
        tiny_classification.train(tmp_path, *saving)
    killed = the_run(tmp_path)
    assert checkpoint(killed)["global_step"] == 3
    moved = tmp_path / "moved"
    shutil.copytree(killed, moved)
    tiny_classification.train(tmp_path, *saving, resume=moved)
    assert differences(moved, whole) == []
    assert report_of(moved) == report_of(whole)
    assert answers_of(moved) == answers_of(whole)


def test_steps_draw_differently(tiny_classification: Any, tmp_path: Path) -> None:
    """With a rate of nothing and the same images, only what is dropped can change the loss."""
    still = (
        "optim={lr: 1e-30, schedule: {type: constant}}",
        "data.batch_size=12",
        "trainer.max_epochs=3",
        QUICK,
    )
    for dropout, least, most in ((0.5, 1e-3, 1.0), (0.0, 0.0, 1e-4)):
        out = tmp_path / str(dropout)
        run, _ = tiny_classification.train(out, *still, f"model.head.dropout={dropout}")
        assert least <= np.std(list(column(run, "loss").values())) <= most


def test_any_batch_size_gives_the_same_integers(tiny_classification_run: Path, tmp_path: Path) -> None:
    reports = [
        evaluated(
            tiny_classification_run,
            tmp_path / str(size),
            f"data.batch_size={size}",
            f"data.workers={workers}",
        )
        for size, workers in ((2, 0), (3, 1), (7, 0))
    ]
    assert reports[0] == reports[1] == reports[2] == report_of(tiny_classification_run)


@pytest.mark.timeout(600)  # three processes import torch, one after the other
def test_two_processes_train_and_score_as_one(tiny_classification: Any, tmp_path: Path) -> None:
    """7 images to validate do not divide by 2; the second evaluation finds the first one's folder."""
    out = tmp_path / "runs"
    ran = on_two_processes(tiny_classification.recipe, tiny_classification.data, out, QUICK)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("fraction of images whose class is ranked first\n") == 3  # printed once each
    run = the_run(out)
    assert column(run, "loss").keys() == set(range(6))
    alone = evaluated(run, tmp_path / "alone", "trainer={devices: 1, strategy: auto}")
    for folder in (run, run / "evaluation", run / "evaluation_2"):
        assert report_of(folder) == alone
        assert answers_of(folder) == answers_of(tmp_path / "alone")
    assert alone["images"] == 7


# What a user types


def test_check_tries_everything_and_trains_nothing(
    train_arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*train_arguments, "--check"]) == 0
    shown = capsys.readouterr().out
    assert "network   classifier on mobilenet_v3_small, 3 classes, a hidden layer of 1024\n" in shown
    assert "data      12 training images, 7 validation images, " in shown
    assert "batch     images (6, 3, 64, 64), classes: bar, box\n" in shown
    assert "outputs   logits (6, 3)\n" in shown
    assert "loss      class " in shown
    assert shown.endswith("nothing was trained\n")
    assert not (tmp_path / "runs").exists()


def test_run_checkpoint_and_recipe_with_weights_score_the_same(
    tiny_classification_run: Path, tiny_classification: Any, tmp_path: Path
) -> None:
    best = tiny_classification_run / "checkpoints" / "best.ckpt"
    weights = (f"model.weights={best}", f"data.root={tiny_classification.data}", "trainer.accelerator=cpu")
    wanted = report_of(tiny_classification_run)
    assert evaluated(best, tmp_path / "checkpoint") == wanted
    assert evaluated(tiny_classification.recipe, tmp_path / "recipe", *weights) == wanted


def test_other_images_of_some_of_the_classes_can_be_scored(
    tiny_classification_run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(data / "val" / "bar")
    report = evaluated(tiny_classification_run, tmp_path / "some", "--data", data)
    before = report_of(tiny_classification_run)
    assert report["images"] == 4
    assert report["per_class"][0]["images"] == 0
    assert [each["right"] for each in report["per_class"][1:]] == [
        each["right"] for each in before["per_class"][1:]
    ]
    assert "1 class without images" in capsys.readouterr().out
    (data / "val" / "disc").rename(data / "val" / "cone")
    command = ["evaluate", str(tiny_classification_run), "--data", str(data), QUICK]
    assert cli.main(command) == 2
    assert f"has 3 classes (bar, box, disc), but {data}/val has 2 (box, cone). " in refused(capsys)


def test_no_images_say_what_is_wanted(train_error: Errors, data: Path, tmp_path: Path) -> None:
    error = train_error(f"data.root={tmp_path / 'nowhere'}")
    assert error.startswith(f"error:\nno class folders at data.root={tmp_path}/nowhere. Expected, each with ")
    assert f"  {tmp_path}/nowhere/train   (missing)\n" in error
    shutil.rmtree(data / "val" / "box")
    (data / "val" / "square").mkdir()
    shutil.copy(data / "train" / "box" / "1.png", data / "val" / "square")
    error = train_error(f"data.root={data}")
    assert (
        f"{data}/train has 3 classes (bar, box, disc), but {data}/val has 3 (bar, disc, square). Only in the "
        "first: box; only in the second: square. Name the folders like its classes" in error
    )


def test_damaged_files_stop_the_run_or_are_skipped(
    train_error: Errors,
    train_arguments: list[str],
    data: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    damaged = [data / "train" / "box" / "2.png", data / "val" / "bar" / "1.png"]
    for path in damaged:
        path.write_bytes(path.read_bytes()[:100])
    reason = "file is truncated or damaged (100 bytes, no end-of-image marker)"
    error = train_error(f"data.root={data}")
    assert f": {reason}. Repair or remove it, or skip such images with data.on_bad_image=skip\n" in error
    skip = [*train_arguments, f"data.root={data}", "data.on_bad_image=skip"]
    assert cli.main(skip) == 0
    for path in damaged:
        assert f"\n  {path}: {reason}" in caplog.text
    (run,) = (tmp_path / "runs" / "tiny").glob("*/evaluation.json")
    assert json.loads(run.read_text())["images"] == 6
    assert len(json.loads((run.parent / "data_report.json").read_text())["unreadable images"]) == 2
    capsys.readouterr()
    assert cli.main([*skip, "data.max_bad_images=1"]) == 2
    assert "2 images cannot be read, more than data.max_bad_images=1: " in refused(capsys)


def test_loss_that_is_not_finite_names_the_images(
    train_error: Errors, tmp_path: Path, tiny_classification: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    explode(monkeypatch)
    error = train_error("model.loss.mixup=0.2")
    assert "step 1: the loss is not finite (class nan). The batch is saved in " in error
    batch = torch.load(the_run(tmp_path / "runs") / "bad_batch_step1_rank0.pt", weights_only=True)
    assert batch["class_labels"].shape == (6,)
    for file, image_id in zip(batch["files"], batch["image_ids"].tolist(), strict=True):
        assert f"\n  {file} (id {image_id})" in error


def test_weights_of_other_classes_are_taken_with_a_warning(
    train_arguments: list[str],
    tiny_classification_run: Path,
    data: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for split in ("train", "val"):
        (data / split / "disc").rename(data / split / "ring")
    best = tiny_classification_run / "checkpoints" / "best.ckpt"
    assert cli.main([*train_arguments, f"data.root={data}", f"model.weights={best}", "--check"]) == 0
    assert f"{best} was trained on the classes bar, box, disc; its class layers are reused for" in caplog.text


def test_changing_the_length_does_not_bend_the_exponential_curve(
    tiny_classification: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    schedule = "optim={lr: 0.01, schedule: {type: exponential, decay: 0.5, decay_epochs: 1, warmup_steps: 0}}"
    run, _ = tiny_classification.train(tmp_path, QUICK, schedule)
    assert cli.main(["train", "--resume", str(run), "trainer.max_epochs=3"]) == 0
    assert "changed for the rest of the run: trainer.max_epochs: 2 -> 3" in caplog.text
    assert "schedule of the new length" not in caplog.text
    assert list(column(run, "lr").values()) == pytest.approx([0.01] * 2 + [0.005] * 2 + [0.0025] * 2)


def test_a_run_starts_a_detector_through_its_recipe(
    tiny_classification_run: Path, tiny: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    best = tiny_classification_run / "checkpoints" / "best.ckpt"
    resolved = tiny.load(tmp_path, f"model.backbone.weights={best}")
    commands.check("tiny", resolved.recipe)
    assert f"{best}: " in caplog.text
    assert "tensors have a different size in the file and are newly initialized: blocks." in caplog.text
    assert "heads.classification.classifier.weight" in caplog.text  # is not in the network
