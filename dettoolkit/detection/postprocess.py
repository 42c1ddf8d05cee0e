"""From raw predictions to detections: scores, thresholds, class-wise NMS; batched throughout.

torchvision takes, for each image and class, the best candidates above the score threshold, runs NMS class
by class and keeps the best detections of the image. NMS decides on a box by better boxes only, so looking
at an image's best few candidates, over all classes, gives the same detections as long as enough of them
survive; images where too few do are looked at again, deeper.

N: images, A: default boxes, K: classes, C: candidates of the whole batch, D: most detections of an image.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from dettoolkit.detection.boxes import area, clip_to, decode

Activation = Literal["sigmoid", "softmax"]

# Candidates of an image looked at first, per wanted detection, and the growth if too few of them survive.
FIRST_DEPTH = 8
DEEPER = 4
# Rounds of NMS that take the best box of every group, before all that is left is compared pair by pair.
ROUNDS = 8
# Pairs of boxes compared at once, at most: bounds the memory of NMS to about 200 MB.
PAIRS_PER_BLOCK = 1 << 21


class Detections(NamedTuple):
    """What was found in each image, the surest first."""

    boxes_xyxy: Tensor  # float32 (N, D, 4) pixels of the network's input, clipped to it; 0 for padding
    scores: Tensor  # float32 (N, D); 0 for padding
    labels: Tensor  # int64 (N, D) 0-based class, without background; -1 for padding
    counts: Tensor  # int64 (N,) detections of each image


class _Candidates(NamedTuple):
    """(image, default box, class) triples, ordered by image, then by falling rank."""

    image: Tensor  # int64 (C,)
    anchor: Tensor  # int64 (C,)
    label: Tensor  # int64 (C,)
    rank: Tensor  # float32 (C,): the score, or the logit where the score is its sigmoid

    def at(self, index: Tensor) -> _Candidates:
        return _Candidates(*(column[index] for column in self))


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
        class_logits: (N, A, K + 1), slot 0 is background.
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
    ranks, threshold = _ranks(class_logits.float(), activation, score_threshold)
    peaks = ranks.amax(dim=-1)  # (N, A)
    peaks = peaks.masked_fill(peaks.isnan() | box_deltas.isnan().any(dim=-1), -torch.inf)
    boxes_xyxy = clip_to(decode(box_deltas.float(), anchors_xyxy), image_hw=input_hw)  # (N, A, 4)

    images = torch.arange(len(peaks), device=peaks.device)
    depth = FIRST_DEPTH * max_detections
    kept: list[_Candidates] = []
    while True:
        pool, cut = _best(ranks, peaks, images, threshold=threshold, depth=depth)
        pool = _survivors(pool, boxes_xyxy, nms_iou=nms_iou, candidates_per_class=candidates_per_class)
        order = _order_in_group(pool.image)
        pool = pool.at((order < max_detections).nonzero().squeeze(1))
        counts = torch.bincount(pool.image, minlength=len(peaks))
        short = cut & (counts[images] < max_detections)
        unfinished = torch.zeros(len(peaks), dtype=torch.bool, device=peaks.device)
        unfinished[images] = short
        kept.append(pool.at((~unfinished[pool.image]).nonzero().squeeze(1)))
        images = images[short]
        if len(images) == 0:
            break
        depth *= DEEPER
    everything = _Candidates(*(torch.cat(columns) for columns in zip(*kept, strict=True)))
    everything = everything.at(everything.image.argsort(stable=True))
    return _padded(everything, boxes_xyxy, activation)


def _check(class_logits: Tensor, box_deltas: Tensor, anchors_xyxy: Tensor) -> None:
    images, anchors, slots = class_logits.shape if class_logits.dim() == 3 else (-1, -1, -1)
    fits = box_deltas.shape == (images, anchors, 4) and anchors_xyxy.shape == (anchors, 4)
    if slots < 2 or not fits:
        raise ValueError(
            "postprocess wants class_logits (N, A, K + 1) with K >= 1, box_deltas (N, A, 4) and anchors_xyxy "
            f"(A, 4), got {tuple(class_logits.shape)}, {tuple(box_deltas.shape)} and "
            f"{tuple(anchors_xyxy.shape)}; compute the default boxes for this input size and head"
        )


def _ranks(class_logits: Tensor, activation: Activation, score_threshold: float) -> tuple[Tensor, float]:
    """Give (N, A, K) numbers that rise with the score, and the threshold in their terms."""
    if activation == "softmax":
        return class_logits.softmax(dim=-1)[..., 1:], score_threshold
    if activation == "sigmoid":
        # The sigmoid is left to the few that become detections.
        return class_logits[..., 1:], _logit(score_threshold)
    raise ValueError(f"activation must be 'sigmoid' or 'softmax', got {activation!r}")


def _logit(probability: float) -> float:
    if 0 < probability < 1:
        return math.log(probability) - math.log1p(-probability)
    return -math.inf if probability <= 0 else math.inf


def _best(
    ranks: Tensor, peaks: Tensor, images: Tensor, *, threshold: float, depth: int
) -> tuple[_Candidates, Tensor]:
    """Take the best `depth` candidates of each of some images.

    Args:
        ranks: (N, A, K).
        peaks: (N, A), the highest of each default box.
        images: int64 (I,), the images to look at.
        threshold: ranks of candidates are above it.
        depth: most candidates of an image.

    Returns:
        The candidates, and for each of the images, bool (I,), whether more are above the threshold.
    """
    peaks = peaks[images]
    anchors = peaks.shape[1]
    above = peaks > threshold
    lowest = torch.nextafter(peaks.new_full((len(images), 1), threshold), peaks.new_tensor(torch.inf))
    cut = torch.zeros(len(images), dtype=torch.bool, device=peaks.device)
    if depth < anchors:
        # The depth-th highest peak: `depth` candidates at least reach it, so none below it is needed.
        floor = peaks.topk(depth, dim=1).values[:, -1:]  # (I, 1)
        reached = above & (peaks >= floor)
        cut = (above & ~reached).any(dim=1)
        above = reached
        lowest = lowest.maximum(floor)
    row, anchor = above.nonzero(as_tuple=True)  # (R,), (R,)
    rows = ranks[images[row], anchor]  # (R, K)
    which, label = (rows >= lowest[row]).nonzero(as_tuple=True)  # (C,), (C,)
    local = row[which]
    pool = _Candidates(image=local, anchor=anchor[which], label=label, rank=rows[which, label])
    pool = pool.at(_falling(pool.rank, group=local))
    order = _order_in_group(pool.image)
    beyond = order >= depth
    cut[pool.image[beyond]] = True
    pool = pool.at((~beyond).nonzero().squeeze(1))
    return pool._replace(image=images[pool.image]), cut


def _falling(rank: Tensor, *, group: Tensor) -> Tensor:
    """Order by group, then by falling rank: the permutation, int64 (C,)."""
    bits = rank.contiguous().view(torch.int32).long()
    # The bits of floats compare as integers do, once those of negative numbers are turned round.
    rising = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return ((group << 32) - rising).argsort(stable=True)


def _order_in_group(group: Tensor) -> Tensor:
    """Count each element's predecessors in its group, (C,); groups are consecutive runs of equal numbers."""
    place = torch.arange(len(group), device=group.device)
    return place - torch.where(_starts(group), place, 0).cummax(0).values


def _starts(group: Tensor) -> Tensor:
    """Mark the first of each run of equal numbers, bool (C,)."""
    starts = torch.ones_like(group, dtype=torch.bool)
    torch.ne(group[1:], group[:-1], out=starts[1:])
    return starts


def _survivors(
    pool: _Candidates, boxes_xyxy: Tensor, *, nms_iou: float, candidates_per_class: int
) -> _Candidates:
    """Run class-wise NMS on the best candidates of each class of each image."""
    group = (pool.image << 32) + pool.label
    by_group = group.argsort(stable=True)  # order of ranks kept within a group
    order = _order_in_group(group[by_group])
    entering = (order < candidates_per_class).nonzero().squeeze(1)
    by_group = by_group[entering]
    boxes = boxes_xyxy[pool.image[by_group], pool.anchor[by_group]]  # (C, 4)
    stays = _nms(boxes, group[by_group], nms_iou=nms_iou)
    return pool.at(by_group[stays].sort().values)


def _nms(boxes: Tensor, group: Tensor, *, nms_iou: float) -> Tensor:
    """Decide which boxes stay: those that no better box of their group that stays overlaps too much.

    Args:
        boxes: (C, 4) xyxy, group after group, the best of each group first.
        group: int64 (C,).
        nms_iou: IoU above which the weaker box goes.

    Returns:
        bool (C,).
    """
    stays = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    alive = torch.arange(len(boxes), device=boxes.device)
    for _ in range(ROUNDS):
        # The best box left of each group stays and drops its neighbours, in all groups at once.
        first = _starts(group)
        best = first.nonzero().squeeze(1)[first.cumsum(0) - 1]
        stays[alive[first]] = True
        rest = (~(first | _overlap(boxes[best], boxes, nms_iou=nms_iou))).nonzero().squeeze(1)
        alive, boxes, group = alive[rest], boxes[rest], group[rest]
    stays[alive[_undominated(boxes, _order_in_group(group), nms_iou=nms_iou)]] = True
    return stays


def _undominated(boxes: Tensor, order: Tensor, *, nms_iou: float) -> Tensor:
    """Do the same by comparing all pairs of a group; `order`, int64 (C,), is the place in the group."""
    better, weaker = [], []
    place = torch.arange(len(boxes), device=boxes.device)
    longest = int(order.max()) + 1 if len(order) else 1
    for block in torch.split(place, max(1, PAIRS_PER_BLOCK // longest)):
        later = block.repeat_interleave(order[block])  # each box once per better box of its group
        earlier = later - 1 - _order_in_group(later)
        over = _overlap(boxes[earlier], boxes[later], nms_iou=nms_iou).nonzero().squeeze(1)
        better.append(earlier[over])
        weaker.append(later[over])
    drops, dropped = torch.cat(better), torch.cat(weaker)
    stays = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
    # Greedy NMS is the one fixed point: the first n boxes of every group are right after n rounds, and
    # few rounds are needed, as many as the longest chain of boxes that drop one another.
    while True:
        now = torch.ones_like(stays)
        now[dropped[stays[drops]]] = False
        if torch.equal(now, stays):
            return stays
        stays = now


def _overlap(first: Tensor, second: Tensor, *, nms_iou: float) -> Tensor:
    """Say, bool (P,), which of two lists' boxes, (P, 4) each, overlap by more than an IoU."""
    low = torch.maximum(first[:, :2], second[:, :2])
    sides = torch.minimum(first[:, 2:], second[:, 2:]).sub_(low).clamp_(min=0)
    inter = sides[:, 0] * sides[:, 1]
    return inter / (area(first) + area(second) - inter) > nms_iou  # torchvision's formula, to the bit


def _padded(found: _Candidates, boxes_xyxy: Tensor, activation: Activation) -> Detections:
    """Arrange detections, ordered by image, in (N, D) rows."""
    images = len(boxes_xyxy)
    counts = torch.bincount(found.image, minlength=images)
    most = int(counts.max()) if images else 0
    slot = (found.image, _order_in_group(found.image))
    scores = found.rank.sigmoid() if activation == "sigmoid" else found.rank
    padded = Detections(
        boxes_xyxy=boxes_xyxy.new_zeros(images, most, 4),
        scores=scores.new_zeros(images, most),
        labels=found.label.new_full((images, most), -1),
        counts=counts,
    )
    padded.boxes_xyxy[slot] = boxes_xyxy[found.image, found.anchor]
    padded.scores[slot] = scores
    padded.labels[slot] = found.label
    return padded
