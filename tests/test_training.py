from __future__ import annotations

import csv
import json
import math
import shutil
import socket
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import lightning
import numpy as np
import pytest
import torch
from learning_margins import SEED, at_least
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader
from training_runs import (
    SPEED,
    Killed,
    checkpoint,
    column,
    differences,
    explode,
    kill,
    on_two_processes,
    rows_of,
    the_run,
)

from dettoolkit.cli import train as cli_train
from dettoolkit.config import load_recipe
from dettoolkit.datasets.coco import CocoDetection
from dettoolkit.datasets.data_report import BadImageError, Problem
from dettoolkit.datasets.samplers import SampleKey
from dettoolkit.evaluation.coco_ap import NUMBERS
from dettoolkit.tasks import spec_of
from dettoolkit.training import commands
from dettoolkit.training.callbacks import EMA, RecordBadImages
from dettoolkit.training.checkpoints import Checkpoint
from dettoolkit.training.data import DataModule
from dettoolkit.training.module import NonFiniteLoss, TrainingModule
from dettoolkit.training.prepare import prepare
from dettoolkit.training.run_folder import Interrupted
from dettoolkit.training.trainer import build_trainer
from dettoolkit.weights.load import load_trained
from dettoolkit.weights.read import read_checkpoint

QUICK = "evaluation.figures=0"
pytestmark = pytest.mark.usefixtures("alone")


# A run's folder


def test_folder_holds_what_the_architecture_says(tiny_run: Path, tiny: Any) -> None:
    names = {path.relative_to(tiny_run).as_posix() for path in tiny_run.rglob("*") if path.is_file()}
    events = {name for name in names if name.startswith("tensorboard/events.out.tfevents")}
    assert len(events) == 1
    assert {name for name in names - events if not name.startswith("figures/report/")} == {
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
        "figures/worst_1.jpg",
        "tensorboard/hparams.yaml",  # TensorBoardLogger's, empty
    }
    for name in ("training_batch", "predictions_1", "worst_1"):
        assert cv2.imread(str(tiny_run / "figures" / f"{name}.jpg")).size > 0
    written = load_recipe(str(tiny_run / "config.yaml")).recipe
    ema = "trainer.ema={decay: 0.5, warmup_steps: 1}"
    assert written == tiny.load(tiny_run.parents[1], ema, "trainer.loggers.tensorboard=true").recipe


def test_metrics_and_evaluation_have_the_numbers(tiny_run: Path) -> None:
    assert column(tiny_run, "loss").keys() == {0, 1, 2, 3}
    for step, loss in column(tiny_run, "loss").items():
        parts = [column(tiny_run, f"loss/{part}")[step] for part in ("class", "box")]
        assert loss == pytest.approx(sum(parts), rel=1e-5)
    # lr 0.05, a warm-up of one step from a third, then a cosine over three.
    wanted = [0.05 / 3] + [0.025 * (1 + math.cos(math.pi * step / 3)) for step in range(3)]
    assert list(column(tiny_run, "lr").values()) == pytest.approx(wanted)
    for name in NUMBERS:
        assert column(tiny_run, name).keys() == {1, 3}  # steps of the validations
    with (tiny_run / "metrics.csv").open(newline="") as file:
        assert all(
            sum(bool(row[key]) for row in rows) == 2 for rows in [list(csv.DictReader(file))] for key in SPEED
        )
    report = json.loads((tiny_run / "evaluation.json").read_text())
    assert report["numbers"].keys() == NUMBERS.keys()
    assert report["what"].endswith(f"best.ckpt on {prepare_root(tiny_run)}/annotations/val.json")
    best = max(column(tiny_run, "AP").values())
    assert report["numbers"]["AP"] == pytest.approx(best, abs=1e-6)
    results = json.loads((tiny_run / "predictions.json").read_text())
    assert {each["image_id"] for each in results} == {10, 20, 30, 40, 50}
    assert {each["category_id"] for each in results} == {3, 7}


def prepare_root(run: Path) -> str:
    return load_recipe(str(run / "config.yaml")).recipe.data.root


def test_checkpoints_hold_average_and_current_weights(tiny_run: Path) -> None:
    content = checkpoint(tiny_run)
    name = "network.backbone.stem.0.weight"
    assert content["state_dict"].keys() == content["current_model_state"].keys()
    assert not torch.equal(content["state_dict"][name], content["current_model_state"][name])
    assert content["global_step"] == 4
    assert content["dettoolkit"]["recipe"]["trainer"]["ema"]["decay"] == 0.5


def test_picture_is_there_before_the_first_step_and_runs_stay_apart(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        kill(monkeypatch, at=0, hook="training_step")
        with pytest.raises(Killed):
            tiny.train(tmp_path)
    runs = sorted((tmp_path / "tiny").iterdir())
    assert len(runs) == 2
    for run in runs:
        names = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
        assert names >= {"config.yaml", "data_report.json", "figures/training_batch.jpg"}
        assert not (run / "checkpoints").exists()


def test_nothing_is_sent_anywhere(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse(self: Any, *args: Any, **_: Any) -> None:
        asked.append(args)
        raise OSError("no network in this test")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **_: refuse(None, *args))
    tiny.train(tmp_path, "trainer.max_epochs=1", "trainer.loggers.tensorboard=true")
    assert asked == []


# Learning


@pytest.mark.learnt
def test_detector_learns_its_training_images_by_heart(tiny: Any, tmp_path: Path) -> None:
    run, result = tiny.train(
        tmp_path,
        "data.val={images: train, annotations: annotations/train.json}",
        "data.batch_size=8",
        "optim={type: adamw, lr: 0.01, schedule: {warmup_steps: 5}}",
        f"trainer={{max_epochs: 70, val_every_epochs: 70, seed: {SEED}}}",
        QUICK,
    )
    losses = list(column(run, "loss").values())
    at_least("detector: fall of the loss", np.mean(losses[:5]) / np.mean(losses[-5:]), 5)
    at_least("detector: AP50", result.numbers["AP50"], 0.5)
    assert column(run, "AP").keys() == {69}


@pytest.mark.parametrize(
    "overrides",
    [
        ("trainer.precision=bf16-mixed", "trainer.gradient_clip=0.5", "trainer.channels_last=false"),
        ("trainer.accumulate=2", "trainer.extra.limit_train_batches=1", "optim.lr_batch_size=8"),
        ("trainer.compile=true", "trainer.ema={decay: 0.5}", "trainer.max_epochs=1"),
    ],
)
def test_modes_of_training_run(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...]
) -> None:
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiled.append(self))  # inductor takes minutes
    run, _ = tiny.train(tmp_path, QUICK, "optim.schedule.warmup_steps=0", *overrides)
    assert all(math.isfinite(loss) for loss in column(run, "loss").values())
    assert len(compiled) == ("trainer.compile=true" in overrides)
    if "trainer.accumulate=2" in overrides:
        # One batch an epoch is one step, and 4 images x 2 batches are the 8 that lr is meant for.
        assert list(column(run, "lr").values()) == pytest.approx([0.05, 0.025])


def test_what_lightning_refuses_is_told_with_the_settings(tiny: Any, tmp_path: Path) -> None:
    def refused(*overrides: str) -> str:
        with pytest.raises(ValueError) as error:  # noqa: PT011  the text is what is tested
            build_trainer(tiny.load(tmp_path, *overrides).recipe.trainer, run_dir=None, callbacks=[])
        return str(error.value)

    assert "accelerator cpu, devices [0, 1]" in refused("trainer={accelerator: cpu, devices: [0, 1]}")
    with pytest.raises(
        ModuleNotFoundError, match=r"but wandb is not installed: pip install 'dettoolkit\[wandb\]"
    ):
        build_trainer(
            tiny.load(tmp_path, "trainer.loggers.wandb=project").recipe.trainer, run_dir=None, callbacks=[]
        )


# The end of a run


def test_last_weights_are_validated_whenever_the_run_ends(tiny: Any, tmp_path: Path) -> None:
    run, _ = tiny.train(tmp_path / "epochs", "trainer={max_epochs: 3, val_every_epochs: 2}", QUICK)
    assert column(run, "AP").keys() == {3, 5}  # 2 steps an epoch: the second epoch, and the last one
    run, _ = tiny.train(
        tmp_path / "steps", "trainer={max_epochs: null, max_steps: 3, val_every_epochs: 5}", QUICK
    )
    assert column(run, "loss").keys() == {0, 1, 2}
    assert column(run, "AP").keys() == {2}
    assert column(run, "lr")[2] == pytest.approx(0.05 * (1 + math.cos(math.pi / 2)) / 2)
    names = {path.name for path in (run / "checkpoints").iterdir()}
    assert names == {"best.ckpt", "last.ckpt", "previous.ckpt"}


def test_early_stopping_stops_with_rare_validations(
    tiny: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run, _ = tiny.train(
        tmp_path,
        "trainer={max_epochs: 20, val_every_epochs: 2, early_stopping: {patience: 2, min_delta: 1.0}}",
        QUICK,
    )
    assert column(run, "AP").keys() == {3, 7, 11}  # the first one sets the mark, two more do not beat it
    assert max(column(run, "loss")) == 11
    assert (run / "checkpoints" / "best.ckpt").is_file()
    assert "stopped early in epoch 5: AP has not risen above" in caplog.text


def test_validation_without_objects_gives_no_score_and_no_trouble(
    tiny: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = tiny.write(tmp_path / "coco")
    _edit(data / "annotations" / "val.json", lambda content: content.update(annotations=[]))
    run, result = tiny.train(tmp_path / "runs", f"data.root={data}", QUICK)
    assert "val.json has no objects or labels: the last checkpoint is used as the best" in caplog.text
    assert checkpoint(run, "best")["global_step"] == 4
    assert math.isnan(result.numbers["AP"])
    assert json.loads((run / "evaluation.json").read_text())["numbers"]["AP"] is None
    with pytest.raises(ValueError, match=r"early_stopping waits for a better score, but .* nothing to score"):
        tiny.train(tmp_path / "runs", f"data.root={data}", "trainer.early_stopping={patience: 2}")


def _edit(path: Path, change: Any) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


# Resuming

MOSAIC = "data.augment={type: strong, mosaic: {off_epochs: 1}}"  # depends on epoch and length of the run
LONG = ("trainer.max_epochs=3", "trainer.ema={decay: 0.9, warmup_steps: 3}", MOSAIC, QUICK)


@pytest.fixture(scope="module")
def whole(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of 3 epochs with 2 steps each that nothing interrupted."""
    return tiny.train(tmp_path_factory.mktemp("whole"), *LONG)[0]


@pytest.mark.parametrize(
    ("at", "hook", "saved"),
    [
        (3, "training_step", 3),  # in mid-epoch
        (4, "training_step", 4),  # at the beginning of the last epoch
        (4, "on_validation_epoch_start", 3),  # an epoch's last step is not saved until it is validated
        (4, "on_train_epoch_end", 3),
    ],
)
def test_resumed_run_equals_one_that_was_never_interrupted(
    tiny: Any, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, hook: str, saved: int
) -> None:
    saving = (*LONG, "trainer.checkpoint_every_steps=1")
    kill(monkeypatch, at, hook)
    with pytest.raises(Killed):
        tiny.train(tmp_path, *saving)
    killed = the_run(tmp_path)
    assert checkpoint(killed)["global_step"] == saved
    assert len(rows_of(killed)) < len(rows_of(whole))
    moved = tmp_path / "moved"
    shutil.copytree(killed, moved)
    _, result = tiny.train(tmp_path, *saving, resume=moved)
    assert differences(moved, whole) == []
    assert result.numbers["AP"] == max(column(whole, "AP").values()) or math.isclose(
        result.numbers["AP"], max(column(whole, "AP").values()), abs_tol=1e-6
    )


def test_rows_after_the_last_checkpoint_are_not_doubled(
    tiny: Any, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill(monkeypatch, 3, "training_step")
    with pytest.raises(Killed):
        tiny.train(tmp_path, *LONG)  # saves at epochs' ends only
    run = the_run(tmp_path)
    assert checkpoint(run)["global_step"] == 2
    assert max(column(run, "loss")) == 2  # a step that will be done again
    tiny.train(tmp_path, *LONG, resume=run)
    assert rows_of(run) == rows_of(whole)


def test_longer_run_goes_on_with_the_longer_schedule(
    tiny: Any,
    whole: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    before = rows_of(run)
    assert cli_train(["--resume", str(run), "trainer.max_epochs=4", "trainer.log_every_steps=1"]) == 0
    assert "changed for the rest of the run: trainer.max_epochs: 3 -> 4\n" in caplog.text
    assert "the learning rate follows the cosine schedule of the new length" in caplog.text
    assert rows_of(run)[: len(before)] == before
    assert column(run, "loss").keys() == set(range(8))
    # One step of warm-up, then a cosine over 7 instead of 5.
    wanted = [0.025 * (1 + math.cos(math.pi * step / 7)) for step in (5, 6)]
    assert [column(run, "lr")[step] for step in (6, 7)] == pytest.approx(wanted)
    assert load_recipe(str(run / "config.yaml")).recipe.trainer.max_epochs == 4
    assert load_recipe(str(run / "config_1.yaml")).recipe.trainer.max_epochs == 3
    caplog.clear()
    tiny.train(tmp_path, *LONG, "trainer.max_epochs=4", resume=run)
    assert "the run already has its full length of 8 steps" in caplog.text
    assert max(column(run, "loss")) == 7


def test_run_resumed_in_its_last_epoch_is_validated_at_the_end(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = ("trainer={max_epochs: 3, val_every_epochs: 2, checkpoint_every_steps: 1}", QUICK)
    kill(monkeypatch, 5, "training_step")
    with pytest.raises(Killed):
        tiny.train(tmp_path, *recipe)
    run = the_run(tmp_path)
    assert column(run, "AP").keys() == {3}
    tiny.train(tmp_path, *recipe, resume=run)
    assert column(run, "AP").keys() == {3, 5}
    assert column(run, "loss").keys() == set(range(6))


def test_steps_of_another_size_are_refused_and_change_nothing(tiny: Any, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    with (run / "metrics.csv").open("a") as file:
        file.write("7,,,,,")  # of a step after the checkpoint
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(
        ValueError, match=r"trained with 4 images per step, but this would be 8 .*product is the same"
    ):
        tiny.train(tmp_path, *LONG, "trainer.max_epochs=4", "trainer.accumulate=2", resume=run)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    tiny.train(
        tmp_path, *LONG, "trainer.max_epochs=4", "trainer.accumulate=2", "data.batch_size=2", resume=run
    )
    assert column(run, "loss").keys() == set(range(8))


def test_longer_run_of_steps_goes_on_from_mid_epoch(tiny: Any, tmp_path: Path) -> None:
    steps = "trainer={{max_epochs: null, max_steps: {}, val_every_epochs: 5}}".format
    run, _ = tiny.train(tmp_path, steps(3), QUICK)
    tiny.train(tmp_path, steps(6), QUICK, resume=run)
    assert column(run, "loss").keys() == set(range(6))
    assert column(run, "AP").keys() == {2, 5}


def test_ctrl_c_says_how_to_go_on(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(tiny.recipe), f"data.root={tiny.data}", f"trainer.out={tmp_path}", QUICK]
    kill(monkeypatch, 3, "training_step", KeyboardInterrupt)
    assert cli_train(arguments) == 130
    run = the_run(tmp_path)
    error = capsys.readouterr().err
    saved = f"{run}/checkpoints/last.ckpt"
    assert f"interrupted after 3 steps; to continue from step 2, saved in {saved}: " in error
    assert f"tools/train.py --resume {run}\n" in error
    assert "Traceback" not in error
    assert cli_train(["--resume", str(run)]) == 0
    assert column(run, "loss").keys() == {0, 1, 2, 3}
    assert "APs" in capsys.readouterr().out


def test_ctrl_c_before_any_checkpoint(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kill(monkeypatch, 1, "training_step", KeyboardInterrupt)
    with pytest.raises(
        Interrupted, match=r"after 1 steps; no checkpoint was saved yet .*checkpoint_every_steps"
    ):
        tiny.train(tmp_path, QUICK)


def test_best_score_is_remembered_in_a_moved_folder(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    before, after = Checkpoint(here, "best", monitor="AP"), Checkpoint(there, "best", monitor="AP")
    path = str(here / "checkpoints" / "best.ckpt")
    before.best_k_models = {path: torch.tensor(0.5)}
    before.best_model_path = before.kth_best_model_path = path
    before.best_model_score = before.kth_value = torch.tensor(0.5)
    assert after.state_key == before.state_key
    after.load_state_dict(before.state_dict())
    moved = str(there / "checkpoints" / "best.ckpt")
    assert after.best_k_models == {moved: torch.tensor(0.5)}
    assert after.best_model_path == after.kth_best_model_path == moved
    assert after.best_model_score == 0.5
    assert isinstance(after, ModelCheckpoint)


# The average of the weights


class Averaged(lightning.LightningModule):
    """Takes one step of size 1 up in every batch; has a counter as BN has."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.register_buffer("mean", torch.zeros(1))
        self.register_buffer("count", torch.tensor(0))
        self.validated: list[float] = []

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        self.mean += 10
        self.count += 1
        return -self.weight.sum()

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.validated.append(self.weight.item())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)


@pytest.mark.parametrize("warmup", [0, 2])
def test_average_is_the_one_computed_by_hand(warmup: int) -> None:
    module = Averaged()
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[EMA(decay=0.8, warmup_steps=warmup)],
    )
    data = DataLoader(torch.zeros(3, 1))
    trainer.fit(module, data, data)
    wanted, history = 1.0, []  # after step n the weight is n; the first step is taken as it is
    for step in range(1, 7):
        decay = 0.8 * (1 - math.exp(-step / warmup)) if warmup else 0.8
        wanted = step if step == 1 else decay * wanted + (1 - decay) * step
        history.append(wanted)
    assert module.validated == pytest.approx([history[2]] * 3 + [history[5]] * 3, rel=1e-5)
    assert module.weight.item() == pytest.approx(history[5], rel=1e-5)  # left there for what follows
    assert float(module.mean) == pytest.approx(10 * history[5], rel=1e-5)
    assert int(module.count) == 6


def test_statistics_are_computed_anew_for_the_validated_weights(tiny: Any, tmp_path: Path) -> None:
    """Those of the first batch normalization are means of its own inputs, batch by batch."""
    overrides = ("trainer.norm_batches=2", "trainer.ema={decay: 0.9, warmup_steps: 0}", QUICK)
    run = tiny.train(tmp_path, *overrides)[0]
    recipe = tiny.load(tmp_path, *overrides).recipe
    data = spec_of(recipe).training_run("tiny", recipe, pretrained=False)
    _, state = read_checkpoint(run / "checkpoints" / "last.ckpt")
    load_trained(data.task.network, state, source="last.ckpt")
    epoch, size = recipe.trainer.max_epochs - 1, recipe.data.batch_size
    order = np.random.default_rng((0, epoch)).permutation(len(data.train))[: 2 * size].tolist()
    conv, norm, _ = data.task.network.backbone.stem
    means = []
    for start in range(0, len(order), size):
        batch = data.collate([data.train[SampleKey(row, epoch)] for row in order[start : start + size]])
        with torch.inference_mode():
            means.append(conv(data.task.images(batch)).mean((0, 2, 3)))
    assert len(means) == 2
    torch.testing.assert_close(norm.running_mean, torch.stack(means).mean(0), rtol=1e-4, atol=1e-5)
    assert norm.momentum == recipe.model.backbone.norm_momentum


def test_slow_images_are_told_once(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A loader that sleeps: the fraction is logged in each epoch, and one sentence says what to do."""
    read = CocoDetection.read_sample

    def slowly(self: Any, key: Any, seed: int) -> Any:
        time.sleep(0.2)
        return read(self, key, seed)

    monkeypatch.setattr(CocoDetection, "read_sample", slowly)
    run = tiny.train(tmp_path, "trainer.max_epochs=2", QUICK)[0]
    with (run / "metrics.csv").open() as file:
        waits = [float(row["data_wait_fraction"] or 0) for row in csv.DictReader(file)]
    assert sum(wait > 0.2 for wait in waits) == 2
    assert caplog.text.count("of its time: raise data.workers") == 1


# What goes wrong in a batch


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_loss_that_is_not_finite_stops_the_run(
    tiny: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    precision: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    explode(monkeypatch)
    arguments = [str(tiny.recipe), f"data.root={tiny.data}", f"trainer.out={tmp_path}", QUICK]
    arguments += [f"trainer.precision={precision}"]
    assert cli_train(arguments) == 2
    error = capsys.readouterr().err
    assert "error:\nstep 1: the loss is not finite (class nan, box nan). The batch is saved in " in error
    assert "Traceback" not in error
    run = the_run(tmp_path)
    saved = run / "bad_batch_step1_rank0.pt"
    assert (
        f"The batch is saved in {saved}; open it with torch.load. If the data are correct, lower optim.lr"
        in error
    )
    batch = torch.load(saved, weights_only=True)
    for file, image_id in zip(batch["files"], batch["image_ids"].tolist(), strict=True):
        assert Path(file).is_file()
        assert f"\n  {file} (id {image_id})" in error
    assert batch["images"].shape == (4, 3, 64, 64)
    assert batch["box_labels"].shape == batch["boxes_xyxy"].shape[:2]


def test_batch_with_problems_is_saved_as_plain_data(tiny: Any, tmp_path: Path) -> None:
    run = prepare("tiny", tiny.load(tmp_path).recipe)
    trainer = build_trainer(run.recipe.trainer, run_dir=None, callbacks=[])
    module = TrainingModule(run, tmp_path, world_size=1)
    module._trainer = trainer
    batch = {
        "image_ids": torch.tensor([4]),
        "files": ["a/4.png"],
        "problems": [Problem("size differs", 4, None, "text")],
    }
    with pytest.raises(
        NonFiniteLoss,
        match=r"the loss is not finite \(class inf\)(.|\n)*Images of this batch:\n  a/4.png \(id 4\)",
    ):
        module._stop_if_not_finite(torch.tensor(torch.inf), {"class": torch.tensor(torch.inf)}, batch)
    (saved,) = tmp_path.glob("*.pt")
    assert torch.load(saved, weights_only=True)["problems"][0]["text"] == "text"


def test_unreadable_images_are_skipped_counted_and_listed(
    tiny: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = tiny.write(tmp_path / "coco", train=4)
    for number in (1, 2):
        (data / "train" / f"{number}.png").write_bytes(b"")
    cv2.imwrite(str(data / "val" / "1.png"), np.zeros((20, 20, 3), np.uint8))  # not the json's size
    (data / "val" / "2.png").unlink()
    recipe = (
        f"data.root={data}",
        "data.on_bad_image=skip",
        "trainer.max_epochs=1",
        "optim.schedule.warmup_steps=0",
    )
    run, _ = tiny.train(tmp_path / "runs", *recipe)
    assert "3 images could not be read and were skipped:\n" in caplog.text
    problems = json.loads((run / "data_report.json").read_text())
    assert len(problems["unreadable images"]) == 3
    assert problems["unreadable images"][-1] == f"{data}/val/2.png: image id 20: file does not exist"
    assert problems["val"]["counts"] == {"size differs": 1}
    with pytest.raises(
        BadImageError, match=r"(?s)images cannot be read, more than data.max_bad_images=2: .*\n .*1.png"
    ):
        tiny.train(tmp_path / "runs", *recipe, "data.max_bad_images=2")


@pytest.mark.parametrize(
    ("split", "left", "message"),
    [
        ("train", 0, r"nothing was trained in epoch 0: (.|\n)*train/4.png: image id 40: file is empty"),
        ("train", 1, r"nothing was trained in epoch 0: no batch had two images"),  # which BN needs
        ("val", 0, r"none of the validation images could be read"),
    ],
)
def test_nothing_comes_of_no_images(tiny: Any, tmp_path: Path, split: str, left: int, message: str) -> None:
    data = tiny.write(tmp_path / "coco", train=4, val=4)
    for number in range(1 + left, 5):
        (data / split / f"{number}.png").write_bytes(b"")
    with pytest.raises(BadImageError, match=message):
        tiny.train(tmp_path / "runs", f"data.root={data}", "data.on_bad_image=skip", QUICK)
    assert not list((tmp_path / "runs").rglob("*.ckpt"))


def test_batches_without_boxes_train(tiny: Any, tmp_path: Path) -> None:
    data = tiny.write(tmp_path / "coco")
    _edit(
        data / "annotations" / "train.json",
        lambda content: content.update(
            annotations=[a for a in content["annotations"] if a["image_id"] == 10]
        ),
    )
    run, _ = tiny.train(tmp_path / "runs", f"data.root={data}", QUICK)
    losses = column(run, "loss/box")
    assert len(losses) == 4
    assert 0.0 in losses.values()  # an epoch has a batch without any box
    assert all(math.isfinite(loss) for loss in column(run, "loss").values())


def test_records_of_all_processes_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: list[list[Any]] = [[], [], []]
    bad_images, train, val = (SimpleNamespace(record=each.extend) for each in recorded)
    run = SimpleNamespace(bad_images=bad_images, problems={"train": train, "val": val})
    callback = RecordBadImages(run)  # type: ignore[arg-type]

    class Two:
        world_size = 2

    def gather(fractions: list[Any], mine: Any) -> None:
        fractions[:] = [mine, (["theirs"], [], ["problem"])]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    callback.on_train_batch_start(Two(), None, {"bad_images": ["mine"], "problems": []})  # type: ignore[arg-type]
    assert recorded == [["mine"], [], []]
    callback.on_validation_epoch_end(Two(), None)  # type: ignore[arg-type]
    assert [set(each) for each in recorded] == [{"mine", "theirs"}, set(), {"problem"}]


# The data of a run


def test_sets_too_small_for_the_processes_are_refused(tiny: Any, tmp_path: Path) -> None:
    class Trainer:
        global_rank, world_size = 1, 5

    run = prepare("tiny", tiny.load(tmp_path).recipe)
    run.train = run.val
    data = DataModule(run)
    data.trainer = Trainer()  # type: ignore[assignment]
    with pytest.raises(
        ValueError, match=r"training set has 5 image\(s\) for 5 process\(es\), but batch norm"
    ):
        data.train_dataloader()
    assert len(data.val_dataloader()) == 1
    Trainer.world_size = 6
    with pytest.raises(
        ValueError, match=r"validation set has 5 images for 6 processes: use fewer trainer.devices"
    ):
        data.val_dataloader()
    Trainer.world_size = 4
    assert len(data.train_dataloader()) == 1


def test_ids_of_the_validation_file_may_be_others(tiny: Any, tmp_path: Path) -> None:
    data = tiny.write(tmp_path / "coco")

    def renumber(content: dict[str, Any]) -> None:
        for each in content["categories"]:
            each["id"] = 50 - each["id"]  # the other way round, too
        for each in content["annotations"]:
            each["category_id"] = 50 - each["category_id"]

    _edit(data / "annotations" / "val.json", renumber)
    run = prepare("tiny", tiny.load(tmp_path, f"data.root={data}").recipe)
    assert run.classes.names == ["box", "bar"]
    assert run.classes.ids == [3, 7]
    assert list(run.task.category_ids) == [47, 43]


# Several processes


@pytest.mark.timeout(600)  # three processes import torch, one after the other
def test_two_processes_train_and_score_as_one(tiny: Any, tmp_path: Path) -> None:
    """7 training images and 5 to validate do not divide by 2; an image of the second process is damaged."""
    data = tiny.write(tmp_path / "coco", train=7)
    (data / "val" / "4.png").write_bytes(b"")
    out = tmp_path / "runs"
    ran = on_two_processes(tiny.recipe, data, out)
    assert ran.returncode == 0, ran.stderr
    assert (
        ran.stdout.count("average precision, IoU 0.50 to 0.95") == 2
    )  # trained, evaluated; printed once each
    run = the_run(out)
    assert sorted(path.name for path in run.iterdir()) == [
        ".lock",
        "checkpoints",
        "config.yaml",
        "data_report.json",
        "doctor.json",
        "evaluation",
        "evaluation.json",
        "figures",
        "image_scores.json",
        "metrics.csv",
        "origins.json",
        "predictions.json",
        "report.html",
    ]
    assert column(run, "loss").keys() == set(range(4))  # 4 images for each, 2 a batch, 2 epochs
    unreadable = json.loads((run / "data_report.json").read_text())["unreadable images"]
    assert unreadable == [f"{data}/val/4.png: image id 40: file is empty"]
    reports = [json.loads((run / name / "evaluation.json").read_text()) for name in (".", "evaluation")]
    recipe = tiny.load(out, f"data.root={data}", "data.on_bad_image=skip").recipe
    alone, result = commands.evaluate(run, recipe=recipe, out=None)
    assert alone.name == "evaluation_2"
    for report in (*reports, result.to_json()):
        assert report["numbers"] == reports[0]["numbers"]
        assert report["per_class"] == reports[0]["per_class"]
    found = [json.loads((path / "predictions.json").read_text()) for path in (run, run / "evaluation", alone)]
    by_score = [sorted(each, key=lambda entry: (entry["image_id"], -entry["score"])) for each in found]
    assert len(by_score[0]) == len(by_score[1]) == len(by_score[2]) > 0
    assert {entry["image_id"] for entry in found[0]} == {10, 20, 30, 50}
