"""From raw predictions to detections: scores, thresholds, class-wise NMS; batched throughout.

torchvision takes, for each image and class, the best candidates above the score threshold, runs NMS class
by class and keeps the best detections of the image. NMS decides on a box by better boxes only, so looking
at an image's best few candidates, over all classes, gives the same detections as long as enough of them
survive; images where too few do are looked at again, deeper.

N: images, A: default boxes, S: class slots (K classes and background), C: candidates of the whole batch,
D: most detections of an image. A cell is the number of an (image, default box, slot) in a flat (N, A, S).
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from dettoolkit.detection.boxes import area, clip_to, decode

Activation = Literal["sigmoid", "softmax"]

# Speed only, by benchmarks/postprocess.py; the detections are the same for any values.
FIRST_DEPTH = 3  # default boxes of an image looked at first, per wanted detection
FIRST_CELLS = 8192  # but at least so many cells of an image, which is everything where classes are few
DEEPER = 2  # growth of the depth for images where too few boxes survive
ROUNDS = 8  # of NMS that take each group's best box, before all pairs of what is left are compared
# Pairs of boxes compared at once, at most: bounds the memory of NMS to about 200 MB.
PAIRS_PER_BLOCK = 1 << 21


class Detections(NamedTuple):
    """What was found in each image, the surest first."""

    boxes_xyxy: Tensor  # float32 (N, D, 4) pixels of the network's input, clipped to it; 0 for padding
    scores: Tensor  # float32 (N, D); 0 for padding
    labels: Tensor  # int64 (N, D) 0-based class, without background; -1 for padding
    counts: Tensor  # int64 (N,) detections of each image


@torch.no_grad()
def postprocess(
    class_logits: Tensor,
    box_deltas: Tensor,
    anchors_xyxy: Tensor,
    *,
    input_hw: tuple[int, int],
    activation: Activation,
    score_threshold: float,
    nms_iou: float,
    candidates_per_class: int,
    max_detections: int,
) -> Detections:
    """Turn the head's outputs into detections, the same as torchvision's SSD.postprocess_detections.

    A default box with a NaN among its logits or deltas is left out.

    Args:
        class_logits: (N, A, S), slot 0 is background.
        box_deltas: (N, A, 4), see `boxes.decode`.
        anchors_xyxy: float32 (A, 4) pixels of the input.
        input_hw: height and width of the input, to which boxes are clipped.
        activation: sigmoid (each slot on its own) or softmax (over the slots).
        score_threshold: a detection's score is above it.
        nms_iou: of two boxes of a class that overlap by more than this IoU, the weaker goes.
        candidates_per_class: best boxes of each class of an image that enter NMS.
        max_detections: most detections of an image.

    Returns:
        Detections, D being the most detections of an image of this batch, possibly 0.

    Raises:
        ValueError: shapes that do not belong together, or an unknown activation.
    """
    _check(class_logits, box_deltas, anchors_xyxy)
    ranks, least = _ranks(class_logits.float(), activation, score_threshold)
    boxes = clip_to(decode(box_deltas.float(), anchors_xyxy), image_hw=input_hw)  # (N, A, 4)
    peaks = ranks[..., 1:].amax(dim=-1)  # (N, A)
    peaks = peaks.masked_fill(peaks.isnan() | boxes.isnan().any(dim=-1), -torch.inf)

    images, anchors, slots = ranks.shape
    found = peaks.new_full((images, max_detections), -1, dtype=torch.int64)  # cells
    pending = peaks.new_ones((images, 1), dtype=torch.bool)
    depth = max(math.ceil(FIRST_DEPTH * max_detections), FIRST_CELLS // (slots - 1))
    while True:
        floor = _floor(peaks, least=least, depth=depth)  # (N, 1)
        cells, rank = _candidates(ranks, peaks, floor.masked_fill(~pending, torch.nan))
        group = cells // (anchors * slots) * slots + cells % slots
        entering = _entering(rank, group, candidates_per_class=candidates_per_class)
        cells, rank = cells.index_select(0, entering), rank.index_select(0, entering)
        entrants = boxes.flatten(0, 1).index_select(0, cells // slots)  # (C, 4)
        stays = _nms(entrants, group.index_select(0, entering), nms_iou=nms_iou)
        cells, rank = cells.index_select(0, stays), rank.index_select(0, stays)
        cells = cells.index_select(0, _falling(rank, group=cells // (anchors * slots)))
        image = cells // (anchors * slots)
        place = _place(image)
        best = (place < max_detections).nonzero().squeeze(1)
        found[image[best], place[best]] = cells[best]
        # What is below the floor can only matter where too few detections are above it.
        pending &= (floor > least) & (found[:, -1:] < 0)
        if not pending.any():
            return _detections(found, ranks, boxes, activation)
        depth *= DEEPER


def _check(class_logits: Tensor, box_deltas: Tensor, anchors_xyxy: Tensor) -> None:
    images, anchors, slots = class_logits.shape if class_logits.dim() == 3 else (-1, -1, -1)
    fits = box_deltas.shape == (images, anchors, 4) and anchors_xyxy.shape == (anchors, 4)
    if slots < 2 or not fits:
        raise ValueError(
            "postprocess wants class_logits (N, A, K + 1) with K >= 1, box_deltas (N, A, 4) and anchors_xyxy "
            f"(A, 4), got {tuple(class_logits.shape)}, {tuple(box_deltas.shape)} and "
            f"{tuple(anchors_xyxy.shape)}; compute the default boxes for this input size and head"
        )


def _ranks(class_logits: Tensor, activation: Activation, score_threshold: float) -> tuple[Tensor, Tensor]:
    """Give (N, A, S) numbers that rise with the score, and the least of them above the threshold."""
    if activation == "softmax":
        ranks, threshold = class_logits.softmax(dim=-1), score_threshold
    elif activation == "sigmoid":
        # The sigmoid itself is left to the few that become detections.
        ranks, threshold = class_logits, _logit(score_threshold)
    else:
        raise ValueError(f"activation must be 'sigmoid' or 'softmax', got {activation!r}")
    return ranks, torch.nextafter(ranks.new_tensor(threshold), ranks.new_tensor(torch.inf))


def _logit(probability: float) -> float:
    if probability <= 0:
        return -math.inf
    # No score is above 1, and no number compares with NaN.
    return math.log(probability) - math.log1p(-probability) if probability < 1 else math.nan


def _floor(peaks: Tensor, *, least: Tensor, depth: int) -> Tensor:
    """Find a rank, (N, 1), that at least `depth` candidates of the image reach, but not below `least`."""
    if depth >= peaks.shape[1]:
        return least.expand(len(peaks), 1)
    return peaks.topk(depth, dim=1, sorted=False).values.amin(dim=1, keepdim=True).maximum(least)


def _candidates(ranks: Tensor, peaks: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
    """List the cells, int64 (C,), and their ranks, of which (N, A, S) reach their image's floor (N, 1)."""
    rows = (peaks >= floor).flatten().nonzero().squeeze(1)  # (R,) of the N * A
    values = ranks.flatten(0, 1).index_select(0, rows)  # (R, S)
    values[:, 0] = -torch.inf  # background
    hits = (values >= floor.index_select(0, rows // peaks.shape[1])).flatten().nonzero().squeeze(1)
    row = hits // ranks.shape[2]
    cells = rows.sub_(torch.arange(len(rows), device=rows.device)).mul_(ranks.shape[2])
    return hits + cells.index_select(0, row), values.flatten().index_select(0, hits)


def _falling(rank: Tensor, *, group: Tensor) -> Tensor:
    """Order by group, then by falling rank: the permutation, int64 (C,)."""
    bits = rank.view(torch.int32).long()
    # The bits of floats compare as integers do, once those of negative numbers are turned round.
    rising = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return ((group << 32) - rising).argsort(stable=True)


def _place(group: Tensor) -> Tensor:
    """Count each element's predecessors in its run of equal numbers, int64 (C,)."""
    place = torch.arange(len(group), device=group.device)
    return place - torch.where(_starts(group), place, 0).cummax(0).values


def _starts(group: Tensor) -> Tensor:
    """Mark the first of each run of equal numbers, bool (C,)."""
    starts = torch.ones_like(group, dtype=torch.bool)
    torch.ne(group[1:], group[:-1], out=starts[1:])
    return starts


def _entering(rank: Tensor, group: Tensor, *, candidates_per_class: int) -> Tensor:
    """Order by group, then by falling rank, and take the best of each group: indices, int64 (C,)."""
    order = _falling(rank, group=group)
    return order[_place(group[order]) < candidates_per_class]


def _nms(boxes: Tensor, group: Tensor, *, nms_iou: float) -> Tensor:
    """Decide which boxes stay: those that no better box of their group that stays overlaps too much.

    Args:
        boxes: (C, 4) xyxy, group after group, the best of each group first.
        group: int64 (C,).
        nms_iou: IoU above which the weaker box goes.

    Returns:
        int64, their indices, in no order.
    """
    # One row for each coordinate and one for the area, so that arithmetic runs along contiguous memory.
    rows = torch.cat((boxes.T, area(boxes).unsqueeze(0)))  # (5, C)
    alive = torch.arange(len(boxes), device=boxes.device)
    stays = []
    for _ in range(ROUNDS):
        # The best box left of each group stays and drops its neighbours, in all groups at once.
        first = _starts(group)
        leaders = first.nonzero().squeeze(1)
        stays.append(alive.index_select(0, leaders))
        leader = leaders.index_select(0, first.cumsum(0).sub_(1))
        over = _overlap(rows.index_select(1, leader), rows, nms_iou=nms_iou)
        rest = over.logical_or_(first).logical_not_().nonzero().squeeze(1)
        alive, group = alive.index_select(0, rest), group.index_select(0, rest)
        rows = rows.index_select(1, rest)
    stays.append(alive[_undominated(rows, _place(group), nms_iou=nms_iou)])
    return torch.cat(stays)


def _undominated(rows: Tensor, place: Tensor, *, nms_iou: float) -> Tensor:
    """Run NMS by comparing all pairs of a group: bool (C,). `place`, int64 (C,), is that in the group."""
    better, weaker = [], []
    longest = int(place.max()) + 1 if len(place) else 1
    index = torch.arange(len(place), device=rows.device)
    for block in torch.split(index, max(1, PAIRS_PER_BLOCK // longest)):
        repeats = place[block]
        later = block.repeat_interleave(repeats)  # each box once per better box of its group,
        shift = (block - repeats.cumsum(0)).index_select(0, later - block[:1])
        earlier = shift.add_(torch.arange(len(later), device=rows.device))  # which are those just before it
        over = _overlap(rows.index_select(1, earlier), rows.index_select(1, later), nms_iou=nms_iou)
        over = over.nonzero().squeeze(1)
        better.append(earlier.index_select(0, over))
        weaker.append(later.index_select(0, over))
    drops, dropped = torch.cat(better), torch.cat(weaker)
    stays = torch.ones(len(place), dtype=torch.bool, device=rows.device)
    # Greedy NMS is the one fixed point: the first n boxes of every group are right after n rounds, and
    # few rounds are needed, as many as the longest chain of boxes that drop one another.
    while True:
        now = torch.ones_like(stays)
        now[dropped[stays[drops]]] = False
        if torch.equal(now, stays):
            return stays
        stays = now


def _overlap(first: Tensor, second: Tensor, *, nms_iou: float) -> Tensor:
    """Say, bool (P,), which of two lists' boxes, (5, P) each as in `_nms`, overlap by more than an IoU."""
    sides = torch.minimum(first[2:4], second[2:4]).sub_(torch.maximum(first[:2], second[:2])).clamp_(min=0)
    inter = sides[0] * sides[1]
    return inter / (first[4] + second[4]).sub_(inter) > nms_iou  # torchvision's formula, to the bit


def _detections(found: Tensor, ranks: Tensor, boxes: Tensor, activation: Activation) -> Detections:
    """Look up the cells found, int64 (N, max_detections), -1 where there are no more."""
    there = found >= 0
    counts = there.sum(dim=1)
    most = int(counts.max()) if len(counts) else 0
    found, there = found[:, :most].clamp(min=0), there[:, :most]
    scores = ranks.flatten().index_select(0, found.flatten()).view_as(found)
    scores = scores.sigmoid() if activation == "sigmoid" else scores
    slots = ranks.shape[2]
    boxes_xyxy = boxes.flatten(0, 1)[found // slots]  # (N, D, 4)
    return Detections(
        boxes_xyxy=boxes_xyxy.masked_fill(~there.unsqueeze(-1), 0.0),
        scores=scores.masked_fill(~there, 0.0),
        labels=(found % slots - 1).masked_fill(~there, -1),
        counts=counts,
    )
