"""Adaptive training sample selection (Zhang et al. 2020, arXiv 1912.02424) on default boxes.

N: images, M: objects of an image, padded, A: default boxes, C: candidates of an object.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dettoolkit.detection.box_coding import center_wh, pairwise_iou
from dettoolkit.detection.matching import Assignment, Objects, resolve, unmatched
from dettoolkit.detection.spec import Level


@torch.no_grad()
def atss(
    outputs: object,
    anchors_xyxy: Tensor,
    objects: Objects,
    *,
    levels: Sequence[Level],
    candidates_per_level: int,
) -> Assignment:
    """Assign each object the candidates whose IoU reaches mean + standard deviation of its candidates' IoUs.

    Candidates of an object are all default boxes of the `candidates_per_level` cells nearest to its center,
    on every level. Only those whose center lies inside the object count, and always its best one, so that an
    object smaller than a cell, which the paper loses, keeps one.
    """
    del outputs
    boxes_xyxy, labels = objects[0].float(), objects.labels
    if labels.numel() == 0:
        return unmatched(len(labels), anchors_xyxy)
    centers = center_wh(anchors_xyxy)[0]  # (A, 2)
    distance = torch.cdist(center_wh(boxes_xyxy)[0], centers.expand(len(labels), -1, -1))  # (N, M, A)
    near, start = [], 0
    for level in levels:
        rows, columns = level.grid_hw
        count = rows * columns * len(level.sizes)
        wanted = min(candidates_per_level * len(level.sizes), count)
        own = distance[..., start : start + count].topk(wanted, dim=2, largest=False).indices
        near.append(own + start)
        start += count
    candidates = torch.cat(near, dim=2)  # (N, M, C)
    iou = pairwise_iou(boxes_xyxy, anchors_xyxy).gather(2, candidates)
    threshold = iou.mean(dim=2, keepdim=True) + iou.std(dim=2, keepdim=True)  # of a sample
    points = centers[candidates]  # (N, M, C, 2)
    corners = boxes_xyxy.unsqueeze(2)
    inside = ((corners[..., :2] < points) & (points < corners[..., 2:])).all(dim=-1)
    best = iou == iou.amax(dim=2, keepdim=True)
    chosen = ((iou >= threshold) & inside | best) & (iou > 0) & (labels >= 0).unsqueeze(2)
    return Assignment(resolve(torch.where(chosen, candidates, -1), iou, anchors=len(anchors_xyxy)))
