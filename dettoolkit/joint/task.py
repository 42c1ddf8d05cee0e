"""Both tasks on one network: losses added up, predictions of one forward pass, one number of two scores.

N: images of a batch, B of them have boxes, P a label map; both are all N where the images are the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dettoolkit.config.joint import JointEvaluation, LossWeights
from dettoolkit.detection.task import DetectionTask
from dettoolkit.evaluation.arrays import DetectionArrays
from dettoolkit.evaluation.coco_ap import CocoScores
from dettoolkit.evaluation.miou import SegmentationScores
from dettoolkit.evaluation.segmentation_counts import SegmentationCounts
from dettoolkit.joint.single_tasks import DETECTION, RAW_BOXES, SEGMENTATION
from dettoolkit.joint.spec import JointSpec
from dettoolkit.network import Features
from dettoolkit.run import Batch, Task
from dettoolkit.segmentation.task import SegmentationTask

Outputs = tuple[Tensor, Tensor, Tensor]
"""Class logits (N, A, S), box deltas (N, A, 4) and segmentation logits (N, K, h, w)."""
MONITOR = "joint score"


class JointPredictions(NamedTuple):
    """What was predicted on images of a batch; of a task without truth there, None."""

    boxes: DetectionArrays | None
    maps: SegmentationCounts | None


@dataclass(frozen=True)
class JointScores:
    """The scores of both tasks, and the one number of the two; None where a task was not scored."""

    detection: CocoScores | None
    segmentation: SegmentationScores | None
    joint: float

    @property
    def numbers(self) -> dict[str, float]:
        """Return all numbers of both tasks by their names, and the joint score."""
        boxes, maps = ({} if each is None else each.numbers for each in (self.detection, self.segmentation))
        return {MONITOR: self.joint, **boxes, **maps}

    def table(self) -> str:
        """Describe it to people, in lines."""
        tables = [each.table() for each in (self.detection, self.segmentation) if each is not None]
        return "\n\n".join([*tables, f"{MONITOR}: {self.joint:.3f}"])

    def to_json(self) -> dict[str, Any]:
        """Return everything found, as plain data."""
        return {
            "numbers": {name: None if math.isnan(each) else each for name, each in self.numbers.items()},
            DETECTION: None if self.detection is None else self.detection.to_json(),
            SEGMENTATION: None if self.segmentation is None else self.segmentation.to_json(),
        }


@dataclass(kw_only=True)
class JointTask(Task):
    """Train and score a joint model; see `run.Task`. The two tasks' networks share its modules."""

    boxes: DetectionTask
    maps: SegmentationTask
    loss_weights: LossWeights
    evaluation: JointEvaluation
    two_passes: bool  # of a training step: one for each task, or one of all images
    monitor = MONITOR
    raw_outputs = JointSpec.raw_outputs

    def passes(self, images: Tensor, batch: Batch) -> list[tuple[Tensor, Batch]]:
        """Return all images at once, or those with boxes and those with label maps; see Task."""
        if not self.two_passes:
            return [(images, batch)]
        boxed, mapped = (_rows(images, batch[rows]) for rows in ("box_rows", "map_rows"))
        rows = torch.arange(len(images), device=images.device)
        no_boxes = {"box_rows": rows[:0], **{key: batch[key][:0] for key in ("boxes_xyxy", "box_labels")}}
        no_maps = {"map_rows": rows[:0], "label_map": batch["label_map"][:0]}
        return [
            (boxed, batch | no_maps | {"box_rows": rows[: len(boxed)]}),
            (mapped, batch | no_boxes | {"map_rows": rows[: len(mapped)]}),
        ]

    def losses(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the weighted parts of both losses, each of the images that have its truth."""
        boxed = tuple(_rows(each, batch["box_rows"]) for each in outputs[:RAW_BOXES])
        mapped = _rows(outputs[RAW_BOXES], batch["map_rows"])
        weights = self.loss_weights
        return {
            **_weighted(DETECTION, weights.detection, self.boxes.losses(boxed, batch)),  # type: ignore[arg-type]
            **_weighted(SEGMENTATION, weights.segmentation, self.maps.losses(mapped, batch)),
        }

    def auxiliary_losses(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        """Return the loss of the segmenter's auxiliary head, if there is one."""
        mapped = {name: _rows(each, batch["map_rows"]) for name, each in features.items()}
        parts = self.maps.auxiliary_losses(mapped, batch)
        return _weighted(SEGMENTATION, self.loss_weights.segmentation, parts)

    def step_numbers(self, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the norm of each task's gradient at the backbone's last convolution, which both use."""
        *_, last = (each for each in self.network.backbone.modules() if isinstance(each, nn.Conv2d))
        shared = [last.weight]
        norms = {}
        for task in (DETECTION, SEGMENTATION):
            loss = torch.stack([part.float() for name, part in parts.items() if name.startswith(task)]).sum()
            found = torch.autograd.grad(loss, shared, retain_graph=True, allow_unused=True)
            squares = [each.float().square().sum() for each in found if each is not None]
            norms[f"gradient/{task}"] = torch.stack(squares).sum().sqrt()
        return norms

    def predict(self, forward: Callable[[Tensor], Outputs], batch: Batch) -> JointPredictions:
        """Run the network once and return what both tasks make of its outputs."""
        outputs = forward(self.images(batch))
        boxes = maps = None
        if len(rows := batch["box_rows"]):
            found = tuple(_rows(each, rows) for each in outputs[:RAW_BOXES])
            boxes = self.boxes.predict(lambda _: found, boxed(batch))  # type: ignore[arg-type, return-value]
        if len(rows := batch["map_rows"]):
            logits = _rows(outputs[RAW_BOXES], rows)
            maps = self.maps.predict(lambda _: logits, mapped(batch))
        return JointPredictions(boxes, maps)

    def score(self, predictions: Sequence[JointPredictions]) -> JointScores:
        """Score what was predicted on the whole validation set, each task as it does alone."""
        boxes, maps = split(predictions)
        detection = self.boxes.score(boxes) if boxes else None
        segmentation = self.maps.score(maps) if maps else None
        share, parts = self.evaluation.ap_share, []
        if detection is not None:
            ap = detection.numbers[self.boxes.monitor]
            parts.append((share, ap / self.evaluation.ap_reference))
        if segmentation is not None:
            miou = segmentation.numbers[self.maps.monitor]
            parts.append((1 - share, miou / self.evaluation.miou_reference))
        known = [(weight, value) for weight, value in parts if not math.isnan(value)]
        total = sum(weight for weight, _ in known)
        joint = sum(weight * value for weight, value in known) / total if total else math.nan
        return JointScores(detection, segmentation, joint)


def split(
    predictions: Sequence[JointPredictions],
) -> tuple[list[DetectionArrays], list[SegmentationCounts]]:
    """Return the predictions of each task."""
    boxes = [each.boxes for each in predictions if each.boxes is not None]
    return boxes, [each.maps for each in predictions if each.maps is not None]


def boxed(batch: Batch) -> Batch:
    """Return the detector's part of a batch: the images that have boxes."""
    rows, of_images = batch["box_rows"], ("images", "image_ids", "original_hw")
    return {**batch, **{key: _rows(batch[key], rows) for key in of_images}}


def mapped(batch: Batch) -> Batch:
    """Return the segmenter's part of a batch: the images that have label maps."""
    rows = batch["map_rows"]
    of_images = {key: _rows(batch[key], rows) for key in ("images", "original_hw")}
    return {**batch, **of_images, "image_ids": batch["label_map_ids"]}


def _rows(tensor: Tensor, rows: Tensor) -> Tensor:
    """Return some rows of a tensor; itself where these are all."""
    return tensor if len(rows) == len(tensor) else tensor.index_select(0, rows)


def _weighted(task: str, weight: float, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{task}/{name}": weight * part for name, part in parts.items()}
