"""From raw predictions to detections: scores, thresholds, class-wise NMS.

torchvision takes, for each image and class, the best candidates above the score threshold, runs NMS class
by class and keeps the best detections of the image. NMS decides on a box by better boxes only, so looking
at an image's best few candidates, over all classes, gives the same detections as long as enough of them
survive; images where too few do are looked at again, deeper. A batch is done at once, a single image on
a CPU in a way that is faster there.

N: images, A: default boxes, S: class slots (K classes and background), C: candidates, D: detections of an
image, padded. A cell is the number of an (image, default box, slot) in a flat (N, A, S).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dettoolkit.detection.best_batched import best_batched
from dettoolkit.detection.best_of_image import best_of_image
from dettoolkit.detection.box_coding import CODERS, clip_to
from dettoolkit.detection.spec import Activation, Decoding
from dettoolkit.manifest import SizeHW


class Detections(NamedTuple):
    """What was found in each image, the surest first."""

    boxes_xyxy: Tensor  # float32 (N, D, 4) pixels of the network's input, clipped to it; 0 for padding
    scores: Tensor  # float32 (N, D); 0 for padding
    labels: Tensor  # int64 (N, D) 0-based class, without background; -1 for padding
    counts: Tensor  # int64 (N,) detections of each image


@torch.no_grad()
def postprocess(
    class_logits: Tensor, box_deltas: Tensor, anchors_xyxy: Tensor, decoding: Decoding, *, input_hw: SizeHW
) -> Detections:
    """Turn the head's outputs into detections, the same as torchvision's SSD.postprocess_detections.

    Class logits are (N, A, S), slot 0 the background where there is one, box deltas (N, A, 4) as the coder
    codes them, default boxes (A, 4) pixels of the input. A default box with a NaN among its logits or deltas
    is left out. D of the result is that of the image with most, possibly 0.
    """
    first = int(decoding.background)  # slot of label 0
    decode = CODERS[decoding.coder].decode
    _check(class_logits, box_deltas, anchors_xyxy, first)
    ranks, lowest = _ranks(class_logits.float(), decoding.activation, decoding.score_threshold)
    anchors, slots = ranks.shape[1:]

    def boxes_of(cells: Tensor) -> Tensor:  # (C,) -> (C, 4)
        row = cells // slots
        deltas = box_deltas.flatten(0, 1).index_select(0, row).float()
        return clip_to(decode(deltas, anchors_xyxy.index_select(0, row % anchors)), image_hw=input_hw)

    best = best_of_image if len(ranks) == 1 and ranks.device.type == "cpu" else best_batched
    found = best(ranks, box_deltas, boxes_of, decoding, lowest=lowest)
    return _detections(found, ranks, boxes_of, decoding)


def to_original(found: Detections, *, input_hw: SizeHW, original_hw: Tensor) -> Detections:
    """Scale the boxes from the input to the original images; `original_hw` is (N, 2)."""
    ratio = original_hw.to(found.boxes_xyxy) / found.boxes_xyxy.new_tensor(input_hw)  # (N, 2)
    boxes = found.boxes_xyxy * ratio.flip(1).repeat(1, 2).unsqueeze(1)  # x by width, y by height
    return found._replace(boxes_xyxy=boxes)


def _check(class_logits: Tensor, box_deltas: Tensor, anchors_xyxy: Tensor, first: int) -> None:
    images, anchors, slots = class_logits.shape if class_logits.dim() == 3 else (-1, -1, -1)
    fits = box_deltas.shape == (images, anchors, 4) and anchors_xyxy.shape == (anchors, 4)
    if slots <= first or not fits:
        raise ValueError(
            f"postprocess expects class_logits (N, A, K + {first}) with K >= 1, box_deltas (N, A, 4) and "
            f"anchors_xyxy (A, 4), got {tuple(class_logits.shape)}, {tuple(box_deltas.shape)} and "
            f"{tuple(anchors_xyxy.shape)}; compute the default boxes for this input size and head"
        )


def _ranks(class_logits: Tensor, activation: Activation, score_threshold: float) -> tuple[Tensor, Tensor]:
    """Return (N, A, S) numbers that rise with the score, and the lowest of them above the threshold."""
    if activation == "softmax":
        ranks, threshold = softmax(class_logits), score_threshold
    else:  # the sigmoid itself is left to the few that become detections
        ranks, threshold = class_logits, logit(score_threshold)
    return ranks, torch.nextafter(ranks.new_tensor(threshold), ranks.new_tensor(torch.inf))


def softmax(logits: Tensor) -> Tensor:
    """Compute the softmax of (N, A, S); of one image on a CPU by NumPy, in one thread.

    PyTorch's threads go on looking for work for a while, and would take the cores from another runtime's:
    with them a detector's next image took ONNX Runtime twice as long, on two cores.
    """
    if len(logits) > 1 or logits.device.type != "cpu":
        return logits.softmax(dim=-1)
    scores = logits.numpy() - logits.numpy().max(axis=-1, keepdims=True, initial=-math.inf)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    return torch.from_numpy(scores)


def logit(score: float) -> float:
    """Return a score threshold as a logit; NaN, which nothing is above, where no score can be above it."""
    if score <= 0:
        return -math.inf
    return math.log(score) - math.log1p(-score) if score < 1 else math.nan


def _detections(
    found: Tensor, ranks: Tensor, boxes_of: Callable[[Tensor], Tensor], decoding: Decoding
) -> Detections:
    """Look up the cells found, int64 (N, max_detections), -1 where there are no more."""
    there = found >= 0
    counts = there.sum(dim=1)
    most = int(counts.max()) if len(counts) else 0
    cells, there = found[:, :most].clamp(min=0), there[:, :most]
    scores = ranks.flatten().index_select(0, cells.flatten()).view_as(cells)
    scores = scores.sigmoid() if decoding.activation == "sigmoid" else scores
    boxes = boxes_of(cells.flatten()).view(*cells.shape, 4)
    return Detections(
        boxes_xyxy=boxes.masked_fill(~there.unsqueeze(-1), 0.0),
        scores=scores.masked_fill(~there, 0.0),
        labels=(cells % ranks.shape[2] - int(decoding.background)).masked_fill(~there, -1),
        counts=counts,
    )
