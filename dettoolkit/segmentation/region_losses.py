"""Losses of regions, beside cross-entropy: soft dice and Lovász-Softmax, near to what mIoU counts.

They compare classes over all labeled pixels of the batch, and only classes that the labels have: one that is
absent has no region to be met. Both take logits at the size that the head gives and read the label nearest to
the center of each of its pixels. At the labels' own size Lovász-Softmax would sort 64 times as many numbers
for each class, and take several times as long as all the rest of a training step.

N: images, K: classes; (H, W) the labels' size, (h, w) the logits'; P = N * h * w pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dettoolkit.datasets.cityscapes_labels import VOID


def dice(logits: Tensor, labels: Tensor, *, weight: float, align_corners: bool) -> Tensor:
    """Compute soft dice loss, from 0 to `weight`, of logits (N, K, h, w) and labels (N, H, W), 255 ignored.

    For each class 1 - 2 sum(p y) / (sum(p) + sum(y)), with its probability p and 1 or 0 for y (Drozdzal et
    al. 2016, arXiv 1608.04117, equation 2), and the mean over the classes present.
    """
    probabilities, truth = _regions(logits, labels, align_corners)
    sizes = truth.sum(dim=1)  # (K,)
    inside = (probabilities * truth).sum(dim=1)
    losses = 1 - 2 * inside / (probabilities.sum(dim=1) + sizes).clamp(min=1e-6)
    return weight * _mean_of_present(losses, sizes)


def lovasz_softmax(logits: Tensor, labels: Tensor, *, weight: float, align_corners: bool) -> Tensor:
    """Compute Lovász-Softmax, from 0 to `weight`, of logits (N, K, h, w) and labels (N, H, W), 255 ignored.

    The convex extension of 1 - IoU to probabilities (Berman et al. 2018, arXiv 1705.08790, section 2), for
    each class over the whole batch, and the mean over the classes present. Of predictions that are certain
    it is 1 - IoU.
    """
    probabilities, truth = _regions(logits, labels, align_corners)
    # A void pixel has p = y = 0, so an error of 0: sorted last, it adds nothing and moves no other.
    errors, order = (truth - probabilities).abs().sort(dim=1, descending=True)
    slopes = _jaccard_slopes(truth.gather(1, order))
    return weight * _mean_of_present((errors * slopes).sum(dim=1), truth.sum(dim=1))


def _jaccard_slopes(truth: Tensor) -> Tensor:
    """Return how much 1 - IoU grows by each further pixel that is wrong (algorithm 1): (K, P).

    `truth` (K, P) is 1 where a pixel has the class, in the order in which pixels become wrong.
    """
    sizes = truth.sum(dim=1, keepdim=True)
    intersection = sizes - truth.cumsum(dim=1)
    union = sizes + (1 - truth).cumsum(dim=1)
    jaccard = 1 - intersection / union.clamp(min=1)
    return jaccard.diff(dim=1, prepend=torch.zeros_like(sizes))


def _regions(logits: Tensor, labels: Tensor, align_corners: bool) -> tuple[Tensor, Tensor]:
    """Return the probabilities (K, P), float32 at least, and 1 where a pixel has the class; void is all 0."""
    classes = logits.shape[1]
    nearest = labels_at(labels, (logits.shape[2], logits.shape[3]), align_corners=align_corners).long()
    labeled = nearest != VOID
    truth = F.one_hot(nearest.masked_fill(~labeled, classes), classes + 1)[..., :classes]  # (N, h, w, K)
    exact = torch.promote_types(logits.dtype, torch.float32)
    probabilities = logits.to(exact).softmax(dim=1).movedim(1, 0) * labeled
    return probabilities.flatten(1), truth.movedim(3, 0).flatten(1).to(exact)


def labels_at(labels: Tensor, hw: tuple[int, int], *, align_corners: bool) -> Tensor:
    """Return the labels (N, h, w) at the centers of the pixels of a coarser map, of labels (N, H, W).

    The centers lie where bilinear resizing of that map to the labels' size puts them.
    """
    for axis, length in enumerate(hw, start=1):
        full = labels.shape[axis]
        steps = torch.arange(length, device=labels.device)
        if align_corners:
            place = (steps * ((full - 1) / max(length - 1, 1))).round().long()
        else:
            place = ((steps + 0.5) * (full / length)).long()
        labels = labels.index_select(axis, place.clamp(max=full - 1))
    return labels


def _mean_of_present(losses: Tensor, sizes: Tensor) -> Tensor:
    """Return the mean of the losses (K,) of classes with pixels; 0, with no gradient, where none has."""
    present = (sizes > 0).to(losses)
    return (losses * present).sum() / present.sum().clamp(min=1)
