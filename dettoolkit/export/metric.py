"""mAP or mIoU of any predictor on a run's validation set, by the same code whatever runs its network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from dettoolkit.datasets.data_report import BadImageError
from dettoolkit.datasets.images import MAX_MEGAPIXELS, read_image
from dettoolkit.datasets.samples import SkippedImage
from dettoolkit.evaluation.arrays import DetectionArrays
from dettoolkit.inference.answers import DetectionAnswer, SegmentationAnswer
from dettoolkit.inference.predictor import Predictor
from dettoolkit.manifest import Manifest
from dettoolkit.segmentation.confusion import count_image

if TYPE_CHECKING:
    from dettoolkit.build import Run
    from dettoolkit.config import Recipe


class Source(NamedTuple):
    """An image file of a data set.

    Attributes:
        path: the file.
        hw: size that its annotations were made for; None takes the pixels as they are stored.
        max_megapixels: a larger one cannot be read.
    """

    path: Path
    hw: tuple[int, int] | None
    max_megapixels: float = MAX_MEGAPIXELS

    def read(self) -> NDArray[np.uint8]:
        """Read it as RGB uint8 (H, W, 3), turned as in training.

        Raises:
            BadImageError: it cannot be read; the message names it.
        """
        try:
            return read_image(self.path, expected_hw=self.hw, max_megapixels=self.max_megapixels)
        except BadImageError as error:
            raise BadImageError(f"{self.path}: {error}") from None


def validation_run(recipe: Recipe, manifest: Manifest, *, what: str) -> Run:
    """Load the validation data that a recipe names, to score a model with the classes of a manifest.

    Raises:
        FileNotFoundError: the data is not there.
        ValueError: it has other classes.
    """
    from dettoolkit import build  # imports Lightning, which nothing else here needs

    own = build.Classes(list(manifest.class_names), list(manifest.class_ids))
    return build.evaluation_run(manifest.name, recipe, own=own, what=what)


def sources_of(data: Any, task: str) -> list[Source]:
    """List the image files of a detection or segmentation data set, in its order."""
    if task == "segmentation":
        return [Source(path, None, data.max_megapixels) for path in data.files.image_paths]
    annotations = data.annotations
    return [
        Source(annotations.image_path(row), (int(height), int(width)), data.max_megapixels)
        for row, (height, width) in enumerate(annotations.image_hw)
    ]


def score(predictor: Predictor, run: Run) -> tuple[str, float]:
    """Score a predictor on the whole validation set as `tools/evaluate.py` scores a checkpoint.

    Images that cannot be read raise, or are passed over where the recipe says data.on_bad_image=skip.

    Returns:
        the name of the score, AP or mIoU, and its value; NaN where the set has nothing to score.
    """
    found = _detections(predictor, run) if predictor.task == "detection" else _counts(predictor, run)
    result = run.task.score(list(found))
    return run.task.monitor, float(result.numbers[run.task.monitor])


def _answer(predictor: Predictor, source: Source, run: Run) -> Any | None:
    """Answer an image with all that the thresholds let by; None for one that is to be passed over."""
    try:
        image = source.read()
    except BadImageError:
        if run.recipe.data.on_bad_image == "skip":
            return None
        raise
    return predictor.predict_batch([image], threshold=0.0)[0]


def _detections(predictor: Predictor, run: Run) -> Iterator[DetectionArrays]:
    ids = np.asarray(run.task.category_ids, np.int64)  # type: ignore[attr-defined]
    for row, source in enumerate(sources_of(run.val, "detection")):
        answer: DetectionAnswer | None = _answer(predictor, source, run)
        if answer is None:
            continue
        boxes = answer.boxes_xyxy.astype(np.float64)
        boxes[:, 2:] -= boxes[:, :2]
        yield DetectionArrays(
            image_ids=np.full(len(boxes), int(run.val.annotations.image_ids[row]), np.int64),
            category_ids=ids[answer.labels],
            boxes_xywh=boxes,
            scores=answer.scores.astype(np.float64),
        )


def _counts(predictor: Predictor, run: Run) -> Iterator[Any]:
    classes, categories = run.task.classes, run.task.categories  # type: ignore[attr-defined]
    for row, source in enumerate(sources_of(run.val, "segmentation")):
        sample = run.val[row]  # for its labels; the image is read as it is stored
        answer: SegmentationAnswer | None = (
            None if isinstance(sample, SkippedImage) else _answer(predictor, source, run)
        )
        if answer is None:
            continue
        labels = sample["labels"]
        yield count_image(
            torch.from_numpy(_at(answer.labels, tuple(labels.shape))),
            labels,
            num_classes=len(classes.names),
            image_id=row,
            instances=sample.get("instances"),
            label_ids=classes.label_ids,
            categories=categories,
        )


def _at(labels: NDArray[np.uint8], hw: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return a label map the size of its label file, which is its image's but for a few data sets."""
    if labels.shape == hw:
        return labels
    rows, columns = (
        ((np.arange(wanted) + 0.5) * side / wanted).astype(np.intp)
        for wanted, side in zip(hw, labels.shape, strict=True)
    )
    return np.ascontiguousarray(labels[rows][:, columns])
