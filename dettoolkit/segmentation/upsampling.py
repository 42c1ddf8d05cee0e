"""From coarse logits to fine labels, without the fine logits.

Bilinear interpolation is a mean of two neighbors, first along rows, then along columns. Where two vertical
neighbors have the same best class, so has every pixel between them: of each neighbor, that class is at
least as high as any other, so its mean is too. Only pixels whose neighbors disagree need the logits of all
classes; they are few, along the borders of regions.

K: classes; (h, w) the logits' size, (H, W) the label map's; P: pixels whose neighbors disagree.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from dettoolkit.datasets.cityscapes_labels import VOID


def upsampled_labels(logits: Tensor, out_hw: tuple[int, int], *, align_corners: bool) -> Tensor:
    """Return the argmax uint8 (H, W) of bilinearly upsampled logits float32 (K, h, w), K from 1 to VOID.

    The same as upsampling every class and comparing, the first class where equal, but for pixels where two
    classes differ by no more than rounding does.
    """
    height, width = out_hw
    if not len(logits):
        raise ValueError("predict_labels expects logits of at least one class, got none")
    across = logits.contiguous()  # (K, h, W), in a moment
    if logits.shape[2] != width:
        size_hw = (logits.shape[1], width)
        across = F.interpolate(across[None], size_hw, mode="bilinear", align_corners=align_corners)[0]
    best = first_highest(across)  # (h, W)
    neighbors = _neighbors(logits.shape[1], height, align_corners=align_corners)
    above, below, fraction = (each.to(logits.device) for each in neighbors)
    labels = best.index_select(0, above)  # (H, W)
    disputed = (labels != best.index_select(0, below)).flatten().nonzero().squeeze(1)  # (P,)
    row = disputed // width
    column = disputed - row * width
    upper, lower = above[row] * width + column, below[row] * width + column
    fraction = fraction[row]
    rest = 1 - fraction
    planes = (
        (plane.index_select(0, upper) * rest).addcmul_(plane.index_select(0, lower), fraction)
        for plane in across.flatten(1)
    )
    labels.view(-1)[disputed] = first_highest(planes)
    return labels


def first_highest(planes: Iterable[Tensor]) -> Tensor:
    """Return the number of the highest of planes of one shape, the first where equal: uint8 of that shape.

    One plane after another, so that a generator need not hold them all; there is one at least.
    """
    planes = iter(planes)
    best = next(planes).clone()
    labels = torch.zeros_like(best, dtype=torch.uint8)
    for label, scores in enumerate(planes, start=1):
        if label >= VOID:
            raise ValueError(f"predict_labels expects at most {VOID} classes: {VOID} means ignored")
        labels.masked_fill_(scores > best, label)
        torch.maximum(best, scores, out=best)
    return labels


def _neighbors(length: int, out_length: int, *, align_corners: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return between which of `length` samples each of `out_length` lies, as torch's interpolate has it.

    These are the numbers of the samples before and after, int64, the same where it falls on one, and the
    fraction of the second, float32; each (out_length,).
    """
    steps = torch.arange(out_length, dtype=torch.float32)
    if align_corners:
        place = steps * (torch.tensor(length - 1.0) / max(out_length - 1, 1))
    else:
        place = ((steps + 0.5) * (torch.tensor(float(length)) / out_length) - 0.5).clamp(min=0)
    before = place.long().clamp(max=length - 1)
    fraction = (place - before).clamp(0, 1)
    after = torch.where(fraction > 0, before + 1, before).clamp(max=length - 1)
    return before, after, fraction
