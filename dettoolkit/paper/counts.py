"""Our networks beside the published rows: parameters, multiply-adds and, if wanted, latency here."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import torch
from torch import nn

from dettoolkit.builders.deploy import build_network
from dettoolkit.complexity import count_madds, count_parameters
from dettoolkit.config import DetectionRecipe, load_recipe
from dettoolkit.paper.published import TABLES, Row

WARM_UP, REPEATS = 3, 15


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
        """Say how far our parameters are from the print, relatively; None where there is no print."""
        return None if self.row.parameters is None else self.parameters / float(self.row.parameters) - 1

    @property
    def madds_off(self) -> float:
        """Say how far our multiply-adds are from the print, relatively."""
        return self.madds / float(self.row.madds) - 1


def network_of(row: Row) -> nn.Module:
    """Build the network of a row with random weights, for as many classes as the table counts."""
    if row.recipe is None:
        raise ValueError(f"{row.name} of Table {row.table} is not built here: choose a row with a recipe")
    recipe = load_recipe(row.recipe, row.overrides).recipe
    background = 1 if isinstance(recipe, DetectionRecipe) else 0
    return build_network(recipe, num_classes=row.classes - background).eval()


def count(row: Row, *, latency: bool) -> Count:
    """Count a row's network; with `latency`, also run it here."""
    table = TABLES[row.table]
    with torch.device("cpu" if latency else "meta"):  # shapes are enough for counting
        network = network_of(row)
    return Count(
        row=row,
        parameters=count_parameters(network, norm_affine=table.norm_affine) / 1e6,
        madds=count_madds(network, table.input_hw) / table.madds_unit,
        latency=measure(network, table.input_hw) if latency else None,
    )


def measure(network: nn.Module, input_hw: tuple[int, int]) -> Latency:
    """Time a network on one image and one thread of this machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            image = torch.rand(1, 3, *input_hw, generator=torch.Generator().manual_seed(0))
            times = []
            for _ in range(WARM_UP + REPEATS):
                started = time.perf_counter()
                network(image)
                times.append((time.perf_counter() - started) * 1e3)
    finally:
        torch.set_num_threads(threads)
    deciles = statistics.quantiles(times[WARM_UP:], n=10)
    return Latency(median=statistics.median(times[WARM_UP:]), low=deciles[0], high=deciles[-1])
