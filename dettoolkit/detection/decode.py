"""From what a detector's engine gives, raw or final, to detections in the original images' pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dettoolkit.detection.anchors import default_boxes
from dettoolkit.detection.postprocess import Detections, postprocess, to_original
from dettoolkit.detection.result import DetectionResult
from dettoolkit.manifest import Manifest, ManifestError
from dettoolkit.results import Image, Result


class DetectionDecoder:
    """Find objects in images; the engine's outputs are on the device."""

    def __init__(self, manifest: Manifest, device: torch.device) -> None:
        if manifest.input_hw is None:
            raise ManifestError("a detector needs input_hw, the size that its default boxes belong to")
        self.manifest, self.section, self.input_hw = manifest, manifest.section, manifest.input_hw
        self.anchors = default_boxes(self.section.levels, input_hw=self.input_hw).to(device)

    def __call__(
        self, forward: Any, inputs: Tensor, images: Sequence[Image], *, min_score: float
    ) -> list[Result]:
        """Return the detections of each image whose score is `min_score` or above."""
        outputs = forward(inputs)
        if self.manifest.final:
            found = Detections(*outputs)
        else:
            # NMS decides on a box by better ones only, so what is not asked for need not enter it; a little
            # below the threshold, so that rounding leaves the decision to the comparison of the scores.
            threshold = max(self.section.score_threshold, 0.999 * min_score)
            decoding = replace(self.section, score_threshold=threshold)
            found = postprocess(outputs[0], outputs[1], self.anchors, decoding, input_hw=self.input_hw)
        if not (self.manifest.final and self.manifest.takes_images):
            sizes = torch.tensor([image.shape[:2] for image in images]).reshape(-1, 2)
            found = to_original(found, input_hw=self.input_hw, original_hw=sizes)
        columns = (found.boxes_xyxy, found.scores.float(), found.labels)
        boxes, scores, labels = (column.cpu().numpy() for column in columns)
        keep = (labels >= 0) & (scores >= np.float32(min_score))  # padding has the label -1
        return [
            DetectionResult(
                path=None,
                image=image,
                class_names=self.section.class_names,
                class_ids=self.section.class_ids,
                boxes_xyxy=boxes[row][keep[row]],
                scores=scores[row][keep[row]],
                labels=labels[row][keep[row]],
            )
            for row, image in enumerate(images)
        ]
