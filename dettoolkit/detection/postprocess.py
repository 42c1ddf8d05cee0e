"""From raw predictions to detections: scores, thresholds, class-wise NMS; batched throughout.

torchvision takes, for each image and class, the best candidates above the score threshold, runs NMS class
by class and keeps the best detections of the image. NMS decides on a box by better boxes only, so looking
at an image's best few candidates, over all classes, gives the same detections as long as enough of them
survive; images where too few do are looked at again, deeper.

N: images, A: default boxes, S: class slots (K classes and background), C: candidates of the whole batch,
D: detections of an image, padded. A cell is the number of an (image, default box, slot) in a flat (N, A, S).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from dettoolkit.detection.box_coding import CODERS, clip_to
from dettoolkit.detection.nms import grouped_nms, rank_in_group
from dettoolkit.detection.spec import Activation, Decoding
from dettoolkit.manifest import SizeHW

# Speed only, by benchmarks/postprocess.py; the detections are the same for any values.
FIRST_DEPTH = 6  # candidates of an image looked at first, per wanted detection
FIRST_CELLS = 16384  # but at least so many cells of an image, which is everything where classes are few
DEEPER = 2  # growth of the depth for images where too few boxes survive


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
    images, anchors, slots = ranks.shape
    peaks = ranks[..., first:].amax(dim=-1)  # (N, A)
    peaks = peaks.masked_fill(peaks.isnan(), -torch.inf)

    def boxes_of(cells: Tensor) -> Tensor:  # (C,) -> (C, 4)
        row = cells // slots
        deltas = box_deltas.flatten(0, 1).index_select(0, row).float()
        return clip_to(decode(deltas, anchors_xyxy.index_select(0, row % anchors)), image_hw=input_hw)

    found = peaks.new_full((images, decoding.max_detections), -1, dtype=torch.int64)  # cells
    pending = peaks.new_ones((images, 1), dtype=torch.bool)
    depth = max(FIRST_DEPTH * decoding.max_detections, FIRST_CELLS // (slots - first))
    while True:
        cells, rank, floor = _candidates(
            ranks, peaks, box_deltas, pending, first=first, lowest=lowest, depth=depth
        )
        cells, rank, group = topk_per_class(
            cells, rank, ranks.shape, candidates_per_class=decoding.candidates_per_class
        )
        stays = grouped_nms(boxes_of(cells), group, nms_iou=decoding.nms_iou)
        cells, rank = cells.index_select(0, stays), rank.index_select(0, stays)
        cells = cells.index_select(0, _falling(rank, group=cells // (anchors * slots)))
        image = cells // (anchors * slots)
        column = rank_in_group(image)
        best = (column < decoding.max_detections).nonzero().squeeze(1)
        found[image[best], column[best]] = cells[best]
        # What is below the floor can only matter where too few detections are above it.
        pending &= (floor > lowest) & (found[:, -1:] < 0)
        if not pending.any():
            return _detections(found, ranks, boxes_of, decoding)
        depth *= DEEPER


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
        ranks, threshold = class_logits.softmax(dim=-1), score_threshold
    else:  # the sigmoid itself is left to the few that become detections
        ranks, threshold = class_logits, logit(score_threshold)
    return ranks, torch.nextafter(ranks.new_tensor(threshold), ranks.new_tensor(torch.inf))


def logit(score: float) -> float:
    """Return a score threshold as a logit; NaN, which nothing is above, where no score can be above it."""
    if score <= 0:
        return -math.inf
    return math.log(score) - math.log1p(-score) if score < 1 else math.nan


def _candidates(
    ranks: Tensor,
    peaks: Tensor,
    box_deltas: Tensor,
    pending: Tensor,
    *,
    first: int,
    lowest: Tensor,
    depth: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """List the best candidates, `depth` or all, half as many at least, of each image that is pending (N, 1).

    Ranks are (N, A, S), peaks (N, A) the best class's; default boxes with a NaN in their deltas have no
    candidates. Returned are cells int64 (C,) and their ranks (C,), ordered by image, and the floor (N, 1)
    that they reach: there are no others at or above it.
    """
    anchors, slots = ranks.shape[1:]
    # Among the best candidates a default box has two or three, so those of the best half are enough.
    floor = _floor(peaks, lowest=lowest, depth=-(-depth // 2))
    floor = floor.masked_fill(~pending, torch.nan)  # nothing compares with NaN
    rows = (peaks >= floor).flatten().nonzero().squeeze(1)  # (R,) of the N * A
    broken = box_deltas.flatten(0, 1).index_select(0, rows).isnan().any(dim=1)
    rows = rows.index_select(0, (~broken).nonzero().squeeze(1))
    values = ranks.flatten(0, 1).index_select(0, rows)  # (R, S)
    values[:, :first] = -torch.inf  # background
    hits = (values >= floor.index_select(0, rows // anchors)).flatten().nonzero().squeeze(1)  # of the R * S
    rank = values.flatten().index_select(0, hits)
    row = hits // slots
    cells = rows.index_select(0, row).sub_(row).mul_(slots).add_(hits)

    image = cells // (anchors * slots)
    floor = _floor(_by_image(rank, image, images=len(peaks)), lowest=floor, depth=depth)
    above = (rank >= floor.flatten().index_select(0, image)).nonzero().squeeze(1)
    return cells.index_select(0, above), rank.index_select(0, above), floor


def _floor(ranks: Tensor, *, lowest: Tensor, depth: int) -> Tensor:
    """Find the rank that `depth` of each row of (N, any) reach, but not below `lowest`: (N, 1)."""
    if depth >= ranks.shape[1]:
        return lowest.expand(len(ranks), 1)
    return ranks.topk(depth, dim=1, sorted=False).values.amin(dim=1, keepdim=True).maximum(lowest)


def _by_image(rank: Tensor, image: Tensor, *, images: int) -> Tensor:
    """Arrange ranks, (C,) ordered by image, in a row for each image: (N, most), padded with -inf."""
    column = rank_in_group(image)
    most = int(column.max()) + 1 if len(column) else 0
    padded = rank.new_full((images * most,), -torch.inf)
    return padded.index_copy_(0, image * most + column, rank).view(images, most)


def topk_per_class(
    cells: Tensor, rank: Tensor, shape: torch.Size, *, candidates_per_class: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Take the best of each group, a class of an image: cells, ranks, groups (C,), by group, best first."""
    _, anchors, slots = shape
    group = cells // (anchors * slots) * slots + cells % slots
    order = _falling(rank, group=group)
    order = order[rank_in_group(group.index_select(0, order)) < candidates_per_class]
    return cells.index_select(0, order), rank.index_select(0, order), group.index_select(0, order)


def _falling(rank: Tensor, *, group: Tensor) -> Tensor:
    """Order by group, then by falling rank: the permutation, int64 (C,)."""
    bits = rank.view(torch.int32).long()
    # The bits of floats compare as integers do, once those of negative numbers are turned round.
    rising = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return ((group << 32) - rising).argsort(stable=True)


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
