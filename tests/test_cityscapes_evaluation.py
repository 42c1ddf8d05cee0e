"""Segmentation scores against Cityscapes' official script itself, and where that has no answer."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pytest
import torch
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as script
from cityscapesscripts.helpers import labels as script_labels
from PIL import Image

from dettoolkit.datasets.cityscapes_labels import CLASSES, LABELS, VOID
from dettoolkit.datasets.scenes.folder import write_scenes
from dettoolkit.evaluation.label_ids import write_label_ids
from dettoolkit.evaluation.miou import (
    AVERAGE_PIXELS,
    SegmentationCounts,
    SegmentationScores,
    evaluate_segmentation,
)
from dettoolkit.segmentation import confusion

NAMES = [label.name for label in CLASSES]
IDS = [label.id for label in CLASSES]
CATEGORIES = [label.category for label in CLASSES]
LABEL_OF_ID = np.full(256, VOID, np.uint8)
LABEL_OF_ID[IDS] = np.arange(19)


@dataclass
class Example:
    """Label ids and instance ids as in the files, and predicted labels; (H, W) each."""

    label_ids: np.ndarray
    instance_ids: np.ndarray | None
    predicted: np.ndarray


def count_image(
    predicted: np.ndarray, truth: np.ndarray, *, instances: np.ndarray | None, **settings: Any
) -> SegmentationCounts:
    return confusion.count_image(
        torch.from_numpy(predicted),
        torch.from_numpy(truth.astype(np.uint8)),
        instances=None if instances is None else torch.from_numpy(instances.astype(np.int32)),
        **settings,
    )


def count(examples: list[Example]) -> SegmentationCounts:
    parts = [
        count_image(
            example.predicted,
            LABEL_OF_ID[example.label_ids],
            num_classes=19,
            image_id=image_id,
            instances=example.instance_ids,
            label_ids=IDS,
            categories=CATEGORIES,
        )
        for image_id, example in enumerate(examples)
    ]
    return SegmentationCounts.concatenate(parts, 19)


def score(counts: SegmentationCounts) -> SegmentationScores:
    return evaluate_segmentation(counts, class_names=NAMES, categories=CATEGORIES, label_ids=IDS)


def official(folder: Path, examples: list[Example], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Write the files and let the official script find and score them."""
    monkeypatch.setattr(script.np, "in1d", np.isin, raising=False)  # NumPy 2.4 has dropped the old name
    truth, instances = folder / "gtFine", all(example.instance_ids is not None for example in examples)
    truth.mkdir()
    files = []
    for number, example in enumerate(examples):
        files.append(str(truth / f"town_{number:06d}_000019_gtFine_labelIds.png"))
        Image.fromarray(example.label_ids).save(files[-1])
        if example.instance_ids is not None:
            name = files[-1].replace("labelIds", "instanceIds")
            Image.fromarray(example.instance_ids.astype(np.uint16)).save(name)
        image = PurePath(f"val/town/town_{number:06d}_000019_leftImg8bit.png")
        write_label_ids(folder / "results", image, example.predicted, IDS)
    arguments = copy.copy(script.args)
    arguments.evalInstLevelScore, arguments.JSONOutput, arguments.quiet = instances, False, True
    arguments.predictionPath, arguments.predictionWalk = str(folder / "results"), None
    return script.evaluateImgLists(
        [script.getPrediction(arguments, file) for file in files], files, arguments
    )


def assert_equal(result: SegmentationScores, wanted: dict[str, Any], *, instances: bool = True) -> None:
    """Compare every number that the script reports, NaN with NaN."""
    got: dict[str, float] = {}
    want: dict[str, float] = {
        "mIoU": wanted["averageScoreClasses"],
        "category mIoU": wanted["averageScoreCategories"],
        "pixel accuracy": pixel_accuracy(np.array(wanted["confMatrix"], np.int64)),
        "iIoU": wanted["averageScoreInstClasses"] if instances else math.nan,
        "category iIoU": wanted["averageScoreInstCategories"] if instances else math.nan,
    }
    got.update(result.numbers)
    for kind, entries in (("class", result.per_class), ("category", result.per_category)):
        for entry in entries:
            got[f"{kind} {entry.name} IoU"], got[f"{kind} {entry.name} iIoU"] = entry.iou, entry.iiou
            want[f"{kind} {entry.name} IoU"] = wanted[f"{kind}Scores"][entry.name]
            own = wanted[f"{kind}InstScores"][entry.name] if instances else math.nan
            want[f"{kind} {entry.name} iIoU"] = own
    assert got.keys() == want.keys()
    assert len(result.per_class) == 19
    assert len(result.per_category) == 7
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=0, atol=1e-12, equal_nan=True, err_msg=name)


def pixel_accuracy(matrix: np.ndarray) -> float:
    rows = matrix[[label.id for label in script_labels.labels if not label.ignoreInEval]]
    correct = sum(matrix[label.id, label.id] for label in script_labels.labels if not label.ignoreInEval)
    return float(correct / rows.sum()) if rows.sum() else math.nan


def blurred(truth: np.ndarray, rng: np.random.Generator, wrong: float = 0.1) -> np.ndarray:
    """Predict the truth a few pixels aside, with some pixels of any class, void filled with any class."""
    moved = np.roll(truth, (3, -5), (0, 1))
    anything = rng.integers(0, 19, truth.shape).astype(np.uint8)
    return np.where((rng.random(truth.shape) < wrong) | (moved == VOID), anything, moved)


def random_example(rng: np.random.Generator) -> Example:
    """Make patches of any label id but train and bus, with objects, groups and ids that count for nothing."""
    patches = np.array([label.id for label in LABELS if label.name not in ("train", "bus")])
    ids = rng.choice(patches, (6, 8))
    numbers = rng.choice([-1, 0, 1, 2, 7, 999], ids.shape)  # -1: a group
    countable = np.isin(ids, [label.id for label in LABELS if label.has_instances]) & (numbers >= 0)
    instances = np.where(countable, 1000 * ids + numbers, ids)
    instances[0, 0] = 1000  # the script wants more than that
    grown = [np.kron(each, np.ones((11, 13), np.int64)) for each in (ids, instances)]
    label_ids, instance_ids = grown[0].astype(np.uint8), grown[1].astype(np.int32)
    return Example(label_ids, instance_ids, blurred(LABEL_OF_ID[label_ids], rng, wrong=0.3))


def read(path: Path) -> np.ndarray:
    return np.array(Image.open(path))


def test_the_label_table_is_the_official_one() -> None:
    theirs = [label for label in script_labels.labels if label.id >= 0]
    for own, their in zip(LABELS, theirs, strict=True):
        train_id = None if their.ignoreInEval else their.trainId
        assert own == (their.id, their.name, train_id, their.category, their.hasInstances, their.color)
    assert [label.train_id for label in CLASSES] == list(range(19))
    unscored = {label.name for label in theirs if label.ignoreInEval}
    sizes = {name: size for name, size in script.args.avgClassSize.items() if name not in unscored}
    assert sizes == AVERAGE_PIXELS


def test_real_labels(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = sorted((shared_data / "camvid_cityscapes" / "gtFine" / "val").rglob("*_labelIds.png"))[::8]
    rng = np.random.default_rng(0)
    examples = [Example(ids := read(file), None, blurred(LABEL_OF_ID[ids], rng)) for file in files]
    result = score(count(examples))
    assert_equal(result, official(tmp_path, examples, monkeypatch), instances=False)
    assert 0.1 < result.numbers["mIoU"] < 0.9
    assert f"Instance files are missing for {len(files)} of {len(files)} images: iIoU" in result.note
    assert "Predicted but not in any label" in result.note  # CamVid has 11 of the 19 classes


def test_generated_scenes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_scenes(tmp_path / "scenes", train_images=1, val_images=5, image_hw=(96, 192), seed=3)
    rng = np.random.default_rng(0)
    examples = []
    for file in sorted((tmp_path / "scenes" / "gtFine" / "val").rglob("*_labelIds.png")):
        instances = read(Path(str(file).replace("labelIds", "instanceIds")))
        examples.append(Example(ids := read(file), instances, blurred(LABEL_OF_ID[ids], rng)))
    result = score(count(examples))
    assert_equal(result, official(tmp_path, examples, monkeypatch))
    assert result.numbers["iIoU"] > 0


@pytest.mark.parametrize("seed", range(4))
def test_random_labels(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(seed)
    examples = [random_example(rng) for _ in range(4)]
    result = score(count(examples))
    assert_equal(result, official(tmp_path, examples, monkeypatch))
    train = result.per_class[NAMES.index("train")]
    assert (train.iou, train.iiou, train.pixels) == (0, 0, 0)  # only predicted


def test_absent_and_only_predicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = np.full((20, 30), 7, np.uint8)
    ids[:, :10] = 0
    predicted = np.zeros((20, 30), np.uint8)
    predicted[:5] = NAMES.index("car")
    examples = [Example(ids, ids.astype(np.int32), predicted)]
    result = score(count(examples))
    assert_equal(result, official(tmp_path, examples, monkeypatch))
    assert result.numbers["mIoU"] == 0.375  # road 300 of 400, car 0, nothing else
    assert result.numbers["iIoU"] == 0
    assert math.isnan(result.per_class[NAMES.index("bus")].iou)
    assert (
        result.note == "Predicted but not in any label, so counted as IoU 0 as in the official script: car."
    )


def test_all_void(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = np.zeros((4, 6), np.uint8)
    examples = [Example(ids, ids.astype(np.int32), ids)]
    counts = count(examples)
    assert_equal(score(counts), official(tmp_path, examples, monkeypatch))
    assert np.isnan(counts.image_scores).tolist() == [True]
    assert "None of the 1 images has a labeled pixel" in score(counts).note


def test_no_images() -> None:
    result = score(SegmentationCounts.concatenate([], 19))
    assert all(math.isnan(value) for value in result.numbers.values())
    assert result.note == "No images were scored: the scores are undefined, not 0."
    assert "19 classes neither labeled nor predicted" in result.table()
    assert set(json.loads(json.dumps(result.to_json(), allow_nan=False))["numbers"].values()) == {None}


def test_an_object_counts_for_its_label_whatever_its_pixels_are_labeled() -> None:
    truth = np.full((2, 50), NAMES.index("rider"), np.uint8)
    instances = np.full((2, 50), 24001, np.int32)  # a person by its number
    predicted = np.full((2, 50), NAMES.index("person"), np.uint8)
    predicted[:, 40:] = NAMES.index("rider")
    counts = count_image(
        predicted,
        truth,
        num_classes=19,
        image_id=5,
        instances=instances,
        label_ids=IDS,
        categories=CATEGORIES,
    )
    assert counts.instances.tolist() == [[5, NAMES.index("person"), 100, 80, 100]]


def test_one_missing_instance_file_leaves_iiou_out() -> None:
    examples = [random_example(np.random.default_rng(seed)) for seed in range(3)]
    examples[1].instance_ids = np.full_like(examples[1].instance_ids, -1)  # as a batch says it
    counts = count(examples)
    result = score(counts)
    assert counts.without_instances == 1
    assert math.isnan(result.numbers["iIoU"])
    assert math.isnan(result.numbers["category iIoU"])
    assert result.numbers["mIoU"] > 0
    assert "Instance files are missing for 1 of 3 images: iIoU is not reported." in result.note


def test_parts_in_any_order_are_the_same() -> None:
    rng = np.random.default_rng(0)
    examples = [random_example(rng) for _ in range(5)]
    whole = count(examples)
    parts = [
        count_image(
            each.predicted,
            LABEL_OF_ID[each.label_ids],
            num_classes=19,
            image_id=number,
            instances=each.instance_ids,
            label_ids=IDS,
            categories=CATEGORIES,
        )
        for number, each in enumerate(examples)
    ]
    left = SegmentationCounts.concatenate([parts[3], parts[0]], 19)
    right = SegmentationCounts.concatenate([parts[4], SegmentationCounts.empty(19), parts[2], parts[1]], 19)
    joined = SegmentationCounts.concatenate([right, left], 19)
    for name in ("matrix", "image_ids", "image_scores", "instances"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name))
    assert score(joined).numbers == score(whole).numbers
    with pytest.raises(ValueError, match=r"image 0 was scored 2 times, expected each image once"):
        SegmentationCounts.concatenate([joined, left], 19)
    with pytest.raises(ValueError, match=r"counts of 19 classes, expected 4"):
        SegmentationCounts.concatenate([left], 4)


def test_classes_of_ones_own_have_no_categories() -> None:
    truth = np.array([[0, 0, 1, 255]], np.uint8)
    counts = count_image(
        np.array([[0, 1, 1, 0]]), truth, num_classes=3, image_id=0, instances=None, label_ids=[4, 9, 600],
        categories=None,
    )  # fmt: skip
    result = evaluate_segmentation(
        counts, class_names=["grass", "道路", "car"], categories=None, label_ids=[4, 9, 600]
    )
    assert result.numbers["mIoU"] == 0.5
    assert result.numbers["pixel accuracy"] == 2 / 3
    assert [name for name, value in result.numbers.items() if math.isnan(value)] == [
        "category mIoU", "iIoU", "category iIoU",
    ]  # fmt: skip
    assert "The classes have no categories: category scores are not reported." in result.note
    assert result.table().splitlines()[7:11] == [
        "class        IoU    iIoU   pixels",
        "grass      0.500       –   66.67%",
        "道路       0.500       –   33.33%",
        "1 class neither labeled nor predicted",
    ]
    saved = result.to_json()
    assert saved["matrix"] == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]
    assert saved["class_names"] == ["grass", "道路", "car"]
    assert saved["label_ids"] == [4, 9, 600]
    assert saved["per_class"][2]["iou"] is None
    with pytest.raises(ValueError, match=r"2 names of classes, expected 3"):
        evaluate_segmentation(counts, class_names=["a", "b"], categories=None, label_ids=None)


def test_a_name_alone_makes_no_cityscapes_class() -> None:
    example = random_example(np.random.default_rng(0))
    counts = count([example])
    other_ids = [each + 1 for each in IDS]
    result = evaluate_segmentation(counts, class_names=NAMES, categories=CATEGORIES, label_ids=other_ids)
    assert math.isnan(result.numbers["iIoU"])
    assert "None of Cityscapes' instance classes is present: iIoU is not reported." in result.note


def test_the_table_reads_as_people_expect() -> None:
    table = score(count([random_example(np.random.default_rng(0))])).table()
    assert "mean IoU of the classes" in table
    assert "road" in table
    assert "vehicle" in table
    columns = [line.index("IoU") for line in table.splitlines() if line.startswith(("class ", "category  "))]
    assert len(set(columns)) == 1


def test_the_score_of_an_image_is_over_the_classes_in_it() -> None:
    truth = np.array([[0, 0, 1, 255]], np.uint8)
    predicted = np.array([[0, 2, 1, 5]], np.uint8)
    counts = count_image(
        predicted, truth, num_classes=19, image_id=0, instances=None, label_ids=IDS, categories=None
    )
    assert counts.image_scores.tolist() == [0.5]  # 1/2, 1 and 0; class 5 is on void only


@pytest.mark.parametrize(
    ("predicted", "truth", "message"),
    [
        ([[0, 1]], [[0], [1]], r"of one size, got \(1, 2\) and \(2, 1\): predict at the size"),
        ([[0, 3]], [[0, 1]], r"expects 0 to 2, .* got 1 pixels predicted as 3 or more"),
        ([[0, 1]], [[0, 254]], r"got 1 pixels with labels such as 254"),
        ([[0, 256]], [[0, 1]], r"got 1 pixels predicted as 3 or more"),
        ([[0, -1]], [[0, 1]], r"got 1 pixels predicted as 3 or more"),
    ],
)
def test_what_is_no_label_is_refused(predicted: list[Any], truth: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        count_image(
            np.array(predicted), np.array(truth), num_classes=3, image_id=7, instances=None,
            label_ids=[1, 2, 3], categories=None,
        )  # fmt: skip


def test_instances_of_another_size_are_refused() -> None:
    labels = np.zeros((2, 3), np.uint8)
    with pytest.raises(
        ValueError, match=r"of one size, got \(2, 3\) and \(3, 2\): check that the instance file"
    ):
        count_image(
            labels, labels, num_classes=1, image_id=7, instances=np.zeros((3, 2), np.int32), label_ids=[7],
            categories=None,
        )  # fmt: skip


def test_predictions_are_named_as_the_server_wants(tmp_path: Path) -> None:
    predicted = np.array([[0, 18], [13, 2]])
    path = write_label_ids(tmp_path, PurePath("val/bonn/bonn_000000_000019_leftImg8bit.png"), predicted, IDS)
    assert path == tmp_path / "bonn_000000_000019_predLabelIds.png"
    written = read(path)
    assert written.dtype == np.uint8
    assert written.tolist() == [[7, 33], [26, 11]]


def test_predictions_of_other_layouts_keep_their_names(tmp_path: Path) -> None:
    predicted = np.array([[0, 1]], np.uint8)
    assert write_label_ids(tmp_path, PurePath("a/1.jpg"), predicted, IDS) == tmp_path / "a" / "1.png"
    assert write_label_ids(tmp_path, PurePath("b/1.jpg"), predicted, IDS) == tmp_path / "b" / "1.png"
    assert write_label_ids(tmp_path, PurePath("/data/b/1.jpg"), predicted, IDS) == tmp_path / "1.png"
    assert write_label_ids(tmp_path, PurePath("../2.jpg"), predicted, IDS) == tmp_path / "2.png"
    sixteen = write_label_ids(tmp_path, PurePath("3.png"), predicted, [5, 40_000])
    assert read(sixteen).tolist() == [[5, 40_000]]


def test_no_file_is_overwritten_by_a_prediction(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_text("a user's file")
    with pytest.raises(FileExistsError, match=r"1\.png already exists and is not overwritten"):
        write_label_ids(tmp_path, PurePath("1.jpg"), np.zeros((1, 1), np.uint8), IDS)
    assert (tmp_path / "1.png").read_text() == "a user's file"
