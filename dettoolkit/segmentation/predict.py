"""From images to label maps: the whole image or sliding windows, at one or several scales, mirrored or not.

N: images, K: classes; (h, w) the images' size, (H, W) a label map's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from dettoolkit.manifest import SizeHW
from dettoolkit.segmentation.spec import SegmentationSection
from dettoolkit.segmentation.upsampling import first_highest, upsampled_labels

Forward = Callable[[Tensor], Tensor]  # images (N, 3, h, w) to logits (N, K, any, any)


@torch.no_grad()
def predict_labels(
    forward: Forward, images: Tensor, *, sizes_hw: Sequence[SizeHW], options: SegmentationSection
) -> list[Tensor]:
    """Predict each pixel's class: the one of the highest logit or mean probability, the first where equal.

    Images are normalized float (N, 3, h, w), N may be 0; whole ones enter `forward` together, windows one by
    one. `sizes_hw` are those of the label maps, uint8 (H, W), to which logits are upsampled bilinearly.
    """
    found = []
    for logits, size in zip(_logits(forward, images, options), sizes_hw, strict=True):
        if len(options.scales) == 1 and not options.flip:
            (only,) = logits
            found.append(upsampled_labels(only[0], size, align_corners=options.align_corners))
        else:
            found.append(first_highest(_mean_probabilities(logits, size, options)[0]))
    return found


def _logits(forward: Forward, images: Tensor, options: SegmentationSection) -> Iterator[Iterable[Tensor]]:
    """Yield for each image its logits (1, K, any, any) at each scale, and mirrored."""
    if options.mode == "slide":  # logits of the image's size: one at a time is in memory
        yield from (_each_scale(forward, images[row : row + 1], options) for row in range(len(images)))
    elif len(images):
        batches = list(_each_scale(forward, images, options))
        yield from ([logits[row : row + 1] for logits in batches] for row in range(len(images)))


def _mean_probabilities(logits: Iterable[Tensor], size_hw: SizeHW, options: SegmentationSection) -> Tensor:
    """Average the softmax of an image's logits: (1, K, H, W)."""
    total, count = torch.zeros(()), 0
    for each in logits:
        total = _upsampled(each, size_hw, options).softmax(dim=1).add_(total)
        count += 1
    return total.div_(count)


def _each_scale(forward: Forward, images: Tensor, options: SegmentationSection) -> Iterator[Tensor]:
    """Yield the logits, float32 (N, K, any, any), of images (N, 3, h, w) at each scale, and mirrored."""
    for scale in options.scales:
        scaled = images
        if scale != 1:
            height, width = (max(round(side * scale), 1) for side in images.shape[2:])
            scaled = F.interpolate(images, size=(height, width), mode="bilinear", align_corners=False)
        yield _run(forward, scaled, options)
        if options.flip:
            yield _run(forward, scaled.flip(3), options).flip(3)


def _run(forward: Forward, image: Tensor, options: SegmentationSection) -> Tensor:
    """Return the logits of whole images, or an image's (1, K, h, w), the mean of those of sliding windows.

    One window at a time is in memory.
    """
    if options.mode == "whole":
        return forward(image).float()
    window = window_h, window_w = options.window_hw or (0, 0)  # the section has them where windows slide
    stride_h, stride_w = options.stride_hw or (0, 0)
    height, width = image.shape[2:]
    image = F.pad(image, (0, max(window_w - width, 0), 0, max(window_h - height, 0)))
    tops = _starts(image.shape[2], window_h, stride_h)
    lefts = _starts(image.shape[3], window_w, stride_w)
    total, times = image.new_zeros(()), image.new_zeros(image.shape[2:])
    for top, left in product(tops, lefts):
        place = (..., slice(top, top + window_h), slice(left, left + window_w))
        logits = _upsampled(forward(image[place]).float(), window, options)
        if not total.dim():
            total = logits.new_zeros((1, logits.shape[1], *image.shape[2:]))
        total[place] += logits
        times[place] += 1
    return total.div_(times)[..., :height, :width]


def _starts(length: int, window: int, stride: int) -> list[int]:
    """Return where windows begin so that they cover 0 to `length`, which is at least one window."""
    last = length - window
    return [*range(0, last, stride), last]


def _upsampled(logits: Tensor, size_hw: SizeHW, options: SegmentationSection) -> Tensor:
    """Resize logits (1, K, any, any) bilinearly, unless they have that size."""
    if logits.shape[2:] == size_hw:
        return logits
    return F.interpolate(
        logits.contiguous(), size=size_hw, mode="bilinear", align_corners=options.align_corners
    )
