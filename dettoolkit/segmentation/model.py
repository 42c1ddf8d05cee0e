"""A segmenter: backbone and head."""

from __future__ import annotations

from torch import Tensor, nn

from dettoolkit.backbones.mobilenet import MobileNet
from dettoolkit.heads.lraspp import LRASPPHead
from dettoolkit.heads.raspp import RASPPHead


class Segmenter(nn.Module):
    """A segmentation head on MobileNet: images in, logits out.

    `num_classes` is the number of classes, K.

    Args:
        backbone: gives C5 and the low-level feature.
        head: takes them.
        low: name of the low-level feature in `backbone.channels`, or None for a head without one.

    Raises:
        ValueError: the head and `low` do not go together.
    """

    def __init__(self, *, backbone: MobileNet, head: LRASPPHead | RASPPHead, low: str | None) -> None:
        super().__init__()
        known = [name for name, stride in backbone.strides.items() if stride == 8]
        if isinstance(head, LRASPPHead) and low not in known:
            raise ValueError(
                f"low must name a feature of stride 8 for the LR-ASPP head, one of {known}; got {low!r}"
            )
        if isinstance(head, RASPPHead) and low is not None:
            raise ValueError(f"the R-ASPP head takes no low-level feature, got low={low!r}; give None")
        self.backbone = backbone
        self.head = head
        self.low = low
        self.num_classes = head.num_classes

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, 3, H, W), float, RGB, normalized, to logits (N, K, h, w).

        h and w are those of the low-level feature, ceil(H / 8) and ceil(W / 8); without one, those of C5.
        """
        features = self.backbone(images)
        inputs = [features["c5"]] if self.low is None else [features[self.low], features["c5"]]
        logits: Tensor = self.head(*inputs)
        return logits
