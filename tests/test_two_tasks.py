"""Data sets of a network with two tasks: pairs of samples, either kind, both labels of one image."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dettoolkit.datasets.samplers import EpochSampler, ResumableLoader, SampleKey
from dettoolkit.datasets.two_tasks import Either, Paired, collate
from dettoolkit.tasks import spec_of


class Numbered:
    """A data set whose samples are the keys that asked for them."""

    seed = 7
    epochs: int | None = None

    class transform:
        input_hw = (4, 6)

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, key: SampleKey) -> Any:
        assert 0 <= key.index < self.size
        return key


def dealt(paired: Paired, *, epochs: int, world_size: int) -> list[list[tuple[Any, Any]]]:
    """Return the pairs of each epoch, of all processes."""
    samplers = [
        EpochSampler(size=len(paired), seed=0, rank=rank, world_size=world_size, batch_size=1)
        for rank in range(world_size)
    ]
    rounds = []
    for epoch in range(epochs):
        for sampler in samplers:
            sampler.set_epoch(epoch)
        rounds.append([paired[key] for sampler in samplers for key in sampler])
    return rounds


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize(("boxes", "maps"), [(10, 4), (4, 10), (7, 7), (12, 1), (9, 6)])
def test_each_sample_of_the_smaller_set_is_used_equally_often(boxes: int, maps: int, world_size: int) -> None:
    paired = Paired(Numbered(boxes), Numbered(maps))  # type: ignore[arg-type]
    larger, smaller = (0, 1) if boxes >= maps else (1, 0)
    assert len(paired) == max(boxes, maps)
    used: Counter[int] = Counter()
    turns: dict[int, list[int]] = {}
    for epoch, pairs in enumerate(dealt(paired, epochs=6, world_size=world_size)):
        pairs = pairs[: len(paired)] if world_size == 1 else pairs
        assert {pair[larger].index for pair in pairs} == set(range(len(paired)))
        assert {pair[larger].epoch for pair in pairs} == {epoch}
        first = {pair[larger].index: pair[smaller] for pair in pairs}  # padding repeats some
        for index in range(len(paired)):
            used[first[index].index] += 1
            turns.setdefault(first[index].epoch, []).append(first[index].index)
    assert max(used.values()) - min(used.values()) <= 1
    for turn in list(turns)[:-1]:  # the last one may be unfinished
        assert sorted(turns[turn]) == list(range(min(boxes, maps)))
    if boxes != maps and min(boxes, maps) > 3:
        assert turns[0] != turns[1]


def test_epochs_of_the_smaller_set_are_its_turns() -> None:
    paired = Paired(Numbered(10), Numbered(4))  # type: ignore[arg-type]
    paired.epochs = 6
    assert (paired.boxes.epochs, paired.maps.epochs, paired.epochs) == (6, 15, 6)


def test_either_has_boxes_first() -> None:
    either = Either(Numbered(3), Numbered(2))  # type: ignore[arg-type]
    assert [either[row].index for row in range(len(either))] == [0, 1, 2, 0, 1]


def test_two_sizes_are_refused() -> None:
    other = Numbered(2)
    other.transform = type("transform", (), {"input_hw": (8, 8)})  # type: ignore[misc, assignment]
    with pytest.raises(ValueError, match=r"come out at \(4, 6\), those with label maps at \(8, 8\)"):
        Paired(Numbered(3), other)  # type: ignore[arg-type]


@pytest.fixture
def run(tiny: Any, tiny_segmentation: Any, tiny_joint: Any) -> Any:
    """Return a run of two data sets, of 8 and 8 images."""
    recipe = tiny_joint.load(
        Path("runs"),
        "data.type=separate",
        f"data.detection={{root: {tiny.data}, train: {{images: train, annotations: annotations/train.json}}, "
        "val: {images: val, annotations: annotations/val.json}}",
        f"data.segmentation.root={tiny_segmentation.data}",
    ).recipe
    return spec_of(recipe).training_run("tiny", recipe, pretrained=False)


def loader(data: Any, workers: int) -> ResumableLoader:
    sampler = EpochSampler(size=len(data), seed=0, rank=0, world_size=1, batch_size=2)
    return ResumableLoader(data, sampler=sampler, batch_size=2, collate_fn=collate, num_workers=workers)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_goes_on_in_the_middle_of_an_epoch(run: Any, workers: int) -> None:
    whole = list(loader(run.train, workers))
    begun = loader(run.train, workers)
    batches = iter(begun)
    next(batches)
    position = begun.state_dict()
    resumed = loader(pickle.loads(pickle.dumps(run.train)), workers)
    resumed.load_state_dict(position)
    rest = list(resumed)
    assert len(rest) == len(whole) - 1
    for one, other in zip(whole[1:], rest, strict=True):
        assert one["files"] == other["files"]
        assert torch.equal(one["images"], other["images"])
        assert torch.equal(one["label_map"], other["label_map"])


def test_a_batch_knows_which_images_have_what(run: Any) -> None:
    batch = collate([run.train[0], run.train[1]])
    assert batch["box_rows"].tolist() == [0, 1]
    assert batch["map_rows"].tolist() == [2, 3]
    assert [Path(file).parent.name for file in batch["files"]] == ["train", "train", "aachen", "aachen"]
    assert batch["boxes_xyxy"].shape[0] == batch["label_map"].shape[0] == 2
    mixed = collate([run.val[4], run.val[5], run.val[6]])  # five images with boxes come first
    assert (mixed["box_rows"].tolist(), mixed["map_rows"].tolist()) == ([0], [1, 2])
    assert mixed["label_map_ids"].tolist() == [0, 1]
    assert mixed["label_map_hw"].tolist() == [[48, 64], [45, 61]]  # as in the files
    boxes_only = collate([run.val[0]])
    assert boxes_only["map_rows"].tolist() == []
    assert boxes_only["label_map"].shape == (0, 64, 64)


def test_a_skipped_image_leaves_its_partner(
    tiny: Any, tiny_segmentation: Any, tiny_joint: Any, tmp_path: Path
) -> None:
    root = tiny.write(tmp_path / "boxes")
    (root / "train" / "1.png").write_bytes(b"no image")
    recipe = tiny_joint.load(
        Path("runs"),
        "data={type: separate, on_bad_image: skip}",
        f"data.detection={{root: {root}, train: {{images: train, annotations: annotations/train.json}}, "
        "val: {images: val, annotations: annotations/val.json}}",
        f"data.segmentation.root={tiny_segmentation.data}",
    ).recipe
    run = spec_of(recipe).training_run("tiny", recipe, pretrained=False)
    batch = collate([run.train[0], run.train[1]])
    assert (batch["box_rows"].tolist(), batch["map_rows"].tolist()) == ([0], [1, 2])
    assert len(batch["bad_images"]) == 1
    assert "boxes/train/1.png" in batch["bad_images"][0]


@pytest.mark.parametrize("augment", ["none", "ssdlite", "strong"])
def test_label_maps_are_moved_with_their_boxes(tiny_joint: Any, augment: str) -> None:
    """Cars of the tiny set are rectangles: where a box is, the label map has its class."""
    recipe = tiny_joint.load(Path("runs"), f"data.detection.augment={augment}").recipe
    run = spec_of(recipe).training_run("tiny", recipe, pretrained=False)
    names = run.boxes.classes.names
    inside: list[float] = []
    for epoch in range(4):
        for row in range(len(run.train)):
            sample = run.train[SampleKey(row, epoch)]
            assert sample["label_map"].shape == sample["image"].shape[1:] == (64, 64)
            for box, label in zip(sample["boxes_xyxy"], sample["box_labels"], strict=True):
                left, top, right, bottom = (round(side) for side in box.tolist())
                wanted = run.maps.classes.names.index(names[int(label)])
                region = sample["label_map"][top:bottom, left:right]
                if region.numel() > 40:
                    inside.append(float((region == wanted).float().mean()))
    assert len(inside) > 20
    assert np.median(inside) > 0.8  # objects cover each other, and void covers the left edge


def test_an_image_without_label_map_is_named(tiny_joint: Any, tmp_path: Path) -> None:
    from dettoolkit.datasets.two_tasks import BothLabels

    run = spec_of(tiny_joint.load(Path("runs")).recipe).training_run(
        "tiny", tiny_joint.load(Path("runs")).recipe, pretrained=False
    )
    with pytest.raises(ValueError, match="8 of 8 images with boxes have no label map, such as elsewhere"):
        BothLabels(
            maps=run.maps.train,
            same=lambda path: Path("elsewhere") / path.name,
            annotations=run.boxes.train.annotations,
            transform=run.boxes.train.transform,
            drop_empty=False,
            on_bad_image="error",
            max_bad_images=1,
            max_megapixels=1.0,
            seed=0,
        )
