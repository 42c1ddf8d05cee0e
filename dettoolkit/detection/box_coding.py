"""Boxes as xyxy pixels: the box coders, IoU and clipping. Leading dimensions broadcast.

`deltas` is the coder of Faster R-CNN with scales 10 and 5, the same in TensorFlow (faster_rcnn_box_coder,
y_scale x_scale 10, height_scale width_scale 5) and torchvision (BoxCoder with weights 10, 10, 5, 5).
`distances` is that of anchor-free heads (FCOS, arXiv 1904.01355, section 3.1): from a center to the sides.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from dettoolkit.detection.spec import Coder

CENTER_SCALE = 10.0
SIZE_SCALE = 5.0
MAX_LOG_SIZE = math.log(1000.0 / 16)  # torchvision BoxCoder.bbox_xform_clip: no box grows beyond 62.5 times
MIN_SIZE = 1e-3  # pixels; keeps the logarithm of a box without width or height finite


def encode(boxes_xyxy: Tensor, anchors_xyxy: Tensor) -> Tensor:
    """Describe boxes relative to default boxes, the regression targets of the head.

    Args:
        boxes_xyxy: (..., 4) pixels. Sizes below MIN_SIZE, also negative ones, count as MIN_SIZE.
        anchors_xyxy: (..., 4) pixels, of positive size.

    Returns:
        (..., 4) dx, dy = 10 (center - anchor center) / anchor size; dw, dh = 5 log(size / anchor size).
    """
    anchor_wh = anchors_xyxy[..., 2:] - anchors_xyxy[..., :2]
    anchor_center = anchors_xyxy[..., :2] + 0.5 * anchor_wh
    box_wh = boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]
    box_center = boxes_xyxy[..., :2] + 0.5 * box_wh
    center = CENTER_SCALE * (box_center - anchor_center) / anchor_wh
    size = SIZE_SCALE * torch.log(box_wh.clamp(min=MIN_SIZE) / anchor_wh)
    return torch.cat((center, size), dim=-1)


def decode(deltas: Tensor, anchors_xyxy: Tensor) -> Tensor:
    """Turn the head's box deltas back into boxes; the inverse of `encode`.

    Args:
        deltas: (..., 4) dx, dy, dw, dh. dw / 5 and dh / 5 are cut at log(1000 / 16) as in torchvision.
        anchors_xyxy: (..., 4) pixels.

    Returns:
        (..., 4) xyxy pixels, not clipped.
    """
    anchor_wh = anchors_xyxy[..., 2:] - anchors_xyxy[..., :2]
    anchor_center = anchors_xyxy[..., :2] + 0.5 * anchor_wh
    center = deltas[..., :2] / CENTER_SCALE * anchor_wh + anchor_center
    half = 0.5 * (torch.exp((deltas[..., 2:] / SIZE_SCALE).clamp(max=MAX_LOG_SIZE)) * anchor_wh)
    return torch.cat((center - half, center + half), dim=-1)


def encode_distances(boxes_xyxy: Tensor, anchors_xyxy: Tensor) -> Tensor:
    """Describe boxes by the distances of their sides from the centers of default boxes.

    Args:
        boxes_xyxy: (..., 4) pixels.
        anchors_xyxy: (..., 4) pixels, of positive size.

    Returns:
        (..., 4) left, top, right, bottom, in units of the default box's width and height; negative where a
        side is on the other side of the center.
    """
    wh = anchors_xyxy[..., 2:] - anchors_xyxy[..., :2]
    center = anchors_xyxy[..., :2] + 0.5 * wh
    return torch.cat(((center - boxes_xyxy[..., :2]) / wh, (boxes_xyxy[..., 2:] - center) / wh), dim=-1)


def decode_distances(distances: Tensor, anchors_xyxy: Tensor) -> Tensor:
    """Turn distances back into boxes (..., 4) xyxy pixels, not clipped; the inverse of `encode_distances`.

    Negative distances count as 0, so that no box is inside out.
    """
    distances = distances.clamp(min=0)
    wh = anchors_xyxy[..., 2:] - anchors_xyxy[..., :2]
    center = anchors_xyxy[..., :2] + 0.5 * wh
    return torch.cat((center - distances[..., :2] * wh, center + distances[..., 2:] * wh), dim=-1)


class BoxCoder(NamedTuple):
    """How the four numbers of a box are made of boxes and default boxes, and turned back."""

    encode: Callable[[Tensor, Tensor], Tensor]
    decode: Callable[[Tensor, Tensor], Tensor]


CODERS: dict[Coder, BoxCoder] = {
    "deltas": BoxCoder(encode, decode),
    "distances": BoxCoder(encode_distances, decode_distances),
}


def pairwise_iou(first_xyxy: Tensor, second_xyxy: Tensor) -> Tensor:
    """Compute the IoU of every box of the first set with every box of the second.

    Args:
        first_xyxy: (..., P, 4).
        second_xyxy: (..., Q, 4).

    Returns:
        (..., P, Q) in [0, 1]; 0, not NaN, where both boxes are empty.
    """
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
