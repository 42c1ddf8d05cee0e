"""Task-aligned assignment (TOOD, Feng et al. 2021, arXiv 2108.07755, section 3.2) on default boxes.

N: images, M: objects of an image, padded, A: default boxes, S: class slots, C: candidates of an object.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dettoolkit.detection.box_coding import CODERS, pairwise_iou
from dettoolkit.detection.matching import Assignment, Objects, resolve, unmatched
from dettoolkit.detection.spec import Activation, Coder


@torch.no_grad()
def task_aligned(
    outputs: tuple[Tensor, Tensor],
    anchors_xyxy: Tensor,
    objects: Objects,
    *,
    activation: Activation,
    coder: Coder,
    candidates: int,
    assigned: int,
    score_power: float,
    iou_power: float,
) -> Assignment:
    """Assign each object the `assigned` of its candidates that predict it best; others' are resolved by IoU.

    Outputs are class logits (N, A, S), slot 0 the background, and coded boxes (N, A, 4). Candidates of an
    object are the default boxes of highest IoU with it, where TOOD takes the cells inside it: an object
    smaller than a cell has as many. Best is the highest t = score^score_power * iou^iou_power of the
    predicted score of its class and the IoU of the predicted box with it. The quality is t scaled for each
    object so that its highest is the highest IoU among its default boxes (TOOD's normalized t).
    """
    boxes_xyxy, labels = objects[0].float(), objects.labels
    if labels.shape[1] == 0:
        return unmatched(len(labels), anchors_xyxy)
    overlaps = pairwise_iou(boxes_xyxy, anchors_xyxy)  # (N, M, A)
    overlaps.masked_fill_((labels < 0).unsqueeze(-1), 0.0)
    default_iou, near = overlaps.topk(min(candidates, len(anchors_xyxy)), dim=2)  # (N, M, C)
    iou = _predicted_iou(outputs[1].float(), anchors_xyxy, boxes_xyxy, near, coder)
    # An object that no predicted box overlaps would get quality 0 and never be learned.
    iou = torch.where(iou.amax(dim=2, keepdim=True) > 0, iou, default_iou)
    score = _predicted_score(outputs[0].float(), labels, near, activation)
    metric = torch.where(default_iou > 0, score**score_power * iou**iou_power, 0.0)
    metric, best = metric.topk(min(assigned, near.shape[2]), dim=2)
    iou, wanted = iou.gather(2, best), near.gather(2, best)
    wanted = torch.where(metric > 0, wanted, -1)
    matched = resolve(wanted, iou, anchors=len(anchors_xyxy))  # (N, A)

    index = wanted.clamp(min=0)
    owner = matched.gather(1, index.flatten(1)).view_as(wanted)
    own = (owner == torch.arange(labels.shape[1], device=labels.device).view(1, -1, 1)) & (wanted >= 0)
    metric, iou = torch.where(own, metric, 0.0), torch.where(own, iou, 0.0)
    highest = metric.amax(dim=2, keepdim=True).clamp(min=torch.finfo(metric.dtype).tiny)
    quality = metric / highest * iou.amax(dim=2, keepdim=True)  # (N, M, C)
    spread = torch.zeros(matched.shape, device=matched.device)
    return Assignment(matched, spread.scatter_reduce(1, index.flatten(1), quality.flatten(1), "amax"))


def _predicted_iou(
    coded: Tensor, anchors_xyxy: Tensor, boxes_xyxy: Tensor, near: Tensor, coder: Coder
) -> Tensor:
    """Return the IoU (N, M, C) of objects (N, M, 4) with the boxes that default boxes (N, M, C) predict."""
    index = near.flatten(1).unsqueeze(-1).expand(-1, -1, 4)
    found = CODERS[coder].decode(coded.gather(1, index), anchors_xyxy[near.flatten(1)])  # (N, M * C, 4)
    return pairwise_iou(boxes_xyxy.unsqueeze(2), found.view(*near.shape, 4)).squeeze(2)


def _predicted_score(logits: Tensor, labels: Tensor, near: Tensor, activation: Activation) -> Tensor:
    """Return the score (N, M, C) that default boxes (N, M, C) give to the class of each object (N, M)."""
    slot = (labels.clamp(min=0) + 1).unsqueeze(-1)  # background is slot 0
    if activation == "softmax":
        logits = logits.log_softmax(dim=-1)
    own = logits.flatten(1).gather(1, (near * logits.shape[2] + slot).flatten(1)).view_as(near.float())
    return own.exp() if activation == "softmax" else own.sigmoid()
