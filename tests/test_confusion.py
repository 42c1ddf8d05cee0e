"""Counting on the device equals counting by hand, from arrays, and by Cityscapes' official script."""

import copy
import itertools

import numpy as np
import pytest
import torch
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as script
from numpy_counts import count_image
from PIL import Image

from dettoolkit.datasets.cityscapes_labels import CLASSES, LABELS, VOID
from dettoolkit.evaluation.segmentation_counts import category_numbers
from dettoolkit.segmentation.confusion import confusion_matrix, instance_counts

IDS = [label.id for label in CLASSES]
CATEGORIES = [label.category for label in CLASSES]
LABEL_OF_ID = torch.full((34,), -1).index_copy_(0, torch.tensor(IDS), torch.arange(19))
CATEGORY_OF = torch.from_numpy(category_numbers(CATEGORIES, 19))


def random_maps(seed, *, classes=19, shape=(40, 60), void=0.2):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, shape).astype(np.uint8)
    labels[rng.random(shape) < void] = VOID
    return rng.integers(0, classes, shape).astype(np.uint8), labels


def random_instances(seed, *, shape=(60, 88)):
    """Patches of objects of every label with instances, of groups, of surfaces and of ids without a label."""
    rng = np.random.default_rng(seed)
    countable = [label.id for label in LABELS if label.has_instances]
    ids = rng.choice([*countable, *countable, 7, 23], tuple(-(-side // 11) for side in shape))
    numbers = rng.choice([0, 1, 2, 500, 999], ids.shape)
    single = np.isin(ids, countable) & (rng.random(ids.shape) < 0.7)
    patches = np.where(single, ids * 1000 + numbers, ids)
    patches[0, 0], patches[-1, -1] = 1000, -1
    grown = np.kron(patches, np.ones((11, 11), np.int32)).astype(np.int32)
    return np.ascontiguousarray(grown[: shape[0], : shape[1]])


def counted(predicted, instances, *, label_of_id=LABEL_OF_ID, category_of=CATEGORY_OF):
    return instance_counts(
        torch.as_tensor(predicted),
        torch.as_tensor(instances),
        label_of_id=label_of_id,
        category_of=category_of,
    )


def test_matrix_by_hand():
    predicted = torch.tensor([[0, 1, 1], [2, 2, 0]], dtype=torch.uint8)
    labels = torch.tensor([[0, 1, 0], [2, 255, 2]], dtype=torch.uint8)
    matrix = confusion_matrix(predicted, labels, 4)
    assert matrix.dtype == torch.int64
    assert matrix.tolist() == [[1, 1, 0, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("classes", [1, 2, 19, 254, 255])
@pytest.mark.parametrize("kind", [torch.uint8, torch.int64])
def test_matrix_of_random_maps(classes, kind):
    predicted, labels = random_maps(classes, classes=classes)
    wanted = np.zeros((classes, classes), np.int64)
    np.add.at(wanted, (labels[labels != VOID], predicted[labels != VOID]), 1)
    matrix = confusion_matrix(torch.from_numpy(predicted).to(kind), torch.from_numpy(labels), classes)
    assert np.array_equal(matrix.numpy(), wanted)


def test_matrix_of_a_batch_is_the_sum():
    maps = [[torch.from_numpy(each) for each in random_maps(seed)] for seed in range(4)]
    predicted, labels = (torch.stack(list(each)) for each in zip(*maps, strict=True))
    single = sum(confusion_matrix(*each, 19) for each in maps)
    assert torch.equal(confusion_matrix(predicted, labels, 19), single)


@pytest.mark.parametrize("shape", [(4, 6), (0, 6), (0, 4, 6)])
def test_matrix_of_nothing(shape):
    matrix = confusion_matrix(
        torch.full(shape, 255, dtype=torch.uint8), torch.full(shape, 255, dtype=torch.uint8), 19
    )
    assert torch.equal(matrix, torch.zeros(19, 19, dtype=torch.int64))


def test_void_may_be_predicted_as_anything():
    anything = torch.arange(256, dtype=torch.uint8).view(16, 16)
    assert confusion_matrix(anything, torch.full((16, 16), 255, dtype=torch.uint8), 3).sum() == 0


def test_wrong_values_and_sizes():
    labels = torch.zeros(2, 2, dtype=torch.uint8)
    for value, kind in ((3, torch.uint8), (255, torch.uint8), (70000, torch.int64), (-1, torch.int64)):
        with pytest.raises(ValueError, match=r"expects 0 to 2.*got 1 pixels predicted as 3 or more: map"):
            confusion_matrix(torch.tensor([[0, 1], [2, value]], dtype=kind), labels, 3)
    with pytest.raises(ValueError, match="got 4 pixels with labels such as 33: map label ids"):
        confusion_matrix(labels, torch.full((2, 2), 33, dtype=torch.uint8), 3)
    with pytest.raises(ValueError, match=r"one size, got \(2, 2\) and \(2, 1\)"):
        confusion_matrix(labels, labels[:, :1], 3)
    with pytest.raises(ValueError, match=r"one size, got \(2, 2\) and \(2, 1\)"):
        counted(labels, labels[:, :1].int())


def test_instances_by_hand():
    car, bus, person, void = 26, 28, 24, 29
    instances = np.array(
        [
            [car * 1000, car * 1000, car * 1000 + 1, car],  # the last is a group
            [bus * 1000 + 5, person * 1000, person * 1000, void * 1000 + 1],
        ],
        np.int32,
    )
    labels = {label.name: label.train_id for label in CLASSES}
    predicted = np.array(
        [
            [labels["car"], labels["truck"], labels["road"], labels["car"]],
            [labels["bus"], labels["rider"], VOID, labels["car"]],
        ],
        np.uint8,
    )
    rows = counted(predicted, instances)
    assert rows.dtype == torch.int64
    assert rows.tolist() == [
        [labels["person"], 2, 0, 1],
        [labels["car"], 2, 1, 2],
        [labels["car"], 1, 0, 0],
        [labels["bus"], 1, 1, 1],
    ]


@pytest.mark.parametrize("seed", range(5))
def test_instances_as_counted_from_arrays(seed):
    instances = random_instances(seed)
    predicted, labels = random_maps(seed, shape=instances.shape)
    wanted = count_image(
        predicted,
        labels,
        num_classes=19,
        image_id=0,
        instances=np.abs(instances),
        label_ids=IDS,
        categories=CATEGORIES,
    )
    for kind in (torch.uint8, torch.int64):
        rows = counted(torch.from_numpy(predicted).to(kind), instances)
        assert np.array_equal(rows.numpy(), wanted.instances[:, 1:])
    matrix = confusion_matrix(torch.from_numpy(predicted), torch.from_numpy(labels), 19)
    assert np.array_equal(matrix.numpy(), wanted.matrix)


def test_instances_as_the_official_script_counts_them(tmp_path, monkeypatch):
    monkeypatch.setattr(script.np, "in1d", np.isin, raising=False)  # NumPy 2.4 has dropped the old name
    instances = np.abs(random_instances(7))
    # The script wants a class with instances, or one that it does not score.
    predicted, _ = random_maps(7, shape=instances.shape)
    label_ids = np.where(instances >= 1000, instances // 1000, instances).astype(np.uint8)
    files = {
        "town_000000_000019_gtFine_labelIds.png": label_ids,
        "town_000000_000019_gtFine_instanceIds.png": instances.astype(np.uint16),
        "predicted.png": np.array(IDS, np.uint8)[predicted],
    }
    for name, values in files.items():
        Image.fromarray(values).save(tmp_path / name)
    arguments = copy.copy(script.args)
    matrix, stats = script.generateMatrix(arguments), script.generateInstanceStats(arguments)
    names = [str(tmp_path / name) for name in ("predicted.png", "town_000000_000019_gtFine_labelIds.png")]
    script.evaluatePair(*names, matrix, stats, {}, arguments)

    label, pixels, own, category = counted(predicted, instances).numpy().T
    for name, found in stats["classes"].items():
        mine = label == next(index for index, each in enumerate(CLASSES) if each.name == name)
        assert own[mine].sum() == found["tp"], name
        assert (pixels - own)[mine].sum() == found["fn"], name
    for name, found in stats["categories"].items():
        mine = np.array(CATEGORIES)[label] == name
        assert category[mine].sum() == found["tp"], name
        assert (pixels - category)[mine].sum() == found["fn"], name
    assert (own > 0).any()
    assert (category > own).any()

    labels = LABEL_OF_ID[torch.from_numpy(label_ids).long()]
    truth = torch.where(labels < 0, VOID, labels).to(torch.uint8)
    ours = confusion_matrix(torch.from_numpy(predicted), truth, 19)
    assert np.array_equal(ours.numpy(), matrix[np.ix_(IDS, IDS)].astype(np.int64))


@pytest.mark.parametrize("fill", [-1, 0, 24, 1000, 29_000, 33_999_999])
def test_no_instances_that_count(fill):
    rows = counted(np.zeros((3, 4), np.uint8), np.full((3, 4), fill, np.int32))
    assert rows.shape == (0, 4)
    assert rows.dtype == torch.int64
    assert counted(np.zeros((0, 4), np.uint8), np.zeros((0, 4), np.int32)).shape == (0, 4)


def test_instances_of_a_table_of_ones_own():
    label_of_id = torch.tensor([-1, -1, 1, 0])
    instances = np.array([[2001, 2001, 3000, 3999, 4000]], np.int32)
    predicted = np.array([[1, 0, 1, 0, 0]], np.uint8)
    wanted = {
        (0, 0): [[1, 2, 1, 2], [0, 1, 0, 1], [0, 1, 1, 1]],
        (0, 1): [[1, 2, 1, 1], [0, 1, 0, 0], [0, 1, 1, 1]],
    }
    for categories, rows in wanted.items():
        found = counted(predicted, instances, label_of_id=label_of_id, category_of=torch.tensor(categories))
        assert found.tolist() == rows


def test_counts_do_not_depend_on_the_order():
    maps = [[torch.from_numpy(each) for each in random_maps(seed)] for seed in range(3)]
    sums = [
        sum(confusion_matrix(*maps[row], 19) for row in order) for order in itertools.permutations(range(3))
    ]
    assert all(torch.equal(each, sums[0]) for each in sums)
