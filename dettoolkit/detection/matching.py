"""Matching: which default box learns which object (SSD, section 2.2, "Matching strategy").

N: images, M: objects of an image, padded, A: default boxes, C: default boxes that an object wants.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dettoolkit.detection.box_coding import pairwise_iou


class Objects(NamedTuple):
    """What is on a batch's images."""

    boxes_xyxy: Tensor  # float (N, M, 4) pixels of the input; M may be 0
    labels: Tensor  # int64 (N, M) 0-based class; -1 for padding, which matches nothing


class Assignment(NamedTuple):
    """Which default box learns which object."""

    matched: Tensor  # int64 (N, A): the object's index in 0..M-1, or -1 for background
    quality: Tensor | None = None  # float32 (N, A) in [0, 1]: how high the score should be; 0 for background


class Targets(NamedTuple):
    """What the head should have said."""

    slots: Tensor  # int64 (N, A): 0 where no object is matched (background), otherwise its label + 1
    boxes_xyxy: Tensor  # float32 (N, A, 4) box of the matched object; the default box where none is
    quality: Tensor | None = None  # float32 (N, A), as the assigner gave it


@torch.no_grad()
def match(
    outputs: object, anchors_xyxy: Tensor, objects: Objects, *, iou_threshold: float, force_match: bool
) -> Assignment:
    """Assign each default box the object that it overlaps most, if by `iou_threshold` or more.

    With `force_match` also every object gets the default box that overlaps it most, whatever the IoU; where
    several want the same one the last of them gets it, as in torchvision's SSDMatcher. An object that
    overlaps no default box at all gets none.
    """
    del outputs
    boxes_xyxy, labels = objects
    images, count = labels.shape
    if count == 0:
        return unmatched(images, anchors_xyxy)
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
    return Assignment(matched)


def unmatched(images: int, anchors_xyxy: Tensor) -> Assignment:
    """Return the assignment of images without objects: everything is background."""
    matched = torch.full((images, len(anchors_xyxy)), -1, device=anchors_xyxy.device)
    return Assignment(matched, torch.zeros_like(matched, dtype=torch.float32))


def resolve(wanted: Tensor, iou: Tensor, *, anchors: int) -> Tensor:
    """Assign default boxes that several objects want to the one of the highest IoU: int64 (N, anchors).

    `wanted` (N, M, C) are the default boxes that each object wants, -1 where it wants fewer than C, and `iou`
    (N, M, C) how well each fits. Of equal ones the last object gets it.
    """
    images, count, each = wanted.shape
    index = torch.where(wanted >= 0, wanted, anchors).flatten(1)  # what nobody wants goes to one box more
    shape = (images, anchors + 1)
    best = iou.new_full(shape, -1.0).scatter_reduce(1, index, iou.flatten(1), "amax")
    objects = torch.arange(count, device=wanted.device).repeat_interleave(each).expand_as(index)
    winners = torch.where(iou.flatten(1) >= best.gather(1, index), objects, -1)
    return torch.full(shape, -1, device=wanted.device).scatter_reduce(1, index, winners, "amax")[:, :-1]


@torch.no_grad()
def targets_of(assignment: Assignment, anchors_xyxy: Tensor, objects: Objects) -> Targets:
    """Look up what each default box has to predict."""
    (matched, quality), (boxes_xyxy, labels) = assignment, objects
    # Background looks up one more object, appended: label -1, hence slot 0.
    index = torch.where(matched >= 0, matched, labels.shape[1])
    slots = F.pad(labels, (0, 1), value=-1).gather(1, index) + 1
    padded = F.pad(boxes_xyxy.float(), (0, 0, 0, 1))  # (N, M + 1, 4)
    boxes = padded.gather(1, index.unsqueeze(-1).expand(-1, -1, 4))
    return Targets(slots, torch.where((matched >= 0).unsqueeze(-1), boxes, anchors_xyxy), quality)
