"""From what a model gives, logits or labels, to label maps of the images' own sizes.

N: images, K: classes, (h, w): the logits' size, (H, W): an image's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from dettoolkit.manifest import Manifest, SizeHW
from dettoolkit.results import Image, Result
from dettoolkit.segmentation.predict import predict_labels
from dettoolkit.segmentation.result import SegmentationResult
from dettoolkit.segmentation.spec import SegmentationSection


class SegmentationDecoder:
    """Label the pixels of images.

    Args:
        manifest: of the segmenter.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.section: SegmentationSection = manifest.section
        self.final = manifest.final

    def __call__(
        self,
        forward: Callable[[Tensor], tuple[Tensor, ...]],
        inputs: Tensor,
        images: Sequence[Image],
        *,
        min_score: float,
    ) -> list[Result]:
        """Return the label map of each image; see `spec.Decoder`."""
        del min_score
        sizes = [(image.shape[0], image.shape[1]) for image in images]
        if self.final:
            (labels,) = forward(inputs)
            pairs = zip(labels.cpu().numpy(), sizes, strict=True)
            maps = [resize_labels(each, size) for each, size in pairs]
        else:
            found = predict_labels(
                lambda batch: forward(batch)[0], inputs, sizes_hw=sizes, options=self.section
            )
            maps = [each.cpu().numpy() for each in found]
        return [
            SegmentationResult(
                path=None,
                image=image,
                class_names=self.section.class_names,
                class_ids=self.section.class_ids,
                colors=self.section.colors,
                labels=each,
            )
            for image, each in zip(images, maps, strict=True)
        ]


class FinalLabels(nn.Module):
    """Turn logits into labels inside an exported file.

    Args:
        align_corners: how logits are upsampled; see torch's interpolate.
    """

    def __init__(self, *, align_corners: bool) -> None:
        super().__init__()
        self.align_corners = align_corners

    def forward(self, logits: Tensor, out_hw: tuple[int, int]) -> Tensor:
        """Map logits (N, K, h, w) to labels, uint8 (N, H, W)."""
        upsampled = F.interpolate(logits, out_hw, mode="bilinear", align_corners=self.align_corners)
        return upsampled.argmax(dim=1).to(torch.uint8)


def resize_labels(labels: NDArray[np.uint8], size: SizeHW) -> NDArray[np.uint8]:
    """Resize a label map by taking the nearest pixel's class, unless it has that size."""
    if labels.shape == size:
        return labels
    return np.asarray(cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)
