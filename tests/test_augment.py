from __future__ import annotations

import pickle
import random
import subprocess
import sys
from typing import Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchvision import tv_tensors
from torchvision.ops import box_iou
from torchvision.transforms import v2

from dettoolkit.datasets import augment
from dettoolkit.datasets.augment import DetectionTransform, sample_crop
from dettoolkit.datasets.coco import BoxedImage
from dettoolkit.datasets.images import resize_image

Preset = Literal["none", "ssdlite", "ssd"]
PRESETS: list[Preset] = ["none", "ssdlite", "ssd"]
INPUT_HW = (96, 128)


def noise(height: int, width: int, seed: int = 0) -> NDArray[Any]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def random_boxes(count: int, hw: tuple[int, int], seed: int = 0) -> NDArray[Any]:
    corners = np.sort(np.random.default_rng(seed).random((count, 2, 2)), axis=1) * (hw[1], hw[0])
    return corners.reshape(count, 4).astype(np.float32)


def crops_of(boxes: NDArray[Any], hw: tuple[int, int], draws: int) -> list[NDArray[np.int64] | None]:
    rng = np.random.default_rng(0)
    return [sample_crop(boxes, hw, rng) for _ in range(draws)]


# The IoU crop, against torchvision


@pytest.mark.parametrize("least", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_crop_reaches_the_overlap_with_a_box_whose_center_it_holds(
    least: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(augment, "MIN_OVERLAPS", (least, 1.0))
    boxes = np.array([[20, 30, 180, 160], [100, 20, 290, 230], [5, 5, 50, 60]], np.float64)
    crops = [crop for crop in crops_of(boxes, (240, 300), 300) if crop is not None]
    assert len(crops) > 5
    for left, top, right, bottom in crops:
        assert 0 <= left < right <= 300
        assert 0 <= top < bottom <= 240
        assert 0.5 <= (right - left) / (bottom - top) <= 2
        assert right - left >= int(0.3 * 300)
        assert bottom - top >= int(0.3 * 240)
        iou = box_iou(torch.tensor(boxes), torch.tensor([[left, top, right, bottom]]).double())[:, 0]
        cx, cy = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
        inside = (left < cx) & (cx < right) & (top < cy) & (cy < bottom)
        assert iou[inside].max() >= least - 1e-9


@pytest.mark.parametrize(
    ("hw", "boxes", "draws"),
    [
        ((240, 320), [[20.0, 30, 180, 160], [200, 120, 300, 230]], 2000),
        ((480, 300), [[5.0, 5, 60, 60], [100, 200, 290, 460], [150, 20, 200, 90]], 1000),
        ((200, 200), [[40.0, 30, 160, 170]], 1000),
    ],
)
def test_crop_statistics_equal_torchvisions(
    hw: tuple[int, int], boxes: list[list[float]], draws: int
) -> None:
    ours = crops_of(np.array(boxes), hw, draws)
    torch.manual_seed(0)
    peer = v2.RandomIoUCrop()
    tv_boxes = tv_tensors.BoundingBoxes(torch.tensor(boxes), format="XYXY", canvas_size=hw)
    blank = tv_tensors.Image(torch.zeros(3, *hw))
    theirs = [peer.make_params([blank, tv_boxes]) for _ in range(draws)]

    whole = (np.mean([crop is None for crop in ours]), np.mean([not params for params in theirs]))
    assert whole[0] == pytest.approx(whole[1], abs=0.05)
    cut = np.array([crop for crop in ours if crop is not None], float)
    tv_cut = np.array(
        [(p["left"], p["top"], p["left"] + p["width"], p["top"] + p["height"]) for p in theirs if p], float
    )
    scale = np.array([hw[1], hw[0], hw[1], hw[0]])
    np.testing.assert_allclose((cut / scale).mean(0), (tv_cut / scale).mean(0), atol=0.025)
    np.testing.assert_allclose((cut / scale).std(0), (tv_cut / scale).std(0), atol=0.025)
    area, tv_area = ((c[:, 2] - c[:, 0]) * (c[:, 3] - c[:, 1]) for c in (cut, tv_cut))
    assert area.mean() == pytest.approx(tv_area.mean(), rel=0.05)


def test_crop_keeps_and_clips_the_boxes_that_torchvision_keeps() -> None:
    hw, image, boxes = (240, 320), noise(240, 320), random_boxes(12, (240, 320))
    crop = np.array([60, 40, 260, 170])
    transform = augment.SSDIoUCrop(p=1)
    rows = np.column_stack([boxes / (320, 240, 320, 240), np.arange(12)])
    ours = transform.apply_to_bboxes(rows, crop, image.shape)

    inside = augment.centers_inside(boxes, crop[None])[0]
    params = {"top": 40, "left": 60, "height": 130, "width": 200, "is_within_crop_area": torch.tensor(inside)}
    tv_boxes = tv_tensors.BoundingBoxes(torch.tensor(boxes), format="XYXY", canvas_size=hw)
    theirs = v2.RandomIoUCrop().transform(tv_boxes, params).numpy()[inside]
    np.testing.assert_allclose(ours[:, :4] * (200, 130, 200, 130), theirs, atol=1e-4)
    assert ours[:, 4].tolist() == np.flatnonzero(inside).tolist()
    assert 0 < len(ours) < 12
    assert np.array_equal(transform.apply(image, crop), image[40:170, 60:260])


def test_crop_leaves_images_without_boxes_whole() -> None:
    assert crops_of(np.zeros((0, 4)), (50, 60), 20) == [None] * 20


# The whole transform


@pytest.mark.parametrize("augment_name", ["none", "ssdlite"])
@pytest.mark.parametrize("seed", range(20))
def test_pixels_stay_with_their_boxes(augment_name: Preset, seed: int) -> None:
    image = np.zeros((240, 320, 3), np.uint8)
    colors = np.array([[250, 0, 0], [0, 250, 0], [0, 0, 250], [250, 250, 0]], np.uint8)
    boxes = np.array(
        [[10, 20, 90, 100], [200, 15, 310, 90], [20, 130, 150, 235], [180, 120, 300, 200]], np.float32
    )
    for (x1, y1, x2, y2), color in zip(boxes.astype(int), colors, strict=True):
        image[y1:y2, x1:x2] = color
    transform = DetectionTransform(augment=augment_name, input_hw=(150, 200))
    out, out_boxes, labels, _ = transform(BoxedImage(image, boxes, np.arange(4)), seed)
    assert len(out_boxes)
    for (x1, y1, x2, y2), label in zip(out_boxes, labels, strict=True):
        # the blend of the bilinear resize reaches at most one output pixel beyond an edge
        inner = out[int(np.ceil(y1)) + 1 : int(y2) - 1, int(np.ceil(x1)) + 1 : int(x2) - 1]
        assert (inner == colors[label]).all()
        same = (np.abs(out.astype(int) - colors[label]) < 60).all(-1)
        ys, xs = np.nonzero(same)
        assert xs.min() == pytest.approx(x1, abs=1.5)
        assert xs.max() + 1 == pytest.approx(x2, abs=1.5)
        assert ys.min() == pytest.approx(y1, abs=1.5)
        assert ys.max() + 1 == pytest.approx(y2, abs=1.5)


def test_ssd_keeps_pixels_with_their_boxes_and_fills_with_the_mean() -> None:
    image = np.full((60, 80, 3), (250, 0, 0), np.uint8)
    image[20:50, 30:70] = (0, 0, 250)
    box = np.array([[30, 20, 70, 50]], np.float32)
    transform = DetectionTransform(augment="ssd", input_hw=(240, 320))
    filled = 0
    for seed in range(60):
        out, boxes, _, _ = transform(BoxedImage(image, box, np.array([7])), seed)
        (x1, y1, x2, y2) = boxes[0].round().astype(int)
        inner = out[y1 + 4 : y2 - 4, x1 + 4 : x2 - 4].reshape(-1, 3).astype(int)
        assert (inner.argmax(-1) == 2).all()  # still the blue one, whatever the distortion
        filled += bool((np.abs(out.astype(int) - augment.ZOOM_FILL) <= 1).all(-1).any())
    assert 15 < filled < 45  # zoom-out has probability 0.5; some crops then leave no canvas


def test_flips_half_of_the_samples_independently_of_the_rest() -> None:
    image, box, label = noise(40, 60), np.array([[2, 3, 12, 20]], np.float32), np.array([0])
    transform = DetectionTransform(augment="ssd", input_hw=(40, 60))
    steps = transform._compose.transforms  # brightness, contrast and the rest, zoom-out, crop, flip
    events = []
    for seed in range(400):
        transform(BoxedImage(image, box, label), seed)
        events.append([bool(steps[place].params) for place in (0, 2, 4)])
    table = np.array(events, float).T
    assert table.mean(1) == pytest.approx([0.5] * 3, abs=0.08)
    assert np.abs(np.corrcoef(table)[~np.eye(3, dtype=bool)]).max() < 0.15


@pytest.mark.parametrize("augment_name", PRESETS)
def test_seed_decides_everything(augment_name: Preset) -> None:
    sample = BoxedImage(noise(90, 120), random_boxes(5, (90, 120)), np.arange(5))
    transform = DetectionTransform(augment=augment_name, input_hw=INPUT_HW)
    outputs = [transform(sample, seed) for seed in range(8)]
    random.seed(99)
    np.random.seed(99)  # noqa: NPY002  global state must not matter
    again = [transform(sample, seed) for seed in reversed(range(8))][::-1]
    for first, second in zip(outputs, again, strict=True):
        for a, b in zip(first[:3], second[:3], strict=True):
            np.testing.assert_array_equal(a, b)
    different = {out[0].tobytes() for out in outputs}
    assert len(different) == 1 if augment_name == "none" else len(different) > 4


@pytest.mark.parametrize("augment_name", PRESETS)
@pytest.mark.parametrize("size", [(90, 120), (1, 1), (1, 300), (333, 2)])
def test_shapes_types_and_bounds(augment_name: Preset, size: tuple[int, int]) -> None:
    transform = DetectionTransform(augment=augment_name, input_hw=INPUT_HW)
    image = noise(*size)
    for boxes in (
        np.zeros((0, 4), np.float32),
        np.array([[0, 0, size[1], size[0]]], np.float32),  # exactly on the border
        np.tile(random_boxes(6, size), (10, 1)),
    ):
        labels = np.arange(len(boxes))
        before = image.copy(), boxes.copy(), labels.copy()
        for seed in range(6):
            out, out_boxes, out_labels, label_map = transform(BoxedImage(image, boxes, labels), seed)
            assert label_map is None
            assert out.shape == (*INPUT_HW, 3)
            assert out.dtype == np.uint8
            assert out.flags.c_contiguous
            assert out_boxes.dtype == np.float32
            assert out_labels.dtype == np.int64
            assert out_boxes.shape == (len(out_labels), 4)
            assert (out_boxes >= 0).all()
            assert (out_boxes <= np.tile(INPUT_HW[::-1], 2)).all()
            assert (out_boxes[:, 2:] > out_boxes[:, :2]).all()
            assert set(out_labels) <= set(labels)
        for old, new in zip(before, (image, boxes, labels), strict=True):
            np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("augment_name", PRESETS)
def test_views_and_gray_pictures(augment_name: Preset) -> None:
    transform = DetectionTransform(augment=augment_name, input_hw=INPUT_HW)
    boxes, labels = random_boxes(4, (45, 60)), np.arange(4)
    view = noise(90, 120)[::2, ::-2, ::-1]
    gray = np.repeat(noise(45, 60)[..., :1], 3, axis=2)
    for seed in range(5):
        for image in (view, gray):
            ours = transform(BoxedImage(image, boxes, labels), seed)
            copied = transform(BoxedImage(np.ascontiguousarray(image), boxes, labels), seed)
            np.testing.assert_array_equal(ours[0], copied[0])
        if augment_name != "ssd":  # its canvas has a color
            assert (np.ptp(ours[0], axis=2) == 0).all()


def test_cleaning_rule_is_applied_again() -> None:
    image, labels = noise(50, 50), np.arange(5)
    boxes = np.array(
        [[-20, -20, 30, 30], [10, 10, 10, 40], [60, 60, 70, 70], [5, 5, np.nan, 9], [0, 0, 50, 50]],
        np.float32,
    )
    transform = DetectionTransform(augment="none", input_hw=(100, 100))
    _, out, kept, _ = transform(BoxedImage(image, boxes, labels), 0)
    assert kept.tolist() == [0, 4]
    assert out.tolist() == [[0, 0, 60, 60], [0, 0, 100, 100]]


def test_none_scales_boxes_by_hand() -> None:
    transform = DetectionTransform(augment="none", input_hw=(320, 320))
    box = np.array([[64, 48, 320, 240]], np.float32)
    _, boxes, labels, _ = transform(BoxedImage(noise(480, 640), box, np.array([3], np.int32)), 0)
    assert boxes.tolist() == [[32, 32, 160, 160]]
    assert labels.tolist() == [3]
    assert labels.dtype == np.int64


@pytest.mark.parametrize("size", [(48, 64), (200, 150), (1, 1), (96, 128)])
def test_resize_equals_torch_bilinear_without_antialias(size: tuple[int, int]) -> None:
    image = noise(*size)
    out = resize_image(image, INPUT_HW)
    planes = torch.from_numpy(image).permute(2, 0, 1)[None].double()
    wanted = torch.nn.functional.interpolate(planes, size=INPUT_HW, mode="bilinear", align_corners=False)
    assert np.abs(out - wanted[0].permute(1, 2, 0).numpy()).max() <= 1
    transformed = DetectionTransform(augment="none", input_hw=INPUT_HW)(
        BoxedImage(image, np.zeros((0, 4)), np.zeros(0, np.int64)), 0
    )[0]
    np.testing.assert_array_equal(transformed, out)


# Processes and errors


def test_pickle_round_trip_into_a_fresh_process() -> None:
    sample = BoxedImage(noise(90, 120), random_boxes(5, (90, 120)), np.arange(5))
    transform = DetectionTransform(augment="ssd", input_hw=INPUT_HW)
    script = (
        "import pickle, sys; t, *sample = pickle.load(sys.stdin.buffer); "
        "sys.stdout.buffer.write(pickle.dumps(t(*sample)))"
    )
    child = subprocess.run(  # what a spawned worker does: import, unpickle, apply
        [sys.executable, "-P", "-c", script],
        input=pickle.dumps((transform, sample, 11)),
        capture_output=True,
        check=True,
    )
    for theirs, ours in zip(pickle.loads(child.stdout)[:3], transform(sample, 11)[:3], strict=True):
        np.testing.assert_array_equal(theirs, ours)


def test_wrong_input_is_refused() -> None:
    transform = DetectionTransform(augment="none", input_hw=INPUT_HW)
    boxes, labels = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    with pytest.raises(ValueError, match=r"image must be uint8 \(H, W, 3\), got uint8 \(5, 6\)"):
        transform(BoxedImage(noise(5, 6)[..., 0], boxes, labels), 0)
    with pytest.raises(ValueError, match="got float32"):
        transform(BoxedImage(noise(5, 6).astype(np.float32), boxes, labels), 0)
    with pytest.raises(ValueError, match=r"without objects has shapes \(0, 4\) and \(0,\)"):
        transform(BoxedImage(noise(5, 6), np.zeros(0), labels), 0)
    with pytest.raises(ValueError, match=r"got \(2, 4\) and \(3,\)"):
        transform(BoxedImage(noise(5, 6), np.zeros((2, 4)), np.zeros(3, np.int64)), 0)
