from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from command_line import Errors, refused

from dettoolkit import cli
from dettoolkit.cli import failures as errors
from dettoolkit.cli.training import report
from dettoolkit.training import commands
from dettoolkit.training.module import TrainingModule
from dettoolkit.training.run_folder import RANKS


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the tests run under a launcher too."""
    for name in RANKS:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def train_error(tiny: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Errors:
    """Return a function that trains with overrides, wants it refused, and gives the sentences on stderr."""

    def run(*overrides: str) -> str:
        arguments = [
            str(tiny.recipe),
            f"data.root={tiny.data}",
            f"trainer.out={tmp_path / 'runs'}",
            *overrides,
        ]
        assert cli.main(["train", *arguments]) == 2
        return refused(capsys)

    return run


@pytest.fixture
def evaluate_error(capsys: pytest.CaptureFixture[str]) -> Errors:
    """Return a function that evaluates, wants it refused, and gives the sentences on stderr."""

    def run(*arguments: object) -> str:
        assert cli.main(["evaluate", *map(str, arguments)]) == 2
        return refused(capsys)

    return run


def edited(root: Path, split: str, change: Callable[[dict[str, Any]], Any]) -> Path:
    path = root / "annotations" / f"{split}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return root


# Commands and their help


def test_unknown_command_names_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tarin"]) == 2
    assert capsys.readouterr().err == (
        f"dettoolkit has no command 'tarin'; it has: {', '.join(cli.COMMANDS)}\n"
    )
    for arguments in ([], ["--help"]):
        assert cli.main(arguments) == 0
        printed = capsys.readouterr().out
        assert all(
            f"\n  {name} " in printed for name in ("train", "evaluate", "paper-tables", "download-coco")
        )
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("dettoolkit 0.")


@pytest.mark.parametrize("command", ["train", "evaluate", "paper-tables", "download-coco"])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert ended.value.code == 0
    assert "usage:" in capsys.readouterr().out


def test_training_needs_a_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["train"])
    assert ended.value.code == 2
    assert "recipe, such as configs/ssdlite_mnv3_large.yaml" in capsys.readouterr().err


def test_typos_of_a_recipe_are_told_all_at_once_without_torch(tiny: Any, tmp_path: Path) -> None:
    recipe = tmp_path / "typos.yaml"
    recipe.write_text(
        tiny.recipe.read_text().replace("augment", "augmnet").replace("max_epochs: 2", "max_epochs: two")
    )
    code = (
        "import sys; from dettoolkit.cli import main\n"
        f"status = main(['train', {str(recipe)!r}, 'optim.lr=fast'])\n"
        "print(status, 'torch' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.stdout == "2 False\n"
    assert ran.stderr.count("\n") == 4
    assert "error:\n" in ran.stderr
    lines = recipe.read_text().splitlines()
    assert f"{recipe}:{lines.index('  augmnet: none') + 1}: data.augmnet: " in ran.stderr
    assert "did you mean 'augment'?" in ran.stderr
    assert f"{recipe}:{lines.index('  max_epochs: two') + 1}: trainer.max_epochs: " in ran.stderr
    assert "override 1 'optim.lr=fast': optim.lr: " in ran.stderr


def test_print_config_and_schema(tiny: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.train([str(tiny.recipe), "optim.lr=0.5", "--print-config"]) == 0
    shown = capsys.readouterr().out
    assert "  lr: 0.5 " in shown
    assert "# override 1 'optim.lr=0.5'" in shown
    assert f"# {tiny.recipe}:" in shown
    assert "# default" in shown
    assert cli.train(["--schema"]) == 0
    assert "model" in json.loads(capsys.readouterr().out)["properties"]


def test_check_tries_everything_and_trains_nothing(
    tiny: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(tiny.recipe), f"data.root={tiny.data}", f"trainer.out={tmp_path / 'runs'}"]
    assert cli.train([*arguments, "--check"]) == 0
    shown = capsys.readouterr().out
    assert "recipe    tiny\n" in shown
    assert "mobilenet_v3_small, 2 classes, 84 default boxes at 64x64" in shown
    assert "data      8 training images, 5 validation images" in shown
    assert "batch     images (4, 3, 64, 64), 8 boxes" in shown
    assert "outputs   class logits (4, 84, 3), box deltas (4, 84, 4)" in shown
    assert shown.endswith("Dry run OK: nothing was trained\n")
    assert not (tmp_path / "runs").exists()


# Errors of the data


def test_no_data_set_says_where_to_get_one(train_error: Errors, tmp_path: Path) -> None:
    error = train_error(f"data.root={tmp_path / 'coco'}")
    assert f"error:\nno COCO data set at data.root={tmp_path / 'coco'}. Expected:\n" in error
    assert f"  {tmp_path}/coco/annotations/train.json   (missing)\n" in error
    assert f"tools/download_coco.py {tmp_path / 'coco'}" in error
    assert "To try generated scenes instead: tools/train.py RECIPE configs/overlays/scenes.yaml" in error
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "train.json"),
        ('{"images": [', "train.json"),
        ('{"images": [], "categories": []}', "train.json"),
    ],
)
def test_wrong_annotation_file_is_named(
    train_error: Errors, tiny: Any, tmp_path: Path, content: str, message: str
) -> None:
    data = tiny.write(tmp_path / "coco")
    (data / "annotations" / "train.json").write_text(content)
    error = train_error(f"data.root={data}")
    assert f"{data}/annotations/{message}" in error
    assert len(error) > 60


def test_category_beyond_the_list_is_counted_and_listed(
    tiny: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tiny.write(tmp_path / "coco")
    edited(data, "train", lambda content: content["annotations"][3].update(category_id=90))
    assert cli.train([str(tiny.recipe), f"data.root={data}", "--check"]) == 0
    assert "unknown category: 1 (annotation dropped)" in caplog.text
    assert "image id 20, annotation id 4" in caplog.text
    assert "7 boxes" in capsys.readouterr().out


@pytest.mark.parametrize("workers", [0, 1])
def test_truncated_jpeg_is_named_with_its_id(
    train_error: Errors, tiny: Any, tmp_path: Path, workers: int
) -> None:
    data = tiny.write(tmp_path / "coco")
    path = data / "train" / "5.jpg"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8))
    path.write_bytes(path.read_bytes()[:-300])
    edited(data, "train", lambda content: content["images"][4].update(file_name="5.jpg"))
    error = train_error(f"data.root={data}", f"data.workers={workers}", "evaluation.figures=0")
    reason = f"file is truncated or damaged ({path.stat().st_size} bytes, no end-of-image marker)"
    remedy = "Repair or remove it, or skip such images with data.on_bad_image=skip"
    assert error == f"error: {path}: image id 50: {reason}. {remedy}\n"


def test_other_settings_that_cannot_work(train_error: Errors, tiny: Any, tmp_path: Path) -> None:
    assert "warmup_steps is 9, but the whole run has 4 steps" in train_error("optim.schedule.warmup_steps=9")
    assert "Lightning refuses the recipe's trainer section" in train_error("trainer.devices=[0]")
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert f"error: trainer.out={blocked}: cannot create a folder" in train_error(f"trainer.out={blocked}")
    one = edited(
        tiny.write(tmp_path / "coco"), "train", lambda content: content.update(images=content["images"][:1])
    )
    assert "the training set has 1 image(s) for 1 process(es)" in train_error(f"data.root={one}")


# Resuming and evaluating


def test_resume_refuses_what_would_be_another_run(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.train(["--resume", str(tmp_path), "trainer.max_epochs=9"]) == 2
    assert f"error: {tmp_path} is not a run folder: it has no config.yaml" in capsys.readouterr().err
    before = (tiny_run / "metrics.csv").read_bytes()
    arguments = ["model.backbone.width=0.5", "optim.lr=0.2", "trainer.max_epochs=9"]
    assert cli.train(["--resume", str(tiny_run), *arguments]) == 2
    error = refused(capsys)
    assert "these settings cannot change during a run:\n" in error
    assert "  model.backbone.width: 0.35 in the checkpoint, 0.5 requested\n" in error
    assert "  optim.lr: 0.05 in the checkpoint, 0.2 requested\n" in error
    assert "max_epochs" not in error
    assert (tiny_run / "metrics.csv").read_bytes() == before


def test_run_checkpoint_and_recipe_with_weights_score_the_same(
    tiny_run: Path, tiny: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = tiny_run / "checkpoints" / "best.ckpt"
    wanted = json.loads((tiny_run / "evaluation.json").read_text())["numbers"]
    copied = tmp_path / "mine.ckpt"
    shutil.copy(best, copied)
    recipe = [str(tiny.recipe), f"model.weights={best}", f"data.root={tiny.data}", f"trainer.out={tmp_path}"]
    sources: list[tuple[list[str], Path]] = [
        ([str(tiny_run), "--out", str(tmp_path / "given")], tmp_path / "given"),
        ([str(copied)], tmp_path / "evaluation"),
        (recipe, tmp_path / "tiny" / "evaluation"),
    ]
    for arguments, folder in sources:
        assert cli.evaluate(arguments) == 0
        shown = capsys.readouterr().out
        assert f"AP{wanted['AP']:>11.3f}  average precision, IoU 0.50 to 0.95\n" in shown
        assert f"report.html, checkpoints and figures: {folder}\n" in shown
        report = json.loads((folder / "evaluation.json").read_text())
        assert report["numbers"] == pytest.approx(wanted, nan_ok=True)
        assert (folder / "figures" / "predictions_1.jpg").is_file()


def test_other_data_and_settings_can_be_scored(tiny_run: Path, tiny: Any, tmp_path: Path) -> None:
    data = edited(
        tiny.write(tmp_path / "other: data", val=3),
        "val",
        lambda content: (
            [each.update(id=each["id"] + 1) for each in content["images"]]
            and [each.update(image_id=each["image_id"] + 1) for each in content["annotations"]]
        ),
    )
    out = tmp_path / "out"
    arguments = [str(tiny_run), "--data", str(data), "--out", str(out), "evaluation.max_detections=7"]
    assert cli.evaluate(arguments) == 0
    results = json.loads((out / "predictions.json").read_text())
    assert {each["image_id"] for each in results} == {11, 21, 31}
    assert len(results) == 21
    assert json.loads((out / "evaluation.json").read_text())["max_detections"] == 7


def test_data_of_other_classes_is_refused(
    evaluate_error: Errors, tiny_run: Path, tiny: Any, tmp_path: Path
) -> None:
    def third(content: dict[str, Any]) -> None:
        content["categories"][0]["name"] = "crate"
        content["categories"].append({"id": 9, "name": "ball"})

    data = edited(tiny.write(tmp_path / "coco"), "val", third)
    error = evaluate_error(tiny_run, "--data", data)
    best, val = tiny_run / "checkpoints" / "best.ckpt", data / "annotations" / "val.json"
    assert f"{best} has 2 classes (box, bar), but {val} has 3" in error
    assert "Only in the first: box; only in the second: ball, crate." in error
    # So they are where a recipe names the checkpoint.
    error = evaluate_error(tiny.recipe, f"model.weights={best}", f"data.root={data}")
    assert f"{best} has 2 classes (box, bar), but {val} has 3" in error


def test_weights_of_as_many_other_classes_are_not_scored(
    evaluate_error: Errors, tiny_run: Path, tiny: Any, tmp_path: Path
) -> None:
    def renamed(content: dict[str, Any]) -> None:
        for each, name in zip(content["categories"], ("cat", "dog"), strict=True):
            each["name"] = name

    data = edited(tiny.write(tmp_path / "coco"), "val", renamed)
    weights = f"model.weights={tiny_run / 'checkpoints' / 'best.ckpt'}"
    error = evaluate_error(tiny.recipe, weights, f"data.root={data}")
    assert "best.ckpt has 2 classes (box, bar)" in error
    assert "only in the second: cat, dog" in error


def test_classes_in_another_order_are_scored_by_name(tiny_run: Path, tiny: Any, tmp_path: Path) -> None:
    def swapped(content: dict[str, Any]) -> None:
        content["categories"] = [{"id": 1, "name": "bar"}, {"id": 2, "name": "box"}]
        for each in content["annotations"]:
            each["category_id"] = {3: 2, 7: 1}[each["category_id"]]

    data = edited(tiny.write(tmp_path / "coco"), "val", swapped)
    weights = f"model.weights={tiny_run / 'checkpoints' / 'best.ckpt'}"
    reports = []
    for name, arguments in (
        ("run", [str(tiny_run), "--data", str(data)]),
        ("recipe", [str(tiny.recipe), weights, f"data.root={data}"]),
    ):
        assert cli.evaluate([*arguments, "--out", str(tmp_path / name)]) == 0
        reports.append(json.loads((tmp_path / name / "evaluation.json").read_text())["numbers"])
    assert reports[0] == reports[1]
    assert reports[0] == pytest.approx(
        json.loads((tiny_run / "evaluation.json").read_text())["numbers"], nan_ok=True
    )


def test_weights_without_names_are_scored_with_a_warning(
    tiny_run: Path, tiny: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = torch.load(tiny_run / "checkpoints" / "best.ckpt", weights_only=True)
    bare = tmp_path / "bare.pth"
    torch.save({key.removeprefix("network."): value for key, value in content["state_dict"].items()}, bare)
    arguments = [str(tiny.recipe), f"model.weights={bare}", f"data.root={tiny.data}"]
    assert cli.evaluate([*arguments, "--out", str(tmp_path / "out")]) == 0
    assert f"{bare} has no class names: assuming box, bar" in caplog.text
    wanted = json.loads((tiny_run / "evaluation.json").read_text())["numbers"]
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["numbers"] == pytest.approx(
        wanted, nan_ok=True
    )


@pytest.mark.parametrize("name", ["evaluation.json", "predictions.json", "figures", "notes.txt", None])
def test_nothing_in_the_given_folder_is_overwritten(
    evaluate_error: Errors, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    def work(*_: object, **__: object) -> None:
        raise AssertionError("the work began")

    out = tmp_path / "out"
    if name is None:
        out.write_text("mine")
    else:
        out.mkdir()
        (out / name).write_text("mine")
    monkeypatch.setattr(commands, "spec_of", work)
    error = evaluate_error(tiny_run, "--out", out)
    assert f"{out} already exists" in error
    assert "another folder with --out" in error
    assert (out if name is None else out / name).read_text() == "mine"


def test_training_says_that_a_class_head_of_another_size_starts_fresh(
    tiny_run: Path, tiny: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = tiny.write(tmp_path / "coco")
    for split in ("train", "val"):
        edited(data, split, lambda content: content["categories"].append({"id": 9, "name": "ball"}))
    weights = f"model.weights={tiny_run / 'checkpoints' / 'best.ckpt'}"
    assert cli.train([str(tiny.recipe), weights, f"data.root={data}", "--check"]) == 0
    assert (
        "different size in the file and are newly initialized: heads.detection.class_predictors.0.1."
        in caplog.text
    )


def test_what_is_no_source_is_refused(
    evaluate_error: Errors, tiny_run: Path, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    error = evaluate_error("runs/nowhere")
    assert "runs/nowhere is neither a checkpoint nor a run folder with checkpoints/best.ckpt or" in error
    assert f"runs with checkpoints: {tiny_run}" in evaluate_error(tiny_run.parents[1])
    bare = tmp_path / "bare.pth"
    torch.save({"weight": torch.zeros(2)}, bare)
    assert "not a dettoolkit checkpoint: recipe and class names are missing" in evaluate_error(bare)
    bare.write_bytes(b"nothing of ours")
    assert "bare.pth cannot be loaded safely" in evaluate_error(bare)
    assert "has no weights to evaluate: set model.weights" in evaluate_error(
        tiny.recipe, f"data.root={tiny.data}"
    )
    error = evaluate_error(tiny_run, "model.backbone.width=0.5")
    assert "best.ckpt does not fit this network" in error
    assert "overrides must not change its tensors" in error


def test_a_shipped_recipe_is_evaluated_by_its_name(
    evaluate_error: Errors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ssdlite_scenes" / "2026-01-31_12-00-00").mkdir(parents=True)  # as in runs/; hides nothing
    for name in ("ssdlite_scenes", "configs/ssdlite_scenes", "ssdlite_scenes.yaml"):
        assert "ssdlite_scenes.yaml has no weights to evaluate: set model.weights" in evaluate_error(name)
    error = evaluate_error("ssdlite_scene")
    assert "ssdlite_scene is neither a run folder nor a checkpoint; recipe 'ssdlite_scene' not" in error
    assert "did you mean 'ssdlite_scenes'?" in error


# Which errors are sentences


def test_traceback_shows_where_an_error_arose(tiny: Any, tmp_path: Path) -> None:
    arguments = [str(tiny.recipe), f"data.root={tmp_path}"]
    with pytest.raises(FileNotFoundError, match="no COCO data set"):
        cli.train([*arguments, "--traceback"])
    with pytest.raises(FileNotFoundError, match="neither a checkpoint"):
        cli.evaluate([str(tmp_path / "nowhere"), "--traceback"])


def test_defects_keep_their_traceback(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def defect(*args: Any, **_: Any) -> Any:
        raise failure

    monkeypatch.setattr(commands, "train", defect)
    for failure in (ValueError("of another library"), KeyError("x"), AssertionError()):
        with pytest.raises(type(failure)):
            cli.train([str(tiny.recipe)])
    # A call inside our code that fails is a defect too, though the innermost frame is ours.
    monkeypatch.setattr("dettoolkit.training.run_folder.datetime", None)
    with pytest.raises(AttributeError):
        errors.guarded(lambda: commands.new_run_dir(Path("x"), "y"), False)  # type: ignore[arg-type, return-value]
    monkeypatch.setattr("dettoolkit.training.resume.LENGTHS", ())
    assert errors.sentence(raised_in(lambda: commands.read_checkpoint(Path("nowhere.ckpt")))) is not None
    assert errors.sentence(raised_in(lambda: commands.keep_config(Path("nowhere"), ""))) == (
        "nowhere: No such file or directory"
    )


def raised_in(call: Callable[[], Any]) -> Exception:
    try:
        call()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def test_memory_of_the_device_has_its_own_advice() -> None:
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")
    assert (
        errors.sentence(error) == "CUDA out of memory. Tried to allocate 2 GiB. Try a smaller data.batch_size"
    )


def test_interruption_is_no_error(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "train", interrupted)
    assert cli.train([str(tiny.recipe)]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_interrupted_scoring_says_how_to_score(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(TrainingModule, "validation_step", interrupted)
    handler = signal.getsignal(signal.SIGINT)  # Lightning switches Ctrl-C off
    try:
        assert cli.evaluate([str(tiny_run), "--out", str(tmp_path / "out")]) == 130
    finally:
        signal.signal(signal.SIGINT, handler)
    hint = f"interrupted while scoring; to score it: tools/evaluate.py {tiny_run}/checkpoints/best.ckpt\n"
    assert capsys.readouterr().err.endswith(hint)


def test_only_the_first_process_reports(
    tiny_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Score:
        def table(self) -> str:
            return "the numbers"

    report(tiny_run, Score())
    assert capsys.readouterr().out == f"the numbers\n\nreport.html, checkpoints and figures: {tiny_run}\n"
    monkeypatch.setenv("LOCAL_RANK", "1")
    report(tiny_run, Score())
    assert capsys.readouterr().out == ""
