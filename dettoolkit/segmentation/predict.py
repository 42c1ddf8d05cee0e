"""From images to label maps: the whole image or sliding windows, at one or several scales, mirrored or not.

N: images, K: classes; (h, w) the images' size, (H, W) that of the answer. Images are answered one at a
time, so that neither memory nor a single label depends on the size of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from dettoolkit.segmentation.upsampling import first_highest, upsampled_labels

Forward = Callable[[Tensor], Tensor]  # images (1, 3, h, w) to logits (1, K, any, any)


@dataclass(frozen=True, kw_only=True)
class InferenceOptions:
    """How an image is answered.

    Attributes:
        mode: whole: the image at once. slide: overlapping windows, whose logits are averaged where they
            overlap, as in mmsegmentation.
        window_hw: size of a window. An image that is smaller is padded with 0, its mean color.
        stride_hw: steps between windows; the last ones end where the image does.
        scales: factors of the image's size. Where there are several, or `flip`, the softmax probabilities
            are averaged, as in TensorFlow's DeepLab.
        flip: at each scale, answer the mirrored image too.
        align_corners: how logits are upsampled; see torch's interpolate.
    """

    mode: Literal["whole", "slide"]
    window_hw: tuple[int, int]
    stride_hw: tuple[int, int]
    scales: tuple[float, ...]
    flip: bool
    align_corners: bool

    def __post_init__(self) -> None:
        if self.mode not in ("whole", "slide"):
            raise ValueError(f"mode must be 'whole' or 'slide', got {self.mode!r}")
        sizes = zip(self.stride_hw, self.window_hw, strict=True)
        if self.mode == "slide" and not all(0 < stride <= window for stride, window in sizes):
            raise ValueError(
                f"stride_hw must be at least 1 and at most window_hw {self.window_hw}, got {self.stride_hw}: "
                "pixels between the windows would get no answer; two thirds of the window are usual"
            )
        if not self.scales or min(self.scales) <= 0:
            raise ValueError(f"scales must be one or more factors above 0, got {self.scales}; take (1.0,)")


@torch.no_grad()
def predict_labels(
    forward: Forward, images: Tensor, *, out_hw: tuple[int, int], options: InferenceOptions
) -> Tensor:
    """Predict each pixel's class: the one of the highest logit or mean probability, the first where equal.

    Args:
        forward: the network, in evaluation mode.
        images: float (N, 3, h, w), normalized; N may be 0.
        out_hw: size of the answer, to which the logits are upsampled bilinearly.
        options: how an image is answered.

    Returns:
        uint8 (N, H, W).

    Raises:
        ValueError: more classes than uint8 holds beside void.
    """
    labels = images.new_zeros((len(images), *out_hw), dtype=torch.uint8)
    for image, answer in zip(images.unsqueeze(1), labels, strict=True):
        if len(options.scales) == 1 and not options.flip:
            (logits,) = _answers(forward, image, options)
            answer.copy_(upsampled_labels(logits[0], out_hw, align_corners=options.align_corners))
        else:
            answer.copy_(first_highest(_mean_probabilities(forward, image, out_hw, options)[0]))
    return labels


def _mean_probabilities(
    forward: Forward, image: Tensor, out_hw: tuple[int, int], options: InferenceOptions
) -> Tensor:
    """Average the softmax of all answers to an image (1, 3, h, w): (1, K, H, W)."""
    total, answers = image.new_zeros(()), 0
    for logits in _answers(forward, image, options):
        total = _upsampled(logits, out_hw, options).softmax(dim=1).add_(total)
        answers += 1
    return total.div_(answers)


def _answers(forward: Forward, image: Tensor, options: InferenceOptions) -> Iterator[Tensor]:
    """Yield the logits, float32 (1, K, any, any), of an image (1, 3, h, w) at each scale, and mirrored."""
    for scale in options.scales:
        scaled = image
        if scale != 1:
            height, width = (max(round(side * scale), 1) for side in image.shape[2:])
            scaled = F.interpolate(image, size=(height, width), mode="bilinear", align_corners=False)
        yield _answer(forward, scaled, options)
        if options.flip:
            yield _answer(forward, scaled.flip(3), options).flip(3)


def _answer(forward: Forward, image: Tensor, options: InferenceOptions) -> Tensor:
    return _windowed(forward, image, options) if options.mode == "slide" else forward(image).float()


def _windowed(forward: Forward, image: Tensor, options: InferenceOptions) -> Tensor:
    """Average the logits of sliding windows: (1, K, h, w). One window at a time is in memory."""
    height, width = image.shape[2:]
    window_h, window_w = options.window_hw
    image = F.pad(image, (0, max(window_w - width, 0), 0, max(window_h - height, 0)))
    tops = _starts(image.shape[2], window_h, options.stride_hw[0])
    lefts = _starts(image.shape[3], window_w, options.stride_hw[1])
    total, times = image.new_zeros(()), image.new_zeros(image.shape[2:])
    for top, left in product(tops, lefts):
        place = (..., slice(top, top + window_h), slice(left, left + window_w))
        logits = _upsampled(forward(image[place]).float(), options.window_hw, options)
        if not total.dim():
            total = logits.new_zeros((1, logits.shape[1], *image.shape[2:]))
        total[place] += logits
        times[place] += 1
    return total.div_(times)[..., :height, :width]


def _starts(length: int, window: int, stride: int) -> list[int]:
    """Return where windows begin so that they cover 0 to `length`, which is at least one window."""
    last = length - window
    return [*range(0, last, stride), last]


def _upsampled(logits: Tensor, size_hw: tuple[int, int], options: InferenceOptions) -> Tensor:
    """Resize logits (1, K, any, any) bilinearly, unless they have that size."""
    if logits.shape[2:] == size_hw:
        return logits
    return F.interpolate(
        logits.contiguous(), size=size_hw, mode="bilinear", align_corners=options.align_corners
    )
