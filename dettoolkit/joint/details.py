"""What a report says of a joint model: what it says of each task, and images of both by turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest
from typing import Any

from dettoolkit.detection import details as detection
from dettoolkit.drawing.boxes import Picture
from dettoolkit.evaluation.box_details import DIGITS
from dettoolkit.joint.run import JointRun
from dettoolkit.joint.single_tasks import DETECTION, SEGMENTATION, same_images
from dettoolkit.joint.task import JointScores, split
from dettoolkit.segmentation import details as segmentation


def report_details(
    run: JointRun, predictions: Sequence[Any], score: JointScores, *, count: int
) -> dict[str, Any]:
    """Return each task's scores and details below its name; see TaskReport.details.

    The images that are listed at the top are the entries of both, which are drawn once, and know their task.
    """
    boxes, maps = split(predictions)
    parts: dict[str, Any] = {}
    if score.detection is not None:
        own = detection.report_details(run.boxes, boxes, score.detection, count=count)
        parts[DETECTION] = score.detection.to_json() | own
    if score.segmentation is not None:
        own = segmentation.report_details(run.maps, maps, score.segmentation, count=count)
        parts[SEGMENTATION] = score.segmentation.to_json() | own
    listed = {}
    for name in ("worst_images", "mistakes"):
        entries = [part.get(name, []) for part in parts.values()]
        listed[name] = [entry for entry in chain(*zip_longest(*entries)) if entry is not None]
    for task, part in parts.items():
        for entry in (*part.get("worst_images", ()), *part.get("mistakes", ())):
            entry["task"] = task
    return {**parts, **listed}


def image_scores(run: JointRun, predictions: Sequence[Any], details: Mapping[str, Any]) -> dict[int, float]:
    """Return F1, mIoU, or their mean where an image has both, by its row in the validation set."""
    boxes, maps = split(predictions)
    f1 = detection.image_scores(run.boxes, boxes, details[DETECTION]) if boxes else {}
    miou = segmentation.image_scores(run.maps, maps, details[SEGMENTATION]) if maps else {}
    if not same_images(run.recipe):
        return f1 | {len(run.boxes.val) + row: score for row, score in miou.items()}
    both = {row: [f1[row], miou.get(run.val.map_row(row))] for row in f1}
    known = {row: [each for each in scores if each is not None] for row, scores in both.items()}
    return {row: round(sum(scores) / len(scores), DIGITS) for row, scores in known.items()}


def report_picture(
    run: JointRun, predictions: Sequence[Any], entry: Mapping[str, Any], details: Mapping[str, Any]
) -> Picture | None:
    """Draw an image as the task draws it that lists the entry."""
    boxes, maps = split(predictions)
    if entry.get("task", DETECTION) == DETECTION:
        return detection.report_picture(run.boxes, boxes, entry, details[DETECTION])
    return segmentation.report_picture(run.maps, maps, entry, details[SEGMENTATION])
