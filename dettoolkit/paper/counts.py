"""Our networks beside the published rows: parameters, multiply-adds and, if wanted, latency here."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from dettoolkit.complexity import count_madds, count_parameters
from dettoolkit.config import load_recipe
from dettoolkit.paper.published import TABLES, Row
from dettoolkit.tasks import spec_of

ROUNDS, WARM_UP, TURNS = 5, 1, 4


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Milliseconds of one image in PyTorch on one thread: median, and the 10th to 90th percentile."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Count:
    """A published row and our network's figures, in the table's units."""

    row: Row
    parameters: float
    madds: float
    latency: Latency | None = None

    @property
    def parameters_off(self) -> float | None:
        """Return how far our parameters are from the print, relatively; None where there is no print."""
        return None if self.row.parameters is None else self.parameters / float(self.row.parameters) - 1

    @property
    def madds_off(self) -> float:
        """Return how far our multiply-adds are from the print, relatively."""
        return self.madds / float(self.row.madds) - 1


def network_of(row: Row) -> nn.Module:
    """Build the network of a row with random weights, for as many classes as the table counts."""
    if row.recipe is None:
        raise ValueError(f"{row.name} of Table {row.table} is not built here: choose a row with a recipe")
    recipe = load_recipe(row.recipe, row.overrides).recipe
    spec = spec_of(recipe)
    return spec.build_network(recipe, num_classes=spec.paper_classes(row.classes)).eval()


def count(row: Row) -> Count:
    """Count a row's network."""
    table = TABLES[row.table]
    with torch.device("meta"):  # shapes are enough
        network = network_of(row)
    return Count(
        row=row,
        parameters=count_parameters(network, norm_affine=table.norm_affine) / 1e6,
        madds=count_madds(network, table.input_hw) / table.madds_unit,
    )


def timed(counts: Sequence[Count], *, tell: Callable[[str], None]) -> list[Count]:
    """Run counted rows' networks here as well; see `measure`."""
    rows = [each.row for each in counts]
    networks = {f"{row.table} {row.name}": (network_of(row), TABLES[row.table].input_hw) for row in rows}
    latencies = measure(networks, tell=tell).values()
    return [replace(each, latency=found) for each, found in zip(counts, latencies, strict=True)]


def measure(
    networks: Mapping[str, tuple[nn.Module, tuple[int, int]]], *, tell: Callable[[str], None]
) -> dict[str, Latency]:
    """Time networks on one image and one thread of this machine.

    They take turns, some of each in every round, so that other load on the machine affects all
    alike.

    Args:
        networks: by name, with the height and width of the image.
        tell: is called with what is being done.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    times: dict[str, list[float]] = {name: [] for name in networks}
    try:
        for turn in range(ROUNDS):
            for number, (name, (network, input_hw)) in enumerate(networks.items(), start=1):
                tell(f"round {turn + 1} of {ROUNDS}, network {number} of {len(networks)}")
                times[name] += _milliseconds(network, input_hw)
    finally:
        torch.set_num_threads(threads)
    return {name: _spread(values) for name, values in times.items()}


@torch.inference_mode()
def _milliseconds(network: nn.Module, input_hw: tuple[int, int]) -> list[float]:
    image = torch.rand(1, 3, *input_hw, generator=torch.Generator().manual_seed(0))
    times = []
    for _ in range(WARM_UP + TURNS):
        started = time.perf_counter()
        network(image)
        times.append((time.perf_counter() - started) * 1e3)
    return times[WARM_UP:]


def _spread(times: list[float]) -> Latency:
    deciles = statistics.quantiles(times, n=10)
    return Latency(median=statistics.median(times), low=deciles[0], high=deciles[-1])
