"""Figures: what is drawn, where, and that odd input is drawn too."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dettoolkit.drawing import boxes as drawing
from dettoolkit.drawing.boxes import draw_boxes
from dettoolkit.drawing.detection_grids import ComparisonItem, batch_figure, comparison_figure
from dettoolkit.drawing.fonts import fit_font
from dettoolkit.drawing.grids import Cell, grid, save_figure

NAMES = ["person", "bicycle", "Fußgänger", "自転車", "an endlessly long name of a class that nobody reads"]
GRAY = np.full((240, 320, 3), 128, np.uint8)


def shows(picture: np.ndarray, color: drawing.Color) -> np.ndarray:
    """Return where a color is, bool (H, W); edges are blended, so within a tolerance."""
    return np.asarray(np.abs(picture.astype(int) - color).max(axis=2) < 25)


def test_box_is_drawn_in_its_color_at_its_place() -> None:
    untouched = GRAY.copy()
    picture = draw_boxes(GRAY, np.array([[100, 80, 220, 200]]), np.array([1]), class_names=NAMES)
    assert picture.shape == GRAY.shape
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(GRAY, untouched)
    line = shows(picture, drawing.class_color(1))
    for row, column in [(80, 160), (199, 160), (140, 100), (140, 219)]:
        assert line[row - 2 : row + 3, column - 2 : column + 3].any(), (row, column)
    np.testing.assert_array_equal(picture[90:190, 110:210], GRAY[90:190, 110:210])  # inside stays as it was
    np.testing.assert_array_equal(picture[205:], GRAY[205:])


def test_no_boxes_change_nothing() -> None:
    picture = draw_boxes(GRAY, np.zeros((0, 4)), np.zeros(0, int), class_names=NAMES, scores=np.zeros(0))
    np.testing.assert_array_equal(picture, GRAY)


def test_boxes_beyond_the_image_and_not_finite() -> None:
    boxes = [[-50, -50, -10, -10], [400, 10, 500, 20], [np.nan, 0, 9, 9], [0, 0, np.inf, 9]]
    picture = draw_boxes(GRAY, np.array(boxes), np.zeros(4, int), class_names=NAMES)
    np.testing.assert_array_equal(picture, GRAY)
    boxes = [[-50, -50, 900, 900], [5, 5, 5, 5], [319, 239, 320, 240], [90, 90, 60, 60]]
    picture = draw_boxes(GRAY, np.array(boxes), np.arange(4), class_names=NAMES)
    assert shows(picture, drawing.class_color(0))[120, :4].any()  # cut at the image's edge, and seen there


@pytest.mark.parametrize("size_hw", [(16, 16), (30, 400), (240, 320), (1080, 1920)])
def test_plates_never_leave_the_image_and_never_pile_up(size_hw: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    height, width = size_hw
    low = rng.uniform(-0.1, 1, (60, 2)) * [width, height]
    boxes = np.concatenate([low, low + rng.uniform(0, 0.5, (60, 2)) * [width, height]], axis=1)
    boxes = np.clip(boxes, 0, [width, height, width, height])
    texts = [fit_font(f"class {index}", max(10, width // 40)) for index in range(60)]
    plates = drawing._place_plates(boxes, texts, list(range(60)), size_hw)
    assert (0 in plates) == (width > 100)
    for left, top, right, bottom in plates.values():
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
    for a, b in itertools.combinations(plates.values(), 2):
        shared = drawing.intersections(a, [b])[0]
        assert shared <= 0.1 * (b[2] - b[0]) * (b[3] - b[1]) + 1e-9


def test_crowds_are_dashed_and_hatched() -> None:
    box, label = np.array([[20.0, 60.0, 300.0, 220.0]]), np.array([0])
    plain = draw_boxes(GRAY, box, label, class_names=NAMES)
    crowd = draw_boxes(GRAY, box, label, class_names=NAMES, crowds=np.array([True]))
    bottom_line = slice(216, 222), slice(60, 260)
    color = drawing.class_color(0)
    assert shows(plain, color)[bottom_line].any(axis=0).all()
    assert 0.3 < shows(crowd, color)[bottom_line].any(axis=0).mean() < 0.9
    inside = slice(80, 200), slice(40, 280)
    assert (plain[inside] == GRAY[inside]).all()
    assert (crowd[inside] != GRAY[inside]).any()


def test_wrong_image_is_refused() -> None:
    with pytest.raises(ValueError, match=r"image is float32 \(3, 8, 8\), expected uint8 \(H, W, 3\) RGB"):
        draw_boxes(np.zeros((3, 8, 8), np.float32), np.zeros((0, 4)), np.zeros(0), class_names=[])  # type: ignore[arg-type]


def test_names_of_any_script_are_written() -> None:
    for name in NAMES:
        text, font = fit_font(name, 14, "class 3")
        assert text in {name, "Fußganger", "class 3"}
        assert font.getlength(text) > 0
    assert fit_font("person 0.93", 14)[0] == "person 0.93"
    assert drawing.class_name(7, NAMES) == "class 7"
    assert len(drawing.class_name(4, NAMES)) == drawing.MAX_NAME


def test_80_classes_have_80_colors() -> None:
    assert len({drawing.class_color(label) for label in range(80)}) == 80


def test_first_colors_are_apart_for_the_color_blind() -> None:
    # Machado, Oliveira, Fernandes 2009, table of severity 1.0, on linear RGB.
    protan = [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ]
    deutan = [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ]
    tritan = [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ]
    rgb = np.array([drawing.class_color(label) for label in range(10)]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    for sight in (np.eye(3), protan, deutan, tritan):
        lab = cie_lab(np.clip(linear @ np.array(sight).T, 0, 1))
        distances = [np.linalg.norm(a - b) for a, b in itertools.combinations(lab, 2)]
        assert min(distances) > 23


def cie_lab(linear_rgb: np.ndarray) -> np.ndarray:
    """Convert linear sRGB (n, 3) to CIE Lab under D65."""
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = linear_rgb @ np.array(to_xyz).T / [0.9505, 1.0, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


def make_batch(images: int, boxes: int) -> dict[str, Any]:
    torch = pytest.importorskip("torch")
    batch = {
        "images": torch.full((images, 3, 64, 96), 200, dtype=torch.uint8),
        "boxes_xyxy": torch.zeros(images, boxes, 4),
        "box_labels": torch.full((images, boxes), -1),
        "image_ids": torch.arange(images),
    }
    if images and boxes:
        batch["boxes_xyxy"][0, 0] = torch.tensor([10.0, 10.0, 80.0, 50.0])
        batch["box_labels"][0, 0] = 1
    return batch


def test_batch_picture_draws_boxes_without_padding() -> None:
    picture = batch_figure(make_batch(3, 5), NAMES)
    assert picture.dtype == np.uint8
    first, second = picture[70:300, 24:504], picture[70:300, 516:996]
    assert shows(first, drawing.class_color(1)).any()
    assert len(np.unique(second[:200])) == 1  # padding is not drawn
    assert batch_figure(make_batch(2, 5), NAMES).shape[1] < picture.shape[1]


@pytest.mark.parametrize(("images", "boxes"), [(2, 0), (0, 0), (1, 1)])
def test_batch_picture_of_little(images: int, boxes: int) -> None:
    picture = batch_figure(make_batch(images, boxes), NAMES)
    assert picture.ndim == 3


def item(image: np.ndarray, count: int, title: str = "a.jpg") -> ComparisonItem:
    rng = np.random.default_rng(count)
    height, width = image.shape[:2]
    low = rng.uniform(0, 0.8, (count, 2)) * [width, height]
    boxes = np.concatenate([low, low + 0.2 * np.array([width, height])], axis=1)
    labels = np.arange(count) % 80
    return ComparisonItem(
        image, boxes, labels, np.zeros(count, bool), boxes + 3, labels, rng.random(count), title
    )


def test_comparison_has_both_sides_of_every_item() -> None:
    items = [item(np.full((600, 300, 3), 10 * n, np.uint8), n % 3, f"{n}.jpg") for n in range(5)]
    picture = comparison_figure(items, NAMES)
    # Three rows of two pairs, each image fitted into 360 x 480: 360 x 180 here.
    assert picture.shape[0] > 3 * 360
    assert picture.shape[1] == 4 * 180 + 2 * 24 + 3 * 12 + 24
    alone = comparison_figure(items[:1], NAMES, title="The worst image")
    assert alone.shape[0] < 600


def test_comparison_of_nothing_of_80_classes_and_of_any_size() -> None:
    assert comparison_figure([], NAMES).ndim == 3
    names = [f"класс {index}" for index in range(80)]
    sizes = [(1, 1), (2000, 20), (20, 2000), (900, 1200)]
    items = [item(np.zeros((*size, 3), np.uint8), 80, "folder/" * 40 + "b.jpg") for size in sizes]
    picture = comparison_figure(items, names)
    assert max(picture.shape) < 2500


def test_legend_shows_only_the_classes_present() -> None:
    cell = Cell(GRAY, "caption")
    with_legend = grid([cell] * 3, 2, title="t", column_titles=["a", "b"], legend=[("bicycle", 1)])
    without = grid([cell] * 3, 2, title="t", column_titles=["a", "b"])
    assert with_legend.shape[0] > without.shape[0]
    assert shows(with_legend, drawing.class_color(1)).any()
    assert not shows(with_legend, drawing.class_color(4)).any()


def test_save_picture(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    save_figure(tmp_path / "new" / "a.png", picture)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "new" / "a.png")), picture)
    save_figure(tmp_path / "a.jpg", picture)
    assert Image.open(tmp_path / "a.jpg").size == (30, 20)
    with pytest.raises(ValueError, match=r"cannot save a picture as '\.gif', expected \.png, \.jpg or"):
        save_figure(tmp_path / "a.gif", picture)


def test_evaluation_needs_no_torch() -> None:
    code = (
        "import sys, dettoolkit.drawing.detection_grids, dettoolkit.evaluation.coco_ap;"
        "import dettoolkit.evaluation.worst;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_tiny_boxes_of_any_size_and_place_are_drawn() -> None:
    rng = np.random.default_rng(0)
    image = np.full((480, 640, 3), 128, np.uint8)
    start = rng.uniform(0, 470, (400, 2))
    size = np.concatenate([rng.uniform(0, 3, (200, 2)), rng.uniform(0, 40, (200, 2))])
    size[::7, 0] = 0.0
    boxes = np.concatenate([start, start + size], axis=1)
    picture = draw_boxes(image, boxes, np.zeros(400, np.int64), class_names=["a"])
    assert picture.shape == image.shape
