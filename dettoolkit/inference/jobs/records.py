"""What is kept of a prediction, as plain data: in a job's journal and in tables."""

from __future__ import annotations

from typing import Any

from dettoolkit.inference.results import Prediction, SegmentationResult


def found_in(prediction: Prediction, *, masks: bool) -> dict[str, Any]:
    """Return height, width and what was found.

    Args:
        prediction: a detector's gives `objects`, each with name, label, class_id, score and box_xyxy; a
            segmenter's `classes`, those that occur, with name, label, class_id, pixels and share.
        masks: give each class its `rle` too, the mask's run lengths as COCO writes them.
    """
    found = prediction.to_dict()
    if masks and isinstance(prediction, SegmentationResult):
        for each, coded in zip(found["classes"], prediction.to_coco(0), strict=True):
            each["rle"] = coded["segmentation"]["counts"]
    return {key: value for key, value in found.items() if key not in ("path", "task")}
