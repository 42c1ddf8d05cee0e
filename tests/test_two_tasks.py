"""Data sets of a network with two tasks: pairs of samples, either kind, both labels of one image."""

from __future__ import annotations

import pickle
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from dettoolkit.datasets.data_report import BadImageError
from dettoolkit.datasets.samplers import EpochSampler, ResumableLoader, SampleKey
from dettoolkit.datasets.samples import SkippedImage
from dettoolkit.datasets.scenes.folder import as_in_cityscapes, write_scenes
from dettoolkit.datasets.two_tasks import BothLabels, Either, Paired, collate
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
    if min(boxes, maps) > 3:
        assert turns[0] != turns[1]


def test_equal_sets_are_paired_anew_each_epoch() -> None:
    paired = Paired(Numbered(9), Numbered(9))  # type: ignore[arg-type]
    partners = [[paired[SampleKey(index, epoch)][1].index for index in range(9)] for epoch in range(4)]
    assert len({tuple(each) for each in partners}) == 4


def loader_of_keys(paired: Paired, rank: int, world_size: int) -> ResumableLoader:
    sampler = EpochSampler(size=len(paired), seed=3, rank=rank, world_size=world_size, batch_size=2)
    return ResumableLoader(paired, sampler=sampler, batch_size=2, collate_fn=list)


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize(("boxes", "maps"), [(11, 4), (3, 8), (6, 6), (7, 1)])
def test_every_process_goes_on_where_it_was(boxes: int, maps: int, world_size: int) -> None:
    for rank in range(world_size):
        paired = Paired(Numbered(boxes), Numbered(maps))  # type: ignore[arg-type]
        unbroken = loader_of_keys(paired, rank, world_size)
        unbroken.sampler.set_epoch(2)
        whole = list(unbroken)
        for done in range(len(whole)):
            begun = loader_of_keys(paired, rank, world_size)
            begun.sampler.set_epoch(2)
            batches = iter(begun)
            for _ in range(done):
                next(batches)
            resumed = loader_of_keys(pickle.loads(pickle.dumps(paired)), rank, world_size)
            resumed.load_state_dict(begun.state_dict())
            assert list(resumed) == whole[done:]


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


# The same images


def run_of(tiny_joint: Any, root: Path, *overrides: str) -> Any:
    recipe = tiny_joint.load(Path("runs"), f"data.root={root}", *overrides).recipe
    return spec_of(recipe).training_run("tiny", recipe, pretrained=False)


def test_validation_leaves_label_maps_and_instances_as_in_their_files(tiny_joint: Any) -> None:
    run = run_of(tiny_joint, tiny_joint.data)
    batch = collate([run.val[row] for row in range(5)])
    alone = run.maps.collate([run.maps.val[row] for row in range(5)])
    assert batch["box_rows"].tolist() == batch["map_rows"].tolist() == [0, 1, 2, 3, 4]
    assert batch["images"].shape == (5, 3, 64, 64)
    assert batch["label_map"].shape == (5, 48, 64)
    for name in ("label_map", "label_map_hw", "instances"):
        assert torch.equal(batch[name], alone[name])
    assert batch["label_map_ids"].tolist() == alone["image_ids"].tolist()
    assert batch["image_ids"].tolist() == run.boxes.val.annotations.image_ids.tolist()
    assert [Path(file).name for file in batch["files"]] == [Path(file).name for file in alone["files"]]


def test_scenes_have_the_label_map_of_their_own_image(tmp_path: Path) -> None:
    write_scenes(tmp_path / "scenes", train_images=9, val_images=5, image_hw=(48, 64), seed=0)
    for split, count in (("train", 9), ("val", 5)):
        images = sorted((tmp_path / "scenes" / f"{split}2017").iterdir())
        same = [as_in_cityscapes(image) for image in images]
        assert len(set(same)) == count
        for image, other in zip(images, same, strict=True):
            assert image.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_image_is_skipped_with_its_label_map(tiny_joint: Any, tmp_path: Path, split: str) -> None:
    root = tiny_joint.write(tmp_path / "data")
    label_path = sorted((root / "gtFine" / split).rglob("*_labelIds.png"))[1]
    label_path.write_bytes(label_path.read_bytes()[:-20])
    with pytest.raises(BadImageError, match=rf"{label_path.name}: file is truncated.*on_bad_image=skip"):
        getattr(run_of(tiny_joint, root), split)[1]
    data = getattr(run_of(tiny_joint, root, "data.on_bad_image=skip"), split)
    assert isinstance(data[1], SkippedImage)
    batch = collate([data[row] for row in range(3)])
    assert batch["box_rows"].tolist() == batch["map_rows"].tolist() == [0, 1]
    assert batch["label_map_ids"].tolist() == [0, 2]
    assert label_path.name in batch["bad_images"][0]


def test_a_mosaic_of_a_bad_label_map_is_its_image_alone(tiny_joint: Any, tmp_path: Path) -> None:
    root = tiny_joint.write(tmp_path / "data")
    for label_path in sorted((root / "gtFine" / "train").rglob("*_labelIds.png"))[1:]:
        label_path.write_bytes(b"damaged")
    skip = "data={on_bad_image: skip, max_bad_images: 9}"
    augment = "data.detection.augment={{type: strong, mosaic: {{probability: {}}}}}"
    mixed, alone = (run_of(tiny_joint, root, skip, augment.format(chance)).train for chance in (1, 0))
    for epoch in range(3):
        one, other = mixed[SampleKey(0, epoch)], alone[SampleKey(0, epoch)]
        assert all(torch.equal(one[name], other[name]) for name in ("image", "label_map", "boxes_xyxy"))


def test_an_image_of_another_size_than_its_label_map(tiny_joint: Any, tmp_path: Path) -> None:
    """In training it is bad, in validation it is reported: as with label maps alone."""
    root = tiny_joint.write(tmp_path / "data")
    run = run_of(tiny_joint, root)
    run.maps.val.with_instances = False  # these files still fit their images
    for split in ("train", "val"):
        path = sorted((root / "gtFine" / split).rglob("*_labelIds.png"))[0]
        cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[:40, :60])
    with pytest.raises(BadImageError, match=r"is 48 x 64, but .*labelIds\.png is 40 x 60 \(height x width\)"):
        run.train[0]
    sample = run.val[0]
    assert [problem.kind for problem in sample["problems"]] == ["label of another size"]
    assert sample["label_map"].shape == (40, 60)
    assert sample["image"].shape == (3, 64, 64)


def test_images_without_a_partner_are_named(tiny_joint: Any, tmp_path: Path) -> None:
    run = run_of(tiny_joint, tiny_joint.data)
    settings: dict[str, Any] = {
        "annotations": run.boxes.train.annotations,
        "transform": run.boxes.train.transform,
        "drop_empty": False,
        "on_bad_image": "error",
        "max_bad_images": 1,
        "max_megapixels": 1.0,
        "seed": 0,
    }
    with pytest.raises(ValueError, match="8 of 8 images with boxes have no label map, such as elsewhere"):
        BothLabels(maps=run.maps.train, same=lambda path: Path("elsewhere") / path.name, **settings)
    root = tiny_joint.write(tmp_path / "data")
    shutil.copytree(root / "leftImg8bit" / "val", root / "leftImg8bit" / "more")
    shutil.copytree(root / "gtFine" / "val", root / "gtFine" / "more")
    extra = "data.segmentation.extra=[{images: leftImg8bit/more, labels: gtFine/more}]"
    with pytest.raises(
        ValueError,
        match=r"5 of 13 images with a label map are not among those with boxes of .*gtFine/train, such as "
        r".*more/lindau/lindau_000001_000019_leftImg8bit\.png: .*needs data\.type=separate",
    ):
        run_of(tiny_joint, root, extra)


def test_images_without_boxes_may_be_dropped(tiny_joint: Any, tmp_path: Path) -> None:
    root = tiny_joint.write(tmp_path / "data")
    for path in sorted((root / "gtFine" / "train").rglob("*_instanceIds.png"))[:3]:
        cv2.imwrite(str(path), np.full((48, 64), 7, np.uint16))
    run = run_of(tiny_joint, root, "data.detection.drop_empty=true")
    assert len(run.train) == 5
    assert [run.train.map_row(index) for index in range(5)] == [3, 4, 5, 6, 7]


def test_workers_make_the_same_batches(tiny_joint: Any) -> None:
    data = run_of(tiny_joint, tiny_joint.data, "data.detection.augment=strong").train
    for one, other in zip(loader(data, 0), loader(data, 2), strict=True):
        assert one["files"] == other["files"]
        for name in ("images", "label_map", "boxes_xyxy", "box_labels", "label_map_ids"):
            assert torch.equal(one[name], other[name])
