"""What a report says of a classifier: numbers, and images that it got wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dettoolkit.classification.run import ClassificationRun
from dettoolkit.datasets.image_folder import collate
from dettoolkit.datasets.samplers import SampleKey
from dettoolkit.drawing.boxes import Picture
from dettoolkit.evaluation.answer_details import answer_details, true_class_scores
from dettoolkit.evaluation.top_k import ClassificationArrays


def report_details(
    run: ClassificationRun, predictions: Sequence[Any], score: Any, *, count: int
) -> dict[str, Any]:
    """Return all that a report says beside the scores; see TaskSpec.report_details."""
    answers = ClassificationArrays.concatenate(predictions)
    details = answer_details(answers, score, class_names=run.classes.names, count=count)
    files = run.val.files
    for entry in details["mistakes"]:
        entry["file"] = files.image_path(entry["image_id"]).relative_to(files.path).as_posix()
    return details


def image_scores(
    run: ClassificationRun,  # noqa: ARG001
    predictions: Sequence[Any],
    details: Mapping[str, Any],  # noqa: ARG001
) -> dict[int, float]:
    """Return the probability of each image's true class by its row in the validation set."""
    return true_class_scores(ClassificationArrays.concatenate(predictions))


def report_picture(
    run: ClassificationRun,
    predictions: Sequence[Any],  # noqa: ARG001
    entry: Mapping[str, Any],
    details: Mapping[str, Any],  # noqa: ARG001
) -> Picture | None:
    """Return an image as the network got it."""
    batch = collate([run.val[SampleKey(entry["image_id"], 0)]])
    if not len(batch["images"]):
        return None
    image: Picture = batch["images"][0].permute(1, 2, 0).numpy()  # (3, H, W) -> (H, W, 3)
    return image
