"""datasets/strong_augment.py: mosaics and windows around objects, against hand computations and pixels."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from dettoolkit.config import load_recipe
from dettoolkit.config.detection import StrongAugment
from dettoolkit.datasets.augment import ZOOM_FILL
from dettoolkit.datasets.coco import BoxedImage, CocoDetection, collate
from dettoolkit.datasets.data_report import BadImageError
from dettoolkit.datasets.samplers import EpochSampler, SampleKey, worker_init
from dettoolkit.datasets.samples import Partners, SkippedImage
from dettoolkit.datasets.strong_augment import (
    Canvas,
    Rectangle,
    StrongTransform,
    place,
    quarters,
    window_around,
)
from dettoolkit.detection.run import augmentation, build_dataset
from dettoolkit.detection.splits import load_annotations
from dettoolkit.training.prepare import prepare

INPUT_HW = (96, 128)
COLORS = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [255, 0, 255], [0, 255, 255], [255] * 3]
ALWAYS: dict[str, Any] = {"mosaic": {"probability": 1.0}}
ZOOMED: dict[str, Any] = {"zoom_in": {"probability": 1.0}}
SMALLER: dict[str, Any] = {"zoom_in": {"probability": 0.0}, "zoom_out": {"probability": 1.0}}
PLAIN: dict[str, Any] = {"zoom_in": {"probability": 0.0}, "zoom_out": {"probability": 0.0}}


def strong(input_hw: tuple[int, int] = INPUT_HW, **settings: Any) -> StrongTransform:
    transform, _ = augmentation(StrongAugment.model_validate({"type": "strong"} | settings), input_hw)
    assert isinstance(transform, StrongTransform)
    return transform


def sample(
    *boxes: tuple[float, float, float, float], hw: tuple[int, int] = (150, 200), first: int = 0
) -> BoxedImage:
    """Draw boxes on black, each in a color of its own; labels are the colors."""
    image = np.zeros((*hw, 3), np.uint8)
    for number, (x1, y1, x2, y2) in enumerate(boxes, start=first):
        image[int(y1) : int(y2), int(x1) : int(x2)] = COLORS[number]
    labels = np.arange(first, first + len(boxes))
    return BoxedImage(image, np.array(boxes, np.float32).reshape(-1, 4), labels)


def four() -> list[BoxedImage]:
    """Return four images of one or two objects."""
    return [
        sample((20, 30, 32, 45), (90, 40, 190, 140), first=0),
        sample((5, 5, 60, 90), (150, 100, 162, 110), first=2),
        sample((100, 10, 110, 22), (20, 60, 130, 140), hw=(160, 160), first=4),
        sample((10, 10, 70, 190), hw=(200, 100), first=6),
    ]


# Windows and places, by hand


@pytest.mark.parametrize(
    ("boxes", "sides", "wanted_wh"),
    [
        ([[60.0, 50, 70, 60]], (0.5, 0.4), (100, 60)),  # fits: as wanted, of an image of 150 x 200
        ([[0.0, 0, 10, 10], [190, 140, 200, 150]], (0.1, 0.2), (20, 30)),  # at the corners
        ([[20.0, 30, 170, 60]], (0.25, 0.25), (150, 113)),  # 150 wide: three times the 50 x 37.5 wanted
        ([[0.0, 0, 200, 150]], (0.25, 0.5), (200, 150)),  # the whole image
        ([[50.2, 40.5, 60.9, 50.5]], (0.05, 0.1), (11, 17)),  # 50 to 61: 1.1 times the 10 x 15 wanted
        ([], (0.5, 0.5), (100, 75)),
        ([], (1.0, 1.0), (200, 150)),
    ],
)
def test_window_holds_one_box_whole(
    boxes: list[list[float]], sides: tuple[float, float], wanted_wh: tuple[int, int]
) -> None:
    rng, held = np.random.default_rng(0), set()
    array = np.array(boxes).reshape(-1, 4)
    corners = set()
    for _ in range(60):
        left, top, right, bottom = window_around(array, (150, 200), np.array(sides), rng)
        assert 0 <= left < right <= 200
        assert 0 <= top < bottom <= 150
        assert (right - left, bottom - top) == wanted_wh
        inside = (array[:, :2] >= (left, top)).all(1) & (array[:, 2:] <= (right, bottom)).all(1)
        held.update(np.flatnonzero(inside).tolist())
        assert inside.any() or not boxes
        corners.add((left, top))
    assert held == set(range(len(boxes)))  # each in its turn
    free = wanted_wh != (200, 150)
    assert len(corners) > 1 if free else corners == {(0, 0)}


def test_place_scales_moves_clips_and_drops_boxes() -> None:
    image = sample((60, 30, 80, 50), (40, 20, 70, 30), (140, 60, 180, 80), (30, 20, 60, 70))
    canvas = Canvas(np.zeros((100, 120, 3), np.uint8), None)
    boxes, labels = place(canvas, image, Rectangle(50, 20, 150, 70), Rectangle(10, 5, 60, 30))
    # half the size: x = 10 + (x - 50) / 2, y = 5 + (y - 20) / 2
    assert boxes.tolist() == [[15, 10, 25, 20], [10, 5, 20, 10]]
    assert labels.tolist() == [0, 1]  # the center of 2 is 160, 70, that of 3 is 45, 45: both outside
    assert (canvas.image[12:18, 17:23] == COLORS[0]).all()
    outside = np.ones((100, 120), bool)
    outside[5:30, 10:60] = False
    assert (canvas.image[outside] == 0).all()


def test_quarters_are_a_partition_that_meets_in_the_middle_half() -> None:
    rng = np.random.default_rng(0)
    for hw in [(96, 128)] * 20 + [(32, 33)]:
        count, parts = np.zeros(hw, int), quarters(hw, rng)
        for left, top, right, bottom in parts:
            count[top:bottom, left:right] += 1
        assert (count == 1).all()
        _, _, column, row = parts[0]
        assert hw[0] // 4 <= row <= -(-hw[0] * 3 // 4)
        assert hw[1] // 4 <= column <= -(-hw[1] * 3 // 4)


# Whole samples, by their pixels


def visible_box(image: NDArray[Any], color: list[int]) -> NDArray[Any]:
    """Return the box of the pixels that are more of a color than of the black around it."""
    ys, xs = np.nonzero((np.abs(image.astype(int) - color) < 128).all(-1))
    return np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])


@pytest.mark.parametrize("settings", [ALWAYS, ZOOMED, SMALLER, PLAIN], ids=["mosaic", "in", "out", "plain"])
def test_boxes_are_the_bounds_of_their_objects_pixels(settings: dict[str, Any]) -> None:
    transform, found, images = strong((240, 320), **settings, color=False), 0, four()
    for seed in range(24):
        count = 4 if settings is ALWAYS else 1
        first, *others = (images[seed % 4 :] + images)[:count]
        out, boxes, labels, _ = transform(first, seed, *others)
        assert out.shape == (240, 320, 3)
        assert len(boxes) >= count
        for box, label in zip(boxes, labels, strict=True):
            if (box[2:] - box[:2]).min() > 4:
                np.testing.assert_allclose(visible_box(out, COLORS[label]), box, atol=1.5)
                found += 1
    assert found > 24


def test_objects_have_the_zoom_that_is_asked_for() -> None:
    image = sample((100, 70, 110, 80))  # 10 x 10 in 150 x 200: 16 x 16 in the whole image at 240 x 320
    sizes = {}
    for name, settings in {
        "in": {"zoom_in": {"probability": 1, "zoom": (2, 3)}},
        "out": SMALLER | {"zoom_out": {"probability": 1, "zoom": (0.5, 0.75)}},
        "mosaic": {"mosaic": {"zoom": (1.5, 2)}},
    }.items():
        transform = strong((240, 320), **settings, max_aspect=1.2, color=False)
        others = [image] * 3 if name == "mosaic" else []
        boxes = np.concatenate([transform(image, seed, *others)[1] for seed in range(60)])
        sizes[name] = (boxes[:, 2:] - boxes[:, :2]) / 16
    for name, (low, high) in {"in": (2, 3), "out": (0.5, 0.75), "mosaic": (1.5, 2)}.items():
        zoom = np.sqrt(sizes[name].prod(1))
        assert low * 0.94 < zoom.min() < low * 1.15  # rounded to whole pixels of the window
        assert high * 0.85 < zoom.max() < high * 1.06
        aspect = sizes[name][:, 0] / sizes[name][:, 1]
        assert (np.abs(np.log(aspect)) < np.log(1.2 if name != "out" else 1) + 0.1).all()


def test_what_is_smaller_lies_on_the_mean_color() -> None:
    white = BoxedImage(np.full((30, 40, 3), 255, np.uint8), np.zeros((0, 4)), np.zeros(0, np.int64))
    transform = strong(
        (64, 64), **SMALLER | {"zoom_out": {"probability": 1, "zoom": (0.5, 0.5)}}, color=False
    )
    out, boxes, _, _ = transform(white, 0)
    bright, fill = (out == 255).all(-1), (out == ZOOM_FILL).all(-1)
    assert bright.sum() == 32 * 32
    assert (bright ^ fill).all()
    assert boxes.shape == (0, 4)


@pytest.mark.parametrize("settings", [ALWAYS, ZOOMED, SMALLER, {}], ids=["mosaic", "in", "out", "defaults"])
@pytest.mark.parametrize("size", [(90, 120), (1, 1), (1, 300), (333, 2)])
def test_shapes_types_and_bounds(settings: dict[str, Any], size: tuple[int, int]) -> None:
    transform = strong(**settings)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    many = np.sort(rng.random((12, 2, 2)), axis=1) * (size[1], size[0])
    whole = np.array([[0, 0, size[1], size[0]]])
    sets = [
        BoxedImage(image, boxes, np.arange(len(boxes)))
        for boxes in (np.zeros((0, 4)), whole, many.reshape(-1, 4))
    ]
    before = pickle.dumps(sets)
    for seed, first in enumerate(sets * 4):
        others = sets if settings is ALWAYS else []
        out, boxes, labels, label_map = transform(first, seed, *others)
        assert label_map is None
        assert (out.shape, out.dtype, out.flags.c_contiguous) == ((*INPUT_HW, 3), np.uint8, True)
        assert (boxes.dtype, labels.dtype) == (np.float32, np.int64)
        assert boxes.shape == (len(labels), 4)
        assert (boxes >= 0).all()
        assert (boxes <= np.tile(INPUT_HW[::-1], 2)).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        again = pickle.loads(pickle.dumps(transform))(first, seed, *others)
        for one, other in zip((out, boxes, labels), again[:3], strict=True):
            np.testing.assert_array_equal(one, other)
    assert pickle.dumps(sets) == before
    with pytest.raises(ValueError, match=r"without objects has shapes \(0, 4\) and \(0,\)"):
        transform(BoxedImage(image, np.zeros(0), np.zeros(0, np.int64)), 0)


# Which images are mixed, and when


def test_last_epochs_have_no_partners() -> None:
    partners = Partners(count=3, probability=1.0, off_epochs=2)
    drawn = {
        (epoch, epochs): partners.draw(epoch, epochs, images=9, seed=5)
        for epochs in (None, 2, 6)
        for epoch in range(6)
    }
    assert [bool(drawn[epoch, 6]) for epoch in range(6)] == [True] * 4 + [False] * 2
    assert [bool(drawn[epoch, 2]) for epoch in range(2)] == [True, False]  # at most half of a run
    assert all(len(drawn[epoch, None]) == 3 for epoch in range(6))  # no run
    half = Partners(count=3, probability=0.5, off_epochs=0)
    draws = [half.draw(0, 6, images=4, seed=seed) for seed in range(400)]
    assert 160 < sum(map(bool, draws)) < 240
    assert {index for draw in draws for index in draw} == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("overrides", "epochs"),
    [
        (["trainer.max_epochs=7"], 7),  # 8 images in batches of 4: two steps
        (["trainer.max_epochs=null", "trainer.max_steps=5"], 3),
        (["trainer.max_epochs=null", "trainer.max_steps=5", "trainer.accumulate=2"], 5),
        (["trainer.max_epochs=null", "trainer.max_steps=5", "trainer.devices=2"], 5),
        (["trainer.max_epochs=null", "trainer.max_steps=5", "trainer.extra.limit_train_batches=1"], 5),
    ],
)
def test_the_data_set_knows_the_length_of_the_run(
    tiny: Any, tmp_path: Any, overrides: list[str], epochs: int
) -> None:
    assert prepare("tiny", tiny.load(tmp_path, *overrides).recipe).train.epochs == epochs


def dataset(tiny: Any, tmp_path: Any, augment: str, **changes: str) -> CocoDetection:
    changed = [f"{key}={value}" for key, value in changes.items()]
    recipe = tiny.load(tmp_path, f"data.augment={augment}", *changed).recipe
    return build_dataset(recipe, load_annotations(recipe.data, "train"), split="train")


def equal(one: Any, other: Any) -> bool:
    return all(torch.equal(one[key], other[key]) for key in ("image", "boxes_xyxy", "box_labels"))


def test_without_mosaics_nothing_else_changes(tiny: Any, tmp_path: Any) -> None:
    never = dataset(tiny, tmp_path, "{type: strong, mosaic: {probability: 0}}")
    always = dataset(tiny, tmp_path, "{type: strong, mosaic: {probability: 1, off_epochs: 3}}")
    always.epochs = 5
    for key in (SampleKey(index, epoch) for index in range(8) for epoch in range(5)):
        assert equal(never[key], always[key]) == (key.epoch >= 3)


def test_samples_depend_on_seed_epoch_and_index_alone(tiny: Any, tmp_path: Any) -> None:
    data = dataset(tiny, tmp_path, "{type: strong, mosaic: {off_epochs: 1}}")
    data.epochs = 3
    for epoch in (1, 2):
        batches = []
        for workers in (0, 2):
            sampler = EpochSampler(size=8, seed=0, rank=0, world_size=1, batch_size=4)
            sampler.set_epoch(epoch)
            loader = DataLoader(
                data, 4, sampler=sampler, num_workers=workers, collate_fn=collate, worker_init_fn=worker_init
            )
            batches.append(list(loader))
        for one, other in zip(*batches, strict=True):
            assert all(
                torch.equal(one[key], other[key])
                for key in ("images", "boxes_xyxy", "box_labels", "image_ids")
            )
    assert not equal(data[SampleKey(0, 0)], data[SampleKey(0, 1)])


def test_unreadable_partners_stop_the_run_or_leave_the_image_alone(tiny: Any, tmp_path: Any) -> None:
    root = tiny.write(tmp_path / "data")
    for number in range(2, 9):
        (root / "train" / f"{number}.png").write_bytes(b"damaged")
    settings = {"data.root": str(root), "data.max_bad_images": "1"}
    mosaics = "{type: strong, mosaic: {probability: 1}}"
    with pytest.raises(BadImageError, match=r"[2-8]\.png: image id \d0: .*data.on_bad_image=skip"):
        dataset(tiny, tmp_path, mosaics, **settings)[0]
    skipping = settings | {"data.on_bad_image": "skip"}
    alone = dataset(tiny, tmp_path, "{type: strong, mosaic: {probability: 0}}", **skipping)
    mixed = dataset(tiny, tmp_path, mosaics, **skipping)
    for epoch in range(8):
        assert equal(mixed[SampleKey(0, epoch)], alone[SampleKey(0, epoch)])  # all four are 1.png hardly ever
    assert isinstance(mixed[SampleKey(1, 0)], SkippedImage)


def test_name_and_section_are_one(tiny: Any, tmp_path: Any) -> None:
    resolved = tiny.load(tmp_path, "data.augment=strong")
    assert resolved.recipe.data.augment == StrongAugment(type="strong")
    assert "off_epochs: 10" in resolved.to_yaml()
    assert resolved.provenance["data.augment.type"] == "override 3 'data.augment=strong'"
    assert resolved.provenance["data.augment.mosaic.off_epochs"] == "default"
    kept = tmp_path / "kept.yaml"
    kept.write_text(resolved.to_yaml())
    assert load_recipe(str(kept)).recipe == resolved.recipe
    assert tiny.load(tmp_path, "data.augment=strong", "data.augment=ssd").recipe.data.augment == "ssd"


def test_real_photographs_keep_their_small_objects(shared_data: Any) -> None:
    """Compare with resizing alone: on average objects become larger, and an image has more of them."""
    overrides = [f"data.root={shared_data / 'facemask848'}", "data.augment=strong"]
    recipe = load_recipe("ssdlite_mnv3_large", overrides).recipe
    annotations = load_annotations(recipe.data, "train")
    both = build_dataset(recipe, annotations, split="train"), build_dataset(recipe, annotations, split="val")
    sizes = [[], []]
    for index in range(0, 677, 10):
        for data, found in zip(both, sizes, strict=True):
            boxes = data[index]["boxes_xyxy"].numpy()
            found.append(np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1)))
    ours, plain = (np.concatenate(each) for each in sizes)
    assert len(ours) > 1.1 * len(plain)
    assert np.median(ours) > 1.1 * np.median(plain)
    assert (ours < 15).sum() > 0.7 * (plain < 15).sum()
