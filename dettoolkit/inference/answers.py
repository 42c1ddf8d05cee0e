"""From what an engine gives, raw or final, to answers in the original images' pixels.

N: images, h, w: the input's size, H, W: an original's, D: detections of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dettoolkit.detection.anchors import default_boxes
from dettoolkit.detection.postprocess import Detections, postprocess, to_original
from dettoolkit.finite import require_finite
from dettoolkit.manifest import FINAL, RAW, Manifest, SegmentationSection, SizeHW
from dettoolkit.segmentation.predict import InferenceOptions, predict_labels

Forward = Callable[[Tensor], tuple[Tensor, ...]]


def check_outputs(outputs: Sequence[Tensor], manifest: Manifest, *, images: int, source: str) -> None:
    """Refuse outputs that the manifest does not describe: a file's manifest may lie, its weights be damaged.

    Args:
        outputs: of the engine.
        manifest: of the model.
        images: that went in.
        source: the model's file, for messages.

    Raises:
        ValueError: another number of outputs, images or classes.
        NonFiniteError: a value that is not finite.
    """
    final = manifest.export is not None and manifest.export.postprocessing
    names = (FINAL if final else RAW)[manifest.task]
    shapes = [tuple(output.shape) for output in outputs]
    if len(outputs) != len(names) or any(shape[:1] != (images,) for shape in shapes):
        raise ValueError(
            f"{source} gives {len(outputs)} outputs {shapes} for {images} images, where its description says "
            f"{', '.join(names)}: export it again"
        )
    require_finite(
        zip(names, outputs, strict=True),
        source=source,
        remedy="its weights are damaged or its training diverged: use another checkpoint, and export again",
    )
    if final:
        labels = outputs[names.index("labels")]
        own = int(labels.max()) + 1 if labels.numel() else 0
        fits = own <= len(manifest.class_names)
    else:
        own = shapes[0][-1] - 1 if manifest.task == "detection" else shapes[0][1]
        fits = own == len(manifest.class_names)
    if not fits:
        raise ValueError(
            f"{source} gives {own} classes, where its description names {len(manifest.class_names)}: the two "
            "do not belong together; export it again"
        )


class DetectionAnswer(NamedTuple):
    """What was found in an image, the surest first."""

    boxes_xyxy: NDArray[np.float32]  # (D, 4) pixels of the original image
    scores: NDArray[np.float32]  # (D,)
    labels: NDArray[np.int64]  # (D,) 0-based classes


class SegmentationAnswer(NamedTuple):
    """The class of each pixel of an image."""

    labels: NDArray[np.uint8]  # (H, W)


Answer = DetectionAnswer | SegmentationAnswer


class DetectionAnswers:
    """Answer images by a detector.

    Args:
        manifest: of the detector.
        device: where the engine's outputs are.
    """

    def __init__(self, manifest: Manifest, device: torch.device) -> None:
        if manifest.detection is None or manifest.input_hw is None:
            raise ValueError("a detector's manifest needs the sections detection and input_hw")
        self.facts, self.input_hw, self.export = manifest.detection, manifest.input_hw, manifest.export
        self.anchors = default_boxes(input_hw=self.input_hw, **self.facts.anchors).to(device)

    def __call__(
        self, forward: Forward, inputs: Tensor, sizes_hw: Sequence[SizeHW], *, threshold: float
    ) -> list[DetectionAnswer]:
        """Run on inputs of images that were `sizes_hw`; give detections of score `threshold` or above."""
        outputs = forward(inputs)
        if self.export is not None and self.export.postprocessing:
            found = Detections(*outputs)
        else:
            found = self._postprocess(*outputs, threshold=threshold)
        boxes = found.boxes_xyxy
        if self.export is None or not (self.export.postprocessing and self.export.preprocessing):
            originals = torch.tensor(sizes_hw).reshape(-1, 2)
            boxes = to_original(found, input_hw=self.input_hw, original_hw=originals)
        return _answers(boxes, found.scores, found.labels, threshold)

    def _postprocess(self, class_logits: Tensor, box_deltas: Tensor, *, threshold: float) -> Detections:
        facts = self.facts
        return postprocess(
            class_logits.float(),
            box_deltas.float(),
            self.anchors,
            input_hw=self.input_hw,
            activation=facts.activation,
            # NMS decides on a box by better ones only, so what is not asked for need not enter it; a little
            # below the threshold, so that rounding leaves the decision to the comparison of the scores.
            score_threshold=max(facts.score_threshold, 0.999 * threshold),
            nms_iou=facts.nms_iou,
            candidates_per_class=facts.candidates_per_class,
            max_detections=facts.max_detections,
        )


def _answers(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float) -> list[DetectionAnswer]:
    """Take padded detections (N, D) apart, on the host, and leave out padding and what is too unsure."""
    columns = [values.cpu().numpy() for values in (boxes, scores, labels)]
    rows = zip(*columns, (columns[2] >= 0) & (columns[1] >= np.float32(threshold)), strict=True)
    return [DetectionAnswer(box[keep], score[keep], label[keep]) for box, score, label, keep in rows]


class SegmentationAnswers:
    """Answer images by a segmenter.

    Args:
        manifest: of the segmenter.
    """

    def __init__(self, manifest: Manifest) -> None:
        if manifest.segmentation is None:
            raise ValueError("a segmenter's manifest needs the section segmentation")
        self.options, self.export = options_of(manifest.segmentation), manifest.export

    def __call__(
        self, forward: Forward, inputs: Tensor, sizes_hw: Sequence[SizeHW], *, threshold: float
    ) -> list[SegmentationAnswer]:
        """Run on inputs of images that were `sizes_hw`; `threshold` has no meaning here."""
        del threshold
        if self.export is not None and self.export.postprocessing:
            (labels,) = forward(inputs)
            found = [_nearest(each, size) for each, size in zip(labels.cpu().numpy(), sizes_hw, strict=True)]
        elif self.options.mode == "whole" and self.options.scales == (1.0,) and not self.options.flip:
            # The network takes all images at once; only the labels are made of one image after the other.
            (logits,) = forward(inputs)
            found = [
                self._labels(lambda _, row=row: logits[row : row + 1], inputs[row : row + 1], size)
                for row, size in enumerate(sizes_hw)
            ]
        else:
            found = [
                self._labels(lambda image: forward(image)[0], inputs[row : row + 1], size)
                for row, size in enumerate(sizes_hw)
            ]
        return [SegmentationAnswer(labels) for labels in found]

    def _labels(self, forward: Callable[..., Tensor], image: Tensor, size: SizeHW) -> NDArray[np.uint8]:
        labels = predict_labels(forward, image, out_hw=size, options=self.options)[0]
        array: NDArray[np.uint8] = labels.cpu().numpy()
        return array


def options_of(facts: SegmentationSection) -> InferenceOptions:
    """Return how a segmenter's images are answered."""
    return InferenceOptions(
        mode=facts.mode,
        window_hw=facts.window_hw,
        stride_hw=facts.stride_hw,
        scales=facts.scales,
        flip=facts.flip,
        align_corners=facts.align_corners,
    )


def _nearest(labels: NDArray[Any], size: SizeHW) -> NDArray[np.uint8]:
    """Resize a label map by taking the nearest pixel's class, unless it has that size."""
    if labels.shape == tuple(size):
        return np.asarray(labels, np.uint8)
    return np.asarray(cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)
