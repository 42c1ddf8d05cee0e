"""What an adaptation asks about latency."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from torch import nn


class Latency(Protocol):
    """The milliseconds of networks on the device that they are adapted for.

    Attributes:
        factor: by which predictions are scaled, so that the start's own is right.
        about: runtime, threads and processor, for people.
    """

    factor: float

    @property
    def about(self) -> str:
        """Return what is measured where, for people."""

    def learn(self, networks: Iterable[nn.Module]) -> None:
        """Measure what predictions of networks like these need."""

    def anchor(self, network: nn.Module) -> float:
        """Measure a network, set `factor` by it, and return its milliseconds."""

    def predict(self, network: nn.Module) -> float:
        """Predict a network's milliseconds; one that has shapes only, on the device meta, will do."""

    def measure(self, network: nn.Module) -> float | None:
        """Measure a network as a whole; None where the device is not at hand."""
