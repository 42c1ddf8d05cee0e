"""Figures of a segmentation run: predictions beside ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from dettoolkit.datasets.cityscapes import SegmentationDataset, collate
from dettoolkit.datasets.samplers import SampleKey
from dettoolkit.drawing.boxes import Picture
from dettoolkit.drawing.grids import save_pages
from dettoolkit.drawing.segmentation_grids import SegmentationItem, segmentation_figure
from dettoolkit.evaluation.segmentation_counts import SegmentationCounts
from dettoolkit.segmentation.task import SegmentationTask

PER_FIGURE = 4  # images, so that the figure still fits a screen


def draw_predictions(
    val: SegmentationDataset, task: SegmentationTask, counts: SegmentationCounts, folder: Path, *, count: int
) -> None:
    """Draw predictions beside ground truth: images spread over the set, and the worst ones.

    Predictions of a whole set are too large to keep, so these images are predicted once more.
    """
    scored = np.flatnonzero(~np.isnan(counts.image_scores))
    if count == 0 or not len(scored):
        return
    spread = scored[np.linspace(0, len(scored) - 1, min(count, len(scored))).astype(int)]
    worst = scored[np.argsort(counts.image_scores[scored], kind="stable")][:count]
    for name, title, rows in (
        ("predictions", "Predictions beside ground truth", spread),
        ("worst", "Worst images first", worst),
    ):
        draw = partial(_figure, val, task, counts, title)
        save_pages(folder, name, rows.tolist(), per_page=PER_FIGURE, draw=draw)


def _figure(
    val: SegmentationDataset,
    task: SegmentationTask,
    counts: SegmentationCounts,
    title: str,
    rows: Sequence[int],
) -> Picture:
    """Predict on the images of some rows of `counts` and draw them."""
    device = next(task.network.parameters()).device
    was_training = task.network.training
    task.network.eval()
    items = []
    for row in rows:
        image_id = int(counts.image_ids[row])
        batch = collate([val[SampleKey(image_id, 0)]])
        on_device = {key: batch[key].to(device) for key in ("images", "label_map_hw")}
        with torch.inference_mode():
            predicted = task.segment(task.network, on_device)[0]
        items.append(
            SegmentationItem(
                image=batch["images"][0].permute(1, 2, 0).numpy(),  # (3, H, W) -> (H, W, 3)
                labels=batch["label_map"][0].numpy(),
                predicted=predicted.cpu().numpy(),
                title=val.files.image_paths[image_id].name,
                score=float(counts.image_scores[row]),
            )
        )
    task.network.train(was_training)
    return segmentation_figure(items, task.classes.names, task.classes.colors, title=title)
