"""Boxes (..., 4) as xyxy pixels: the box coders, IoU and clipping. Leading dimensions broadcast.

`deltas` is the coder of Faster R-CNN with scales 10 and 5, the same in TensorFlow (faster_rcnn_box_coder,
y_scale x_scale 10, height_scale width_scale 5) and torchvision (BoxCoder with weights 10, 10, 5, 5).
`distances` is that of anchor-free heads (FCOS, arXiv 1904.01355, section 3.1): from a center to the sides.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dettoolkit.detection.spec import Coder

CENTER_SCALE = 10.0
SIZE_SCALE = 5.0
MAX_LOG_SIZE = math.log(1000.0 / 16)  # torchvision BoxCoder.bbox_xform_clip: no box grows beyond 62.5 times
FEW = 1 << 14
MIN_SIZE = 1e-3  # pixels; keeps the logarithm of a box without width or height finite


def encode(boxes_xyxy: Tensor, anchors_xyxy: Tensor) -> Tensor:
    """Describe boxes relative to default boxes of positive size, the regression targets of the head (..., 4).

    dx, dy = 10 (center - anchor center) / anchor size; dw, dh = 5 log(size / anchor size), where sizes below
    MIN_SIZE, also negative ones, count as MIN_SIZE.
    """
    anchor_center, anchor_wh = center_wh(anchors_xyxy)
    box_center, box_wh = center_wh(boxes_xyxy)
    center = CENTER_SCALE * (box_center - anchor_center) / anchor_wh
    size = SIZE_SCALE * torch.log(box_wh.clamp(min=MIN_SIZE) / anchor_wh)
    return torch.cat((center, size), dim=-1)


def decode(deltas: Tensor, anchors_xyxy: Tensor) -> Tensor:
    """Turn the head's box deltas back into boxes, not clipped; the inverse of `encode`.

    dw / 5 and dh / 5 are cut at log(1000 / 16) as in torchvision.
    """
    anchor_center, anchor_wh = center_wh(anchors_xyxy)
    center = deltas[..., :2] / CENTER_SCALE * anchor_wh + anchor_center
    half = 0.5 * (_exp((deltas[..., 2:] / SIZE_SCALE).clamp(max=MAX_LOG_SIZE)) * anchor_wh)
    return torch.cat((center - half, center + half), dim=-1)


def _exp(values: Tensor) -> Tensor:
    """Compute the exponential; of few values by NumPy: PyTorch wakes up its threads from 2048 on.

    They would take the cores from another runtime: see `postprocess.softmax`.
    """
    if values.numel() > FEW or values.requires_grad or values.dtype != torch.float32:
        return torch.exp(values)
    return torch.from_numpy(np.exp(values.numpy())) if values.device.type == "cpu" else torch.exp(values)


def encode_distances(boxes_xyxy: Tensor, anchors_xyxy: Tensor) -> Tensor:
    """Describe boxes by the distances of their left, top, right, bottom from the centers of default boxes.

    The unit is the default box's width or height; a distance is negative where the side is beyond the center.
    """
    center, wh = center_wh(anchors_xyxy)
    return torch.cat(((center - boxes_xyxy[..., :2]) / wh, (boxes_xyxy[..., 2:] - center) / wh), dim=-1)


def decode_distances(distances: Tensor, anchors_xyxy: Tensor) -> Tensor:
    """Turn distances back into boxes, not clipped; negative ones count as 0, so no box is inside out."""
    distances = distances.clamp(min=0)
    center, wh = center_wh(anchors_xyxy)
    return torch.cat((center - distances[..., :2] * wh, center + distances[..., 2:] * wh), dim=-1)


def center_wh(boxes_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    """Return the centers (..., 2), x and y, and the widths and heights (..., 2) of boxes (..., 4)."""
    wh = boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]
    return boxes_xyxy[..., :2] + 0.5 * wh, wh


class BoxCoder(NamedTuple):
    """How the four numbers of a box are made of boxes and default boxes, and turned back."""

    encode: Callable[[Tensor, Tensor], Tensor]
    decode: Callable[[Tensor, Tensor], Tensor]


CODERS: dict[Coder, BoxCoder] = {
    "deltas": BoxCoder(encode, decode),
    "distances": BoxCoder(encode_distances, decode_distances),
}


def pairwise_iou(first_xyxy: Tensor, second_xyxy: Tensor) -> Tensor:
    """Compute the IoU, 0 of empty boxes, of all pairs of (..., P, 4) and (..., Q, 4): (..., P, Q)."""
    first, second = first_xyxy.unsqueeze(-2), second_xyxy.unsqueeze(-3)
    # One coordinate at a time: (..., P, Q) intermediates instead of (..., P, Q, 2), half the memory.
    wide = torch.minimum(first[..., 2], second[..., 2]) - torch.maximum(first[..., 0], second[..., 0])
    high = torch.minimum(first[..., 3], second[..., 3]) - torch.maximum(first[..., 1], second[..., 1])
    inter = wide.clamp_(min=0) * high.clamp_(min=0)
    union = area(first) + area(second) - inter
    return torch.where(union > 0, inter / union, 0.0)


def area(boxes_xyxy: Tensor) -> Tensor:
    """Compute (..., 4) boxes' areas, (...), in square pixels; signed where corners are swapped."""
    return (boxes_xyxy[..., 2] - boxes_xyxy[..., 0]) * (boxes_xyxy[..., 3] - boxes_xyxy[..., 1])


def clip_to(boxes_xyxy: Tensor, *, image_hw: tuple[int, int]) -> Tensor:
    """Clip (..., 4) boxes to 0..width and 0..height; boxes outside the image become empty."""
    height, width = image_hw
    upper = boxes_xyxy.new_tensor([width, height, width, height])
    return boxes_xyxy.clamp(min=0).minimum(upper)
