"""What a report says of a segmenter: numbers, and images with label maps drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dettoolkit.drawing.boxes import Picture
from dettoolkit.drawing.masks import palette_of
from dettoolkit.drawing.segmentation_grids import segmentation_panels
from dettoolkit.evaluation.pixel_details import DIGITS, pixel_details
from dettoolkit.evaluation.segmentation_counts import SegmentationCounts
from dettoolkit.segmentation.run import SegmentationRun


def report_details(
    run: SegmentationRun,
    predictions: Sequence[Any],
    score: Any,  # noqa: ARG001
    *,
    count: int,
) -> dict[str, Any]:
    """Return all that a report says beside the scores; see TaskSpec.report_details."""
    counts = SegmentationCounts.concatenate(predictions, len(run.classes.names))
    details = pixel_details(counts, class_names=run.classes.names, count=count)
    for entry in details["worst_images"]:
        entry["file"] = run.val.files.image_paths[entry["image_id"]].name
    colors = palette_of(run.task.classes.colors)[: len(run.classes.names)]
    return {**details, "colors": colors.tolist()}


def image_scores(
    run: SegmentationRun,
    predictions: Sequence[Any],
    details: Mapping[str, Any],  # noqa: ARG001
) -> dict[int, float]:
    """Return the mIoU of each image with a labeled pixel by its row in the validation set."""
    counts = SegmentationCounts.concatenate(predictions, len(run.classes.names))
    return {
        image_id: round(score, DIGITS)
        for image_id, score in zip(counts.image_ids.tolist(), counts.image_scores.tolist(), strict=True)
        if not np.isnan(score)
    }


def report_picture(
    run: SegmentationRun,
    predictions: Sequence[Any],  # noqa: ARG001
    entry: Mapping[str, Any],
    details: Mapping[str, Any],  # noqa: ARG001
) -> Picture | None:
    """Draw image, ground truth and prediction, which is computed once more."""
    item = run.item(entry["image_id"])
    return segmentation_panels(item, run.task.classes.colors)
