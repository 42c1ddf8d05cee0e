"""Figures of a classification run: predictions on images as the network gets them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from dettoolkit.datasets.image_folder import ImageFolder, collate
from dettoolkit.datasets.samplers import SampleKey
from dettoolkit.drawing.boxes import Picture
from dettoolkit.drawing.classification_grids import ClassificationItem, classification_figure
from dettoolkit.drawing.grids import save_pages
from dettoolkit.evaluation.top_k import ClassificationArrays

PER_FIGURE = 16  # images, so that the figure still fits a screen


def draw_predictions(
    val: ImageFolder,
    predictions: ClassificationArrays,
    folder: Path,
    *,
    class_names: Sequence[str],
    count: int,
) -> None:
    """Draw predictions on images spread over the set, and the most confident of the wrong ones."""
    images = len(predictions.labels)
    if count == 0 or images == 0:
        return
    spread = np.linspace(0, images - 1, min(count, images)).astype(int)
    wrong = np.flatnonzero(~predictions.right)
    surest = wrong[np.argsort(-predictions.scores[wrong, 0], kind="stable")][:count]
    for name, title, rows in (
        ("predictions", "Predictions", spread),
        ("wrong", "Wrong predictions, the most confident first", surest),
    ):
        draw = partial(_figure, val, predictions, class_names, title)
        save_pages(folder, name, rows.tolist(), per_page=PER_FIGURE, draw=draw)


def _figure(
    val: ImageFolder,
    predictions: ClassificationArrays,
    class_names: Sequence[str],
    title: str,
    rows: Sequence[int],
) -> Picture:
    return classification_figure([_item(val, predictions, row) for row in rows], class_names, title=title)


def _item(val: ImageFolder, predictions: ClassificationArrays, row: int) -> ClassificationItem:
    """Show the image of a row of `predictions` as the network got it."""
    batch = collate([val[SampleKey(int(predictions.image_ids[row]), 0)]])
    return ClassificationItem(
        image=batch["images"][0].permute(1, 2, 0).numpy(),  # (3, H, W) -> (H, W, 3)
        label=int(predictions.labels[row]),
        predicted=int(predictions.best[row, 0]),
        score=float(predictions.scores[row, 0]),
    )
