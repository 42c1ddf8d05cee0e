"""Figures of a segmentation run: what the network is shown, and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from dettoolkit.datasets.cityscapes import SegmentationDataset, collate
from dettoolkit.datasets.label_classes import LabelClasses
from dettoolkit.datasets.samplers import SampleKey
from dettoolkit.drawing.detection_grids import save_figure
from dettoolkit.drawing.segmentation_grids import (
    SegmentationItem,
    segmentation_batch_picture,
    segmentation_picture,
)
from dettoolkit.evaluation.segmentation_counts import SegmentationCounts
from dettoolkit.segmentation.task import SegmentationTask

PER_PICTURE = 4  # images of a comparison, so that the picture still fits a screen


def draw_training_batch(train: SegmentationDataset, classes: LabelClasses, folder: Path, count: int) -> None:
    """Draw the labels of the first images as the network will see them, after augmentation."""
    if count == 0 or len(train) == 0:
        return
    rows = np.random.default_rng(0).permutation(len(train))[:count]
    batch = collate([train[SampleKey(int(row), 0)] for row in rows])
    picture = segmentation_batch_picture(batch, classes.names, classes.colors, count)
    folder.mkdir(parents=True, exist_ok=True)
    save_figure(folder / "training_batch.jpg", picture)


def draw_predictions(
    val: SegmentationDataset, task: SegmentationTask, counts: SegmentationCounts, folder: Path, *, count: int
) -> None:
    """Draw predictions beside ground truth: images spread over the set, and the worst ones.

    Predictions of a whole set are too large to keep, so these images are answered once more.
    """
    scored = np.flatnonzero(~np.isnan(counts.image_scores))
    if count == 0 or not len(scored):
        return
    folder.mkdir(parents=True, exist_ok=True)
    spread = scored[np.linspace(0, len(scored) - 1, min(count, len(scored))).astype(int)]
    worst = scored[np.argsort(counts.image_scores[scored], kind="stable")][:count]
    sets = (
        ("predictions", "Predictions beside ground truth", spread),
        ("worst", "Worst images first", worst),
    )
    for name, title, rows in sets:
        for page, start in enumerate(range(0, len(rows), PER_PICTURE), start=1):
            shown = [int(row) for row in rows[start : start + PER_PICTURE]]
            items = _items(val, task, counts, shown)
            picture = segmentation_picture(items, task.classes.names, task.classes.colors, title=title)
            save_figure(folder / f"{name}_{page}.jpg", picture)


def _items(
    val: SegmentationDataset, task: SegmentationTask, counts: SegmentationCounts, rows: Sequence[int]
) -> list[SegmentationItem]:
    """Answer the images of some rows of `counts`."""
    device = next(task.network.parameters()).device
    was_training = task.network.training
    task.network.eval()
    items = []
    for row in rows:
        image_id = int(counts.image_ids[row])
        batch = collate([val[SampleKey(image_id, 0)]])
        moved = {
            key: value.to(device) if isinstance(value, torch.Tensor) else value
            for key, value in batch.items()
        }
        with torch.inference_mode():
            predicted = task.segment(task.network, moved)[0]
        height, width = batch["label_hw"][0].tolist()
        items.append(
            SegmentationItem(
                image=batch["images"][0].permute(1, 2, 0).numpy(),  # (3, H, W) -> (H, W, 3)
                labels=batch["labels"][0, :height, :width].numpy(),
                predicted=predicted.cpu().numpy(),
                title=val.files.image_paths[image_id].name,
                score=float(counts.image_scores[row]),
            )
        )
    task.network.train(was_training)
    return items
