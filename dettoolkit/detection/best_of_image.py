"""The cells of one image's detections on the CPU, where few boxes are fast and many small steps are not slow.

A: default boxes, S: class slots (K classes and background), C: candidates. A cell is the number of a (default
box, slot) in a flat (A, S).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.ops import nms

from dettoolkit.detection.spec import Decoding

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

# Speed only, by benchmarks/postprocess.py; the detections are the same for any values.
FIRST_DEPTH = 5  # candidates looked at first, per wanted detection
DEEPER = 2  # growth of the depth where too few boxes survive


def best_of_image(
    ranks: Tensor,
    box_deltas: Tensor,
    boxes_of: Callable[[Tensor], Tensor],
    decoding: Decoding,
    *,
    lowest: Tensor,
) -> Tensor:
    """Find the detections of an image on the CPU, as `best_batched`: int64 (1, max_detections).

    Ranks are (1, A, S), box deltas (1, A, 4).
    """
    (own_ranks,), (deltas,) = ranks.numpy(), box_deltas.float().numpy()
    slots, first = ranks.shape[2], int(decoding.background)
    depth, complete = FIRST_DEPTH * decoding.max_detections, False
    while not complete:
        cells, rank, complete = _candidates(own_ranks, deltas, first, lowest=lowest.numpy(), depth=depth)
        cells, rank = _topk_per_class(cells, rank, slots, limit=decoding.candidates_per_class)
        found = torch.from_numpy(cells)
        stays = _nms_per_class(boxes_of(found), rank, found % slots, iou=decoding.nms_iou)
        found = found[stays[: decoding.max_detections]]
        complete = complete or len(found) == decoding.max_detections
        depth *= DEEPER
    return nn.functional.pad(found, (0, decoding.max_detections - len(found)), value=-1).unsqueeze(0)


def _candidates(
    ranks: Floats, deltas: Floats, first: int, *, lowest: Floats, depth: int
) -> tuple[Integers, Floats, bool]:
    """List the best candidates of an image, `depth` or all: cells (C,), ranks (C,), whether these are all.

    Ranks are (A, S), from slot `first`; default boxes with a NaN in ranks or deltas (A, 4) have none.
    """
    peaks = ranks[:, first:].max(axis=1)
    peaks = np.where(np.isnan(peaks), -np.inf, peaks)
    # Among the best candidates a default box has two or three, so those of the best half are enough.
    floor = np.maximum(lowest, _reached_by(peaks, -(-depth // 2)))
    rows = np.flatnonzero(peaks >= floor)
    rows = rows[~np.isnan(deltas[rows]).any(axis=1)]
    values = ranks[rows, first:]
    row, column = np.nonzero(values >= floor)
    rank, cells = values[row, column], rows[row] * ranks.shape[1] + column + first
    floor = np.maximum(floor, _reached_by(rank, depth))
    above = rank >= floor
    return cells[above], rank[above], not floor > lowest


def _reached_by(values: Floats, count: int) -> np.float32:
    """Return the number that so many of some numbers reach; -inf if there are not more of them."""
    if len(values) <= count:
        return np.float32(-np.inf)
    value: np.float32 = np.partition(values, len(values) - count)[len(values) - count]
    return value


def _topk_per_class(cells: Integers, rank: Floats, slots: int, *, limit: int) -> tuple[Integers, Floats]:
    """Take the best `limit` of each class: cells and ranks (C,), by class, the best first."""
    order = np.lexsort((-rank, cells % slots))
    cells, rank = cells[order], rank[order]
    label = cells % slots
    place = np.arange(len(label)) - np.searchsorted(label, label)
    return cells[place < limit], rank[place < limit]


def _nms_per_class(boxes_xyxy: Tensor, rank: Floats, label: Tensor, *, iou: float) -> Tensor:
    """Return the indices of the boxes (C, 4) that stay, the best first."""
    if not len(label):
        return label
    # Boxes of different classes are moved apart, in double precision, which leaves their sizes as they are.
    apart = label.double().mul_(float(boxes_xyxy.max()) + 1).unsqueeze(1)
    stays: Tensor = nms(boxes_xyxy + apart, torch.from_numpy(rank).double(), iou)
    return stays
