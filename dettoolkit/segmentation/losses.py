"""Cross-entropy of segmentation: at the labels' size, void ignored, on all pixels or on the hardest.

N: images, K: classes; (H, W) the labels' size, (h, w) the logits', which the head gives at stride 8 or so.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from dettoolkit.datasets.cityscapes_labels import VOID

Loss = Callable[[Tensor, Tensor], Tensor]  # of logits (N, K, h, w) and label maps (N, H, W)


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    class_weights: Tensor | None,
    ohem: tuple[float, float] | None,
    align_corners: bool,
) -> Tensor:
    """Compute softmax cross-entropy of the bilinearly upsampled logits (N, K, h, w), in float32.

    Labels are (N, H, W), 255 ignored. The mean is torch's: each labeled pixel weighs what its class weighs (1
    without `class_weights`), and the sum is divided by the weights' sum. Without anything to count, as in a
    batch of nothing but void, the loss is 0 and so is every gradient.

    `ohem` is online hard example mining (Shrivastava et al. 2016) by pixels, as DDRNet and PIDNet train,
    (threshold, min_kept): only pixels whose true class has a probability below `threshold` count, but at
    least the fraction `min_kept` of the batch's labeled pixels, those with the lowest. Where DDRNet has a
    number of pixels, the fraction is the same for any crop and any amount of void; BiSeNet's is 1/16.
    """
    if logits.dim() != 4 or labels.dim() != 3 or len(logits) != len(labels):
        raise ValueError(
            "cross_entropy expects logits (N, K, h, w) and labels (N, H, W) of the same N, got "
            f"{tuple(logits.shape)} and {tuple(labels.shape)}"
        )
    if class_weights is not None and class_weights.shape != logits.shape[1:2]:
        raise ValueError(
            f"cross_entropy expects a weight for each of the {logits.shape[1]} classes, got "
            f"class_weights of shape {tuple(class_weights.shape)}"
        )
    logits, counted = logits.float(), labels != VOID
    if class_weights is None:
        weights = counted.float()  # (N, H, W)
    else:
        table = F.pad(class_weights.to(logits), (0, VOID + 1 - len(class_weights)))
        weights = table[labels.long()]
    if ohem is not None:
        entropies = logits.new_zeros(labels.shape)
        with torch.no_grad():
            for row in range(len(logits)):
                entropies[row] = _entropy(logits[row], labels[row], align_corners)
        weights = weights * _hard(entropies, counted, *ohem)
    total = weights.sum()
    weights = weights / torch.where(total > 0, total, 1.0)
    loss: Tensor = _WeightedEntropy.apply(logits, labels, weights, align_corners)
    return loss


class _WeightedEntropy(torch.autograd.Function):
    """Sum of weight * cross-entropy over pixels; an image at a time, its gradient worked out along with it.

    Autograd would hold three tensors of the size of the upsampled logits: 2 GB for 16 crops of 769 x 769 and
    19 classes. This keeps one of the size of the head's logits, for a twentieth more time on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, weights: Tensor, align_corners: bool) -> Tensor:
        loss = logits.new_zeros(())
        gradient = torch.zeros_like(logits) if ctx.needs_input_grad[0] else None
        for row in range(len(logits)):
            with torch.set_grad_enabled(gradient is not None):
                image = logits[row].detach().requires_grad_(gradient is not None)
                entropy = _entropy(image, labels[row], align_corners)
                part = (entropy * weights[row]).sum()
            loss += part.detach()
            if gradient is not None:
                (gradient[row],) = torch.autograd.grad(part, image)
        ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream, None, None, None


def _entropy(logits: Tensor, labels: Tensor, align_corners: bool) -> Tensor:
    """Return the cross-entropy (H, W) of one image's logits (K, h, w); 0 where void."""
    upsampled = F.interpolate(
        logits.unsqueeze(0), size=labels.shape, mode="bilinear", align_corners=align_corners
    )
    truth = labels.long().unsqueeze(0)
    return F.cross_entropy(upsampled, truth, ignore_index=VOID, reduction="none").squeeze(0)


def _hard(entropies: Tensor, counted: Tensor, threshold: float, min_kept: float) -> Tensor:
    """Return which labeled pixels are hard: bool (N, H, W)."""
    entropies = entropies.masked_fill(~counted, -1.0)  # below any labeled pixel's
    hard = entropies > -math.log(threshold)
    found, labeled = torch.stack((hard.sum(), counted.sum())).tolist()
    wanted = math.ceil(min_kept * labeled)
    if found >= wanted:
        return hard
    hardest = entropies.flatten().topk(wanted, sorted=False).indices
    return torch.zeros_like(counted).flatten().index_fill_(0, hardest, True).view_as(counted)
