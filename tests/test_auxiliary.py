"""Parts that only training has: the auxiliary head, and that nothing else knows of it."""

from __future__ import annotations

import logging
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from training_runs import Killed, checkpoint, column, differences, kill, the_run

from dettoolkit import load
from dettoolkit.backbones.initialize import initialize
from dettoolkit.cli import train as cli_train
from dettoolkit.heads.fcn import FCNHead
from dettoolkit.training.prepare import prepare
from dettoolkit.training.trained import open_model
from dettoolkit.weights.read import read_checkpoint, read_weights

QUICK = "evaluation.figures=0"
AUXILIARY = "model.auxiliary={channels: 8}"
pytestmark = pytest.mark.usefixtures("alone")


def head_of(feature: str = "c4") -> FCNHead:
    torch.manual_seed(0)
    head = FCNHead(
        feature=feature,
        in_channels=6,
        channels=4,
        num_classes=3,
        norm=nn.BatchNorm2d,
        init=partial(initialize, init="truncated_normal", std=0.3),
    )
    head.initialize()
    return head


def test_head_equals_the_operations_that_it_is_made_of() -> None:
    head, x = head_of().train(), torch.randn(2, 6, 5, 7)
    weights = head.state_dict()
    y = F.conv2d(x, weights["depthwise.0.weight"], padding=1, groups=6)
    y = F.batch_norm(y, None, None, training=True).relu()
    y = torch.einsum("nchw,dc->ndhw", y, weights["project.0.weight"][:, :, 0, 0])
    y = F.batch_norm(y, None, None, training=True).relu()
    y = torch.einsum("nchw,dc->ndhw", y, weights["classifier.weight"][:, :, 0, 0])
    torch.testing.assert_close(head(x), y + weights["classifier.bias"].view(1, 3, 1, 1))
    assert head.features == ("c4",)
    assert head.eval()(x[:0]).shape == (0, 3, 5, 7)


@pytest.mark.parametrize("feature", ["low_first", "low_depthwise", "low", "c4", "c5"])
def test_network_and_generators_are_those_without_it(
    tiny_segmentation: Any, tmp_path: Path, feature: str
) -> None:
    plain = prepare("tiny", tiny_segmentation.load(tmp_path).recipe).task
    drawn = torch.rand(3)
    extra = f"model.auxiliary.feature={feature}"
    task = prepare("tiny", tiny_segmentation.load(tmp_path, extra).recipe).task
    assert torch.equal(torch.rand(3), drawn)
    ours, theirs = task.network.state_dict(), plain.network.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert not plain.has_more_losses
    again = prepare("tiny", tiny_segmentation.load(tmp_path, extra).recipe).task
    first, second = task.auxiliary.state_dict(), again.auxiliary.state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    other = prepare("tiny", tiny_segmentation.load(tmp_path, extra, "trainer.seed=1").recipe).task
    assert not torch.equal(first["head.classifier.weight"], other.auxiliary["head"].classifier.weight)
    images = torch.randn(2, 3, 64, 64)
    outputs, features = task.network.eval().with_features(images)
    assert torch.equal(outputs, task.network(images))
    (name,) = task.auxiliary["head"].features
    loss = task.auxiliary_losses(features, {"label_map": torch.zeros(2, 64, 64, dtype=torch.uint8)})
    assert name == feature
    logits = task.auxiliary["head"](features[feature])
    torch.testing.assert_close(
        loss["auxiliary"], 0.4 * task.loss_of(logits, torch.zeros(2, 64, 64, dtype=torch.uint8))
    )


# Runs

LONG = (
    AUXILIARY,
    QUICK,
    "trainer={max_epochs: 3, ema: {decay: 0.9, warmup_steps: 3}}",
    "data.augment={scale: [0.75, 1.5], color: true}",
)


@pytest.fixture(scope="module")
def whole(tiny_segmentation: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of 3 epochs with 2 steps each, with an auxiliary head."""
    run: Path = tiny_segmentation.train(tmp_path_factory.mktemp("whole"), *LONG)[0]
    return run


def test_its_loss_is_logged_and_its_weights_are_trained(whole: Path, tiny_segmentation: Any) -> None:
    parts = [column(whole, name) for name in ("loss/pixel", "loss/auxiliary")]
    for step, loss in column(whole, "loss").items():
        assert loss == pytest.approx(sum(part[step] for part in parts), rel=1e-5)
    start = prepare("tiny", tiny_segmentation.load(whole, AUXILIARY).recipe).task.auxiliary
    content = checkpoint(whole)
    trained = content["current_model_state"]
    for name, value in start.state_dict().items():
        if value.is_floating_point():
            assert not torch.equal(trained[f"auxiliary.{name}"], value)
    trainable = [name for name in trained if name.endswith(("weight", "bias"))]
    assert len(content["optimizer_states"][0]["state"]) == len(trainable)


def test_a_resumed_run_equals_one_that_was_never_interrupted(
    tiny_segmentation: Any, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saving = (*LONG, "trainer.checkpoint_every_steps=1")
    kill(monkeypatch, 3, "training_step")
    with pytest.raises(Killed):
        tiny_segmentation.train(tmp_path, *saving)
    moved = shutil.copytree(the_run(tmp_path), tmp_path / "moved")
    tiny_segmentation.train(tmp_path, *saving, resume=moved)
    assert differences(moved, whole) == []


def test_whoever_loads_the_network_does_not_see_it(
    whole: Path, tiny_segmentation: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = whole / "checkpoints" / "best.ckpt"
    plain = prepare("tiny", tiny_segmentation.load(tmp_path).recipe).task.network.state_dict()
    assert any(name.startswith("auxiliary.head.") for name in checkpoint(whole, "best")["state_dict"])
    assert read_checkpoint(path)[1].keys() == plain.keys()
    assert read_weights(str(path), torchvision_model="none").keys() == plain.keys()
    _, network = open_model(whole)
    prepare("tiny", tiny_segmentation.load(tmp_path, f"model.weights={path}").recipe)
    assert network.state_dict().keys() == plain.keys()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert load(whole).task == "segmentation"


def test_a_check_shows_its_loss(
    tiny_segmentation: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(tiny_segmentation.recipe), f"data.root={tiny_segmentation.data}"]
    assert cli_train([*arguments, f"trainer.out={tmp_path}", AUXILIARY, "--check"]) == 0
    assert ", auxiliary " in capsys.readouterr().out


@pytest.mark.parametrize(
    "overrides",
    [
        ("trainer.precision=bf16-mixed", "trainer.gradient_clip=0.5", "trainer.channels_last=false"),
        ("trainer.accumulate=2", "optim={type: adamw, lr: 0.001}", "model.auxiliary.feature=low"),
        ("trainer.compile=true", "trainer.max_epochs=1"),
    ],
)
def test_modes_of_training_run_with_it(
    tiny_segmentation: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...]
) -> None:
    compiled = []

    def compiling(function: Any) -> Any:  # inductor takes minutes
        compiled.append(function)
        return function

    monkeypatch.setattr(nn.Module, "compile", lambda self: None)
    monkeypatch.setattr(torch, "compile", compiling)
    run, _ = tiny_segmentation.train(tmp_path, QUICK, AUXILIARY, "optim.schedule.warmup_steps=0", *overrides)
    assert all(0 < loss < 100 for loss in column(run, "loss/auxiliary").values())
    assert len(compiled) == ("trainer.compile=true" in overrides)


def test_void_batches_train_nothing(tiny_segmentation: Any, tmp_path: Path) -> None:
    task = prepare("tiny", tiny_segmentation.load(tmp_path, AUXILIARY).recipe).task
    void = {"label_map": torch.full((2, 64, 64), 255, dtype=torch.uint8)}
    _, features = task.network.with_features(torch.randn(2, 3, 64, 64))
    loss = task.auxiliary_losses(features, void)["auxiliary"]
    loss.backward()
    assert loss == 0
    assert all(parameter.grad.eq(0).all() for parameter in task.auxiliary.parameters())
