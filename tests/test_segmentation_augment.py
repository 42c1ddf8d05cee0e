"""datasets/segmentation_augment.py: scale, crop, flip and color of images and label maps together."""

from __future__ import annotations

import pickle
import random
import subprocess
import sys
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dettoolkit.datasets import segmentation_augment
from dettoolkit.datasets.images import resize_image
from dettoolkit.datasets.segmentation_augment import (
    CenterCrop,
    EvalTransform,
    SegmentationTransform,
    Span,
    largest_fraction,
    pad,
    scaled_image,
    scaled_labels,
    window_at,
)

CROP_HW = (96, 128)
MEAN = (0.5, 0.25, 0.75)
MEAN_RGB = (128, 64, 191)


def noise(height: int, width: int, seed: int = 0) -> NDArray[Any]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def blocks(height: int, width: int, *, seed: int = 0, classes: int = 5, side: int = 12) -> NDArray[Any]:
    """Labels in blocks of some 12 pixels, a few of them void."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, classes + 1, (-(-height // side), -(-width // side)), np.uint8)
    coarse[coarse == classes] = 255
    return np.kron(coarse, np.ones((side, side), np.uint8))[:height, :width]


def transform(**changes: Any) -> SegmentationTransform:
    settings = {
        "crop_hw": CROP_HW, "base_hw": None, "scale": (0.5, 2.0), "scale_step": 0.25, "flip": True,
        "max_class_fraction": 0.75, "color": False, "rare_crops": 0.0, "class_weights": np.ones(19),
        "mean_fill": MEAN,
    }  # fmt: skip
    return SegmentationTransform(**settings | changes)


def draws(made: SegmentationTransform, labels: NDArray[Any], count: int) -> list[dict[str, Any]]:
    """Apply a transform with `count` seeds and return what its ScaleCrop drew."""
    image = np.zeros((*labels.shape, 3), np.uint8)
    crop = made._compose.transforms[0]
    drawn = []
    for seed in range(count):
        made(image, labels, seed)
        drawn.append(crop.params)
    return drawn


# Scaling


@pytest.mark.parametrize("seed", range(30))
def test_window_of_the_scaled_equals_the_scaled_whole(seed: int) -> None:
    rng = np.random.default_rng(seed)
    hw = tuple((rng.integers(1, 60, 2) * (4 if seed % 2 else 1)).tolist())
    factor = rng.choice([0.5, 0.75, 1.25, 1.5, 1.75, 2.0, rng.uniform(0.2, 3)])
    scaled_hw = tuple(max(round(side * factor), 1) for side in hw)
    starts = [int(rng.integers(side)) for side in scaled_hw]
    window = window_at(starts, tuple(int(rng.integers(1, 200)) for _ in range(2)), scaled_hw)
    inside = slice(*window[0]), slice(*window[1])
    image, labels = noise(*hw, seed), blocks(*hw, seed=seed, side=3)
    np.testing.assert_array_equal(
        scaled_image(image, scaled_hw, window), resize_image(image, scaled_hw)[inside]
    )
    whole = window_at((0, 0), scaled_hw, scaled_hw)
    np.testing.assert_array_equal(
        scaled_labels(labels, scaled_hw, window), scaled_labels(labels, scaled_hw, whole)[inside]
    )


@pytest.mark.parametrize(
    ("hw", "scaled_hw"),
    [((48, 64), (24, 32)), ((48, 64), (84, 112)), ((7, 5), (14, 9)), ((30, 20), (1, 1)), ((1, 1), (5, 4))],
)
def test_labels_scale_as_torch_does_with_exact_centers(hw: Any, scaled_hw: Any) -> None:
    labels = blocks(*hw, side=2)
    ours = scaled_labels(labels, scaled_hw, window_at((0, 0), scaled_hw, scaled_hw))
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(labels)[None, None], size=scaled_hw, mode="nearest-exact"
    )
    np.testing.assert_array_equal(ours, theirs[0, 0].numpy())


@pytest.mark.parametrize("factor", [0.5, 0.75, 1.25, 1.5, 1.9, 2.0])
@pytest.mark.parametrize("axis", [0, 1])
def test_labels_stay_on_their_picture_to_half_a_pixel(factor: float, axis: int) -> None:
    labels = np.random.default_rng(0).integers(0, 2, (240, 240), np.uint8)
    labels[:] = labels[:1] if axis else labels[:, :1]  # stripes
    side = round(240 * factor)
    scaled = resize_image(np.repeat(labels[..., None] * 200, 3, axis=2), (side, side))[..., 0] / 200
    ours = scaled_labels(labels, (side, side), window_at((0, 0), (side, side), (side, side)))
    assert np.abs(ours - scaled).max() <= 0.5  # the nearest pixel has at least half of the weight
    if factor * 2 % 1:  # what this test would find
        cornered = cv2.resize(labels, (side, side), interpolation=cv2.INTER_NEAREST)
        assert np.abs(cornered - scaled).max() > 0.6


# The whole transform


@pytest.mark.parametrize("scale_step", [0.25, 0.0])
@pytest.mark.parametrize("seed", range(12))
def test_a_picture_in_the_colors_of_its_labels_stays_one(scale_step: float, seed: int) -> None:
    labels = blocks(120, 180, seed=seed)
    palette = np.zeros((256, 3), np.uint8)
    palette[:5] = [[250, 0, 0], [0, 250, 0], [0, 0, 250], [250, 250, 0], [0, 250, 250]]
    palette[255] = MEAN_RGB  # what is beyond the picture is void too
    out, out_labels = transform(scale_step=scale_step)(palette[labels], labels, seed)
    window = np.ones((5, 5), np.uint8)
    same = cv2.dilate(out_labels, window) == cv2.erode(out_labels, window)  # no other label near
    same[:2] = same[-2:] = same[:, :2] = same[:, -2:] = False  # nor beyond the crop
    assert same.mean() > 0.2
    np.testing.assert_array_equal(out[same], palette[out_labels][same])


def test_scales_are_the_steps_equally_often() -> None:
    drawn = draws(transform(max_class_fraction=1.0), blocks(100, 200), 700)
    counts = dict.fromkeys((0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0), 0)
    for each in drawn:
        height, width = each["scaled_hw"]
        assert width == 2 * height
        counts[height / 100] += 1
    assert min(counts.values()) > 70
    single = draws(transform(scale=(1.0, 1.0)), blocks(100, 200), 3)
    assert {each["scaled_hw"] for each in single} == {(100, 200)}
    tenths = draws(transform(scale=(0.7, 1.0), scale_step=0.1), blocks(100, 200), 60)
    assert {each["scaled_hw"][0] for each in tenths} == {70, 80, 90, 100}


def test_scales_without_steps_are_uniform() -> None:
    drawn = draws(transform(scale_step=0.0, max_class_fraction=1.0), blocks(400, 300), 600)
    factors = np.array([each["scaled_hw"][0] for each in drawn]) / 400
    assert 0.5 <= factors.min() < 0.52
    assert 1.98 < factors.max() <= 2.0
    assert factors.mean() == pytest.approx(1.25, abs=0.06)


def test_crops_lie_anywhere() -> None:
    made = transform(scale=(1.0, 1.0), max_class_fraction=1.0)
    drawn = draws(made, blocks(100, 130), 300)  # 5 rows and 3 columns of places
    places = {(each["window"][0].start, each["window"][1].start) for each in drawn}
    assert places == {(row, column) for row in range(5) for column in range(3)}


def test_one_class_gets_at_most_its_share_where_that_can_be() -> None:
    labels = np.zeros((300, 400), np.uint8)
    labels[:, 260:] = 1
    labels[:, 390:] = 255
    limited, free = (
        draws(transform(scale=(1.0, 1.0), max_class_fraction=m), labels, 200) for m in (0.75, 1.0)
    )
    over = [sum(largest_fraction(each["labels"]) > 0.75 for each in drawn) for drawn in (limited, free)]
    # 65 of the 273 places along a row have at most 0.75 of one class: 0.76 of 200 crops, 0.76 ** 10 of them
    assert over[0] < 35
    assert over[1] > 130


def test_an_unattainable_share_ends_after_ten_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(segmentation_augment, "largest_fraction", lambda labels: asked.append(labels) or 1.0)
    made = transform(scale=(1.0, 1.0))
    drawn = draws(made, blocks(300, 400), 1)[0]
    assert len(asked) == 10
    np.testing.assert_array_equal(drawn["labels"], asked[-1])  # the last is taken
    draws(made, blocks(*CROP_HW), 1)
    assert len(asked) == 11  # there is only one place for it


def test_share_is_of_the_pixels_that_are_not_void() -> None:
    assert largest_fraction(np.array([[1, 1, 2, 255], [255, 255, 1, 0]], np.uint8)) == pytest.approx(3 / 5)
    assert largest_fraction(np.full((2, 2), 3, np.uint8)) == 1
    assert largest_fraction(np.full((2, 2), 255, np.uint8)) == 1


@pytest.mark.parametrize("hw", [(40, 50), (200, 50), (40, 300), (1, 1)])
def test_beyond_a_small_picture_is_the_mean_color_and_void(hw: tuple[int, int]) -> None:
    labels = np.zeros(hw, np.uint8)
    out, out_labels = transform(scale=(1.0, 1.0), flip=False)(np.zeros((*hw, 3), np.uint8), labels, 0)
    inside = np.zeros(CROP_HW, bool)
    inside[: hw[0], : hw[1]] = True
    np.testing.assert_array_equal(out_labels, np.where(inside, 0, 255))
    np.testing.assert_array_equal(out, np.where(inside[..., None], 0, MEAN_RGB))


def test_flips_half_of_the_samples_whatever_the_crop() -> None:
    labels = np.tile(np.arange(200, dtype=np.uint8), (120, 1))
    image = np.repeat(labels[..., None], 3, axis=2)
    made = transform(scale=(1.0, 1.0), max_class_fraction=1.0)
    flipped, starts = [], []
    for seed in range(400):
        out, out_labels = made(image, labels, seed)
        np.testing.assert_array_equal(out[..., 0], out_labels)
        flipped.append(out_labels[0, 0] > out_labels[0, 1])
        starts.append(min(out_labels[0, 0], out_labels[0, -1]))
    assert np.mean(flipped) == pytest.approx(0.5, abs=0.08)
    assert abs(np.corrcoef(flipped, starts)[0, 1]) < 0.15
    unflipped = transform(scale=(1.0, 1.0), max_class_fraction=1.0, flip=False)
    assert all((np.diff(unflipped(image, labels, seed)[1][0]) == 1).all() for seed in range(40))


def test_color_changes_the_picture_only() -> None:
    image, labels = noise(150, 200), blocks(150, 200)
    changed = 0
    for seed in range(12):
        plain, colored = transform()(image, labels, seed), transform(color=True)(image, labels, seed)
        np.testing.assert_array_equal(plain[1], colored[1])
        changed += bool((plain[0] != colored[0]).any())
    assert changed > 6


@pytest.mark.parametrize("color", [False, True])
def test_seed_decides_everything_and_inputs_are_left_alone(color: bool) -> None:
    image, labels = noise(150, 200), blocks(150, 200)
    before = image.copy(), labels.copy()
    made = transform(color=color)
    outputs = [made(image, labels, seed) for seed in range(8)]
    random.seed(99)
    np.random.seed(99)  # noqa: NPY002  global state must not matter
    again = [made(image, labels, seed) for seed in reversed(range(8))][::-1]
    for first, second in zip(outputs, again, strict=True):
        for a, b in zip(first, second, strict=True):
            np.testing.assert_array_equal(a, b)
    assert len({out[0].tobytes() for out in outputs}) > 6
    for old, new in zip(before, (image, labels), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("size", [(150, 200), (1, 1), (1, 300), (333, 2)])
@pytest.mark.parametrize("void", [False, True])
def test_shapes_and_types(size: tuple[int, int], void: bool) -> None:
    image = noise(*size)
    labels = np.full(size, 255, np.uint8) if void else blocks(*size)
    for made in (
        transform(color=True),
        transform(scale_step=0.0),
        CenterCrop(crop_hw=CROP_HW, mean_fill=MEAN),
    ):
        for seed in range(5):
            out, out_labels = made(image, labels, seed)
            assert (out.shape, out_labels.shape) == ((*CROP_HW, 3), CROP_HW)
            assert out.dtype == out_labels.dtype == np.uint8
            assert set(np.unique(out_labels)) <= {*np.unique(labels), 255}


def test_views_are_taken_as_their_copies() -> None:
    image, labels = noise(300, 400)[::2, ::-2, ::-1], blocks(300, 400)[::2, ::-2]
    for made in (transform(color=True), CenterCrop(crop_hw=CROP_HW, mean_fill=MEAN)):
        ours = made(image, labels, 3)
        copied = made(image.copy(), labels.copy(), 3)
        for a, b in zip(ours, copied, strict=True):
            np.testing.assert_array_equal(a, b)


def test_pickle_round_trip_into_a_fresh_process() -> None:
    image, labels = noise(150, 200), blocks(150, 200)
    made = transform(color=True)
    script = (
        "import pickle, sys; t, *sample = pickle.load(sys.stdin.buffer); "
        "sys.stdout.buffer.write(pickle.dumps(t(*sample)))"
    )
    child = subprocess.run(  # what a spawned worker does: import, unpickle, apply
        [sys.executable, "-P", "-c", script],
        input=pickle.dumps((made, image, labels, 11)),
        capture_output=True,
        check=True,
    )
    for theirs, ours in zip(pickle.loads(child.stdout), made(image, labels, 11), strict=True):
        np.testing.assert_array_equal(theirs, ours)


# Without augmentation


def test_center_crop_by_hand() -> None:
    labels = np.arange(30, dtype=np.uint8).reshape(5, 6)
    image = np.repeat(labels[..., None], 3, axis=2)
    out, out_labels = CenterCrop(crop_hw=(2, 3), mean_fill=MEAN)(image, labels, 7)
    assert out_labels.tolist() == [[7, 8, 9], [13, 14, 15]]
    np.testing.assert_array_equal(out[..., 1], out_labels)
    out, out_labels = CenterCrop(crop_hw=(2, 8), mean_fill=MEAN)(image, labels, 7)
    assert out_labels.tolist() == [[*range(6, 12), 255, 255], [*range(12, 18), 255, 255]]
    assert out[0, 7].tolist() == [*MEAN_RGB]


def test_evaluation_resizes_the_image_and_leaves_the_labels() -> None:
    image, labels = noise(40, 60), blocks(40, 60)
    out, out_labels = EvalTransform(eval_hw=(20, 50))(image, labels, 0)
    np.testing.assert_array_equal(out, resize_image(image, (20, 50)))
    assert out_labels is labels
    assert EvalTransform(eval_hw=None)(image, labels, 0)[0] is image
    assert EvalTransform(eval_hw=(40, 60))(image, labels, 0)[0] is image


def test_evaluation_resizes_to_the_nearest_multiples() -> None:
    image, labels = noise(40, 60), blocks(40, 60)
    transform = EvalTransform(eval_hw=None, eval_multiple=16)
    out, out_labels = transform(image, labels, 0)
    np.testing.assert_array_equal(out, resize_image(image, (48, 64)))  # 2.5 and 3.75 cells
    assert out_labels is labels
    whole = noise(48, 64)
    assert transform(whole, blocks(48, 64), 0)[0] is whole
    assert transform(noise(3, 5), blocks(3, 5), 0)[0].shape == (16, 16, 3)  # one cell at least
    fixed = EvalTransform(eval_hw=(20, 50), eval_multiple=16)
    assert fixed(image, labels, 0)[0].shape == (20, 50, 3)  # a size that is set is exact


def test_padding_and_windows() -> None:
    assert pad(np.zeros((2, 3), np.uint8), (3, 3), 9).tolist() == [[0] * 3, [0] * 3, [9] * 3]
    assert pad(np.zeros((2, 3), np.uint8), (1, 1), 9).shape == (2, 3)
    assert window_at((1, 0), (5, 2), (4, 9)) == (Span(1, 4), Span(0, 2))


# Errors


def test_wrong_input_is_refused() -> None:
    made = transform()
    with pytest.raises(ValueError, match=r"image must be uint8 \(H, W, 3\), got uint8 \(5, 6\)"):
        made(noise(5, 6)[..., 0], blocks(5, 6), 0)
    with pytest.raises(ValueError, match=r"labels must be uint8 \(5, 6\) as the image, got uint8 \(6, 6\)"):
        made(noise(5, 6), blocks(6, 6), 0)
    with pytest.raises(ValueError, match="got int64"):
        CenterCrop(crop_hw=CROP_HW, mean_fill=MEAN)(noise(5, 6), blocks(5, 6).astype(np.int64), 0)
