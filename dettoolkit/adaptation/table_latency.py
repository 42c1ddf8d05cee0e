"""Latency by the table of blocks of `dettoolkit.latency`."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import nn

from dettoolkit.latency.forecast import Forecast

BLOCKS = 60  # most that are measured at the beginning; others are interpolated


class TableLatency:
    """Milliseconds predicted from a table, and measured where the table is this machine's.

    `tell` is called with what is being measured.
    """

    def __init__(self, forecast: Forecast, *, tell: Callable[[str], None]) -> None:
        self.forecast, self.tell = forecast, tell

    @property
    def factor(self) -> float:
        """Return the factor by which predictions are scaled, so that the start's own is right."""
        return self.forecast.factor

    @factor.setter
    def factor(self, value: float) -> None:
        self.forecast.factor = value

    @property
    def about(self) -> str:
        """Return what is measured where, for people."""
        where = self.forecast.table.conditions
        height, width = self.forecast.subject.input_hw
        threads = f"{where.threads} thread{'s' if where.threads > 1 else ''}"
        return f"{where.runtime} {where.version}, {threads}, {height}x{width}, {where.processor}"

    @property
    def _is_own(self) -> bool:
        return self.forecast.warning is None

    def learn(self, networks: Iterable[nn.Module]) -> None:
        """Measure blocks of these networks that the table does not have."""
        if self._is_own:
            self.forecast.learn(list(networks), most=BLOCKS, tell=self.tell)

    def anchor(self, network: nn.Module) -> float:
        """Measure a network, scale predictions so that its own is right, and return its milliseconds."""
        if self._is_own:
            return self.forecast.anchor(network, tell=self.tell).measured.median
        return self.predict(network)

    def predict(self, network: nn.Module) -> float:
        """Predict a network's milliseconds."""
        return self.forecast.predict(network).milliseconds

    def measure(self, network: nn.Module) -> float | None:
        """Measure a network as a whole; None with another machine's table."""
        if not self._is_own:
            return None
        return self.forecast.measure([network], tell=self.tell).timings[0].median
