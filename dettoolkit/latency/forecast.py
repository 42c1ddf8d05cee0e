"""Milliseconds of a recipe's networks in one runtime: predicted from the table, measured, and compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from dettoolkit.latency.clock import ROUNDS, Timing
from dettoolkit.latency.correction import Agreement, Correction
from dettoolkit.latency.measure import Measured, Tell, measure_blocks, measure_networks, say_nothing
from dettoolkit.latency.network_blocks import Block, blocks_of
from dettoolkit.latency.runtimes import Runtime
from dettoolkit.latency.subjects import Subject
from dettoolkit.latency.table import Prediction, default_path, here, table_for


@dataclass(frozen=True, kw_only=True)
class Check:
    """A prediction beside the measurement of the same network."""

    predicted: float
    measured: Timing

    @property
    def off(self) -> float:
        """Return how far the prediction is from the measured median, relatively; below 0 where it is less."""
        return self.predicted / self.measured.median - 1


@dataclass(frozen=True, kw_only=True)
class Validation:
    """How predictions of random networks agree with measurements: the plain sum, and with the correction."""

    plain: Agreement
    correction: Correction
    interpolated: float  # fraction of the networks' blocks that are not in the table
    networks: tuple[
        tuple[float, int, float], ...
    ]  # of each: the sum, the number of blocks, the measured time
    waited: float


class Forecast:
    """The milliseconds of networks, in one runtime at one input size.

    Predictions use the correction that `validate` fitted for this kind of networks, if the table has one,
    and the factor by which `anchor` found them to be off.

    Args:
        subject: the networks: a recipe, the number of classes, and the input size.
        runtime: in which they run.
        path: of the table; None takes the user's cache folder, with a file for each of its conditions.
        reuse: also take a table of other conditions, from which nothing can be measured further.

    Raises:
        TableError: a table of other conditions, which is not to be reused.
        ModuleNotFoundError: the runtime is not installed; the message says what to install.

    Example:
        >>> forecast = Forecast(subject_of(Path("ssdlite_scenes")), Runtime(name="onnx", threads=1))
        >>> forecast.learn([network])
        >>> forecast.anchor(network)
        >>> forecast.predict(smaller).milliseconds
        4.31
    """

    def __init__(
        self, subject: Subject, runtime: Runtime, *, path: Path | None = None, reuse: bool = False
    ) -> None:
        self.subject, self.runtime = subject, runtime
        self.path = default_path(here(runtime)) if path is None else path
        self.table, self.warning = table_for(runtime, self.path, reuse=reuse)
        self.factor = 1.0

    @property
    def correction(self) -> Correction | None:
        """Return the correction of this kind of networks; None for the plain sum."""
        return self.table.corrections.get(self.subject.kind)

    def blocks(self, network: nn.Module) -> list[Block]:
        """Return a network's blocks, at the subject's input size."""
        return [block for block, _ in blocks_of(network, self.subject.input_hw)]

    def predict(self, network: nn.Module) -> Prediction:
        """Predict a network's milliseconds; one that is built with `shapes_only` will do."""
        return self.table.predict(self.blocks(network), self.correction, factor=self.factor)

    def learn(
        self, networks: Sequence[nn.Module], *, most: int | None = None, tell: Tell = say_nothing
    ) -> int:
        """Measure the networks' blocks that the table does not have, and save it; return their number.

        Of more than `most`, as many are measured, spread over sizes and kinds; the others stay interpolated.
        Networks must have weights (any). After every group of blocks the table is saved.
        """
        self.require_own_table()
        found = {block: module for each in networks for block, module in self._pairs(each)}
        missing = sorted(block for block in found if block not in self.table.times)
        if most is not None and len(missing) > most:
            missing = [missing[number * len(missing) // most] for number in range(most)]
        for times in measure_blocks({block: found[block] for block in missing}, self.runtime, tell=tell):
            self.table.add(times)
            self.table.save(self.path)
        return len(missing)

    def measure(
        self, networks: Sequence[nn.Module], *, rounds: int = ROUNDS, tell: Tell = say_nothing
    ) -> Measured:
        """Measure whole networks, in turns: from normalized images to raw outputs."""
        self.require_own_table()
        return measure_networks(networks, self.subject.input_hw, self.runtime, rounds=rounds, tell=tell)

    def check(self, network: nn.Module, *, tell: Tell = say_nothing) -> Check:
        """Measure a network and compare its prediction."""
        timing = self.measure([network], tell=tell).timings[0]
        return Check(predicted=self.predict(network).milliseconds, measured=timing)

    def anchor(self, network: nn.Module, *, tell: Tell = say_nothing) -> Check:
        """Measure a network and scale all predictions so that its own is right; return what it was before."""
        found = self.check(network, tell=tell)
        self.factor /= 1 + found.off
        return found

    def validate(
        self, count: int, *, most_blocks: int, seed: int = 0, tell: Tell = say_nothing
    ) -> Validation:
        """Predict and measure random networks, and fit this kind's correction to them, which is saved."""
        networks = [self.subject.network(recipe) for recipe in self.subject.varied(count, seed=seed)]
        self.learn(networks, most=most_blocks, tell=tell)
        measured = self.measure(networks, tell=tell)
        sums = [self.table.predict(self.blocks(network)) for network in networks]
        totals, counts = [each.total for each in sums], [len(each.blocks) for each in sums]
        times = [timing.median for timing in measured.timings]
        correction = Correction.fit(totals, counts, times)
        self.table.corrections[self.subject.kind] = correction
        self.table.save(self.path)
        return Validation(
            plain=Agreement.of(totals, times),
            correction=correction,
            interpolated=sum(len(each.interpolated) for each in sums) / sum(counts),
            networks=tuple(zip(totals, counts, times, strict=True)),
            waited=measured.waited,
        )

    def _pairs(self, network: nn.Module) -> list[tuple[Block, nn.Module]]:
        return blocks_of(network, self.subject.input_hw)

    def require_own_table(self) -> None:
        """Refuse to measure where the table is another machine's."""
        if self.warning is not None:
            raise ValueError(
                f"{self.warning}; measure on the machine that it is of, or with a table of this one"
            )
