"""Losses of SSDLite: class losses, box losses, and their sum over a batch's default boxes.

N: images, A: default boxes, S: class slots, K + 1 of K classes; slot 0 is background. All compute in float32
whatever the precision of the outputs, and are finite, with gradients for all inputs, when no object is
matched.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from dettoolkit.detection.box_coding import BoxCoder, area, pairwise_iou
from dettoolkit.detection.matching import Targets

EPSILON = 1e-7  # square pixels; as in torchvision.ops.generalized_box_iou_loss

ClassLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(logits (N, A, S), slots (N, A), weights (N, A)) -> sum over the default boxes, 0-dimensional.

A weight is 1 where an object is matched, or the quality of the match, and 0 for background.
"""
BoxLoss = Callable[[Tensor, Tensor, Tensor, BoxCoder], Tensor]
"""(coded boxes (N, A, 4), anchors_xyxy (A, 4), targets_xyxy (N, A, 4), coder) -> (N, A, 4) or (N, A, 1)."""


def detection_losses(
    outputs: tuple[Tensor, Tensor],
    anchors_xyxy: Tensor,
    targets: Targets,
    *,
    class_loss: ClassLoss,
    box_loss: BoxLoss,
    box_weight: float,
    coder: BoxCoder,
    by_quality: bool,
) -> dict[str, Tensor]:
    """Return the losses "class" and "box" of class logits (N, A, S) and coded boxes (N, A, 4).

    Both are summed and divided by the weights' sum, which counts as 1 at least. Weights are 1 of matched
    default boxes; `by_quality` they are the assigner's quality or, where it has none, the IoU of the
    predicted box and the object (varifocal loss, arXiv 2008.13367).
    """
    logits, coded = (output.float() for output in outputs)
    weights = (targets.slots > 0).float()
    if by_quality and targets.quality is not None:
        weights = targets.quality
    elif by_quality:
        weights = weights * aligned_iou(coder.decode(coded.detach(), anchors_xyxy), targets.boxes_xyxy)
    total = weights.sum().clamp(min=1)
    box = box_loss(coded, anchors_xyxy, targets.boxes_xyxy, coder)
    box = torch.where((targets.slots > 0).unsqueeze(-1), weights.unsqueeze(-1) * box, 0.0).sum()
    return {"class": class_loss(logits, targets.slots, weights) / total, "box": box_weight * (box / total)}


def smooth_l1(coded: Tensor, anchors_xyxy: Tensor, targets_xyxy: Tensor, coder: BoxCoder) -> Tensor:
    """Compute smooth L1 (delta 1) of each coded number, (N, A, 4)."""
    return F.smooth_l1_loss(coded, coder.encode(targets_xyxy, anchors_xyxy), reduction="none", beta=1.0)


def giou(coded: Tensor, anchors_xyxy: Tensor, targets_xyxy: Tensor, coder: BoxCoder) -> Tensor:
    """Compute `giou_loss` of predicted boxes and targets, (N, A, 1)."""
    return giou_loss(coder.decode(coded, anchors_xyxy), targets_xyxy).unsqueeze(-1)


def giou_loss(boxes_xyxy: Tensor, targets_xyxy: Tensor) -> Tensor:
    """Compute 1 - GIoU (arXiv 1902.09630), 0 to 2, of boxes (..., 4) and targets at their places: (...).

    GIoU is the IoU less the fraction of the smallest box around both that neither covers; both fractions of
    nothing are 0.
    """
    least, most = torch.minimum(boxes_xyxy, targets_xyxy), torch.maximum(boxes_xyxy, targets_xyxy)
    inner = (least[..., 2:] - most[..., :2]).clamp(min=0).prod(dim=-1)
    hull = (most[..., 2:] - least[..., :2]).prod(dim=-1)
    union = area(boxes_xyxy) + area(targets_xyxy) - inner
    # Divisions by 0 would give gradients that are not finite, also where the result is not used.
    iou, uncovered = inner / union.clamp(min=EPSILON), (hull - union) / hull.clamp(min=EPSILON)
    return 1 - iou + uncovered


def aligned_iou(first_xyxy: Tensor, second_xyxy: Tensor) -> Tensor:
    """Compute the IoU of each box (..., 4) with the other one at its place: (...)."""
    return pairwise_iou(first_xyxy.unsqueeze(-2), second_xyxy.unsqueeze(-2))[..., 0, 0]


def focal_loss(logits: Tensor, slots: Tensor, weights: Tensor, *, alpha: float, gamma: float) -> Tensor:
    """Compute sigmoid focal loss (Lin et al. 2017) over all slots.

    As TensorFlow's ssdlite_mobilenet_v3 configurations (alpha 0.75, gamma 2): background is encoded as all
    zeros, so slot 0 is never a positive; positives weigh `alpha`, negatives 1 - alpha.
    """
    positive = _of_slots(logits, slots)
    as_positive = _NegativeFocal.apply(torch.where(weights > 0, -positive, -torch.inf), gamma)
    loss: Tensor = alpha * as_positive + (1 - alpha) * _negatives(logits, positive, weights, gamma)
    return loss


def multibox_loss(logits: Tensor, slots: Tensor, weights: Tensor, *, negatives_per_positive: float) -> Tensor:
    """Compute SSD's class loss (section 2.2): cross-entropy with hard negative mining.

    As torchvision's SSD.compute_loss: of each image, all matched default boxes and the hardest unmatched
    ones count, `negatives_per_positive` times as many. One difference: where too few unmatched ones are left
    (over a quarter of the boxes is matched, at 3:1) torchvision counts matched ones a second time; here they
    count once.
    """
    foreground = weights > 0
    entropy = F.cross_entropy(logits.flatten(0, 1), slots.flatten(), reduction="none").view_as(
        slots
    )  # (N, A)
    hardness = entropy.detach().masked_fill(foreground, -torch.inf)
    rank = hardness.argsort(dim=1, descending=True).argsort(dim=1)
    wanted = negatives_per_positive * foreground.sum(dim=1, keepdim=True)  # (N, 1)
    return torch.where(foreground | (rank < wanted), entropy, 0.0).sum()


def varifocal_loss(logits: Tensor, slots: Tensor, weights: Tensor, *, alpha: float, gamma: float) -> Tensor:
    """Compute varifocal loss (arXiv 2008.13367, equation 2) over all slots.

    Where an object is matched with quality q, the slot of its class has q times the cross-entropy with q;
    every other slot alpha * p^gamma times that with 0.
    """
    positive = _of_slots(logits, slots)
    entropy = F.binary_cross_entropy_with_logits(positive, weights, reduction="none")
    return (weights * entropy).sum() + alpha * _negatives(logits, positive, weights, gamma)


def quality_focal_loss(logits: Tensor, slots: Tensor, weights: Tensor, *, beta: float) -> Tensor:
    """Compute quality focal loss (arXiv 2006.04388, equation 3) over all slots.

    |q - p|^beta times the cross-entropy with q, which is the quality of the match at the slot of its class
    and 0 elsewhere.
    """
    positive = _of_slots(logits, slots)
    entropy = F.binary_cross_entropy_with_logits(positive, weights, reduction="none")
    scale = torch.where(weights > 0, (weights - positive.sigmoid()).abs() ** beta, 0.0)
    return (scale * entropy).sum() + _negatives(logits, positive, weights, beta)


def _of_slots(logits: Tensor, slots: Tensor) -> Tensor:
    """Return the logit of each default box's slot, (N, A)."""
    return logits.gather(-1, slots.unsqueeze(-1)).squeeze(-1)


def _negatives(logits: Tensor, positive: Tensor, weights: Tensor, gamma: float) -> Tensor:
    """Sum the focal loss of all slots as negatives, but for those of matched objects, `positive` (N, A).

    Almost every slot is a negative: summing them all and taking the few positives back needs neither a
    one-hot target nor a mask in the size of the logits. At -inf the loss and its gradient are 0.
    """
    as_negative = _NegativeFocal.apply(torch.where(weights > 0, positive, -torch.inf), gamma)
    negatives: Tensor = _NegativeFocal.apply(logits, gamma) - as_negative
    return negatives


class _NegativeFocal(torch.autograd.Function):
    """Sum of p^gamma * -log(1 - p) over logits, the focal loss of negatives; of positives at -logits.

    The gradient is worked out along with the loss. Autograd would keep half a dozen tensors of the size of
    the logits, 380 MB each for 512 images of COCO; this keeps one, and is finite at any logit.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, gamma: float) -> Tensor:
        probability = logits.sigmoid()
        # -log(1 - p) = softplus(logit); F.softplus and F.logsigmoid take ten times as long on CPUs (log1p).
        entropy = logits.clamp(min=0).sub_(logits.abs().sigmoid_().log_())
        weight = probability**gamma
        if ctx.needs_input_grad[0]:
            # d/dx of p^gamma * softplus(x) = p^gamma * (gamma * (1 - p) * softplus(x) + p)
            gradient = (1 - probability).mul_(entropy).mul_(gamma).add_(probability).mul_(weight)
            ctx.save_for_backward(gradient)
        return entropy.mul_(weight).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream, None
