"""Segmentation as a task, and what puts it together, without a run."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy_counts import count_image
from torch import Tensor

from dettoolkit.config.recipe import SegmentationRecipe
from dettoolkit.config.segmentation import CrossEntropy
from dettoolkit.datasets.cityscapes_labels import CLASSES, VOID
from dettoolkit.datasets.label_classes import LabelClasses
from dettoolkit.datasets.samplers import SampleKey
from dettoolkit.evaluation.segmentation_counts import SegmentationCounts
from dettoolkit.run import Classes
from dettoolkit.segmentation.build import build_loss, build_network
from dettoolkit.segmentation.region_losses import dice
from dettoolkit.segmentation.run import (
    build_task,
    evaluation_run,
    find_files,
    in_order_of,
    training_run,
)
from dettoolkit.segmentation.task import SegmentationTask

ROAD, SKY, PERSON, CAR = (
    [label.name for label in CLASSES].index(name) for name in ("road", "sky", "person", "car")
)
IDS = [label.id for label in CLASSES]
CATEGORIES = [label.category for label in CLASSES]
OWN = "data.classes=[{name: ground, ids: [7]}, {name: sky, ids: [23]}, {name: thing, ids: [26, 24]}]"
SIZES = ((40, 64), (33, 49))  # of the label maps; both images are 40 x 64


@pytest.fixture(scope="module")
def task(tiny_segmentation: Any) -> SegmentationTask:
    return task_of(tiny_segmentation)


def task_of(tiny: Any, *overrides: str, classes: LabelClasses | None = None) -> SegmentationTask:
    torch.manual_seed(0)
    classes = classes or LabelClasses.cityscapes()
    recipe = tiny.load(tiny.data, *overrides).recipe
    network = build_network(recipe, num_classes=len(classes))
    return build_task(recipe, network, classes)


def batch(seed: int = 0) -> dict[str, Any]:
    """Two images; labels and objects of the second are padded, and it has no instance file."""
    rng = np.random.default_rng(seed)
    labels = np.full((2, *SIZES[0]), VOID, np.uint8)
    instances = np.zeros((2, *SIZES[0]), np.int32)
    for row, (height, width) in enumerate(SIZES):
        labels[row, :height, :width] = rng.choice([ROAD, SKY, PERSON, CAR, VOID], (height, width))
    instances[0, 3:9, 5:20] = 26001
    instances[0, 20:25, 30:33] = 24000
    instances[0, 30:, :] = 7  # the road is no object
    instances[1] = -1
    return {
        "images": torch.from_numpy(rng.integers(0, 256, (2, 3, *SIZES[0]), np.uint8)),
        "label_map": torch.from_numpy(labels),
        "label_map_hw": torch.tensor(SIZES),
        "instances": torch.from_numpy(instances),
        "image_ids": torch.tensor([7, 2]),
    }


def first(content: dict[str, Any], count: int) -> dict[str, Any]:
    return {key: value[:count] for key, value in content.items()}


def answer(images: Tensor) -> Tensor:
    """Describe a class by the colors of each pixel: logits (1, 19, H, W) of distinct values."""
    generator = torch.Generator().manual_seed(0)
    return F.conv2d(images, torch.randn(19, 3, 1, 1, generator=generator))


# Predictions and scores


@pytest.mark.parametrize("overrides", [(), ("data.classes=null", "evaluation.flip=true")])
def test_counts_are_those_of_the_predicted_labels(tiny_segmentation: Any, overrides: tuple[str, ...]) -> None:
    task, content = task_of(tiny_segmentation, *overrides), batch()
    predicted = task.segment(answer, content)
    assert [tuple(each.shape) for each in predicted] == list(SIZES)  # each image's own
    parts = []
    for row, labels in enumerate(predicted):
        height, width = SIZES[row]
        truth = content["label_map"][row, :height, :width].numpy()
        instances = content["instances"][row, :height, :width].numpy()
        parts.append(
            count_image(
                labels.numpy(),
                truth,
                num_classes=19,
                image_id=[7, 2][row],
                instances=instances,
                label_ids=IDS,
                categories=CATEGORIES,
            )
        )
    wanted = SegmentationCounts.concatenate(parts, 19)
    found = task.predict(answer, content)
    np.testing.assert_array_equal(found.matrix, wanted.matrix)
    np.testing.assert_array_equal(found.image_ids, [2, 7])
    np.testing.assert_array_equal(found.image_scores, wanted.image_scores)
    np.testing.assert_array_equal(found.instances, wanted.instances)
    assert found.instances[:, :3].tolist() == [[7, PERSON, 15], [7, CAR, 90]]
    assert found.without_instances == wanted.without_instances == 1
    assert found.matrix.sum() == (content["label_map"] != VOID).sum()


def test_predictions_are_the_argmax_at_the_labels_size(task: SegmentationTask) -> None:
    content = batch()
    for row, size in enumerate(SIZES):
        logits = answer(task.images(content)[row : row + 1])
        wanted = F.interpolate(logits, size, mode="bilinear", align_corners=False).argmax(dim=1)[0]
        assert torch.equal(task.segment(answer, content)[row].long(), wanted)


def test_perfect_answers_score_one_and_void_does_not_matter(task: SegmentationTask) -> None:
    content = first(batch(), 1)
    labels = content["label_map"].long()
    instances = torch.zeros(1, *SIZES[0], dtype=torch.int32)
    for label, instance in ((PERSON, 24000), (CAR, 26000)):
        instances[labels == label] = instance
    content["instances"] = instances
    right = F.one_hot(labels.masked_fill(labels == VOID, 0), 19).permute(0, 3, 1, 2).float()
    result = task.score([task.predict(lambda _: right, content)])
    assert result.numbers == dict.fromkeys(result.numbers, 1.0)
    assert task.monitor in result.numbers


def test_score_takes_batches_in_any_order_and_none(task: SegmentationTask) -> None:
    content = batch()
    parts = [
        task.predict(answer, {key: value[row : row + 1] for key, value in content.items()}) for row in (1, 0)
    ]
    one, other = task.score(parts), task.score([task.predict(answer, content)])
    assert one.to_json() == other.to_json()
    assert "Instance files are missing for 1 of 2 images: iIoU is not reported." in (one.note or "")
    nothing = task.score([])
    assert all(math.isnan(value) for value in nothing.numbers.values())
    assert "No images were scored" in (nothing.note or "")


def test_a_batch_of_no_images_is_answered(task: SegmentationTask) -> None:
    assert task.segment(answer, first(batch(), 0)) == []
    assert len(task.predict(answer, first(batch(), 0)).image_ids) == 0


def test_images_without_instance_files_are_counted_without_objects(task: SegmentationTask) -> None:
    content = batch()
    del content["instances"]
    found = task.predict(answer, content)
    assert found.without_instances == 2
    assert found.instances.shape == (0, 5)


def test_every_prediction_goes_to_the_sink(task: SegmentationTask) -> None:
    seen: dict[int, Any] = {}
    content = batch()
    replace(task, sink=seen.__setitem__).predict(answer, content)
    assert list(seen) == [7, 2]
    for labels, wanted in zip(seen.values(), task.segment(answer, content), strict=True):
        assert labels.dtype == np.uint8
        np.testing.assert_array_equal(labels, wanted.numpy())


def test_answers_of_half_precision_are_compared_in_full(task: SegmentationTask) -> None:
    found = task.predict(lambda images: answer(images).bfloat16(), batch())
    wanted = task.predict(lambda images: answer(images).bfloat16().float(), batch())
    np.testing.assert_array_equal(found.matrix, wanted.matrix)


def test_classes_of_ones_own_have_objects_by_their_first_id_and_no_categories() -> None:
    own = LabelClasses.from_table([("thing", [26, 24], None), ("car", [7], None)], ignore=[0])
    assert own.categories is None
    assert LabelClasses.cityscapes().categories == CATEGORIES
    some = LabelClasses.from_table([("car", [26], None), ("road", [7], None)], ignore=[255])
    assert some.categories == ["vehicle", "flat"]
    named_only = LabelClasses.from_table([("car", [1], None)], ignore=[255])
    assert named_only.categories is None


# Losses


def test_loss_is_torchs_at_the_labels_size(task: SegmentationTask) -> None:
    content = batch()
    logits = torch.randn(2, 19, 5, 8)
    (loss,) = task.losses(logits, content).values()
    upsampled = F.interpolate(logits, SIZES[0], mode="bilinear", align_corners=False)
    wanted = F.cross_entropy(upsampled, content["label_map"].long(), ignore_index=VOID)
    torch.testing.assert_close(loss, wanted)


@pytest.mark.parametrize("model", ["lraspp", "raspp"])
@pytest.mark.parametrize("all_void", [False, True])
def test_every_parameter_gets_a_finite_gradient(tiny_segmentation: Any, model: str, all_void: bool) -> None:
    task, content = (
        task_of(tiny_segmentation, f"model.type={model}", "model.loss={dice: {}, lovasz: {}}"),
        batch(),
    )
    if all_void:
        content["label_map"].fill_(VOID)
    parts = task.losses(task.network.train()(task.images(content)), content)
    sum(parts.values(), torch.zeros(())).backward()
    gradients = [parameter.grad for parameter in task.network.parameters()]
    assert all(each is not None and torch.isfinite(each).all() for each in gradients)
    assert any(each.any() for each in gradients if each is not None) != all_void


def test_class_weights_are_by_name() -> None:
    section = CrossEntropy(class_weights={"b": 3.0})
    logits, labels = torch.randn(2, 2, 4, 4), torch.randint(0, 2, (2, 4, 4), dtype=torch.uint8)
    wanted = F.cross_entropy(logits, labels.long(), weight=torch.tensor([1.0, 3.0]))
    torch.testing.assert_close(build_loss(section, ["a", "b"], align_corners=False)(logits, labels), wanted)
    with pytest.raises(
        ValueError, match=r"class_weights names b, but the classes are a, c: correct the names$"
    ):
        build_loss(section, ["a", "c"], align_corners=False)


def test_losses_of_regions_are_added_with_their_weights(tiny_segmentation: Any) -> None:
    task = task_of(tiny_segmentation, "model.loss={dice: {weight: 0.5}, lovasz: {}}")
    content, logits = batch(), torch.randn(2, len(CLASSES), 5, 8)
    parts = task.losses(logits, content)
    assert list(parts) == ["pixel", "dice", "lovasz"]
    assert parts["pixel"] == task_of(tiny_segmentation).losses(logits, content)["pixel"]
    assert parts["dice"] == dice(logits, content["label_map"], weight=0.5, align_corners=False)


# Data and network of a run


def test_run_has_the_data_as_the_recipe_says(tiny_segmentation: Any, tmp_path: Path) -> None:
    data = tiny_segmentation.write(tmp_path / "data")
    (data / "gtFine" / "train").rename(data / "coarse")
    overrides = (
        f"data.root={data}",
        "data.train={images: leftImg8bit/train, labels: coarse}",
        "data.extra=[{images: leftImg8bit/val, labels: gtFine/val}]",
        "data.augment={scale: [1.0, 1.0]}",
        "data.crop_hw=[32, 32]",
        "data.eval_hw=[32, 48]",
    )
    run = training_run("x", tiny_segmentation.load(tmp_path, *overrides).recipe, pretrained=True)
    assert (len(run.train), len(run.val), run.val_batch_size) == (13, 5, 1)
    sample = run.train[SampleKey(0, 0)]
    assert sample["image"].shape == (3, 32, 32)
    assert "instances" not in sample
    assert not torch.equal(sample["image"], run.train[SampleKey(0, 1)]["image"])  # an epoch later
    sample = run.val[SampleKey(1, 0)]
    assert sample["image"].shape == (3, 32, 48)
    assert sample["label_map"].shape == sample["instances"].shape == (45, 61)


def test_network_keeps_its_order_of_classes(tiny_segmentation: Any, tmp_path: Path) -> None:
    recipe = tiny_segmentation.load(tmp_path, OWN, "data.ignore=[0]").recipe
    names = ["thing", "ground", "sky"]
    run = evaluation_run("x", recipe, own=Classes(names, [1, 2, 3]), what="weights")
    assert run.classes.names == run.task.classes.names == names
    assert run.classes.ids == [26, 7, 23]  # the data set's, not the checkpoint's
    found = run.val[SampleKey(0, 0)]["label_map"]
    before = training_run("x", recipe, pretrained=False).val[SampleKey(0, 0)]["label_map"]
    for label, name in enumerate(["ground", "sky", "thing"]):
        assert torch.equal(found == names.index(name), before == label)
    assert torch.equal(found == VOID, before == VOID)


def test_other_classes_are_refused(tiny_segmentation: Any, tmp_path: Path) -> None:
    recipe = tiny_segmentation.load(tmp_path, OWN, "data.ignore=[0]").recipe
    files = find_files(recipe.data, [recipe.data.val])
    assert in_order_of(["ground", "sky", "thing"], files, whose="weights") is files
    with pytest.raises(ValueError, match=r"weights has 2 classes \(sky, tree\), but .*gtFine/val has "):
        in_order_of(["sky", "tree"], files, whose="weights")
    with pytest.raises(ValueError, match=r"Only in the first: tree; only in the second: ground, thing\. Set"):
        in_order_of(["sky", "tree"], files, whose="weights")


def test_weights_of_another_number_of_classes(
    tiny_segmentation: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny_segmentation.load(tmp_path).recipe.model
    path = tmp_path / "weights.pth"
    trained = build_network(SegmentationRecipe.model_construct(model=model), num_classes=4)
    torch.save(trained.state_dict(), path)
    model = tiny_segmentation.load(tmp_path, f"model.weights={path}").recipe.model
    with pytest.raises(
        ValueError, match=r"predicts a different number of classes than the 3 of the data set \(4 "
    ):
        build_network(
            SegmentationRecipe.model_construct(model=model), num_classes=3, pretrained=True, exact=True
        )
    same = build_network(
        SegmentationRecipe.model_construct(model=model), num_classes=4, pretrained=True, exact=True
    )
    for name, tensor in trained.state_dict().items():
        assert torch.equal(same.state_dict()[name], tensor)
    caplog.clear()
    fresh = build_network(SegmentationRecipe.model_construct(model=model), num_classes=3, pretrained=True)
    assert "heads.segmentation.classifier.weight (4, 32, 1, 1) -> (3, 32, 1, 1)" in caplog.text
    assert torch.equal(fresh.backbone.stem[0].weight, trained.backbone.stem[0].weight)
    assert fresh.heads["segmentation"].num_classes == 3


def test_class_weights_need_a_class(tiny_segmentation: Any, tmp_path: Path) -> None:
    recipe = tiny_segmentation.load(tmp_path, "model.loss.class_weights={raod: 2.0}").recipe
    with pytest.raises(ValueError, match=r"names raod, but the classes are road, sidewalk, .* 11 more"):
        training_run("x", recipe, pretrained=False)
