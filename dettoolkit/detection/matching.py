"""Matching: which default box learns which object (SSD, section 2.2, "Matching strategy").

N: images, M: objects of an image, padded, A: default boxes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dettoolkit.detection.box_coding import CODERS, pairwise_iou
from dettoolkit.detection.spec import Coder


class Objects(NamedTuple):
    """What is on a batch's images."""

    boxes_xyxy: Tensor  # float (N, M, 4) pixels of the input; M may be 0
    labels: Tensor  # int64 (N, M) 0-based class; -1 for padding, which matches nothing


class Targets(NamedTuple):
    """What the head should have said."""

    slots: Tensor  # int64 (N, A): 0 where no object is matched (background), otherwise its label + 1
    boxes: Tensor  # float32 (N, A, 4): coded box of the matched object; 0 where none is


@torch.no_grad()
def match(
    outputs: object, anchors_xyxy: Tensor, objects: Objects, *, iou_threshold: float, force_match: bool
) -> Tensor:
    """Assign each default box the object that it overlaps most, if by `iou_threshold` or more: int64 (N, A).

    That is the object's index in 0..M-1, or -1 for background. With `force_match` also every object gets the
    default box that overlaps it most, whatever the IoU; where several want the same one the last of them gets
    it, as in torchvision's SSDMatcher. An object that overlaps no default box at all gets none.
    """
    del outputs
    boxes_xyxy, labels = objects
    images, count = labels.shape
    if count == 0:
        return torch.full((images, len(anchors_xyxy)), -1, dtype=torch.int64, device=labels.device)
    real = labels >= 0
    iou = pairwise_iou(boxes_xyxy.float(), anchors_xyxy)  # (N, M, A)
    iou.masked_fill_(~real.unsqueeze(-1), -1.0)
    best_iou, matched = iou.max(dim=1)  # (N, A)
    matched = torch.where((best_iou >= iou_threshold) & (best_iou >= 0), matched, -1)
    if force_match:
        best_iou, best_anchor = iou.max(dim=2)  # (N, M)
        index = torch.arange(count, device=labels.device).expand_as(labels)
        index = torch.where(best_iou > 0, index, -1)
        # amax makes the last object win whatever the order of the writes, on the GPU too.
        forced = torch.full_like(matched, -1).scatter_reduce(1, best_anchor, index, "amax")
        matched = torch.where(forced >= 0, forced, matched)
    return matched


@torch.no_grad()
def targets_of(matched: Tensor, anchors_xyxy: Tensor, objects: Objects, *, coder: Coder) -> Targets:
    """Look up what each default box has to predict; `matched` is int64 (N, A) as `match` returns it."""
    boxes_xyxy, labels = objects
    # Background looks up one more object, appended: label -1, hence slot 0.
    index = torch.where(matched >= 0, matched, labels.shape[1])
    slots = F.pad(labels, (0, 1), value=-1).gather(1, index) + 1
    padded = F.pad(boxes_xyxy.float(), (0, 0, 0, 1))  # (N, M + 1, 4)
    boxes = padded.gather(1, index.unsqueeze(-1).expand(-1, -1, 4))
    coded = CODERS[coder].encode(boxes, anchors_xyxy)
    return Targets(slots=slots, boxes=torch.where((matched >= 0).unsqueeze(-1), coded, 0.0))
