"""Detection as a task: network, losses, predictions in the original images' pixels, COCO's numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import Tensor

from dettoolkit.detection.matching import Targets, targets_of
from dettoolkit.detection.model import Detector
from dettoolkit.detection.postprocess import Detections, postprocess, to_original
from dettoolkit.evaluation.coco_ap import CocoScores, DetectionArrays, evaluate_coco
from dettoolkit.preprocessing import normalize

Losses = Callable[[Tensor, Tensor, Targets], tuple[Tensor, Tensor]]
Forward = Callable[[Tensor], tuple[Tensor, Tensor]]
Assigner = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(kw_only=True)
class DetectionTask:
    """Train and score a detector on one data set.

    Attributes:
        network: the detector.
        assign: (boxes_xyxy, labels, anchors_xyxy) -> the object of each default box, as `matching.match`.
        losses_of: (class_logits, box_deltas, targets) -> class loss, box loss.
        activation: what turns logits into scores; sigmoid goes with focal loss, softmax with multibox.
        box_weight: weight of the box loss.
        category_ids: the annotation file's category id of each label; labels beyond score nothing.
        ground_truth: COCO annotation dict of the validation set.
    """

    network: Detector
    assign: Assigner
    losses_of: Losses
    activation: Literal["sigmoid", "softmax"]
    box_weight: float
    mean: Sequence[float]
    std: Sequence[float]
    input_hw: tuple[int, int]
    nms_iou: float
    candidates_per_class: int
    score_threshold: float
    max_detections: int
    category_ids: Sequence[int]
    ground_truth: Mapping[str, Any]
    monitor: str = "AP"

    def images(self, batch: Mapping[str, Any]) -> Tensor:
        """Normalize the batch's uint8 images to float32 (N, 3, H, W)."""
        return normalize(batch["images"], self.mean, self.std)

    def losses(self, outputs: tuple[Tensor, Tensor], batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Match the batch's objects to default boxes and give the class and the box loss."""
        boxes, labels = batch["boxes_xyxy"], batch["labels"]
        anchors = self.network.anchors_xyxy
        matched = self.assign(boxes, labels, anchors)
        class_loss, box_loss = self.losses_of(*outputs, targets_of(matched, boxes, labels, anchors))
        return {"class": class_loss, "box": self.box_weight * box_loss}

    def predict(self, forward: Forward, batch: Mapping[str, Any]) -> DetectionArrays:
        """Run the network on a batch and give its detections in the original images' pixels."""
        class_logits, box_deltas = forward(self.images(batch))
        found = postprocess(
            class_logits.float(),
            box_deltas.float(),
            self.network.anchors_xyxy,
            input_hw=self.input_hw,
            activation=self.activation,
            score_threshold=self.score_threshold,
            nms_iou=self.nms_iou,
            candidates_per_class=self.candidates_per_class,
            max_detections=self.max_detections,
        )
        boxes = to_original(found, input_hw=self.input_hw, original_hw=batch["original_hw"])
        return detection_arrays(found, boxes, batch["image_ids"], self.category_ids)

    def score(self, predictions: Sequence[DetectionArrays]) -> CocoScores:
        """Score the detections of the whole validation set by COCO's rules."""
        everything = DetectionArrays.concatenate(predictions)
        return evaluate_coco(self.ground_truth, everything, max_detections=self.max_detections)


def detection_arrays(
    found: Detections, boxes_xyxy: Tensor, image_ids: Tensor, category_ids: Sequence[int]
) -> DetectionArrays:
    """Flatten padded detections (N, D) to arrays with the annotation file's ids; boxes become xywh."""
    labels = found.labels.cpu()
    real = labels >= 0  # (N, D)
    boxes = boxes_xyxy.cpu().double()[real].numpy()
    boxes[:, 2:] -= boxes[:, :2]
    ids = np.asarray(category_ids, np.int64)
    return DetectionArrays(
        image_ids=image_ids.cpu().unsqueeze(1).expand_as(labels)[real].numpy(),
        category_ids=ids[labels[real].numpy()],
        boxes_xywh=boxes,
        scores=found.scores.cpu().double()[real].numpy(),
    )
