"""A detector: backbone, head and its default boxes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dettoolkit.backbones.mobilenet import MobileNet
from dettoolkit.heads.ssdlite import SSDLiteHead


def level_grids(
    *, input_hw: tuple[int, int], strides: tuple[int, int], extra_levels: int
) -> list[tuple[int, int]]:
    """Return (rows, columns) of each level: the backbone's two, then a halving for each extra layer.

    Symmetric padding makes a stride-s feature ceil(size / s) long.
    """
    height, width = input_hw
    grids = [(-(-height // stride), -(-width // stride)) for stride in strides]
    for _ in range(extra_levels):
        rows, columns = grids[-1]
        grids.append((-(-rows // 2), -(-columns // 2)))
    return grids


class Detector(nn.Module):
    """SSDLite on MobileNet: images in, raw predictions out."""

    def __init__(self, *, backbone: MobileNet, head: SSDLiteHead, anchors_xyxy: Tensor) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        # Computed from the recipe, so not part of the weights.
        self.register_buffer("anchors_xyxy", anchors_xyxy, persistent=False)

    anchors_xyxy: Tensor

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map images (N, 3, H, W), float, RGB, normalized, to class logits and box deltas.

        Returns:
            class_logits (N, A, K + 1), slot 0 the background; box_deltas (N, A, 4) as (dx, dy, dw, dh)
            relative to `anchors_xyxy` (A, 4), which are pixels of the input.
        """
        features = self.backbone(images)
        logits, deltas = self.head(features["c4"], features["c5"])
        return logits, deltas


def set_class_bias(head: SSDLiteHead, bias: float) -> None:
    """Start every class logit at `bias`: sigmoid(-4.6) = 0.01, so the rare positives are not swamped."""
    with torch.no_grad():
        for predictor in head.class_predictors:
            predictor[1].bias.fill_(bias)  # type: ignore[index]
