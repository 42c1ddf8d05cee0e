"""Detection as a task: network, losses, predictions in the original images' pixels, COCO's numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from dettoolkit.detection.detectors import Assigner, Losses, Outputs
from dettoolkit.detection.matching import Objects, targets_of
from dettoolkit.detection.postprocess import Detections, postprocess, to_original
from dettoolkit.detection.spec import Decoding, DetectionSpec
from dettoolkit.evaluation.coco_ap import CocoScores, DetectionArrays, GroundTruthArrays, evaluate_coco
from dettoolkit.run import Batch, Task


@dataclass(kw_only=True)
class DetectionTask(Task):
    """Train and score a detector on one data set; see Task."""

    assign: Assigner  # decides which default box learns which object
    losses_of: Losses
    decoding: Decoding
    input_hw: tuple[int, int]
    category_ids: Sequence[int]  # the annotation file's, of each label; labels beyond score nothing
    ground_truth: GroundTruthArrays  # of the validation set
    monitor = "AP"
    raw_outputs = DetectionSpec.raw_outputs

    @property
    def anchors_xyxy(self) -> Tensor:
        """Return the default boxes, (A, 4) pixels of the input."""
        return self.network.heads["detection"].anchors_xyxy  # type: ignore[return-value]

    def losses(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Assign the batch's objects to default boxes and return the parts of the loss."""
        objects, anchors = Objects(batch["boxes_xyxy"], batch["box_labels"]), self.anchors_xyxy
        assignment = self.assign(outputs, anchors, objects)
        return self.losses_of(outputs, anchors, targets_of(assignment, anchors, objects))

    def predict(self, forward: Callable[[Tensor], Outputs], batch: Batch) -> DetectionArrays:
        """Run the network on a batch and return its detections in the original images' pixels."""
        outputs = forward(self.images(batch))
        found = postprocess(*outputs, self.anchors_xyxy, self.decoding, input_hw=self.input_hw)
        found = to_original(found, input_hw=self.input_hw, original_hw=batch["original_hw"])
        return detection_arrays(found, batch["image_ids"], self.category_ids)

    def score(self, predictions: Sequence[DetectionArrays]) -> CocoScores:
        """Score the detections of the whole validation set by COCO's rules."""
        everything = DetectionArrays.concatenate(predictions)
        return evaluate_coco(self.ground_truth, everything, max_detections=self.decoding.max_detections)


def detection_arrays(found: Detections, image_ids: Tensor, category_ids: Sequence[int]) -> DetectionArrays:
    """Flatten padded detections (N, D) to arrays with the annotation file's ids; boxes become xywh."""
    labels = found.labels.cpu()
    real = labels >= 0  # (N, D)
    boxes = found.boxes_xyxy.cpu().double()[real].numpy()
    boxes[:, 2:] -= boxes[:, :2]
    return DetectionArrays(
        image_ids=image_ids.cpu().unsqueeze(1).expand_as(labels)[real].numpy(),
        category_ids=np.asarray(category_ids, np.int64)[labels[real].numpy()],
        boxes_xywh=boxes,
        scores=found.scores.cpu().double()[real].numpy(),
    )
