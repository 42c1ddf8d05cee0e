"""Top-1 and top-5: counted by hand, by plain Python, by numpy, and in any order."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch

from dettoolkit.classification.task import ClassificationTask, ranks_of
from dettoolkit.drawing.classification_grids import (
    ClassificationItem,
    classification_batch_figure,
    classification_figure,
)
from dettoolkit.evaluation.top_k import ClassificationArrays, Confusion, evaluate_classification

NAMES = [f"class {number}" for number in range(9)]


def task(names: list[str] = NAMES) -> ClassificationTask:
    """Make a task whose images are its logits."""
    made = ClassificationTask(
        network=None,  # type: ignore[arg-type]
        label_smoothing=0.0,
        mix=None,
        mean=(0,) * 3,
        std=(1,) * 3,
        class_names=names,
    )
    made.images = lambda batch: batch["images"]  # type: ignore[method-assign]
    return made


def batch(logits: Any, labels: Any, first_id: int = 0) -> dict[str, Any]:
    ids = torch.arange(first_id, first_id + len(labels))
    return {"images": torch.as_tensor(logits), "class_labels": torch.as_tensor(labels), "image_ids": ids}


def predict(logits: Any, labels: Any, first_id: int = 0) -> ClassificationArrays:
    return task().predict(lambda images: images, batch(logits, labels, first_id))


def counted_plainly(logits: Any, labels: Any, places: int) -> int:
    """Count images whose class is among the first, image by image."""
    right = 0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        order = sorted(range(len(row)), key=lambda index: (-row[index], index))
        right += label in order[:places]
    return right


@pytest.fixture(scope="module")
def many() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randint(-6, 7, (301, 9), generator=generator).float()  # integers: with many ties
    return logits, torch.randint(0, 9, (301,), generator=generator)


def test_numbers_are_those_of_a_plain_count(many: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, labels = many
    found = task().score([predict(logits, labels)])
    assert found.numbers["top-1"] == counted_plainly(logits, labels, 1) / 301
    assert found.numbers["top-5"] == counted_plainly(logits, labels, 5) / 301
    fractions = []
    for label, entry in enumerate(found.per_class):
        mine = labels == label
        assert entry.images == int(mine.sum())
        assert entry.right == counted_plainly(logits[mine], labels[mine], 1)
        assert entry.among_five == counted_plainly(logits[mine], labels[mine], 5)
        assert entry.predicted == int(
            (logits.numpy().argmax(axis=1) == label).sum()
        )  # numpy: the first of equals
        fractions.append(entry.right / entry.images)
    assert found.numbers["mean class top-1"] == pytest.approx(np.mean(fractions), abs=1e-12)
    assert found.images == sum(entry.predicted for entry in found.per_class) == 301


@pytest.mark.parametrize("size", [1, 7, 300])
def test_any_batch_size_and_order_gives_the_same(many: tuple[torch.Tensor, torch.Tensor], size: int) -> None:
    logits, labels = many
    whole = task().score([predict(logits, labels)])
    parts = [
        predict(logits[start : start + size], labels[start : start + size], start)
        for start in range(0, 301, size)
    ]
    assert task().score(parts[::-1]).to_json() == whole.to_json()


def test_ranks_by_hand() -> None:
    logits = torch.tensor([[0.5, 2.0, 2.0, -1.0]] * 4)
    assert ranks_of(logits, torch.tensor([0, 1, 2, 3])).tolist() == [
        2,
        0,
        1,
        3,
    ]  # of equals the lower is first
    nothing = torch.tensor([[math.nan] * 4, [0.0, math.nan, 1.0, 0.0], [math.inf, 0.0, 0.0, 0.0]])
    assert ranks_of(nothing, torch.tensor([0, 2, 0])).tolist() == [3, 3, 0]
    assert ranks_of(logits[:0], torch.zeros(0, dtype=torch.int64)).tolist() == []


def test_best_classes_and_their_probabilities() -> None:
    logits = torch.tensor([[0.0, math.log(3), 0.0, 0.0, 0.0, math.log(2), 0.0, 0.0, -1e9]])
    found = predict(logits, torch.tensor([5]), first_id=4)
    assert found.best.tolist() == [[1, 5, 0, 2, 3]]
    assert found.scores[0] == pytest.approx([3 / 11, 2 / 11, 1 / 11, 1 / 11, 1 / 11], abs=1e-6)
    assert (found.ranks.tolist(), found.image_ids.tolist()) == ([1], [4])
    # Probabilities that the computer cannot tell apart still have an order: that of their logits.
    close = predict(torch.tensor([[80.0, 100.0, 101.0, *[0.0] * 6]]) * 10, torch.tensor([1]))
    assert close.best[0, :3].tolist() == [2, 1, 0]


def test_answers_of_half_precision_are_compared_in_full() -> None:
    logits = torch.randn(20, 9).bfloat16()
    labels = torch.arange(20) % 9
    one, other = predict(logits, labels), predict(logits.float(), labels)
    np.testing.assert_array_equal(one.best, other.best)
    np.testing.assert_array_equal(one.scores, other.scores)


def test_no_images_and_classes_without_images() -> None:
    nothing = task().score([])
    assert all(math.isnan(value) for value in nothing.numbers.values())
    assert nothing.note == "No images were scored: the scores are undefined, not 0."
    assert json.loads(json.dumps(nothing.to_json()))["numbers"]["top-1"] is None
    assert "9 classes without images" in nothing.table()
    empty = predict(torch.zeros(0, 9), torch.zeros(0, dtype=torch.int64))
    assert task().score([empty]).to_json() == nothing.to_json()
    one = task().score([predict(torch.eye(9)[:1], torch.tensor([0]))])
    assert one.numbers == {"top-1": 1.0, "top-5": 1.0, "mean class top-1": 1.0}
    assert one.confusions == []


def test_few_classes_make_top_5_worthless_and_that_is_said() -> None:
    few = task(["a", "b"])
    found = few.score([few.predict(lambda images: images, batch([[1.0, 0.0], [1.0, 0.0]], [0, 1]))])
    assert found.numbers == {"top-1": 0.5, "top-5": 1.0, "mean class top-1": 0.5}
    assert found.note == "With 2 classes top-5 is always 1."
    assert found.table().splitlines() == [
        "number             value  what",
        "top-1              0.500  fraction of images whose class is ranked first",
        "top-5              1.000  fraction of images whose class is among the first five",
        "mean class top-1   0.500  top-1 of each class, averaged over the classes",
        "",
        "class   top-1   top-5  images  predicted",
        "a       1.000   1.000       1          2",
        "b       0.000   1.000       1          0",
        "",
        "most frequent mistakes",
        "      1  b predicted as a",
        "",
        "With 2 classes top-5 is always 1.",
    ]


def test_mistakes_are_counted_most_frequent_first() -> None:
    labels = torch.tensor([0, 0, 0, 1, 2, 2, 2])
    answers = torch.tensor([1, 1, 0, 1, 0, 0, 0])
    found = task().score([predict(torch.eye(9)[answers], labels)])
    assert found.confusions == [Confusion("class 2", "class 0", 3), Confusion("class 0", "class 1", 2)]


def test_of_many_classes_the_worst_are_listed() -> None:
    names = [f"kind {number:03}" for number in range(100)]
    labels = torch.arange(100).repeat_interleave(2)
    logits = torch.eye(100)[labels]
    logits[2 * 70] = logits[2 * 70 + 1] = torch.eye(100)[3]
    logits[2 * 50] = torch.eye(100)[3]
    many = task(names)
    shown = many.score([many.predict(lambda images: images, batch(logits, labels))]).table().splitlines()
    start = next(number for number, line in enumerate(shown) if line.startswith("worst 40 of 100"))

    assert shown[start + 1].startswith("kind 070")
    assert shown[start + 2].startswith("kind 050")
    assert sum(line.startswith("kind") for line in shown) == 40


def test_wrong_predictions_are_refused() -> None:
    once = predict(torch.eye(9)[:2], torch.tensor([0, 1]))
    with pytest.raises(
        ValueError, match=r"image 0 was scored 2 times, expected each image once: give each proc"
    ):
        ClassificationArrays.concatenate([once, once])
    with pytest.raises(ValueError, match=r"labels from 0 to 1, expected those of 1 classes"):
        evaluate_classification(once, class_names=["a"])
    with pytest.raises(ValueError, match=r"predictions: ranks has the shape \(1,\), expected \(2,\)"):
        ClassificationArrays(
            image_ids=once.image_ids,
            labels=once.labels,
            ranks=once.ranks[:1],
            best=once.best,
            scores=once.scores,
        )


# Figures


def test_figures_tell_right_from_wrong() -> None:
    gray = np.full((30, 40, 3), 128, np.uint8)
    right = ClassificationItem(image=gray, label=1, predicted=1, score=0.9)
    wrong = ClassificationItem(image=gray, label=1, predicted=2, score=0.6)
    figures = [
        classification_figure([item], NAMES, title="x").reshape(-1, 3).tolist() for item in (right, wrong)
    ]
    blue, orange = [0, 114, 178], [213, 94, 0]
    assert figures[0].count(blue) > 10 * figures[0].count(orange)
    assert figures[1].count(orange) > 10 * figures[1].count(blue)
    both = classification_figure([right, wrong] * 3, NAMES, title="x")
    assert both.dtype == np.uint8
    assert both.shape[1] > 4 * 480  # four in a row


def test_the_training_batch_is_drawn_as_it_is() -> None:
    images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    images[0, 0] = 255
    picture = classification_batch_figure({"images": images, "class_labels": torch.tensor([0, 99])}, NAMES)
    assert (picture.reshape(-1, 3) == (255, 0, 0)).all(axis=1).sum() == 360 * 360
    assert (picture.reshape(-1, 3) == (0, 0, 0)).all(axis=1).sum() == 360 * 360
