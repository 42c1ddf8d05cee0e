"""A network: a backbone, and one or more heads by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

Outputs = Tensor | tuple[Tensor, ...]
Features = dict[str, Tensor]
"""Of a backbone, by name: (N, C, h, w) each."""


class Network(nn.Module):
    """A backbone whose features go to one or more heads.

    The backbone maps images (N, 3, H, W), float, RGB, normalized, to features by name. Heads, by the name of
    their task, each have `features`, the names of those that `forward` takes; `num_classes`, without
    background; and `initialize()`. `feature_layers` says by name which of a head's layers have the channels
    of a feature, for networks of other widths.
    """

    def __init__(self, *, backbone: nn.Module, heads: Mapping[str, Any]) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = nn.ModuleDict(heads)
        self.features = {name: tuple(head.features) for name, head in heads.items()}

    def forward(self, images: Tensor) -> Outputs:
        """Map images (N, 3, H, W) to raw outputs: those of the one head, or of all heads in their order."""
        return self.with_features(images)[0]

    def with_features(self, images: Tensor) -> tuple[Outputs, Features]:
        """Map images (N, 3, H, W) to what `forward` returns and to the backbone's features."""
        features: Features = self.backbone(images)
        outputs: list[Tensor] = []
        for name, head in self.heads.items():
            found = head(*(features[feature] for feature in self.features[name]))
            if len(self.heads) == 1 and isinstance(found, Tensor):
                return found, features
            outputs.extend((found,) if isinstance(found, Tensor) else found)
        return tuple(outputs), features


def name_outputs(names: Sequence[str], outputs: Outputs) -> list[tuple[str, Tensor]]:
    """Return the outputs of a network, one or a tuple, with their names."""
    several = (outputs,) if isinstance(outputs, Tensor) else outputs
    return list(zip(names, several, strict=True))
