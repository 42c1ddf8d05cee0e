"""Non-maximum suppression of many groups at once, a group being a class of an image.

C: boxes of all groups.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dettoolkit.detection.box_coding import area

# Speed only, by benchmarks/postprocess.py; the outcome is the same for any values.
ROUNDS = 8  # that take each group's best box, before all pairs of what is left are compared
FEW = 4096  # boxes that are compared in pairs at once, without such rounds
PAIRS_PER_BLOCK = 1 << 21  # compared at once, at most: bounds the memory to about 200 MB


def grouped_nms(boxes_xyxy: Tensor, group: Tensor, *, nms_iou: float) -> Tensor:
    """Return the indices, in no order, of the boxes that stay: torchvision.ops.nms on each group.

    Boxes (C, 4) and their groups, int64 (C,), are ordered group after group, the best of each group first.
    Above the IoU `nms_iou` the weaker box goes.
    """
    # One row for each coordinate and one for the area, so that arithmetic runs along contiguous memory.
    rows = torch.cat((boxes_xyxy.T, area(boxes_xyxy).unsqueeze(0)))  # (5, C)
    alive = torch.arange(len(group), device=group.device)
    stays = []
    for _ in range(ROUNDS if len(group) > FEW else 0):
        # The best box left of each group stays and drops its neighbors, in all groups at once.
        first = starts(group)
        leaders = first.nonzero().squeeze(1)
        stays.append(alive.index_select(0, leaders))
        leader = leaders.index_select(0, first.cumsum(0).sub_(1))
        over = _overlap(rows.index_select(1, leader), rows, nms_iou=nms_iou)
        rest = over.logical_or_(first).logical_not_().nonzero().squeeze(1)
        alive, group = alive.index_select(0, rest), group.index_select(0, rest)
        rows = rows.index_select(1, rest)
    undominated = _undominated(rows, rank_in_group(group), nms_iou=nms_iou)
    stays.append(alive.index_select(0, undominated.nonzero().squeeze(1)))
    return torch.cat(stays)


def rank_in_group(group: Tensor) -> Tensor:
    """Count each element's predecessors in its run of equal numbers: int64 (C,) of int64 (C,)."""
    index = torch.arange(len(group), device=group.device)
    return index - torch.where(starts(group), index, 0).cummax(0).values


def starts(group: Tensor) -> Tensor:
    """Mark the first of each run of equal numbers: bool (C,) of int64 (C,)."""
    first = torch.ones_like(group, dtype=torch.bool)
    torch.ne(group[1:], group[:-1], out=first[1:])
    return first


def _undominated(rows: Tensor, place: Tensor, *, nms_iou: float) -> Tensor:
    """Run NMS by comparing all pairs of a group: bool (C,). `place`, int64 (C,), is that in the group."""
    better, weaker = [], []
    longest = int(place.max()) + 1 if len(place) else 1
    index = torch.arange(len(place), device=place.device)
    for block in torch.split(index, max(1, PAIRS_PER_BLOCK // longest)):
        repeats = place.index_select(0, block)
        later = block.repeat_interleave(repeats)  # each box once per better box of its group,
        shift = (block - repeats.cumsum(0)).index_select(0, later - block[:1])
        earlier = shift.add_(torch.arange(len(later), device=place.device))  # which are those just before it
        over = _overlap(rows.index_select(1, earlier), rows.index_select(1, later), nms_iou=nms_iou)
        over = over.nonzero().squeeze(1)
        better.append(earlier.index_select(0, over))
        weaker.append(later.index_select(0, over))
    drops, dropped = torch.cat(better), torch.cat(weaker)
    stays = torch.ones(len(place), dtype=torch.bool, device=place.device)
    # Greedy NMS is the one fixed point: the first n boxes of every group are right after n rounds, and
    # few rounds are needed, as many as the longest chain of boxes that drop one another.
    while True:
        now = torch.ones_like(stays)
        now[dropped[stays[drops]]] = False
        if torch.equal(now, stays):
            return stays
        stays = now


def _overlap(first: Tensor, second: Tensor, *, nms_iou: float) -> Tensor:
    """Say, bool (P,), which of two lists' boxes, (5, P) each as above, overlap by more than an IoU."""
    sides = torch.minimum(first[2:4], second[2:4]).sub_(torch.maximum(first[:2], second[:2])).clamp_(min=0)
    inter = sides[0] * sides[1]
    return inter / (first[4] + second[4]).sub_(inter) > nms_iou  # torchvision's formula, to the bit
