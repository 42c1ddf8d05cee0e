"""A classifier: backbone and head."""

from __future__ import annotations

from torch import Tensor, nn

from dettoolkit.backbones.mobilenet import MobileNet
from dettoolkit.heads.classifier import ClassifierHead


class Classifier(nn.Module):
    """A classifier's head on MobileNet: images in, logits out.

    `num_classes` is the number of classes, K.
    """

    def __init__(self, *, backbone: MobileNet, head: ClassifierHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.num_classes = head.num_classes

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, 3, H, W), float, RGB, normalized, to logits (N, K)."""
        logits: Tensor = self.head(self.backbone(images)["c5"])
        return logits
