"""Rare classes: how often they are drawn, crops around them, and their regions pasted into other crops."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from dettoolkit.config.segmentation import SegmentationData
from dettoolkit.datasets.cityscapes import SegmentationDataset, collate
from dettoolkit.datasets.copy_paste import CopyPasteTransform, choose_regions
from dettoolkit.datasets.data_report import BadImageError
from dettoolkit.datasets.rare_classes import count_pixels, draw_class, draw_pixel, rarity
from dettoolkit.datasets.samplers import SampleKey, worker_init
from dettoolkit.datasets.samples import SkippedImage
from dettoolkit.segmentation.run import find_files
from dettoolkit.segmentation.training_data import augmentation, build_dataset
from dettoolkit.training import commands

NAMES = ["sky", "road", "car", "person"]
COLORS = np.zeros((256, 3), np.uint8)
COLORS[[0, 1, 2, 3, 255]] = [[0, 0, 255], [0, 255, 0], [255, 0, 0], [255, 255, 0], [128, 128, 128]]
CROP_HW = (96, 128)
FEW = np.array([[900, 90, 9, 1]])  # pixels of the classes: the last three are below an even share


def transform(pixels: NDArray[np.int64] = FEW, **augment: Any) -> Any:
    settings = {"scale_step": 0.25, "max_class_fraction": 1.0, "flip": True, "color": False} | augment
    values = {
        "type": "folders",
        "root": "x",
        "crop_hw": CROP_HW,
        "mean": (0.5, 0.5, 0.5),
        "augment": settings,
    }
    values["classes"] = [{"name": name, "ids": [at]} for at, name in enumerate(NAMES)]
    return augmentation(SegmentationData.model_validate(values), NAMES, pixels)[0]


def sample(*patches: tuple[int, int, int, int, int], hw: tuple[int, int] = (150, 200)) -> tuple[Any, Any]:
    """Draw sky over road with patches (label, top, left, height, width): an image in its labels' colors."""
    labels = np.zeros(hw, np.uint8)
    labels[hw[0] // 2 :] = 1
    labels[:, :4] = 255
    for label, top, left, height, width in patches:
        labels[top : top + height, left : left + width] = label
    return COLORS[labels], labels


# Which classes are rare


def test_rarity_by_hand() -> None:
    pixels = np.array([[800, 100, 0, 4], [900, 0, 16, 0], [700, 80, 0, 0], [0, 0, 0, 0]])
    images, classes = rarity(pixels, NAMES, None)  # totals 2400, 180, 16, 4 of 2600: an even share is 650
    roots = np.array([0, 180**-0.5 / 2, 16**-0.5, 4**-0.5])  # road is in two images
    np.testing.assert_allclose(classes, roots)
    chances = np.array([roots[1] + roots[3], roots[2], roots[1], 0])
    np.testing.assert_allclose(images, chances / chances.sum())
    images, classes = rarity(pixels, NAMES, ["sky", "person"])
    np.testing.assert_allclose(classes, [1 / 3, 0, 0, 1])
    np.testing.assert_allclose(images, np.array([4, 1, 1, 0]) / 6)
    with pytest.raises(
        ValueError, match=r"copy_paste.classes names bus, but the training labels have sky, road"
    ):
        rarity(pixels, NAMES, ["car", "bus"])
    with pytest.raises(ValueError, match=r"names car, but .* have sky, road, person: correct"):
        rarity(pixels[[0]], NAMES, ["car"])
    nothing = rarity(np.zeros((2, 4), int), NAMES, None)
    assert not nothing.images.any()
    assert not nothing.classes.any()
    assert rarity(np.array([[7, 0]]), NAMES[:2], None).images.tolist() == [1]  # a single class is no rarer


def test_classes_and_pixels_are_drawn_by_weight() -> None:
    _, labels = sample((2, 10, 20, 2, 3), (3, 100, 150, 1, 1))
    rng = np.random.default_rng(0)
    drawn = [draw_class(labels, np.array([0, 1.0, 0, 3]), rng) for _ in range(400)]
    assert set(drawn) == {1, 3}
    assert 260 < drawn.count(3) < 340
    assert draw_class(labels[:5], np.array([0, 1.0, 1, 1]), rng) is None
    assert draw_class(np.full((3, 4), 255, np.uint8), np.ones(4), rng) is None
    places = {draw_pixel(labels, np.array([0, 0, 1.0, 0]), rng) for _ in range(100)}
    assert places == {(row, column) for row in (10, 11) for column in (20, 21, 22)}
    assert draw_pixel(labels, np.zeros(4), rng) is None


@pytest.mark.parametrize("patch", [(3, 0, 0, 6, 6), (3, 144, 194, 6, 6), (3, 70, 90, 6, 6)])
def test_rare_crops_have_the_rare_class(patch: tuple[int, int, int, int, int]) -> None:
    image, labels = sample(patch)
    settings: dict[str, Any] = {"pixels": np.array([[500, 499, 0, 1]]), "scale": (1.0, 2.0)}  # one is rare
    always, half, never = (transform(**settings, rare_crops=fraction) for fraction in (1.0, 0.5, 0.0))
    crops = [always(image, labels, seed)[1] for seed in range(60)]
    assert all((crop == 3).any() for crop in crops)
    assert (
        len({tuple(np.argwhere(crop == 3)[0]) for crop in crops}) > 5
    )  # not always at one place of the crop
    some, few = (
        sum((made(image, labels, seed)[1] == 3).any() for seed in range(60)) for made in (half, never)
    )
    assert few < some < 60
    plain, same = transform(rare_crops=0.0), transform(np.zeros((1, 4), int), rare_crops=1.0)
    for seed in range(5):  # no class is rare
        assert plain(image, labels, seed)[1].shape == same(image, labels, seed)[1].shape == CROP_HW


# Regions


def test_regions_are_whole_large_enough_and_of_one_class() -> None:
    labels = np.zeros((40, 60), np.uint8)
    for label, top, left, side in ((2, 2, 2, 5), (2, 20, 2, 6), (2, 20, 30, 3), (3, 2, 30, 8)):
        labels[top : top + side, left : left + side] = label
    rng = np.random.default_rng(0)
    found: dict[int, set[int]] = {2: set(), 3: set()}
    for _ in range(100):
        chosen = choose_regions(labels, np.array([0, 0, 1.0, 1.0]), 5, rng)
        assert chosen is not None
        label, inside = chosen
        assert (labels[inside] == label).all()
        found[label].add(int(inside.sum()))
    assert found == {2: {25, 36, 61}, 3: {64}}  # never the 9 pixels
    one = [choose_regions(labels, np.array([0, 0, 1.0, 0]), 1, rng) for _ in range(40)]
    assert {int(each[1].sum()) for each in one if each} == {25, 36}
    assert choose_regions(labels[18:24, 28:34], np.array([0, 0, 1.0, 0]), 5, rng) is None
    assert choose_regions(np.full((5, 5), 255, np.uint8), np.ones(4), 5, rng) is None


def test_what_is_pasted_stays_on_its_picture() -> None:
    """Compare image and labels, which have the same colors but for a pixel at edges."""
    receiver, pasted = sample(), 0
    made = transform(copy_paste={"max_regions": 3})
    for seed in range(30):
        donor = sample((3, 60, 40, 30, 20), (3, 20, 120, 12, 12), (2, 100, 100, 20, 60))
        image, labels = made(*receiver, seed, donor)
        plain, plain_labels = made(*receiver, seed)
        changed = labels != plain_labels
        assert set(np.unique(labels[changed])) <= {1, 2, 3}  # all but sky are rare
        assert (image[~changed] == plain[~changed]).mean() > 0.98  # where road came onto road
        shown = np.abs(image.astype(int) - COLORS[labels]).max(-1) > 130
        assert not shown.any()  # the blend of two colors at an edge is half of each at most
        pasted += bool(np.isin(labels, (2, 3)).any())
    assert pasted > 24


def test_no_donor_or_nothing_rare_in_it_changes_nothing() -> None:
    receiver, pasting, plain = sample((3, 60, 40, 30, 20)), transform(copy_paste={}), transform()
    donors = [(), ((np.zeros((60, 80, 3), np.uint8), np.full((60, 80), 255, np.uint8)),)]
    donors.append(((np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1), np.uint8)),))
    for seed in range(5):
        for each in donors:
            for ours, theirs in zip(pasting(*receiver, seed, *each), plain(*receiver, seed), strict=True):
                np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("hw", [(150, 200), (1, 1), (1, 300)])
def test_shapes_types_and_seed(hw: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (*hw, 3), dtype=np.uint8), rng.integers(0, 4, hw, dtype=np.uint8)
    made = transform(copy_paste={"scale": (1.0, 1.0)}, rare_crops=0.5, color=True)
    assert isinstance(made, CopyPasteTransform)
    before = pickle.dumps(noise)
    for seed in range(6):
        outputs = made(*noise, seed, noise)
        assert (outputs[0].shape, outputs[1].shape) == ((*CROP_HW, 3), CROP_HW)
        assert outputs[0].dtype == outputs[1].dtype == np.uint8
        for one, other in zip(outputs, pickle.loads(pickle.dumps(made))(*noise, seed, noise), strict=True):
            np.testing.assert_array_equal(one, other)
    assert pickle.dumps(noise) == before


# The data set


def dataset(tiny: Any, tmp_path: Path, *overrides: str) -> SegmentationDataset:
    recipe = tiny.load(tmp_path, *overrides).recipe
    return build_dataset(recipe, find_files(recipe.data, [recipe.data.train]), split="train")


def equal(one: Any, other: Any) -> bool:
    return bool(
        torch.equal(one["image"], other["image"]) and torch.equal(one["label_map"], other["label_map"])
    )


def test_samples_depend_on_seed_epoch_and_index_alone(tiny_segmentation: Any, tmp_path: Path) -> None:
    data = dataset(
        tiny_segmentation, tmp_path, "data.augment={rare_crops: 0.5, copy_paste: {probability: 1}}"
    )
    plain = dataset(tiny_segmentation, tmp_path, "data.augment={rare_crops: 0.5}")
    never = dataset(
        tiny_segmentation, tmp_path, "data.augment={rare_crops: 0.5, copy_paste: {probability: 0}}"
    )
    keys = [SampleKey(index, epoch) for index in range(8) for epoch in (0, 1)]
    assert all(equal(never[key], plain[key]) for key in keys)
    assert sum(equal(data[key], plain[key]) for key in keys) < 8
    batches = [
        list(
            DataLoader(
                data, 4, sampler=keys, num_workers=workers, collate_fn=collate, worker_init_fn=worker_init
            )
        )
        for workers in (0, 2)
    ]
    for one, other in zip(*batches, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in ("images", "label_map"))


def test_pixels_are_counted_and_the_rare_ones_pasted(tiny_segmentation: Any, tmp_path: Path) -> None:
    overrides = ("data.augment={scale: [1, 1], copy_paste: {probability: 1, classes: [person]}}",)
    data = dataset(tiny_segmentation, tmp_path, *overrides)
    pixels = count_pixels(data.files, max_megapixels=1)
    for row, labels in zip(pixels, (data.read(index)[1] for index in range(8)), strict=True):
        assert row.tolist() == [(labels == label).sum() for label in range(19)]
    person = data.files.classes.names.index("person")
    plain = dataset(tiny_segmentation, tmp_path, "data.augment={scale: [1, 1]}")
    counts = [
        sum(int((each[index]["label_map"] == person).sum()) for index in range(8)) for each in (data, plain)
    ]
    assert counts[0] > 1.3 * counts[1]
    recipe = tiny_segmentation.load(tmp_path, *overrides).recipe
    assert "Dry run OK" in commands.check("tiny", recipe)
    with pytest.raises(
        ValueError, match=r"copy_paste.classes names bus, but the training labels have road, sky"
    ):
        dataset(tiny_segmentation, tmp_path, "data.augment={copy_paste: {classes: [bus]}}")


def test_unreadable_files_stop_the_run_or_are_pasted_nowhere(tiny_segmentation: Any, tmp_path: Path) -> None:
    root = tiny_segmentation.write(tmp_path / "data")
    images, labels = (sorted(root.glob(f"{kind}/train/*/*{kind}*.png")) for kind in ("leftImg8bit", "gtFine"))
    labels = [path for path in labels if path.name.endswith("labelIds.png")]
    labels[0].write_bytes(b"damaged")
    for path in images[2:]:
        path.write_bytes(b"damaged")
    pasting = ("data.augment={copy_paste: {probability: 1}}", f"data.root={root}", "data.max_bad_images=20")
    with pytest.raises(BadImageError, match=r"leftImg8bit.png: cannot be decoded.*data.on_bad_image=skip"):
        [dataset(tiny_segmentation, tmp_path, *pasting)[SampleKey(1, epoch)] for epoch in range(9)]
    skipping = (*pasting, "data.on_bad_image=skip")
    data = dataset(tiny_segmentation, tmp_path, *skipping)
    assert count_pixels(data.files, max_megapixels=1)[0].sum() == 0
    assert isinstance(data[0], SkippedImage)
    plain = dataset(tiny_segmentation, tmp_path, *skipping, "data.augment.copy_paste=null")
    alike = sum(equal(data[SampleKey(1, epoch)], plain[SampleKey(1, epoch)]) for epoch in range(9))
    assert alike >= 5  # six of the seven that can be drawn are unreadable
