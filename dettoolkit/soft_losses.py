"""Losses of a network that learns from another one: of soft targets, and of features.

N: images, C: channels or classes. All compute in float32 at least, have no gradient for the teacher's side,
and are 0, with no gradient, where both sides are the same.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-6  # of a variance: keeps a channel that is the same everywhere finite


def divergence(student: Tensor, teacher: Tensor, *, dim: int, temperature: float) -> Tensor:
    """Compute the Kullback-Leibler divergence of softmaxes over `dim`, the mean over all other dimensions.

    Both logits, of one shape, are divided by the temperature, and the loss is multiplied by its square, which
    keeps the size of the gradients (Hinton et al. 2015, arXiv 1503.02531, section 2).
    """
    log_student, log_teacher = (
        (_exact(logits) / temperature).log_softmax(dim) for logits in (student, teacher.detach())
    )
    each = (log_teacher.exp() * (log_teacher - log_student)).sum(dim)
    return each.sum() / max(each.numel(), 1) * temperature**2


def channel_wise(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """Compute channel-wise distillation of maps (N, C, h, w) (Shu et al. 2021, arXiv 2011.13256, section 3).

    Each channel's softmax over its pixels says where it is strong; its divergence from the teacher's is
    averaged over channels and images. Another size of the teacher's map is resized to the student's.
    """
    theirs = resized(teacher, student)
    return divergence(student.flatten(2), theirs.flatten(2), dim=2, temperature=temperature)


def pearson(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute 1 - Pearson's correlation of features (N, C, h, w) (Cao et al. 2022, arXiv 2207.02039).

    It is taken of each channel over all images and pixels, and averaged over channels: half the mean squared
    difference of features with mean 0 and variance 1. Another size is resized to the student's.
    """
    ours, theirs = (_standardized(each) for each in (student, resized(teacher.detach(), student)))
    return 0.5 * (ours - theirs).square().sum() / max(ours.numel(), 1)


def resized(teacher: Tensor, student: Tensor) -> Tensor:
    """Return the teacher's map (N, C, any, any) at the size of the student's, resized bilinearly."""
    theirs = _exact(teacher)
    if theirs.shape[2:] == student.shape[2:]:
        return theirs
    return F.interpolate(theirs, size=student.shape[2:], mode="bilinear", align_corners=False)


def _standardized(features: Tensor) -> Tensor:
    exact = _exact(features)
    mean = exact.mean(dim=(0, 2, 3), keepdim=True)
    variance = exact.var(dim=(0, 2, 3), keepdim=True, correction=0)
    return (exact - mean) * torch.rsqrt(variance + EPS)


def _exact(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
