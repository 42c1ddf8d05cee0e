"""Runs of a segmenter: what only they have. What runs of any task have is in test_training.py."""

from __future__ import annotations

import copy
import json
import math
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as script
from learning_margins import at_least
from PIL import Image
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

from dettoolkit.cli import train as cli_train
from dettoolkit.config import load_recipe
from dettoolkit.datasets.cityscapes_labels import CLASSES
from dettoolkit.training import commands
from dettoolkit.training.run_folder import stored_recipe

QUICK = "evaluation.figures=0"
NUMBERS = {"mIoU", "category mIoU", "pixel accuracy", "iIoU", "category iIoU"}
pytestmark = pytest.mark.usefixtures("alone")


def evaluated(run: Path, out: Path, *overrides: str, keep: bool = False) -> dict[str, Any]:
    """Score a run's best checkpoint and return the report."""
    with stored_recipe(run) as config:
        recipe = load_recipe(str(config), [QUICK, *overrides]).recipe
    commands.evaluate(run, recipe=recipe, out=out, keep=keep)
    return report_of(out)


def report_of(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "evaluation.json").read_text())
    return report


def void(folder: Path) -> None:
    """Take the labels away: all pixels are unlabeled, and no objects."""
    for path in folder.rglob("*_gtFine_*.png"):
        Image.fromarray(np.zeros_like(np.array(Image.open(path)))).save(path)


# A run's folder


def test_folder_holds_what_the_architecture_says(tiny_segmentation_run: Path) -> None:
    run = tiny_segmentation_run
    files = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    assert {name for name in files if not name.startswith("figures/report/")} == {
        ".lock",
        "config.yaml",
        "metrics.csv",
        "data_report.json",
        "evaluation.json",
        "image_scores.json",
        "report.html",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "checkpoints/previous.ckpt",
        "figures/training_batch.jpg",
        "figures/predictions_1.jpg",
        "figures/worst_1.jpg",
    }
    for path in (run / "figures").glob("*.jpg"):
        assert cv2.imread(str(path)).std() > 10  # something is on it
    for name in ("best", "last"):
        content = checkpoint(run, name)
        assert content["dettoolkit"]["class_names"] == [each.name for each in CLASSES]
        assert content["dettoolkit"]["class_ids"] == [each.id for each in CLASSES]
        assert content["dettoolkit"]["recipe"]["model"]["type"] == "lraspp"
        assert content["state_dict"].keys() == content["current_model_state"].keys()
    assert checkpoint(run)["global_step"] == 60
    with stored_recipe(run) as carried:
        assert load_recipe(str(carried)).recipe == load_recipe(str(run / "config.yaml")).recipe


def test_metrics_have_loss_rate_and_the_numbers(tiny_segmentation_run: Path, tiny_segmentation: Any) -> None:
    run = tiny_segmentation_run
    assert column(run, "loss") == column(run, "loss/pixel")
    assert column(run, "loss").keys() == set(range(60))
    rates = column(run, "lr")
    assert [rates[step] for step in (0, 4, 5)] == pytest.approx([0.04 * 0.2, 0.04 * 0.84, 0.04])
    assert rates[59] == pytest.approx(0.04 * (1 / 55) ** 0.9)
    for name in NUMBERS:
        assert column(run, name).keys() == {29, 59}
    report = report_of(run)
    assert report["numbers"].keys() == NUMBERS
    assert report["numbers"]["mIoU"] == pytest.approx(max(column(run, "mIoU").values()), abs=1e-6)
    assert report["what"] == f"{run}/checkpoints/best.ckpt on {tiny_segmentation.data}/gtFine/val"
    assert report["images"] == 5
    assert report["label_ids"] == [each.id for each in CLASSES]
    assert np.sum(report["matrix"]) == 3 * 48 * 60 + 2 * 45 * 57  # four columns are void


@pytest.mark.learnt
def test_segmenter_learns(tiny_segmentation_run: Path) -> None:
    losses = list(column(tiny_segmentation_run, "loss").values())
    at_least("segmenter: fall of the loss", np.mean(losses[:5]) / np.mean(losses[-5:]), 5)
    report = report_of(tiny_segmentation_run)
    at_least("segmenter: mIoU", report["numbers"]["mIoU"], 0.4)
    at_least("segmenter: least IoU", min(each["iou"] for each in report["per_class"] if each["pixels"]), 0.1)


def test_picture_is_there_before_the_first_step(
    tiny_segmentation: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill(monkeypatch, at=0, hook="training_step")
    with pytest.raises(Killed):
        tiny_segmentation.train(tmp_path)
    run = the_run(tmp_path)
    names = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    assert names == {".lock", "config.yaml", "data_report.json", "figures/training_batch.jpg"}


# The numbers, against the official script


def official(data: Path, predictions: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Let the official script find and score written predictions."""
    monkeypatch.setattr(script.np, "in1d", np.isin, raising=False)  # NumPy 2.4 has dropped the old name
    files = sorted(str(path) for path in (data / "gtFine" / "val").rglob("*_labelIds.png"))
    arguments = copy.copy(script.args)
    arguments.evalInstLevelScore, arguments.JSONOutput, arguments.quiet = True, False, True
    arguments.predictionPath, arguments.predictionWalk = str(predictions), None
    found = [script.getPrediction(arguments, file) for file in files]
    scores: dict[str, Any] = script.evaluateImgLists(found, files, arguments)
    return scores


@pytest.mark.learnt
def test_numbers_are_the_official_scripts_on_the_written_predictions(
    tiny_segmentation_run: Path, tiny_segmentation: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = evaluated(tiny_segmentation_run, tmp_path / "out", keep=True)
    assert comparable(report) == comparable(report_of(tiny_segmentation_run))
    data, predictions = tiny_segmentation.data, tmp_path / "out" / "predictions"
    assert {path.name for path in predictions.iterdir()} == {
        f"lindau_{number:06d}_000019_predLabelIds.png" for number in range(1, 6)
    }
    for path in predictions.iterdir():
        stem = path.name.removesuffix("_predLabelIds.png")
        truth = np.array(Image.open(data / "gtFine" / "val" / "lindau" / f"{stem}_gtFine_labelIds.png"))
        predicted = np.array(Image.open(path))
        assert predicted.shape == truth.shape
        assert set(np.unique(predicted)) <= {each.id for each in CLASSES}
    wanted = official(data, predictions, monkeypatch)
    ids = [each.id for each in CLASSES]
    confusion = np.array(wanted["confMatrix"], np.int64)[ids]  # rows: truth
    pairs = {
        "mIoU": wanted["averageScoreClasses"],
        "category mIoU": wanted["averageScoreCategories"],
        "pixel accuracy": confusion[:, ids].trace() / confusion.sum(),
        "iIoU": wanted["averageScoreInstClasses"],
        "category iIoU": wanted["averageScoreInstCategories"],
    }
    for name, value in pairs.items():
        assert report["numbers"][name] == pytest.approx(value, abs=1e-12), name
    at_least("segmenter: iIoU", report["numbers"]["iIoU"], 1e-3)
    for entry in report["per_class"]:
        for key, scores in (("iou", wanted["classScores"]), ("iiou", wanted["classInstScores"])):
            value = math.nan if entry[key] is None else entry[key]
            assert value == pytest.approx(scores[entry["name"]], abs=1e-12, nan_ok=True), (key, entry)
    np.testing.assert_array_equal(report["matrix"], confusion[:, ids])


# Networks, losses, arithmetic


@pytest.mark.parametrize(
    "overrides",
    [
        ("model.type=raspp", "model.align_corners=true"),
        (
            "model.head={pool: global, gate: sigmoid, gate_bias: false, low: output}",
            "model.loss={class_weights: {car: 3.0, person: 5}, ohem: {threshold: 0.7, min_kept: 0.1}}",
            "model.loss={dice: {}, lovasz: {weight: 0.5}}",
        ),
        ("trainer.precision=bf16-mixed", "trainer.gradient_clip=0.5", "trainer.channels_last=false"),
    ],
)
def test_other_recipes_train(tiny_segmentation: Any, tmp_path: Path, overrides: tuple[str, ...]) -> None:
    augment = "data.augment={scale: [0.5, 2.0], scale_step: 0, color: true}"
    run, result = tiny_segmentation.train(tmp_path, QUICK, augment, *overrides)
    losses = column(run, "loss")
    assert losses.keys() == {0, 1, 2, 3}
    assert all(math.isfinite(loss) and loss > 0 for loss in losses.values())
    assert result.numbers["mIoU"] > 0


# Resuming

LONG = (
    "trainer.max_epochs=3",
    "trainer.ema={decay: 0.9, warmup_steps: 3}",
    "data.augment={scale: [0.75, 1.5], color: true}",
    QUICK,
)


@pytest.fixture(scope="module")
def whole(tiny_segmentation: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of 3 epochs with 2 steps each that nothing interrupted."""
    run: Path = tiny_segmentation.train(tmp_path_factory.mktemp("whole"), *LONG)[0]
    return run


@pytest.mark.parametrize(
    ("at", "hook"),
    [(3, "training_step"), (4, "on_validation_epoch_start")],  # both in mid-epoch, after step 3 was saved
)
def test_resumed_run_equals_one_that_was_never_interrupted(
    tiny_segmentation: Any,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    at: int,
    hook: str,
) -> None:
    saving = (*LONG, "trainer.checkpoint_every_steps=1")
    kill(monkeypatch, at, hook)
    with pytest.raises(Killed):
        tiny_segmentation.train(tmp_path, *saving)
    killed = the_run(tmp_path)
    assert checkpoint(killed)["global_step"] == 3
    assert not (killed / "evaluation.json").exists()
    moved = tmp_path / "moved"
    shutil.copytree(killed, moved)
    tiny_segmentation.train(tmp_path, *saving, resume=moved)
    assert differences(moved, whole) == []
    assert comparable(report_of(moved)) == comparable(report_of(whole))


# The same integers, however the images are dealt out


def test_any_batch_size_gives_the_same_integers(tiny_segmentation_run: Path, tmp_path: Path) -> None:
    reports = [
        evaluated(
            tiny_segmentation_run,
            tmp_path / str(size),
            "data.eval_hw=[48, 64]",
            f"data.eval_batch_size={size}",
            f"data.workers={workers}",
        )
        for size, workers in ((1, 0), (2, 1), (5, 0))  # label maps of both sizes in a batch
    ]
    first, *others = map(comparable, reports)
    assert all(other == first for other in others)
    assert np.sum(reports[0]["matrix"]) == 3 * 48 * 60 + 2 * 45 * 57


@pytest.mark.timeout(600)  # three processes import torch, one after the other
def test_two_processes_train_and_score_as_one(
    tiny_segmentation: Any, tiny_segmentation_run: Path, tmp_path: Path
) -> None:
    """5 images to validate do not divide by 2; the second evaluation finds the first one's folder."""
    out, recipe = tmp_path / "runs", tmp_path / "tiny.yaml"
    text = tiny_segmentation.recipe.read_text().replace("data:\n", "  auxiliary: {}\ndata:\n")
    recipe.write_text(f"{text}distill: {{teacher: {tiny_segmentation_run}, features: {{type: pkd}}}}\n")
    ran = on_two_processes(recipe, tiny_segmentation.data, out, "--write-predictions")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("mean IoU of the classes\n") == 3  # printed once each
    run = the_run(out)
    for name in ("loss/auxiliary", "loss/distill_outputs", "loss/distill_features"):
        assert column(run, name).keys() == set(range(4))
    alone = evaluated(run, tmp_path / "alone", "trainer={devices: 1, strategy: auto}", keep=True)
    for folder in (run, run / "evaluation", run / "evaluation_2"):
        report = report_of(folder)
        assert report["matrix"] == alone["matrix"]
        assert report["numbers"] == alone["numbers"]
        assert report["images"] == 5
    assert not (run / "evaluation" / "predictions").exists()
    ours, theirs = (each / "predictions" for each in (run / "evaluation_2", tmp_path / "alone"))
    assert len(list(ours.iterdir())) == 5
    for path in ours.iterdir():
        assert path.read_bytes() == (theirs / path.name).read_bytes()


# What goes wrong in a batch


def test_loss_that_is_not_finite_names_the_images(
    tiny_segmentation: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    explode(monkeypatch)
    data = f"data.root={tiny_segmentation.data}"
    arguments = [str(tiny_segmentation.recipe), data, f"trainer.out={tmp_path}", QUICK]
    assert cli_train(arguments) == 2
    error = capsys.readouterr().err
    assert "step 1: the loss is not finite (pixel nan). The batch is saved in " in error
    batch = torch.load(the_run(tmp_path) / "bad_batch_step1_rank0.pt", weights_only=True)
    assert batch["label_map"].shape == (4, 64, 64)
    for file, image_id in zip(batch["files"], batch["image_ids"].tolist(), strict=True):
        assert Path(file).is_file()
        assert f"\n  {file} (id {image_id})" in error


@pytest.mark.parametrize(
    "loss", ["{}", "{class_weights: {car: 2.0}, ohem: {threshold: 0.7}, dice: {}, lovasz: {}}"]
)
def test_batches_of_nothing_but_void_train_nothing(
    tiny_segmentation: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, loss: str
) -> None:
    data = tiny_segmentation.write(tmp_path / "data")
    void(data / "gtFine" / "train")
    run, result = tiny_segmentation.train(
        tmp_path / "runs", f"data.root={data}", f"model.loss={loss}", "optim.weight_decay=0"
    )
    assert column(run, "loss") == dict.fromkeys(range(4), 0.0)
    assert result.numbers["pixel accuracy"] >= 0
    problems = json.loads((run / "data_report.json").read_text())
    assert problems["train"]["counts"] == {"nothing but void": 8}  # each once, though met in two epochs
    assert problems["val"]["counts"] == {}
    assert "nothing but void: 8 (kept; " in caplog.text
    assert f": {data}/gtFine/train/aachen/aachen_00000" in caplog.text
    weights = [
        checkpoint(run, name)["state_dict"]["network.backbone.stem.0.weight"] for name in ("best", "last")
    ]
    assert torch.equal(*weights)


def test_validation_of_nothing_but_void_gives_no_score_and_no_trouble(
    tiny_segmentation: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = tiny_segmentation.write(tmp_path / "data")
    void(data / "gtFine" / "val")
    run, result = tiny_segmentation.train(tmp_path / "runs", f"data.root={data}")
    assert f"{data}/gtFine/val has no objects or labels: the last checkpoint is used as" in caplog.text
    assert checkpoint(run, "best")["global_step"] == 4
    assert math.isnan(result.numbers["mIoU"])
    assert report_of(run)["numbers"]["mIoU"] is None
    assert "None of the 5 images has a labeled pixel: the scores are undefined, not 0." in result.table()
    assert {path.name for path in (run / "figures").iterdir()} == {"training_batch.jpg"}
    with pytest.raises(ValueError, match=r"early_stopping waits for .* has nothing to score: set"):
        tiny_segmentation.train(tmp_path, f"data.root={data}", "trainer.early_stopping={patience: 2}")
