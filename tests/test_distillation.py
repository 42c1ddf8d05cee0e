"""Runs that learn from a teacher: what is trained, logged, kept, resumed and refused, for each task."""

from __future__ import annotations

import copy
import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_exports import FIXTURES, convert, tiny_model
from torch import nn
from training_runs import TEACHER_SPEED, Killed, checkpoint, column, differences, kill, the_run

from dettoolkit.cli import train as cli_train
from dettoolkit.config import load_recipe
from dettoolkit.datasets.samplers import SampleKey
from dettoolkit.tasks import spec_for
from dettoolkit.teacher import Stopwatch
from dettoolkit.training.prepare import prepare
from dettoolkit.training.run_folder import checkpoint_of
from dettoolkit.training.teaching import order_of
from dettoolkit.training.trained import open_model

QUICK = "evaluation.figures=0"
PKD, CWD = "distill.features.type=pkd", "distill.features.type=cwd"
WIDER = "model.backbone.width=0.5"  # than the teachers, so that its features need adapters
pytestmark = pytest.mark.usefixtures("alone")
each_task = pytest.mark.parametrize("task", FIXTURES)


@pytest.fixture
def tiny_of(request: pytest.FixtureRequest, task: str) -> Any:
    return request.getfixturevalue(FIXTURES[task])


@pytest.fixture
def teacher(request: pytest.FixtureRequest, task: str) -> Path:
    """Return the folder of a run of the same task; not to be changed."""
    run: Path = request.getfixturevalue(f"{FIXTURES[task]}_run")
    return run


def batch_of(run: Any) -> dict[str, Any]:
    batch: dict[str, Any] = run.collate([run.train[SampleKey(index, 0)] for index in range(4)])
    return batch


def losses_of(run: Any) -> dict[str, torch.Tensor]:
    """Return what training would add to the loss of the first four images."""
    batch = batch_of(run)
    images, targets = run.task.training_inputs(batch)
    outputs, features = run.task.network.with_features(images)
    added: dict[str, torch.Tensor] = run.task.more_losses(images, outputs, features, targets)
    return added


# Training


@each_task
def test_a_student_trains_and_only_its_run_knows_of_the_teacher(
    tiny_of: Any, teacher: Path, task: str, tmp_path: Path
) -> None:
    boxes = ["distill.boxes={}"] if task == "detection" else []
    settings = (f"distill.teacher={teacher}", PKD, WIDER, *boxes)
    run, _ = tiny_of.train(tmp_path, QUICK, "trainer.max_epochs=1", *settings)
    names = [name for name in next(iter(rows(run))) if name.startswith("loss/")]
    added = {"loss/distill_outputs", "loss/distill_features"} | {"loss/distill_boxes" for _ in boxes}
    assert {name for name in names if "distill" in name} == added
    for step, loss in column(run, "loss").items():
        assert loss == pytest.approx(sum(column(run, name)[step] for name in names), rel=1e-5)
    assert len([row for row in rows(run) if all(row.get(name) for name in TEACHER_SPEED)]) == 1
    told = json.loads((run / "teacher.json").read_text())
    assert told["teacher"] == str(teacher)
    assert len(told["sha256"]) == 64
    content = checkpoint(run)
    assert content["dettoolkit"]["teacher"] == told
    own = {name for name in content["state_dict"] if not name.startswith("network.")}
    assert own == {"auxiliary.distill_c4.weight", "auxiliary.distill_c5.weight"}
    manifest, network = open_model(run)
    assert not [name for name in network.state_dict() if "distill" in name]
    assert set(vars(manifest)) == set(vars(open_model(teacher)[0]))


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("task", ["segmentation"])
@pytest.mark.parametrize(
    "overrides",
    [
        ("trainer.precision=bf16-mixed", "trainer.gradient_clip=0.5", "trainer.channels_last=false"),
        ("trainer.accumulate=2", "distill.outputs.type=kl", "trainer.ema={decay: 0.5}"),
        ("trainer.compile=true",),
    ],
)
def test_modes_of_training_run_with_a_teacher(
    tiny_of: Any,
    teacher: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    overrides: tuple[str, ...],
) -> None:
    compiled = []

    def compiling(function: Any) -> Any:  # inductor takes minutes
        compiled.append(function)
        return function

    monkeypatch.setattr(nn.Module, "compile", lambda self: None)
    monkeypatch.setattr(torch, "compile", compiling)
    settings = (f"distill.teacher={teacher}", CWD, "optim.schedule.warmup_steps=0", "trainer.max_epochs=1")
    run, _ = tiny_of.train(tmp_path, QUICK, *settings, *overrides)
    assert all(0 < loss < 1000 for loss in column(run, "loss/distill_features").values())
    assert len(compiled) == 2 * ("trainer.compile=true" in overrides)


@each_task
def test_network_and_generators_are_those_without_a_teacher(
    tiny_of: Any, teacher: Path, tmp_path: Path
) -> None:
    plain = prepare("tiny", tiny_of.load(tmp_path, WIDER).recipe)
    drawn = torch.rand(3)
    taught = prepare("tiny", tiny_of.load(tmp_path, WIDER, f"distill.teacher={teacher}", CWD).recipe)
    assert torch.equal(torch.rand(3), drawn)
    ours, theirs = taught.task.network.state_dict(), plain.task.network.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert taught.network_lines() == plain.network_lines()


def test_exported_file_is_the_same_to_a_byte(tiny_segmentation: Any, request: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    _, manifest = tiny_model(tiny_segmentation, tmp_path, format="onnx")
    teacher = request.getfixturevalue("tiny_segmentation_run")
    files = []
    for number, extra in enumerate([(), (f"distill.teacher={teacher}", CWD, "model.auxiliary={}")]):
        task = prepare("tiny", tiny_segmentation.load(tmp_path, *extra).recipe).task
        assert task.has_more_losses == bool(extra)
        files.append(tmp_path / f"{number}.onnx")
        convert(task.network, manifest, files[-1])
    assert files[0].read_bytes() == files[1].read_bytes()


@each_task
def test_a_student_that_is_its_teacher_loses_nothing(tiny_of: Any, teacher: Path, tmp_path: Path) -> None:
    weights = f"model.weights={checkpoint_of(teacher, names=('best',))}"
    settings = (weights, f"distill.teacher={teacher}", PKD)
    run = prepare("tiny", tiny_of.load(tmp_path, *settings).recipe)
    assert not len(run.task.auxiliary)
    run.task.network.eval()
    added = losses_of(run)
    assert added.keys() == {"distill_outputs", "distill_features"}
    for loss in added.values():
        assert loss.item() == pytest.approx(0, abs=1e-3)  # of rounding: the teacher's layers are fused
    torch.stack(list(added.values())).sum().backward()
    assert not any(parameter.requires_grad for parameter in run.task.teacher.network.parameters())
    assert not run.task.teacher.network.training


def test_a_teacher_gets_the_mixed_images_as_it_was_trained_on_them(
    tiny_classification: Any, tiny_classification_run: Path, tmp_path: Path
) -> None:
    others = ("data.mean=[0.1, 0.2, 0.3]", "data.std=[0.3, 0.4, 0.5]", "data.input_hw=[48, 48]")
    settings = (f"distill.teacher={tiny_classification_run}", "model.loss.mixup=1.0", *others)
    run = prepare("tiny", tiny_classification.load(tmp_path, *settings).recipe)
    task, batch = run.task, batch_of(run)
    images, _ = task.training_inputs(batch)
    seen = []
    task.teacher._answer = lambda given: seen.append(given) or (torch.zeros(4, 3), {})
    task.teacher.answer(images)
    mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in (task.mean, task.std))
    wanted = (images * std + mean - 0.5) / 0.5
    wanted = F.interpolate(wanted, (64, 64), mode="bilinear", align_corners=False, antialias=True)
    torch.testing.assert_close(seen[0], wanted)


def test_a_detector_learns_from_one_with_a_larger_input(tiny: Any, tiny_run: Path, tmp_path: Path) -> None:
    settings = (f"distill.teacher={tiny_run}", "distill.boxes={}", PKD)
    run = prepare("tiny", tiny.load(tmp_path, "model.input_hw=[40, 48]", *settings).recipe)
    added = losses_of(run)
    assert added.keys() == {"distill_outputs", "distill_boxes", "distill_features"}
    assert all(loss.isfinite() for loss in added.values())


def test_a_segmenters_teacher_may_see_larger_images(
    tiny_segmentation: Any, tiny_segmentation_run: Path, tmp_path: Path
) -> None:
    settings = (f"distill.teacher={tiny_segmentation_run}", "distill.scale=1.5", PKD)
    run = prepare("tiny", tiny_segmentation.load(tmp_path, *settings).recipe)
    images, seen = torch.rand(2, 3, 32, 41), []
    answer = run.task.teacher._answer
    run.task.teacher._answer = lambda given: seen.append(given.shape) or answer(given)
    run.task.teacher.answer(images)
    assert seen == [(2, 3, 48, 62)]
    assert all(loss.isfinite() for loss in losses_of(run).values())


def test_copies_of_a_student_share_the_teacher(tiny: Any, tiny_run: Path, tmp_path: Path) -> None:
    task = prepare("tiny", tiny.load(tmp_path, f"distill.teacher={tiny_run}").recipe).task
    assert copy.deepcopy(task).teacher is task.teacher


def test_a_stopwatch_adds_up() -> None:
    watch = Stopwatch()
    for _ in range(2):
        with watch.running(torch.device("cpu")):
            before = watch.seconds
    assert watch.blocks == 2
    assert watch.seconds > before >= 0
    watch.reset()
    assert (watch.blocks, watch.seconds) == (0, 0.0)


# Resuming

LONG = (
    QUICK,
    CWD,
    WIDER,
    "trainer={max_epochs: 3, ema: {decay: 0.9, warmup_steps: 3}}",
    "model.auxiliary={channels: 8}",
    "data.augment={scale: [0.75, 1.5], color: true}",
)


def test_a_resumed_run_equals_one_that_was_never_interrupted(
    tiny_segmentation: Any, tiny_segmentation_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The teacher lies somewhere else by then; another one is refused."""
    settings = (*LONG, f"distill.teacher={tiny_segmentation_run}")
    whole, _ = tiny_segmentation.train(tmp_path / "whole", *settings)
    saving = (*settings, "trainer.checkpoint_every_steps=1")
    kill(monkeypatch, 3, "training_step")
    with pytest.raises(Killed):
        tiny_segmentation.train(tmp_path / "killed", *saving)
    run = the_run(tmp_path / "killed")
    moved = shutil.copytree(tiny_segmentation_run, tmp_path / "teacher")
    other = moved / "checkpoints" / "other.ckpt"
    content = checkpoint(moved, "best")
    content["state_dict"]["network.heads.segmentation.classifier.bias"] += 1
    torch.save(content, other)
    with pytest.raises(ValueError, match=r"learned from the teacher .*, but the weights of .*other.ckpt are"):
        tiny_segmentation.train(tmp_path, *saving, f"distill.teacher={other}", resume=run)
    tiny_segmentation.train(tmp_path, *saving, f"distill.teacher={moved}", resume=run)
    assert differences(run, whole) == []
    with pytest.raises(ValueError, match=r"cannot change during a run:\n  distill.features.weight: 10.0"):
        tiny_segmentation.train(tmp_path, *saving, "distill.features.weight=1.0", resume=run)


# What is refused, and what is shown


def test_a_teacher_must_be_there_and_of_the_task(
    tiny: Any, tiny_run: Path, tiny_classification_run: Path, tmp_path: Path
) -> None:
    def refused(teacher: object, *overrides: str) -> str:
        with pytest.raises((ValueError, FileNotFoundError)) as error:
            prepare("tiny", tiny.load(tmp_path, f"distill.teacher={teacher}", *overrides).recipe)
        return str(error.value)

    assert "distill.teacher=nowhere: there is no model 'nowhere'" in refused("nowhere")
    assert "is neither a checkpoint nor a run folder" in refused(tmp_path)
    assert refused(tiny_classification_run).endswith(
        "is a classifier, but the recipe trains a detector: use a detector"
    )
    (tmp_path / "model.onnx").write_bytes(b"x")
    assert "is an exported file, but a checkpoint is required" in refused(tmp_path / "model.onnx")
    assert "names[0]: expected 'low_first', 'low_depthwise', 'low', 'c4' or 'c5', got 'c3'" in refused(
        tiny_run, PKD, "distill.features.names=[c3]"
    )
    assert "nothing is learned from the teacher" in refused(tiny_run, "distill.outputs=null")
    assert "use a teacher with the same model.anchors" in refused(tiny_run, "model.anchors.min_scale=0.1")
    data = tiny.write(tmp_path / "other")
    for split in ("train", "val"):
        file = data / "annotations" / f"{split}.json"
        file.write_text(file.read_text().replace('"bar"', '"rod"'))
    told = refused(tiny_run, f"data.root={data}")
    assert "knows 2 classes and the data have 2; only in the data: rod; only in the teacher: bar." in told


def test_classes_are_found_by_name() -> None:
    assert order_of(["a", "b", "c"], ["c", "a", "b"], teacher="x") == [1, 2, 0]
    assert order_of(["N/A", "a", "N/A"], ["N/A", "a", "N/A"], teacher="x") == [0, 1, 0]
    with pytest.raises(ValueError, match=r"x knows 1 classes and the data have 2; only in the data: b;"):
        order_of(["a", "b"], ["a"], teacher="x")


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_logits_of_another_order_are_the_same_answer(tiny_of: Any, teacher: Path, tmp_path: Path) -> None:
    run = prepare("tiny", tiny_of.load(tmp_path, f"distill.teacher={teacher}").recipe)
    images = run.task.training_inputs(batch_of(run))[0]
    outputs, features = run.task.network.with_features(images)
    loss = run.task.more_losses(images, outputs, features, {})["distill_outputs"]
    manifest = run.task.teacher.manifest
    order = torch.randperm(len(manifest.class_names)).tolist()
    section = manifest.section
    names = tuple(section.class_names[label] for label in order)
    moved = replace(section, class_names=names)
    compare = spec_for(manifest).distiller(
        run.recipe.distill,
        own=section,
        theirs=moved,
        order=order_of(run.classes.names, names, teacher="x"),
    )
    answers, _ = run.task.teacher.answer(images)
    torch.testing.assert_close(compare(outputs, answers[:, order])["outputs"], loss)


def test_a_check_asks_the_teacher(
    tiny: Any, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(tiny.recipe), f"data.root={tiny.data}", f"trainer.out={tmp_path}"]
    assert cli_train([*arguments, f"distill.teacher={tiny_run}", PKD, "--check"]) == 0
    shown = capsys.readouterr().out
    assert f"teacher   tiny, {tiny_run}\n" in shown
    assert ", distill_outputs " in shown
    assert "the teacher took " in shown
    assert cli_train([*arguments, "distill.teacher=nowhere", "--check"]) == 2


def test_recipes_without_a_teacher_have_none(tiny_run: Path, tmp_path: Path) -> None:
    recipe = load_recipe(str(tiny_run / "config.yaml")).recipe
    assert recipe.distill is None
    assert not prepare("tiny", recipe).task.has_more_losses
    assert not (tiny_run / "teacher.json").exists()
