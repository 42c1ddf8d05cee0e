"""The classifier of MobileNetV3 (arXiv 1905.02244, Tables 1 and 2, from the pooling on) and of its elders."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


class ClassifierHead(nn.Module):
    """Predict one class for the image from C5's mean.

    The hidden layer follows the mean, without normalization (NBN in the tables): section 5.1 moves it there
    from the full-sized feature to save time. MobileNetV1, V2 and MnasNet have none: `hidden_channels` None.
    `init` fills the layers of a module with random weights.
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
        init: Callable[[nn.Module], None],
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.init = init
        self.feature_layers = {"c5": ("classifier" if hidden_channels is None else "hidden.0",)}
        self.dropout = nn.Dropout(dropout)
        if hidden_channels is None:
            self.hidden: nn.Module = nn.Identity()
            self.classifier = nn.Linear(in_channels, num_classes)
            self.torchvision_names = [("classifier.1.", "classifier.")]
        else:
            self.hidden = nn.Sequential(nn.Linear(in_channels, hidden_channels), activation())
            self.classifier = nn.Linear(hidden_channels, num_classes)
            self.torchvision_names = [("classifier.0.", "hidden.0."), ("classifier.3.", "classifier.")]

    def initialize(self) -> None:
        """Draw the linear layers' weights."""
        self.init(self)

    def forward(self, c5: Tensor) -> Tensor:
        """Map C5 (N, C, h, w) to logits (N, K)."""
        features = self.hidden(c5.mean((2, 3)))  # (N, F)
        logits: Tensor = self.classifier(self.dropout(features))
        return logits
