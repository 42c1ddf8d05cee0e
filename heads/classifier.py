"""The classifier of MobileNetV3 (arXiv 1905.02244, Tables 1 and 2, from the pooling on) and of its elders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

from dettoolkit.backbones.initialize import initialize_classifier


class ClassifierHead(nn.Module):
    """Predict one class for the image from C5's mean.

    The hidden layer follows the mean, without normalization (NBN in the tables): section 5.1 moves it
    there from the full-sized feature to save time. MobileNetV1, V2 and MnasNet have none.

    Args:
        in_channels: channels of C5.
        hidden_channels: of the hidden layer; None for a network without one.
        activation: makes the hidden layer's activation.
        num_classes: number of classes.
        dropout: fraction of the last features that training leaves out.
        init: distribution of the initial kernels.
        init_std: standard deviation of truncated_normal.
    """

    features = ("c5",)
    class_layers = ("classifier.*",)

    def __init__(
        self,
        *,
        in_channels: int,
        hidden_channels: int | None,
        activation: Callable[[], nn.Module],
        num_classes: int,
        dropout: float,
        init: Literal["truncated_normal", "kaiming"],
        init_std: float,
    ) -> None:
        super().__init__()
        self.hidden = (
            nn.Sequential(nn.Linear(in_channels, hidden_channels), activation())
            if hidden_channels is not None
            else nn.Identity()
        )
        self.dropout = nn.Dropout(dropout)
        features = in_channels if hidden_channels is None else hidden_channels
        self.classifier = nn.Linear(features, num_classes)
        self.num_classes = num_classes
        self.init: Literal["truncated_normal", "kaiming"] = init
        self.init_std = init_std
        self.torchvision_names = (
            (("classifier.1.", "classifier."),)
            if hidden_channels is None
            else (("classifier.0.", "hidden.0."), ("classifier.3.", "classifier."))
        )

    def initialize(self) -> None:
        """Draw the linear layers' weights; their biases are 0."""
        initialize_classifier(self, init=self.init, std=self.init_std)

    def forward(self, c5: Tensor) -> Tensor:
        """Map C5 (N, C, h, w) to logits (N, K)."""
        features = self.hidden(c5.mean((2, 3)))  # (N, F)
        logits: Tensor = self.classifier(self.dropout(features))
        return logits
