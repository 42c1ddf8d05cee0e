"""The published rows, read from `tables.csv`, and our networks: size and, if wanted, latency here."""

from __future__ import annotations

import csv
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from dettoolkit.complexity import count_madds, count_parameters
from dettoolkit.config import load_recipe
from dettoolkit.tasks import spec_of

ROUNDS, WARM_UP, TURNS = 5, 1, 4
Key = TypeVar("Key")


@dataclass(frozen=True)
class Table:
    """What a table's columns mean."""

    title: str  # what it compares, and where
    score: str  # its name; scores are in per cent
    madds_unit: float  # 1e6 or 1e9
    input_hw: tuple[int, int]  # at which the networks are counted
    classes: int  # of its data; class slots of a detector, background included
    norm_affine: bool = True  # whether its parameters include BN's scale and offset
    device: str = "Pixel 1"  # on which its latencies were measured
    tolerance: float = 0.03  # largest relative difference of multiply-adds without a footnote


# DeepLab evaluates images of 1024x2048 as crops of 1025x2049.
CITYSCAPES = Table(
    "Table 7: Cityscapes validation set, 1024x2048", "mIoU", 1e9, (1025, 2049), 19,
    device="Pixel 3", tolerance=0.05,
)  # fmt: skip
TABLES = {
    "3": Table("Table 3: ImageNet, float, 224x224", "top-1", 1e6, (224, 224), 1000),
    "6": Table("Table 6: SSDLite, COCO test set, 320x320", "mAP", 1e9, (320, 320), 91, norm_affine=False),
    "7": CITYSCAPES,
    "8": replace(CITYSCAPES, title="Table 8: Cityscapes test set, 1024x2048"),
}


@dataclass(frozen=True)
class Row:
    """A published row."""

    table: str  # its number
    name: str  # as printed
    recipe: str | None  # the shipped recipe of its network; None where it is not built here
    overrides: tuple[str, ...]  # values laid over the recipe
    classes: int  # that the count has, background included for a detector
    parameters: str | None  # millions, as printed; None where the table has none
    madds: str  # as printed, in the table's unit
    score: str  # as printed
    latency: float | None  # milliseconds on a large core of the table's device; None where it has none
    note: str  # key of a footnote in `printing.NOTES`, or empty


def published_rows(tables: Sequence[str]) -> list[Row]:
    """Read the rows of some tables, in the paper's order."""
    text = files("dettoolkit.paper").joinpath("tables.csv").read_text(encoding="utf-8")
    return [
        Row(
            table=line["table"],
            name=line["row"],
            recipe=line["recipe"] or None,
            overrides=tuple(line["overrides"].split()),
            classes=int(line["slots"] or TABLES[line["table"]].classes),
            parameters=line["parameters"] or None,
            madds=line["madds"],
            score=line["score"],
            latency=float(line["latency"]) if line["latency"] else None,
            note=line["note"],
        )
        for line in csv.DictReader(text.splitlines())
        if line["table"] in tables
    ]


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Milliseconds of one image in PyTorch on one thread: median, and the 10th to 90th percentile."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Count:
    """A published row and our network's figures, in the table's units; None where it is not built here."""

    row: Row
    parameters: float | None = None
    madds: float | None = None
    latency: Latency | None = None

    @property
    def parameters_off(self) -> float | None:
        """How far our parameters are from the print, relatively."""
        printed = self.row.parameters
        return None if self.parameters is None or printed is None else self.parameters / float(printed) - 1

    @property
    def madds_off(self) -> float | None:
        """How far our multiply-adds are from the print, relatively."""
        return None if self.madds is None else self.madds / float(self.row.madds) - 1


def network_of(row: Row) -> nn.Module:
    """Build the network of a row with random weights, for as many classes as the table counts."""
    if row.recipe is None:
        raise ValueError(f"{row.name} of Table {row.table} is not implemented: choose a row with a recipe")
    recipe = load_recipe(row.recipe, row.overrides).recipe
    spec = spec_of(recipe)
    return spec.build_network(recipe, num_classes=spec.paper_classes(row.classes)).eval()


def count(row: Row) -> Count:
    """Count a row's network, if it is built here."""
    if row.recipe is None:
        return Count(row=row)
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
    built = [each.row for each in counts if each.madds is not None]
    latencies = measure({row: (network_of(row), TABLES[row.table].input_hw) for row in built}, tell=tell)
    return [replace(each, latency=latencies.get(each.row)) for each in counts]


def measure(
    networks: Mapping[Key, tuple[Callable[[Tensor], Any], tuple[int, int]]], *, tell: Callable[[str], None]
) -> dict[Key, Latency]:
    """Time networks on one image of a height and width, and on one thread of this machine.

    They take turns, some of each in every round, so that other load on the machine affects all alike.
    `tell` is called with what is being done.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    times: dict[Key, list[float]] = {name: [] for name in networks}
    try:
        for turn in range(ROUNDS):
            for number, (name, (network, input_hw)) in enumerate(networks.items(), start=1):
                tell(f"round {turn + 1} of {ROUNDS}, network {number} of {len(networks)}")
                times[name] += _milliseconds(network, input_hw)
    finally:
        torch.set_num_threads(threads)
    deciles = {name: statistics.quantiles(values, n=10) for name, values in times.items()}
    return {
        name: Latency(median=statistics.median(times[name]), low=found[0], high=found[-1])
        for name, found in deciles.items()
    }


@torch.inference_mode()
def _milliseconds(network: Callable[[Tensor], Any], input_hw: tuple[int, int]) -> list[float]:
    image = torch.rand(1, 3, *input_hw, generator=torch.Generator().manual_seed(0))
    times = []
    for _ in range(WARM_UP + TURNS):
        started = time.perf_counter()
        network(image)
        times.append((time.perf_counter() - started) * 1e3)
    return times[WARM_UP:]
