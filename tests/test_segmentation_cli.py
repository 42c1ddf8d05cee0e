"""What a user of a segmenter types, and is told. What holds for any task is in test_cli.py."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from command_line import Errors, refused
from learning_margins import at_least
from PIL import Image
from training_runs import comparable

from dettoolkit import cli
from dettoolkit.datasets.cityscapes_labels import CLASSES

OWN = "data.classes=[{name: ground, ids: [7]}, {name: sky, ids: [23]}, {name: thing, ids: [26, 24]}]"
TRAIN = "train/aachen/aachen_{:06d}_000019"
VAL = "val/lindau/lindau_{:06d}_000019"
pytestmark = pytest.mark.usefixtures("alone")


@pytest.fixture
def data(tiny_segmentation: Any, tmp_path: Path) -> Path:
    """Return a data set to be spoilt."""
    written: Path = tiny_segmentation.write(tmp_path / "data")
    return written


@pytest.fixture
def train_arguments(tiny_segmentation: Any, tmp_path: Path) -> list[str]:
    data, out = f"data.root={tiny_segmentation.data}", f"trainer.out={tmp_path / 'runs'}"
    return ["train", str(tiny_segmentation.recipe), data, out, "evaluation.figures=0"]


@pytest.fixture
def train_error(train_arguments: list[str], capsys: pytest.CaptureFixture[str]) -> Errors:
    def run(*overrides: str) -> str:
        assert cli.main([*train_arguments, *overrides]) == 2
        return refused(capsys)

    return run


@pytest.fixture
def evaluate_error(capsys: pytest.CaptureFixture[str]) -> Errors:
    def run(*arguments: object) -> str:
        assert cli.main(["evaluate", *map(str, arguments)]) == 2
        return refused(capsys)

    return run


def image_of(data: Path, name: str, number: int) -> Path:
    return data / "leftImg8bit" / f"{name.format(number)}_leftImg8bit.png"


def label_of(data: Path, name: str, number: int, kind: str = "labelIds") -> Path:
    return data / "gtFine" / f"{name.format(number)}_gtFine_{kind}.png"


def evaluated(source: object, out: Path, *arguments: object) -> dict[str, Any]:
    """Evaluate and return the report without its first line."""
    command = ["evaluate", source, "--out", out, "evaluation.figures=0", *arguments]
    assert cli.main(list(map(str, command))) == 0
    report: dict[str, Any] = json.loads((out / "evaluation.json").read_text())
    return comparable(report)


@pytest.fixture(scope="module")
def report(tiny_segmentation_run: Path) -> dict[str, Any]:
    """Return what the run was scored with at its end."""
    content: dict[str, Any] = json.loads((tiny_segmentation_run / "evaluation.json").read_text())
    return comparable(content)


# Recipes


def test_check_tries_everything_and_trains_nothing(
    train_arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*train_arguments, "--check"]) == 0
    shown = capsys.readouterr().out
    assert "network   lraspp on mobilenet_v3_small, 19 classes, 32 filters\n" in shown
    assert "data      8 training images, 5 validation images, " in shown
    assert "batch     images (4, 3, 64, 64), labels (4, 64, 64), 29.7% ignored, classes: road, sky, " in shown
    assert "outputs   logits (4, 19, 8, 8)\n" in shown
    assert "loss      pixel " in shown
    assert "nothing was trained" in shown.splitlines()[-1]
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("model.type=lrasp", "model.type: expected .*'lraspp'.*, got 'lrasp'; did you mean 'lraspp'?"),
        ("model.typ=raspp", "model.typ: unknown key; did you mean 'type'?"),
        ("model.head.filter=64", "model.head.filter: unknown key; did you mean 'filters'?"),
        ("model.head.lwo=output", "model.head.lwo: unknown key; did you mean 'low'?"),
        ("model.head.pool=globl", "model.head.pool: expected 'fixed' or 'global', got 'globl'; did you mean"),
        ("model.head.gate=hard", "model.head.gate: expected .*, got 'hard'; did you mean 'hard_sigmoid'?"),
        ("model.loss.class_weight={}", "unknown key; did you mean 'class_weights'?"),
        ("model.loss.ohem.min_kep=0.1", "unknown key; did you mean 'min_kept'?"),
        ("optim.schedule.type=polly", "expected .*'poly'.*, got 'polly'; did you mean 'poly'?"),
        (
            "data.type=cityscape",
            "expected 'cityscapes', 'folders' or 'scenes', got 'cityscape'; did you mean",
        ),
        ("data.augment.max_clas_share=1", "unknown key; did you mean 'max_class_fraction'?"),
        ("data.clases=null", "data.clases: unknown key; did you mean 'classes'?"),
        ("evaluation.mode=slied", "expected 'whole' or 'slide', got 'slied'; did you mean 'slide'?"),
        ("evaluation.scales=[]", "evaluation.scales: expected at least 1 value, got 0"),
    ],
)
def test_typos_are_told_with_what_was_meant(train_error: Errors, override: str, told: str) -> None:
    error = train_error(override)
    before, _, after = told.partition(".*")
    middle, _, end = after.partition(".*")
    assert f"override 4 '{override}': " in error
    for part in (before, middle, end):
        assert part in error
    assert error.count("\n") == 1


def test_settings_that_contradict_each_other(
    train_error: Errors, evaluate_error: Errors, tiny_segmentation_run: Path
) -> None:
    error = train_error("data.type=folders")
    assert "data: type folders needs classes, a list such as [{name: road, ids: [1]}, " in error
    slide = ("evaluation.mode=slide", "evaluation.window_hw=[32, 32]", "evaluation.stride_hw=[48, 32]")
    for error in (train_error(*slide), evaluate_error(tiny_segmentation_run, *slide)):
        assert "stride_hw [48, 32] is larger than window_hw [32, 32]: pixels between the windows " in error
        assert "make it at most the window size" in error
    error = train_error("model.loss.class_weights={raod: 2.0}")
    assert "model.loss.class_weights names raod, but the classes are road, sidewalk, " in error


# Data


def test_no_cityscapes_says_what_it_is_and_what_else_there_is(
    train_error: Errors, evaluate_error: Errors, tiny_segmentation_run: Path, tmp_path: Path
) -> None:
    root = tmp_path / "cityscapes"
    for error, splits in (
        (train_error(f"data.root={root}"), ("train", "val")),
        (evaluate_error(tiny_segmentation_run, "--data", root), ("val",)),
    ):
        assert error.startswith(f"error:\nno Cityscapes at data.root={root}. Expected:\n")
        for split in splits:
            assert f"  {root}/leftImg8bit/{split}   (missing)\n  {root}/gtFine/{split}   (missing)\n" in error
        assert "register at www.cityscapes-dataset.com, then " in error
        assert "To try generated scenes instead: tools/train.py RECIPE configs/overlays/scenes" in error
        assert "For your own folders: data.type=folders, " in error
    assert not (tmp_path / "runs").exists()


def test_missing_halves_of_a_pair_are_counted_and_left_out(
    train_arguments: list[str],
    data: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    label_of(data, TRAIN, 3).unlink()
    image_of(data, VAL, 2).unlink()
    assert cli.main([*train_arguments, f"data.root={data}", "--check"]) == 0
    assert f"image without label: 1 (skipped)\n    {image_of(data, TRAIN, 3)}" in caplog.text
    assert f"label without image: 1 (skipped)\n    {label_of(data, VAL, 2)}" in caplog.text
    assert "data      7 training images, 4 validation images" in capsys.readouterr().out


def test_folder_without_labels_is_named(train_error: Errors, data: Path) -> None:
    shutil.rmtree(data / "gtFine" / "train")
    (data / "gtFine" / "train").mkdir()
    error = train_error(f"data.root={data}")
    assert f"{data}/gtFine/train contains no *_gtFine_labelIds.png or " in error
    assert "it is empty" in error


@pytest.mark.parametrize("workers", [0, 1])
def test_value_without_a_meaning_is_named_with_its_file(
    train_error: Errors, train_arguments: list[str], data: Path, workers: int
) -> None:
    path = label_of(data, TRAIN, 2)
    values = np.array(Image.open(path))
    values[:5, 10:20] = 77
    Image.fromarray(values).save(path)
    error = train_error(f"data.root={data}", f"data.workers={workers}")
    assert error == (
        f"error: {path} has values that are neither a class nor ignored: 77 (50 pixels); known are 0-33, "
        "255. Add them to data.ignore, or give them a class in data.classes\n"
    )
    assert cli.main([*train_arguments, f"data.root={data}", "data.ignore=[77]", "--check"]) == 0


def test_image_of_another_size_than_its_label(
    train_error: Errors,
    tiny_segmentation_run: Path,
    data: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name in (TRAIN, VAL):
        cv2.imwrite(str(image_of(data, name, 3)), np.zeros((40, 50, 3), np.uint8))

    def told(name: str) -> str:
        return (
            f"{image_of(data, name, 3)} is 40 x 50, but {label_of(data, name, 3)} is 48 x 64 (height x width)"
        )

    error = train_error(f"data.root={data}")
    assert error == (
        f"error: {told(TRAIN)}. Repair or remove it, or skip such images with data.on_bad_image=skip\n"
    )
    # To score it is possible.
    assert evaluated(tiny_segmentation_run, tmp_path / "out", "--data", data)["images"] == 5
    assert (
        f"label of another size: 1 (scored at the label's size)\n    image id 2: {told(VAL)}" in caplog.text
    )
    assert caplog.text.count("label of another size") == 1


@pytest.mark.parametrize("of_label", [False, True])
def test_damaged_files_stop_the_run_or_are_skipped(
    train_error: Errors,
    train_arguments: list[str],
    data: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    of_label: bool,
) -> None:
    damaged = [(label_of if of_label else image_of)(data, name, 2) for name in (TRAIN, VAL)]
    for path in damaged:
        path.write_bytes(path.read_bytes()[:100])
    reason = "file is truncated or damaged (100 bytes, no end-of-image marker)"
    error = train_error(f"data.root={data}")
    assert f": {reason}. Repair or remove it, or skip such images with data.on_bad_image=skip\n" in error
    assert any(str(path) in error for path in damaged)
    skip = [*train_arguments, f"data.root={data}", "data.on_bad_image=skip"]
    assert cli.main(skip) == 0
    assert "2 images could not be read and were skipped:\n" in caplog.text
    for path in damaged:
        assert f"\n  {path}: {reason}" in caplog.text
    (run,) = (tmp_path / "runs" / "tiny").glob("*/evaluation.json")
    assert json.loads(run.read_text())["images"] == 4
    capsys.readouterr()
    assert cli.main([*skip, "data.max_bad_images=1"]) == 2
    assert "2 images cannot be read, more than data.max_bad_images=1: " in refused(capsys)


def test_folders_of_ones_own_train(
    train_arguments: list[str], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in data.rglob("*_instanceIds.png"):
        path.unlink()
    for path in data.rglob("*_labelIds.png"):
        path.rename(path.with_name(path.name.replace("gtFine_labelIds", "leftImg8bit")))
    folders = [f"data.root={data}", "data.type=folders", OWN, "data.ignore=[0]"]
    assert cli.main([*train_arguments, *folders]) == 0
    shown = capsys.readouterr().out
    for name in ("ground", "sky", "thing"):
        assert f"\n{name} " in shown
    assert "None of Cityscapes' instance classes is present: iIoU is not reported." in shown
    assert "The classes have no categories: category scores are not reported." in shown
    (run,) = (tmp_path / "runs" / "tiny").iterdir()
    out = tmp_path / "out"
    evaluated(run, out, "--write-predictions")
    written = sorted((out / "predictions").rglob("*.png"))
    assert len(written) == 5
    assert {value for path in written for value in np.unique(np.array(Image.open(path)))} <= {7, 23, 26}


# Evaluation


def test_run_checkpoint_and_recipe_with_weights_score_the_same(
    tiny_segmentation_run: Path, tiny_segmentation: Any, tmp_path: Path, report: dict[str, Any]
) -> None:
    best = tiny_segmentation_run / "checkpoints" / "best.ckpt"
    weights = (f"model.weights={best}", f"data.root={tiny_segmentation.data}", "trainer.accelerator=cpu")
    assert evaluated(tiny_segmentation_run, tmp_path / "run") == report
    assert evaluated(best, tmp_path / "checkpoint") == report
    assert evaluated(tiny_segmentation.recipe, tmp_path / "recipe", *weights) == report


def test_train_ids_of_the_same_labels_score_the_same(
    tiny_segmentation_run: Path, data: Path, tmp_path: Path, report: dict[str, Any]
) -> None:
    train_id = np.full(256, 255, np.uint8)
    train_id[[label.id for label in CLASSES]] = range(19)
    for path in data.rglob("*_labelIds.png"):
        values = train_id[np.array(Image.open(path))]
        Image.fromarray(values).save(path.with_name(path.name.replace("labelIds", "labelTrainIds")))
        path.unlink()
    assert evaluated(tiny_segmentation_run, tmp_path / "out", "--data", data) == report


@pytest.mark.parametrize("absent", [1, 5])
def test_without_instance_files_iiou_is_left_out_and_that_is_said(
    tiny_segmentation_run: Path,
    data: Path,
    tmp_path: Path,
    report: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    absent: int,
) -> None:
    for number in range(1, absent + 1):
        label_of(data, VAL, number, "instanceIds").unlink()
    found = evaluated(tiny_segmentation_run, tmp_path / "out", "--data", data)
    shown = capsys.readouterr().out
    assert f"\nInstance files are missing for {absent} of 5 images: iIoU is not reported.\n" in shown
    assert f"\niIoU{'–':>18}  mean IoU" in shown
    assert found["numbers"] == report["numbers"] | {"iIoU": None, "category iIoU": None}
    assert found["matrix"] == report["matrix"]


@pytest.mark.learnt
def test_other_ways_of_inference_change_the_answers_and_nothing_else(
    tiny_segmentation_run: Path, tiny_segmentation: Any, tmp_path: Path, report: dict[str, Any]
) -> None:
    def state() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in tiny_segmentation_run.rglob("*") if path.is_file()}

    before = state()
    small = ("evaluation.window_hw=[32, 48]", "evaluation.stride_hw=[32, 32]")
    ways = {
        "slide": ("evaluation.mode=slide", *small),
        "scales": ("evaluation.scales=[0.75, 1.25]",),
        "flip": ("evaluation.flip=true",),
        "all": ("evaluation.mode=slide", *small, "evaluation.scales=[1.0, 1.5]", "evaluation.flip=true"),
    }
    found = {name: evaluated(tiny_segmentation_run, tmp_path / name, *way) for name, way in ways.items()}
    matrices = [each["matrix"] for each in (report, *found.values())]
    assert all(one != other for i, one in enumerate(matrices) for other in matrices[:i])
    for each in found.values():
        np.testing.assert_array_equal(np.sum(each["matrix"], axis=1), np.sum(report["matrix"], axis=1))
        share = each["numbers"]["mIoU"] / report["numbers"]["mIoU"]
        at_least("segmenter: mIoU of other inference, as a share", share, 0.5)
    # Settings of another mode are of no account, and a window of the image's size is the whole image.
    assert evaluated(tiny_segmentation_run, tmp_path / "whole", *small) == report
    data = ("--data", tiny_segmentation.write(tmp_path / "data", val=1))
    window = ("evaluation.mode=slide", "evaluation.window_hw=[48, 64]", "evaluation.stride_hw=[48, 64]")
    one, wanted = tmp_path / "one", tmp_path / "wanted"
    assert evaluated(tiny_segmentation_run, one, *data, *window) == evaluated(
        tiny_segmentation_run, wanted, *data
    )
    assert state() == before


def test_predictions_are_not_overwritten(
    evaluate_error: Errors, tiny_segmentation_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    evaluated(tiny_segmentation_run, out, "--write-predictions")
    capsys.readouterr()
    error = evaluate_error(tiny_segmentation_run, "--out", out, "--write-predictions")
    assert f"{out} already exists" in error


def test_weights_of_other_classes_are_refused(
    evaluate_error: Errors, tiny_segmentation_run: Path, tiny_segmentation: Any
) -> None:
    best, root = tiny_segmentation_run / "checkpoints" / "best.ckpt", tiny_segmentation.data
    error = evaluate_error(tiny_segmentation_run, OWN, "data.ignore=[0]")
    assert f"{best} has 19 classes (road, sidewalk, building, " in error
    assert f"but {root}/gtFine/val has 3 (ground, sky, thing)" in error
    assert "; only in the second: ground, thing. " in error
    arguments = (f"model.weights={best}", f"data.root={root}", OWN, "data.ignore=[0]")
    error = evaluate_error(tiny_segmentation.recipe, *arguments)
    assert f"{best} has 19 classes" in error
    error = evaluate_error(tiny_segmentation.recipe, f"data.root={root}")
    assert "has no weights to evaluate: set model.weights to a checkpoint" in error
    error = evaluate_error(tiny_segmentation_run, "model.head.filters=64")
    assert "best.ckpt does not fit this network" in error
    assert "overrides must not change its tensors" in error


def test_training_starts_from_a_run_of_other_classes(
    train_arguments: list[str], tiny_segmentation_run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    best = tiny_segmentation_run / "checkpoints" / "best.ckpt"
    arguments = [f"model.weights={best}", OWN, "data.ignore=[0]", "--check"]
    assert cli.main([*train_arguments, *arguments]) == 0
    assert f"{best}: 4 tensors have a different size in the file and are newly initialized: " in caplog.text
    for name in ("classifier.weight (19, 32, 1, 1) -> (3, ", "low_classifier.bias (19,) -> (3,)"):
        assert f"heads.segmentation.{name}" in caplog.text


def test_as_many_classes_of_other_names_are_told(
    train_arguments: list[str], tiny_segmentation_run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    best = tiny_segmentation_run / "checkpoints" / "best.ckpt"
    others = ", ".join(f"{{name: class {label.id}, ids: [{label.id}]}}" for label in CLASSES)
    ignored = "data.ignore=[0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30, 255]"
    arguments = [f"model.weights={best}", f"data.classes=[{others}]", ignored, "--check"]
    assert cli.main([*train_arguments, *arguments]) == 0
    assert f"{best} was trained on the classes road, sidewalk, " in caplog.text
    assert "class layers are reused for class 7, class 8, " in caplog.text


def test_mistakes_in_a_runs_recipe_are_told_as_the_runs(
    evaluate_error: Errors, tiny_segmentation_run: Path
) -> None:
    error = evaluate_error(tiny_segmentation_run, "evaluation.mode=slid")
    assert "override 1 'evaluation.mode=slid': evaluation.mode: " in error
    error = evaluate_error(tiny_segmentation_run, "evaluation.mode=slide", "evaluation.stride_hw=[999, 999]")
    assert f"recipe of {tiny_segmentation_run}: evaluation: stride_hw [999, 999] is larger" in error


def test_images_of_several_sizes_cannot_be_validated_together(train_error: Errors) -> None:
    error = train_error("data.eval_batch_size=2")
    assert "have different sizes (45x61, 48x64)" in error
    assert "set data.eval_batch_size=1, or data.eval_hw" in error
