"""Label maps that move with their image and its boxes, in every augmentation of detection samples.

An image whose pixels are their own coordinates says where each pixel of the output came from, to a fraction
of a pixel. A label map of the same coordinates has to say the same.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from dettoolkit.config.detection import StrongAugment
from dettoolkit.datasets import augment
from dettoolkit.datasets.augment import DetectionTransform
from dettoolkit.datasets.cityscapes_labels import VOID
from dettoolkit.datasets.coco import BoxedImage
from dettoolkit.datasets.images import resize_image, resize_labels
from dettoolkit.detection.run import augmentation

HW, INPUT_HW = (150, 200), (96, 160)
SEEDS = range(24)
ZOOMS: dict[str, Any] = {
    "mosaic": {},
    "zoom in": {"zoom_in": {"probability": 1}},
    "zoom out": {"zoom_in": {"probability": 0}, "zoom_out": {"probability": 1}},
    "whole": {"zoom_in": {"probability": 0}, "zoom_out": {"probability": 0}},
}
KINDS = ["none", "ssdlite", "ssd", *ZOOMS]
BOXES = np.array([[10, 20, 70, 90], [90, 100, 120, 130], [130, 10, 190, 80]], np.float32)


def transform_of(kind: str, *, color: bool = True, input_hw: tuple[int, int] = INPUT_HW) -> Any:
    if kind not in ZOOMS:
        return DetectionTransform(augment=kind, input_hw=input_hw)  # type: ignore[arg-type]
    settings = {"type": "strong", "color": color} | ZOOMS[kind]
    return augmentation(StrongAugment.model_validate(settings), input_hw)[0]


def made(kind: str, transform: Any, seed: int, *samples: BoxedImage) -> BoxedImage:
    """Transform the first sample, or all four in a mosaic."""
    first, *others = samples
    result: BoxedImage = transform(first, seed, *(others if kind == "mosaic" else []))
    return result


def coordinates(number: int, side: int, hw: tuple[int, int] = HW) -> BoxedImage:
    """Return an image of (column, row, 60 * number), with columns (side 1) or rows (0) for a label map."""
    rows, columns = np.indices(hw)
    image = np.stack([columns, rows, np.full(hw, 60 * number)], axis=2).astype(np.uint8)
    boxes = BOXES * np.tile([hw[1] / HW[1], hw[0] / HW[0]], 2)
    return BoxedImage(image, boxes, np.arange(3), (rows, columns)[side].astype(np.uint8))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", [0, 1], ids=["rows", "columns"])
@pytest.mark.parametrize("input_hw", [INPUT_HW, (301, 411)], ids=["smaller", "larger"])
def test_every_label_is_that_of_the_pixel_nearest_to_where_the_image_was_sampled(
    kind: str, side: int, input_hw: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(augment, "photometric_distortion", list)  # colors are coordinates here
    transform = transform_of(kind, color=False, input_hw=input_hw)
    sizes = (HW, (160, 160), HW, (100, 240))
    samples = [coordinates(number, side, hw) for number, hw in enumerate(sizes)]
    compared = 0.0
    for seed in SEEDS:
        out = made(kind, transform, seed, *samples)
        assert out.label_map is not None
        assert (out.label_map.shape, out.label_map.dtype) == (input_hw, np.uint8)
        inside = away_from(out.label_map == VOID)
        sampled = out.image[..., 0 if side else 1].astype(float)
        same_image = away_from(np.abs(out.image[..., 2].astype(int) % 60) > 0)  # seams of a mosaic
        checked = inside & same_image
        assert np.abs(sampled - out.label_map)[checked].max(initial=0) <= 1.0  # half a pixel, and rounding
        compared += checked.mean() / len(SEEDS)
    assert compared > 0.4  # the rest is beyond the image, or at an edge


def away_from(edge: NDArray[Any]) -> NDArray[np.bool_]:
    """Return the pixels that are not within 8 of some others, which interpolation mixes with them."""
    return cv2.dilate(edge.astype(np.uint8), np.ones((17, 17), np.uint8)) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_label_maps_are_void_where_there_is_no_image(kind: str) -> None:
    white = np.full((*HW, 3), 255, np.uint8)
    plain = BoxedImage(white, BOXES, np.arange(3), np.full(HW, 7, np.uint8))
    transform, void = transform_of(kind, color=False), 0.0
    for seed in SEEDS:
        out = made(kind, transform, seed, *[plain] * 4)
        assert out.label_map is not None
        assert set(np.unique(out.label_map)) <= {7, VOID}
        beyond = (np.abs(out.image.astype(int) - augment.ZOOM_FILL) <= 1).all(-1)
        edge = away_from(beyond) | away_from(~beyond)
        assert ((out.label_map == VOID) == beyond)[edge].all()
        void += (out.label_map == VOID).mean() / len(SEEDS)
    assert (void > 0.05) == (kind in ("ssd", "zoom out"))


@pytest.mark.parametrize("kind", KINDS)
def test_boxes_stay_around_their_objects_in_the_label_map(kind: str) -> None:
    samples = []
    for first in (0, 3, 6, 9):
        label_map = np.full(HW, 100, np.uint8)
        for label, box in enumerate(BOXES.astype(int), start=first):
            label_map[box[1] : box[3], box[0] : box[2]] = label
        image = np.random.default_rng(first).integers(0, 256, (*HW, 3), dtype=np.uint8)
        samples.append(BoxedImage(image, BOXES, np.arange(first, first + 3), label_map))
    transform, found = transform_of(kind), 0
    for seed in SEEDS:
        out = made(kind, transform, seed, *samples)
        for box, label in zip(out.boxes_xyxy, out.labels, strict=True):
            rows, columns = np.nonzero(out.label_map == label)
            if (box[2:] - box[:2]).min() > 4:
                drawn = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                np.testing.assert_allclose(drawn, box, atol=1.0)
                found += 1
    assert found > 24


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_else_depends_on_the_label_map(kind: str) -> None:
    samples = [coordinates(number, 0) for number in range(4)]
    bare = [each._replace(label_map=None) for each in samples]
    before = [each.label_map.copy() for each in samples]
    transform = transform_of(kind)
    for seed in SEEDS:
        with_map, without = made(kind, transform, seed, *samples), made(kind, transform, seed, *bare)
        assert without.label_map is None
        for one, other in zip(with_map[:3], without[:3], strict=True):
            np.testing.assert_array_equal(one, other)
    for each, kept in zip(samples, before, strict=True):
        np.testing.assert_array_equal(each.label_map, kept)


def test_images_without_a_label_map_are_void_in_a_mosaic() -> None:
    first, *others = (coordinates(number, 0) for number in range(4))
    bare = [each._replace(label_map=None) for each in others]
    transform = transform_of("mosaic", color=False)
    out, whole = transform(first, 3, *bare), transform(first, 3, *others)
    assert 0.05 < (out.label_map != VOID).mean() < 0.6
    mine = out.label_map != VOID
    np.testing.assert_array_equal(out.label_map[mine], whole.label_map[mine])
    assert (out.image[mine][:, 2] == 0).all()  # the first image's number
    assert (out.image[~mine][:, 2] > 0).all()


@pytest.mark.parametrize("kind", ["none", "whole"])
def test_label_map_must_fit_its_image(kind: str) -> None:
    sample = coordinates(0, 0)
    for wrong in (np.zeros((150, 199), np.uint8), np.zeros(HW, np.int64), np.zeros((*HW, 1), np.uint8)):
        with pytest.raises(ValueError, match=r"label_map must be uint8 \(150, 200\) as the image, got"):
            transform_of(kind)(sample._replace(label_map=wrong), 0)


@pytest.mark.parametrize("hw", [(150, 200), (96, 160), (75, 100), (301, 457), (1, 1)])
def test_resize_takes_the_pixel_nearest_to_where_images_are_sampled(hw: tuple[int, int]) -> None:
    sample = coordinates(0, 1)
    assert sample.label_map is not None
    columns, image = resize_labels(sample.label_map, hw), resize_image(sample.image, hw)
    assert columns.shape == hw
    assert np.abs(columns.astype(float) - image[..., 0]).max() <= 1.0
    if hw == HW:
        np.testing.assert_array_equal(columns, sample.label_map)
