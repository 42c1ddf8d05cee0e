"""Losses of SSDLite: sigmoid focal loss as TensorFlow has it, softmax multibox loss as torchvision has it.

N: images, A: default boxes, K: classes; slot 0 of the K + 1 is background. Both return the losses "class" and
"box", 0-dimensional. They compute in float32 whatever the precision of the logits, and are finite, with
gradients for both inputs, when no object is matched.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from dettoolkit.detection.matching import Targets

CODE_SIZE = 4  # numbers per box; TensorFlow's normalize_loc_loss_by_codesize


def focal_loss(
    outputs: tuple[Tensor, Tensor], targets: Targets, *, alpha: float, gamma: float, box_weight: float
) -> dict[str, Tensor]:
    """Compute sigmoid focal loss (Lin et al. 2017) over all slots, and smooth L1 over the matched boxes.

    Outputs are class logits (N, A, K + 1) and box deltas (N, A, 4). As TensorFlow's ssdlite_mobilenet_v3
    configurations (alpha 0.75, gamma 2): background is encoded as all zeros, so slot 0 is never a positive;
    positives weigh `alpha`, negatives 1 - alpha; the focal loss is summed over default boxes and slots and
    divided by the matches of the batch; smooth L1 (delta 1) is summed and divided by the matches and the code
    size 4.
    """
    logits, foreground, matches, box_loss = _shared(outputs, targets)
    # Almost every slot is a negative: sum them all as such, then exchange the few positives. This needs
    # neither a one-hot target nor the positives' branch in the size of the logits.
    positive = logits.gather(-1, targets.slots.unsqueeze(-1)).squeeze(-1)  # (N, A)
    # At -inf the loss and its gradient are 0, so background takes no part.
    as_negative = _NegativeFocal.apply(torch.where(foreground, positive, -torch.inf), gamma)
    as_positive = _NegativeFocal.apply(torch.where(foreground, -positive, -torch.inf), gamma)
    negatives = _NegativeFocal.apply(logits, gamma) - as_negative
    class_loss = alpha * as_positive + (1 - alpha) * negatives
    return {"class": class_loss / matches, "box": box_weight * (box_loss / (matches * CODE_SIZE))}


def multibox_loss(
    outputs: tuple[Tensor, Tensor], targets: Targets, *, negatives_per_positive: float, box_weight: float
) -> dict[str, Tensor]:
    """Compute SSD's loss (section 2.2): cross-entropy with hard negative mining, and smooth L1.

    As torchvision's SSD.compute_loss: of each image, all matched default boxes and the hardest unmatched
    ones count, `negatives_per_positive` times as many; sums are divided by the matches of the batch. One
    difference: where too few unmatched ones are left (over a quarter of the boxes is matched, at 3:1)
    torchvision counts matched ones a second time; here they count once.

    The other arguments are those of `focal_loss`.
    """
    logits, foreground, matches, box_loss = _shared(outputs, targets)
    entropy = F.cross_entropy(logits.flatten(0, 1), targets.slots.flatten(), reduction="none")
    entropy = entropy.view_as(targets.slots)  # (N, A)
    hardness = entropy.detach().masked_fill(foreground, -torch.inf)
    rank = hardness.argsort(dim=1, descending=True).argsort(dim=1)
    wanted = negatives_per_positive * foreground.sum(dim=1, keepdim=True)  # (N, 1)
    counted = foreground | (rank < wanted)
    class_loss = torch.where(counted, entropy, 0.0).sum()
    return {"class": class_loss / matches, "box": box_weight * (box_loss / matches)}


def _shared(outputs: tuple[Tensor, Tensor], targets: Targets) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return float32 logits, which boxes are matched, their number (1 or more) and their smooth L1."""
    class_logits, box_deltas = outputs
    foreground = targets.slots > 0
    box_loss = F.smooth_l1_loss(box_deltas.float(), targets.boxes, reduction="none", beta=1.0)
    box_loss = torch.where(foreground.unsqueeze(-1), box_loss, 0.0).sum()
    return class_logits.float(), foreground, foreground.sum().clamp(min=1), box_loss


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
