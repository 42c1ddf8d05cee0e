"""Figures of label maps: the right colors at the right places, and odd input."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from dettoolkit.datasets.cityscapes_labels import CLASSES, VOID
from dettoolkit.drawing.boxes import Color, class_color
from dettoolkit.drawing.segmentation_grids import (
    SegmentationItem,
    segmentation_batch_figure,
    segmentation_figure,
)

NAMES = [label.name for label in CLASSES]
COLORS: list[Color | None] = [label.color for label in CLASSES]
ROAD, SKY, CAR = (NAMES.index(name) for name in ("road", "sky", "car"))
LEFT, TOP, GAP, WIDTH = 24, 83, 12, 480  # where the first cell starts, and a cell's width


def item(labels: np.ndarray, predicted: np.ndarray, score: float = 0.5) -> SegmentationItem:
    image = np.full((*labels.shape, 3), 128, np.uint8)
    return SegmentationItem(image, labels, predicted, "a_leftImg8bit.png", score)


def cells(picture: np.ndarray, high: int) -> list[np.ndarray]:
    """Cut the three cells of the first row out of a comparison."""
    lefts = [LEFT + number * (WIDTH + GAP) for number in range(3)]
    return [picture[TOP : TOP + high, left : left + WIDTH] for left in lefts]


def has(picture: np.ndarray, color: Color | None) -> bool:
    return bool((picture == np.array(color)).all(axis=2).any())


def halves() -> tuple[np.ndarray, np.ndarray]:
    """Return a truth of sky over road and a prediction of sky over car, (90, 120)."""
    truth, predicted = np.full((90, 120), SKY, np.uint8), np.full((90, 120), SKY, np.uint8)
    truth[45:], predicted[45:] = ROAD, CAR
    return truth, predicted


def test_truth_and_prediction_have_the_palette_at_their_place() -> None:
    picture = segmentation_figure([item(*halves())], NAMES, COLORS)
    assert picture.dtype == np.uint8
    image, truth, prediction = cells(picture, 360)
    assert (image == 128).all()
    assert (truth[:180] == COLORS[SKY]).all()
    assert (truth[180:] == COLORS[ROAD]).all()
    assert (prediction[:180] == COLORS[SKY]).all()
    assert (prediction[180:] == COLORS[CAR]).all()


def test_the_legend_has_the_classes_that_occur() -> None:
    truth, predicted = halves()
    foot = segmentation_figure([item(truth, predicted)], NAMES, COLORS)[TOP + 380 :]
    shown = {name for name, color in zip(NAMES, COLORS, strict=True) if has(foot, color)}
    assert shown == {"sky", "road", "car"}
    truth[:5] = VOID
    more = segmentation_figure([item(truth, predicted)], NAMES, COLORS)[TOP + 380 :]
    assert (more != 255).any(axis=2).sum() > (foot != 255).any(axis=2).sum()


def test_pixels_without_a_label_are_striped_and_dimmed() -> None:
    truth, predicted = halves()
    truth[:45] = VOID
    _, shown, prediction = cells(segmentation_figure([item(truth, predicted)], NAMES, COLORS), 360)
    assert len(np.unique(shown[:180].reshape(-1, 3), axis=0)) == 2
    assert (shown[180:] == COLORS[ROAD]).all()
    assert (prediction[:180] < np.array(COLORS[SKY]) / 2).all()
    assert (prediction[:180] > 0).all()  # still to be seen
    assert (prediction[180:] == COLORS[CAR]).all()


def test_thin_things_are_seen_in_large_images() -> None:
    truth = np.full((1024, 2048), ROAD, np.uint8)
    truth[:, 1001:1003] = CAR
    _, shown, _ = cells(segmentation_figure([item(truth, truth)], NAMES, COLORS), 240)
    assert shown.shape == (240, 480, 3)
    assert (shown != np.array(COLORS[ROAD])).any(axis=2).any(axis=0).sum() in (1, 2)


def test_classes_of_ones_own_have_chosen_colors() -> None:
    truth, predicted = np.zeros((90, 120), np.uint8), np.ones((90, 120), np.uint8)
    picture = segmentation_figure([item(truth, predicted)], ["草", "道路"], [None, (1, 2, 3)])
    _, left, right = cells(picture, 360)
    assert (left == class_color(0)).all()
    assert (right == (1, 2, 3)).all()


def test_many_classes_sizes_and_no_items() -> None:
    assert segmentation_figure([], NAMES, COLORS).ndim == 3
    rng = np.random.default_rng(0)
    names, colors = [f"class {number}" for number in range(254)], [None] * 254
    sizes = [(1, 1), (2000, 20), (20, 2000), (900, 1200)]
    items = [item(*(rng.integers(0, 254, size).astype(np.uint8) for _ in range(2))) for size in sizes]
    assert max(segmentation_figure(items, names, colors).shape) < 3000
    nothing = item(np.full((9, 9), VOID, np.uint8), np.zeros((9, 9), np.int64), math.nan)
    assert segmentation_figure([nothing], NAMES, COLORS).ndim == 3


def test_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"picture of a_left.*: labels \(2, 3\) and prediction \(3, 2\)"):
        item(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8))


def batch(images: int) -> dict[str, Any]:
    torch = pytest.importorskip("torch")
    labels = torch.full((images, 90, 120), VOID, dtype=torch.uint8)
    labels[:, 45:] = ROAD
    return {
        "images": torch.full((images, 3, 90, 120), 200, dtype=torch.uint8),
        "label_map": labels,
        "image_ids": torch.arange(images),
    }


def test_batch_picture_lays_labels_over_the_images() -> None:
    picture = segmentation_batch_figure(batch(3), NAMES, COLORS)
    first = picture[66 : 66 + 340, LEFT : LEFT + WIDTH]
    mixed = 0.45 * 200 + 0.55 * np.array(COLORS[ROAD])
    assert (abs(first[200:] - mixed) <= 1).all()
    assert len(np.unique(first[10:160].reshape(-1, 3), axis=0)) == 2  # striped
    assert segmentation_batch_figure(batch(2), NAMES, COLORS).shape[1] < picture.shape[1]


@pytest.mark.parametrize("images", [0, 1])
def test_batch_picture_of_little(images: int) -> None:
    assert segmentation_batch_figure(batch(images), NAMES, COLORS).ndim == 3


def test_segmentation_evaluation_needs_no_torch() -> None:
    code = (
        "import sys, dettoolkit.drawing.segmentation_grids, dettoolkit.evaluation.miou;"
        "import dettoolkit.evaluation.label_ids; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
