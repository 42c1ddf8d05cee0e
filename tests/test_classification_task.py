"""Classification as a task, and what puts it together, without a run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dettoolkit.classification.build import build_network
from dettoolkit.classification.run import build_task, evaluation_run, training_run
from dettoolkit.classification.task import ClassificationTask, build_mix
from dettoolkit.datasets.samplers import SampleKey
from dettoolkit.run import Classes

NAMES = ["bar", "box", "disc"]


def task_of(tiny: Any, *overrides: str) -> ClassificationTask:
    torch.manual_seed(0)
    recipe = tiny.load(tiny.data, *overrides).recipe
    return build_task(recipe, build_network(recipe, num_classes=3), NAMES)


def batch(count: int = 4) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    return {
        "images": torch.randint(0, 256, (count, 3, 64, 64), generator=generator, dtype=torch.uint8),
        "class_labels": torch.arange(count) % 3,
        "image_ids": torch.arange(count),
    }


# Losses


def cross_entropy(logits: Tensor, labels: Tensor, *, label_smoothing: float) -> Tensor:
    """Compute the loss of a task without a network."""
    task = ClassificationTask(
        network=None,  # type: ignore[arg-type]
        mean=(0,) * 3,
        std=(1,) * 3,
        label_smoothing=label_smoothing,
        mix=None,
        class_names=NAMES,
    )
    return task.losses(logits, {"class_labels": labels})["class"]


def test_loss_is_the_cross_entropy_by_hand() -> None:
    logits, labels = torch.tensor([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0]]), torch.tensor([1, 0])
    fractions = logits.softmax(dim=1)
    wanted = -(fractions[0, 1].log() + fractions[1, 0].log()) / 2
    torch.testing.assert_close(cross_entropy(logits, labels, label_smoothing=0.0), wanted)
    # Smoothed, the true class has 1 - 0.3 and each of the three a tenth more.
    targets = torch.tensor([[0.1, 0.8, 0.1], [0.8, 0.1, 0.1]])
    wanted = -(targets * fractions.log()).sum(dim=1).mean()
    torch.testing.assert_close(cross_entropy(logits, labels, label_smoothing=0.3), wanted)
    torch.testing.assert_close(cross_entropy(logits, targets, label_smoothing=0.0), wanted)
    half = cross_entropy(logits.bfloat16(), labels, label_smoothing=0.0)
    assert half.dtype == torch.float32


def mixed(images: Tensor, labels: Tensor, seed: int = 0, **alphas: float) -> tuple[Tensor, Tensor]:
    mix = build_mix(num_classes=3, **{"mixup": 0.0, "cutmix": 0.0, **alphas})
    assert mix is not None
    torch.manual_seed(seed)
    return mix(images, labels)


def test_mixup_blends_neighbors_and_their_classes_alike() -> None:
    images, labels = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 2])
    fractions = []
    for seed in range(50):
        blended, targets = mixed(images, labels, seed, mixup=1.0)
        share = ((blended - images.roll(1, 0)) / (images - images.roll(1, 0)))[0].median()
        torch.testing.assert_close(blended, share * images + (1 - share) * images.roll(1, 0))
        wanted = share * F.one_hot(labels, 3) + (1 - share) * F.one_hot(labels.roll(1, 0), 3)
        torch.testing.assert_close(targets, wanted, atol=1e-5, rtol=0)
        fractions.append(share.item())
    assert min(fractions) < 0.1 < 0.9 < max(fractions)  # Beta(1, 1) is even


def test_cutmix_takes_a_window_and_its_share_of_the_class() -> None:
    images, labels = torch.rand(4, 3, 16, 16), torch.tensor([0, 1, 2, 0])
    for seed in range(20):
        cut, targets = mixed(images, labels, seed, cutmix=1.0)
        from_neighbor = (cut != images).any(dim=1)  # (4, 16, 16)
        assert torch.equal(cut, torch.where(from_neighbor[:, None], images.roll(1, 0), images))
        kept = 1 - from_neighbor[0].float().mean()
        wanted = kept * F.one_hot(labels, 3) + (1 - kept) * F.one_hot(labels.roll(1, 0), 3)
        torch.testing.assert_close(targets, wanted, atol=1e-5, rtol=0)


def test_with_both_a_batch_takes_one_of_them() -> None:
    images, labels = torch.rand(4, 3, 16, 16), torch.tensor([0, 1, 2, 0])
    blended = 0
    for seed in range(60):
        changed, targets = mixed(images, labels, seed, mixup=1.0, cutmix=1.0)
        blended += not ((changed == images) | (changed == images.roll(1, 0))).all()
        torch.testing.assert_close(targets.sum(dim=1), torch.ones(4))
    assert 15 < blended < 45
    assert build_mix(num_classes=3, mixup=0.0, cutmix=0.0) is None


# The task


def test_only_training_mixes(tiny_classification: Any) -> None:
    task, content = task_of(tiny_classification, "model.loss={mixup: 0.4, label_smoothing: 0.1}"), batch()
    labels, plain = content["class_labels"], content["images"].float() / 127.5 - 1
    torch.testing.assert_close(task.images(content), plain)
    images, targets = task.training_inputs(content)
    assert not torch.allclose(images, plain)
    assert content["class_labels"] is labels  # the batch itself stays as it is
    assert targets["image_ids"] is content["image_ids"]
    outputs = task.network.train()(images)
    (loss,) = task.losses(outputs, targets).values()
    wanted = F.cross_entropy(outputs, targets["class_labels"], label_smoothing=0.1)
    torch.testing.assert_close(loss, wanted)
    found = task.predict(task.network.eval(), content)
    assert found.labels.tolist() == labels.tolist()


def test_without_mixing_the_labels_count(tiny_classification: Any) -> None:
    task, content = task_of(tiny_classification), batch()
    images, targets = task.training_inputs(content)
    outputs = task.network.train()(images)
    (loss,) = task.losses(outputs, targets).values()
    torch.testing.assert_close(loss, F.cross_entropy(outputs, content["class_labels"]))


def test_every_parameter_gets_a_finite_gradient(tiny_classification: Any) -> None:
    task, content = task_of(tiny_classification, "model.loss={mixup: 0.2, cutmix: 1.0}"), batch()
    images, targets = task.training_inputs(content)
    (loss,) = task.losses(task.network.train()(images), targets).values()
    loss.backward()
    gradients = [parameter.grad for parameter in task.network.parameters()]
    assert all(each is not None and torch.isfinite(each).all() for each in gradients)
    assert math.isfinite(loss.item())


def test_a_batch_of_no_images_is_answered(tiny_classification: Any) -> None:
    task = task_of(tiny_classification)
    found = task.predict(task.network.eval(), batch(0))
    assert (len(found.labels), found.best.shape) == (0, (0, 3))


# Data and network of a run


def test_run_has_the_data_as_the_recipe_says(tiny_classification: Any, tmp_path: Path) -> None:
    data = tiny_classification.write(tmp_path / "data")
    (data / "val").rename(data / "held out")
    (data / "names.txt").write_text("bar iron bar\ndisc CD\n")
    overrides = (
        f"data.root={data}",
        "data.val.images=held out",
        "data.names=names.txt",
        "data.eval_hw=[96, 64]",
        "data.eval_resize=100",
        "data.augment={type: torchvision}",
    )
    run = training_run("x", tiny_classification.load(tmp_path, *overrides).recipe, pretrained=True)
    assert (len(run.train), len(run.val), run.val_batch_size) == (12, 7, 6)
    assert run.classes == Classes(["iron bar", "box", "CD"], [0, 1, 2])
    assert run.task.class_names == run.classes.names
    sample = run.train[SampleKey(0, 0)]
    assert sample["image"].shape == (3, 64, 64)
    assert not torch.equal(sample["image"], run.train[SampleKey(0, 1)]["image"])  # an epoch later
    assert run.val[SampleKey(1, 0)]["image"].shape == (3, 96, 64)
    first, second = run.network_lines()
    assert first == "classifier on mobilenet_v3_small, 3 classes, a hidden layer of 1024"
    assert second.endswith("M multiply-adds at 96x64")


def test_network_keeps_its_order_of_classes(tiny_classification: Any, tmp_path: Path) -> None:
    recipe = tiny_classification.load(tmp_path).recipe
    names = ["disc", "cone", "box", "bar"]
    run = evaluation_run("x", recipe, own=Classes(names, [0, 1, 2, 3]), what="weights")
    assert run.classes.names == run.task.class_names == names
    assert run.task.network.heads["classification"].num_classes == 4
    assert [run.val[SampleKey(index, 0)]["label"] for index in (0, 3, 6)] == [3, 2, 0]
    with pytest.raises(ValueError, match=r"weights has 1 classes \(box\), but .*only in the second: bar, d"):
        evaluation_run("x", recipe, own=Classes(["box"], [0]), what="weights")


def test_one_class_cannot_be_learnt(tiny_classification: Any, tmp_path: Path) -> None:
    data = tiny_classification.write(tmp_path / "data")
    for kind in ("bar", "box"):
        (data / "train" / kind).rename(data / kind)
    recipe = tiny_classification.load(tmp_path, f"data.root={data}").recipe
    with pytest.raises(ValueError, match=r"/train has only one class, disc: a classifier needs at least two"):
        training_run("x", recipe, pretrained=False)
