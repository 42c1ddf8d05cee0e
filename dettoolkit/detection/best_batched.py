"""The cells of a batch's detections, all images at once: for devices on which many small steps are slow.

N: images, A: default boxes, S: class slots (K classes and background), C: candidates of the whole batch.
A cell is the number of an (image, default box, slot) in a flat (N, A, S).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dettoolkit.detection.nms import grouped_nms, rank_in_group
from dettoolkit.detection.spec import Decoding

# Speed only, by benchmarks/postprocess.py; the detections are the same for any values.
FIRST_DEPTH = 6  # candidates of an image looked at first, per wanted detection
FIRST_CELLS = 16384  # but at least so many cells of an image, which is everything where classes are few
DEEPER = 2  # growth of the depth for images where too few boxes survive


def best_batched(
    ranks: Tensor,
    box_deltas: Tensor,
    boxes_of: Callable[[Tensor], Tensor],
    decoding: Decoding,
    *,
    lowest: Tensor,
) -> Tensor:
    """Find the detections of each image, the best first: cells, int64 (N, max_detections), -1 for none.

    Ranks are (N, A, S) numbers that rise with the score, of which those from `lowest` count; box deltas (N,
    A, 4); `boxes_of` returns the boxes (C, 4) of cells (C,).
    """
    images, anchors, slots = ranks.shape
    first = int(decoding.background)  # slot of label 0
    peaks = ranks[..., first:].amax(dim=-1)  # (N, A)
    peaks = peaks.masked_fill(peaks.isnan(), -torch.inf)
    found = peaks.new_full((images, decoding.max_detections), -1, dtype=torch.int64)
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
            return found
        depth *= DEEPER


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
