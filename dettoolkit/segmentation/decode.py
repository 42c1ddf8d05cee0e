"""From what a model gives, logits or labels, to label maps of the images' own sizes.

N: images, K: classes, (h, w): the logits' size, (H, W): an image's.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import cv2
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dettoolkit.manifest import Manifest
from dettoolkit.results import Image, Result
from dettoolkit.segmentation.predict import predict_labels
from dettoolkit.segmentation.result import SegmentationResult
from dettoolkit.segmentation.spec import SegmentationSection
from dettoolkit.spec import Decoder


def decoder(manifest: Manifest, device: torch.device) -> Decoder:  # noqa: ARG001
    """Return what turns outputs into label maps."""
    section: SegmentationSection = manifest.section

    def decode(forward: Any, inputs: Tensor, images: Sequence[Image], *, min_score: float) -> list[Result]:
        del min_score
        sizes = [(image.shape[0], image.shape[1]) for image in images]
        if manifest.final:
            (labels,) = forward(inputs)
            nearest: Any = partial(cv2.resize, interpolation=cv2.INTER_NEAREST_EXACT)
            rows = zip(labels.cpu().numpy(), sizes, strict=True)
            maps = [row if row.shape == size else nearest(row, size[::-1]) for row, size in rows]
        else:
            found = predict_labels(lambda batch: forward(batch)[0], inputs, sizes_hw=sizes, options=section)
            maps = [each.cpu().numpy() for each in found]
        return [
            SegmentationResult(
                path=None,
                image=image,
                class_names=section.class_names,
                class_ids=section.class_ids,
                colors=section.colors,
                labels=each,
            )
            for image, each in zip(images, maps, strict=True)
        ]

    return decode


class FinalLabels(nn.Module):
    """Turn logits into labels inside an exported file."""

    def __init__(self, manifest: Manifest) -> None:
        super().__init__()
        self.align_corners = manifest.section.align_corners

    def forward(self, logits: Tensor, out_hw: tuple[int, int]) -> Tensor:
        """Map logits (N, K, h, w) to labels, uint8 (N, H, W)."""
        upsampled = F.interpolate(logits, out_hw, mode="bilinear", align_corners=self.align_corners)
        return upsampled.argmax(dim=1).to(torch.uint8)
