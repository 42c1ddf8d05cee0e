"""Cross-entropy, and images mixed with others of their batch.

Mixup is arXiv 1710.09412, CutMix arXiv 1905.04899.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2

Mix = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def cross_entropy(logits: Tensor, targets: Tensor, *, label_smoothing: float) -> Tensor:
    """Return the mean over images.

    Args:
        logits: (N, K).
        targets: labels int64 (N,), or fractions of the classes (N, K).
        label_smoothing: fraction of the target that is spread over all classes.
    """
    return F.cross_entropy(logits.float(), targets, label_smoothing=label_smoothing)


def build_mix(*, num_classes: int, mixup: float, cutmix: float) -> Mix | None:
    """Build what mixes a batch; None where nothing is asked for.

    It maps normalized images (N, 3, H, W) and labels (N,) to mixed images and class fractions (N, K).
    Each image is mixed with its neighbor in the batch, by a fraction that torch's generators draw from
    Beta(alpha, alpha) for the whole batch.

    Args:
        num_classes: K.
        mixup: alpha of mixup, 0 for none.
        cutmix: alpha of CutMix, 0 for none; with both, each batch takes one of them.
    """
    ways = [
        way(alpha=alpha, num_classes=num_classes)
        for way, alpha in ((v2.MixUp, mixup), (v2.CutMix, cutmix))
        if alpha
    ]
    if not ways:
        return None
    mix: Mix = ways[0] if len(ways) == 1 else v2.RandomChoice(ways)
    return mix


def build_loss(*, label_smoothing: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the loss function of logits and targets."""
    return partial(cross_entropy, label_smoothing=label_smoothing)
