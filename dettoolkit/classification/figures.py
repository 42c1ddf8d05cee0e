"""Figures of a classification run: what the network is shown, and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dettoolkit.datasets.image_folder import ImageFolder, collate
from dettoolkit.datasets.samplers import SampleKey
from dettoolkit.drawing.classification_grids import (
    ClassificationItem,
    classification_batch_picture,
    classification_picture,
)
from dettoolkit.drawing.grids import save_figure
from dettoolkit.evaluation.top_k import ClassificationArrays

PER_PICTURE = 16  # images, so that the picture still fits a screen


def draw_training_batch(train: ImageFolder, class_names: Sequence[str], folder: Path, count: int) -> None:
    """Draw the classes of some images as the network will see them, after augmentation."""
    if count == 0 or len(train) == 0:
        return
    rows = np.random.default_rng(0).permutation(len(train))[:count]
    batch = collate([train[SampleKey(int(row), 0)] for row in rows])
    if len(batch["images"]):
        picture = classification_batch_picture(batch, class_names, count)
        save_figure(folder / "training_batch.jpg", picture)


def draw_predictions(
    val: ImageFolder,
    predictions: ClassificationArrays,
    folder: Path,
    *,
    class_names: Sequence[str],
    count: int,
) -> None:
    """Draw predictions: on images spread over the set, and the wrong ones of most confidence."""
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
        for page, start in enumerate(range(0, len(rows), PER_PICTURE), start=1):
            items = [_item(val, predictions, int(row)) for row in rows[start : start + PER_PICTURE]]
            picture = classification_picture(items, class_names, title=title)
            save_figure(folder / f"{name}_{page}.jpg", picture)


def _item(val: ImageFolder, predictions: ClassificationArrays, row: int) -> ClassificationItem:
    """Show the image of a row of `predictions` as the network got it."""
    batch = collate([val[SampleKey(int(predictions.image_ids[row]), 0)]])
    return ClassificationItem(
        image=batch["images"][0].permute(1, 2, 0).numpy(),  # (3, H, W) -> (H, W, 3)
        label=int(predictions.labels[row]),
        predicted=int(predictions.best[row, 0]),
        score=float(predictions.scores[row, 0]),
    )
