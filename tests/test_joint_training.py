"""Runs of one network for both tasks. What runs of any task have is in test_training.py."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from learning_margins import at_least
from training_runs import Killed, checkpoint, column, differences, explode, kill, on_two_processes, the_run

from dettoolkit.config import load_recipe
from dettoolkit.joint.task import JointTask
from dettoolkit.tasks import spec_of
from dettoolkit.training import commands
from dettoolkit.training.run_folder import stored_recipe
from dettoolkit.weights.load import load_trained
from dettoolkit.weights.read import read_checkpoint

QUICK = "evaluation.figures=0"
pytestmark = pytest.mark.usefixtures("alone")


def separate(tiny: Any, tiny_segmentation: Any) -> tuple[str, ...]:
    """Return overrides by which boxes and label maps are of two data sets, of 8 and 8 images."""
    return (
        "data.type=separate",
        f"data.detection={{root: {tiny.data}, train: {{images: train, annotations: annotations/train.json}}, "
        "val: {images: val, annotations: annotations/val.json}}",
        f"data.segmentation.root={tiny_segmentation.data}",
    )


def report_of(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "evaluation.json").read_text())
    return report


def evaluated(run: Path, out: Path, *overrides: str) -> dict[str, Any]:
    """Score a run's best checkpoint and return the report."""
    with stored_recipe(run) as config:
        recipe = load_recipe(str(config), [QUICK, *overrides]).recipe
    commands.evaluate(run, recipe=recipe, out=out)
    return report_of(out)


def opened(run: Path, *overrides: str) -> Any:
    """Return a run for evaluation, with the weights of the best checkpoint."""
    path = run / "checkpoints" / "best.ckpt"
    description, state = read_checkpoint(path)
    with stored_recipe(run) as config:
        recipe = load_recipe(str(config), list(overrides)).recipe
    from dettoolkit.run import Classes

    own = Classes(description["class_names"], description["class_ids"])
    made = spec_of(recipe).evaluation_run("tiny", recipe, own=own, what=str(path))
    load_trained(made.task.network, state, source=str(path))
    made.task.network.eval()
    return made


def test_folder_has_what_both_tasks_write(tiny_joint_run: Path) -> None:
    names = {path.relative_to(tiny_joint_run).as_posix() for path in tiny_joint_run.rglob("*")}
    assert names >= {
        "figures/training_batch.jpg",
        "detection/predictions.json",
        "detection/figures/worst_1.jpg",
        "segmentation/figures/worst_1.jpg",
        "evaluation.json",
        "checkpoints/best.ckpt",
    }
    description = checkpoint(tiny_joint_run)["dettoolkit"]
    assert description["class_names"][:2] == ["detection/person", "detection/rider"]
    assert description["class_names"][-1] == "segmentation/bicycle"
    assert len(description["class_ids"]) == 8 + 19


@pytest.mark.learnt
def test_both_tasks_learn(tiny_joint_run: Path) -> None:
    numbers = report_of(tiny_joint_run)["numbers"]
    at_least("joint AP50", numbers["AP50"], 0.05)
    at_least("joint mIoU", numbers["mIoU"], 0.3)


def test_the_joint_score_is_the_mean_of_both(tiny_joint_run: Path) -> None:
    numbers = report_of(tiny_joint_run)["numbers"]
    assert numbers["joint score"] == pytest.approx((numbers["AP"] + numbers["mIoU"]) / 2)
    for task in ("detection", "segmentation"):
        norms = column(tiny_joint_run, f"gradient/{task}")
        assert len(norms) == 60
        assert all(math.isfinite(norm) and norm > 0 for norm in norms.values())


def test_each_task_scores_as_it_would_alone(tiny_joint_run: Path) -> None:
    """The parts' own networks share the modules: their single runs give the joint report's numbers."""
    run, report = opened(tiny_joint_run, QUICK), report_of(tiny_joint_run)
    for part, name in ((run.boxes, "detection"), (run.maps, "segmentation")):
        part.task.network.eval()
        with torch.inference_mode():
            predictions = [
                part.task.predict(part.task.network, part.collate([part.val[row]]))
                for row in range(len(part.val))
            ]
        numbers = part.task.score(predictions).to_json()["numbers"]
        assert numbers == pytest.approx(report[name]["numbers"], nan_ok=True, abs=1e-6)


def test_losses_are_those_of_the_two_tasks(tiny: Any, tiny_segmentation: Any, tiny_joint: Any) -> None:
    """On two data sets each head learns from its own rows only."""
    recipe = tiny_joint.load(
        Path("runs"), *separate(tiny, tiny_segmentation), "model.loss_weights={detection: 2, segmentation: 3}"
    ).recipe
    run = spec_of(recipe).training_run("tiny", recipe, pretrained=False)
    run.task.network.eval()
    batch = run.collate([run.train[row] for row in range(3)])
    assert batch["box_rows"].tolist() == [0, 1, 2]
    assert batch["map_rows"].tolist() == [3, 4, 5]
    images, targets = run.task.training_inputs(batch)
    parts = run.task.losses(run.task.network(images), targets)
    boxes, maps = run.boxes.task, run.maps.task
    alone = boxes.losses(boxes.network(images[:3]), batch)
    for name, value in alone.items():
        assert parts[f"detection/{name}"].item() == pytest.approx(2 * value.item(), rel=1e-4)
    alone = maps.losses(maps.network(images[3:]), batch)
    for name, value in alone.items():
        assert parts[f"segmentation/{name}"].item() == pytest.approx(3 * value.item(), rel=1e-4)


def test_two_passes_normalize_each_set_by_itself(tiny: Any, tiny_segmentation: Any, tiny_joint: Any) -> None:
    """The network is in training: its outputs depend on all images of the pass."""
    recipe = tiny_joint.load(Path("runs"), *separate(tiny, tiny_segmentation), "data.passes=two").recipe
    run = spec_of(recipe).training_run("tiny", recipe, pretrained=False)
    batch = run.collate([run.train[row] for row in range(3)])
    images, targets = run.task.training_inputs(batch)
    parts: dict[str, float] = {}
    for own, own_targets in run.task.passes(images, targets):
        assert len(own) == 3
        for name, part in run.task.losses(run.task.network(own), own_targets).items():
            parts[name] = parts.get(name, 0) + part.item()
    alone = run.boxes.task.losses(run.boxes.task.network(images[:3]), batch)
    for name, value in alone.items():
        assert parts[f"detection/{name}"] == pytest.approx(value.item(), rel=1e-4)
    alone = run.maps.task.losses(run.maps.task.network(images[3:]), batch)
    for name, value in alone.items():
        assert parts[f"segmentation/{name}"] == pytest.approx(value.item(), rel=1e-4)
    together = run.task.losses(run.task.network(images), targets)
    assert any(together[name].item() != pytest.approx(value, rel=1e-3) for name, value in parts.items())


def test_two_passes_train_even_if_one_has_a_single_image(
    tiny: Any, tiny_segmentation: Any, tiny_joint: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(JointTask, "passes", lambda _, images, batch: [(images[:1], batch), (images, batch)])
    run = tiny_joint.train(tmp_path, *separate(tiny, tiny_segmentation), QUICK)[0]
    assert set(column(run, "loss/skipped").values()) == {0}


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_a_missing_set_is_told_by_its_own_keys(
    task: str, tiny: Any, tiny_segmentation: Any, tiny_joint: Any
) -> None:
    recipe = tiny_joint.load(
        Path("runs"), *separate(tiny, tiny_segmentation), f"data.{task}.root=nowhere"
    ).recipe
    with pytest.raises(FileNotFoundError, match=rf"at data\.{task}\.root=nowhere") as raised:
        spec_of(recipe).training_run("tiny", recipe, pretrained=False)
    assert f"data.{task}.train.images=..." in str(raised.value)
    assert "data.root" not in str(raised.value)


def test_passes_are_for_two_data_sets(tiny_joint: Any) -> None:
    with pytest.raises(ValueError, match="passes is for two data sets, but type cityscapes has one"):
        tiny_joint.load(Path("runs"), "data.passes=two")


LONG = ("trainer.max_epochs=3", "trainer.norm_batches=1", QUICK)


@pytest.mark.parametrize("kind", ["same", "separate"])
def test_resumed_run_equals_one_that_was_never_interrupted(
    kind: str,
    tiny: Any,
    tiny_segmentation: Any,
    tiny_joint: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = () if kind == "same" else (*separate(tiny, tiny_segmentation), "data.passes=two")
    whole = tiny_joint.train(tmp_path / "whole", *LONG, *data)[0]
    saving = (*LONG, *data, "trainer.checkpoint_every_steps=1")
    kill(monkeypatch, 3, "training_step")
    with pytest.raises(Killed):
        tiny_joint.train(tmp_path / "killed", *saving)
    moved = tmp_path / "moved"
    shutil.copytree(the_run(tmp_path / "killed"), moved)
    assert checkpoint(moved)["global_step"] == 3
    tiny_joint.train(tmp_path / "killed", *saving, resume=moved)
    assert differences(moved, whole) == []


@pytest.mark.timeout(600)  # three processes import torch, one after the other
@pytest.mark.parametrize("kind", ["same", "separate"])
def test_two_processes_train_and_score_as_one(
    kind: str, tiny: Any, tiny_segmentation: Any, tiny_joint: Any, tmp_path: Path
) -> None:
    """5 images to validate, or 5 and 5, and 8 and 7 to train on: none is scored twice."""
    recipe = tmp_path / "tiny.yaml"
    text = tiny_joint.recipe.read_text()
    if kind == "separate":
        boxes, maps = tmp_path / "boxes", tmp_path / "maps"
        tiny.write(boxes, train=7, val=4)
        tiny_segmentation.write(maps)
        text = text.replace("type: cityscapes", "type: separate").replace(
            "  detection: {augment: none}\n",
            f"  detection: {{augment: none, root: {boxes}, train: {{images: train, annotations: "
            "annotations/train.json}, val: {images: val, annotations: annotations/val.json}}\n"
            f"  segmentation: {{root: {maps}}}\n",
        )
    recipe.write_text(text)
    ran = on_two_processes(recipe, tiny_joint.data, tmp_path / "runs")
    assert ran.returncode == 0, ran.stderr
    run = the_run(tmp_path / "runs")
    alone = evaluated(run, tmp_path / "alone", "trainer={devices: 1, strategy: auto}")
    for folder in (run, run / "evaluation"):
        report = report_of(folder)
        assert report["segmentation"]["matrix"] == alone["segmentation"]["matrix"]
        assert report["detection"]["numbers"] == alone["detection"]["numbers"]
        assert report["numbers"] == alone["numbers"]
        assert report["segmentation"]["images"] == 5


@pytest.mark.parametrize("kind", ["same", "separate"])
def test_loss_that_is_not_finite_names_the_images_of_both(
    kind: str,
    tiny: Any,
    tiny_segmentation: Any,
    tiny_joint: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    explode(monkeypatch)
    data = () if kind == "same" else separate(tiny, tiny_segmentation)
    with pytest.raises(RuntimeError, match="the loss is not finite") as raised:
        tiny_joint.train(tmp_path, *data)
    text = str(raised.value)
    assert text.count("leftImg8bit/train") == 4
    assert text.count(f"{tiny.data}/train") == (0 if kind == "same" else 4)
    (saved,) = the_run(tmp_path).glob("bad_batch_*.pt")
    assert len(torch.load(saved, weights_only=True)["images"]) == (4 if kind == "same" else 8)


def test_batches_without_truth_leave_finite_gradients(
    tiny: Any, tiny_segmentation: Any, tiny_joint: Any
) -> None:
    """Nothing but void, no boxes at all, and no images of one kind, as when all were skipped."""
    recipe = tiny_joint.load(Path("runs"), *separate(tiny, tiny_segmentation)).recipe
    run = spec_of(recipe).training_run("tiny", recipe, pretrained=False)
    batch = run.collate([run.train[row] for row in range(3)])
    empty = {
        "label_map": torch.full_like(batch["label_map"], 255),
        "box_labels": torch.full_like(batch["box_labels"], -1),
    }
    nobody = {"box_rows": batch["box_rows"][:0]} | {
        name: batch[name][:0] for name in ("boxes_xyxy", "box_labels")
    }
    unmapped = {"map_rows": batch["map_rows"][:0], "label_map": batch["label_map"][:0]}
    for changes in ({"label_map": empty["label_map"]}, empty, nobody, unmapped):
        run.task.network.zero_grad()
        images, targets = run.task.training_inputs({**batch, **changes})
        parts = run.task.losses(run.task.network(images), targets)
        assert all(norm.isfinite() for norm in run.task.step_numbers(parts).values())
        torch.stack(list(parts.values())).sum().backward()
        for name, parameter in run.task.network.named_parameters():
            assert parameter.grad is None or parameter.grad.isfinite().all(), name


def test_a_detectors_or_segmenters_weights_start_their_head(
    tiny_run: Path, tiny_segmentation_run: Path, tiny: Any, tiny_segmentation: Any, tiny_joint: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    data = separate(tiny, tiny_segmentation)
    for run, kept, fresh in (
        (tiny_run, "detection", "segmentation"),
        (tiny_segmentation_run, "segmentation", "detection"),
    ):
        weights = run / "checkpoints" / "best.ckpt"
        recipe = tiny_joint.load(Path("runs"), *data, f"model.weights={weights}").recipe
        made = spec_of(recipe).training_run("tiny", recipe, pretrained=True)
        _, state = read_checkpoint(weights)
        own = made.task.network.state_dict()
        for name in (key for key in state if key.startswith(f"heads.{kept}.")):
            if own[name].shape == state[name].shape:
                assert torch.equal(own[name], state[name]), name
        assert f"has no head for {fresh}" in caplog.text
        with pytest.raises(ValueError, match=f"has no head for {fresh}: evaluate it with"):
            spec_of(recipe).evaluation_run("tiny", recipe, own=None, what="it")


def test_boxes_are_of_the_splits_that_the_label_maps_have(tiny_joint: Any) -> None:
    """Validation images serve for training, too."""
    other = "data.segmentation.train={images: leftImg8bit/val, labels: gtFine/val}"
    recipe = tiny_joint.load(Path("runs"), other).recipe
    run = spec_of(recipe).training_run("tiny", recipe, pretrained=False)
    assert len(run.train) == len(run.boxes.train) == len(run.maps.train) == 5


def test_a_class_list_of_another_task_is_refused(tiny_joint: Any) -> None:
    from dettoolkit.joint.single_tasks import split_classes
    from dettoolkit.run import Classes

    with pytest.raises(ValueError, match="use a checkpoint of a joint model"):
        split_classes(Classes(["road", "car"], [1, 2]))


def test_two_roots_are_for_two_data_sets(tiny_joint: Any) -> None:
    from dettoolkit.config import RecipeError

    with pytest.raises(
        RecipeError, match=r"detection\.root is for two data sets, but type cityscapes has one"
    ):
        tiny_joint.load(Path("runs"), "data.detection.root=elsewhere")
    with pytest.raises(
        RecipeError, match=r"detection\.val is for two data sets, .* omit it, or set type=sep"
    ):
        tiny_joint.load(Path("runs"), "data.detection.val={images: a, annotations: b}")
