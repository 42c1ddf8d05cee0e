"""The page of all shipped recipes: sizes, published and measured scores, latency here."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping
from importlib.resources import files
from pathlib import Path

from torch import nn

from dettoolkit import tasks
from dettoolkit.complexity import count_madds, count_parameters
from dettoolkit.config import load_recipe, shipped_folder
from dettoolkit.machine import machine
from dettoolkit.paper.counts import ROUNDS, TABLES, TURNS, Latency, measure, published_rows

SCORES = "scores.csv"
PLUS = "_plus"
"""Ends the name of a recipe that only trains another one's network otherwise; a test compares the two."""

TITLE = """# Model zoo

Every shipped recipe. `dettoolkit paper-tables --zoo docs/model_zoo.md` generates this page; nothing in it is
written by hand.

- **published**: the score reported in the paper (*Searching for MobileNetV3*, arXiv 1905.02244; with its
  table), or by torchvision for its own weights. We did not measure it.
- **measured here**: the best score in the log of one of our training runs, and its data. No recipe has yet
  been trained to the end on the data of its published score.
- **parameters** include batch normalization's scale and offset; **MAdds** are for one image of the size in
  parentheses. Both are for the number of classes in the recipe's data. `dettoolkit paper-tables` counts like
  the paper, and prints its numbers next to ours."""
HEADER = ("recipe", "published", "measured here", "parameters", "MAdds", "ms")
MACHINE = """## Latency

**ms** is the time of the network for one image, as training builds it, in PyTorch on one thread: the median
of {repeats} measurements, with the 10th to 90th percentile in parentheses. The networks alternate, with
{turns} measurements each per round, so that rows can be compared. A recipe whose name ends in `_plus` has the
network of the recipe without it (`tests/test_same_graph.py`); both rows show the same measurements. Image
decoding and post-processing are excluded. `dettoolkit predict` uses an optimized version of the network, and
exported files are faster still ([performance.md](performance.md)).

Measured on {machine}."""


def model_zoo(logs: Path, *, tell: Callable[[str], None] | None) -> Iterator[str]:
    """Write the page, a part at a time; each recipe's network is built, counted and run.

    `logs` has training logs with their list, `scores.csv`; the page links to it. `tell` is called with what
    is being done, while networks are run; None does not run them.
    """
    published, measured = _published(), measured_scores(logs)
    recipes = {path.stem: load_recipe(path.stem).recipe for path in sorted(shipped_folder().glob("*.yaml"))}
    if unknown := sorted(measured.keys() - recipes.keys()):
        raise ValueError(f"{logs / SCORES} names the recipe '{unknown[0]}', which is not shipped: correct it")
    specs = {name: tasks.spec_of(recipe) for name, recipe in recipes.items()}
    networks: dict[str, tuple[nn.Module, tuple[int, int]]] = {}
    for name, recipe in recipes.items():
        classes, image_hw = specs[name].zoo_size(recipe)
        networks[name] = specs[name].build_network(recipe, num_classes=classes).eval(), image_hw
    distinct = {name: network for name, network in networks.items() if not name.endswith(PLUS)}
    latencies = measure(distinct, tell=tell) if tell is not None else {}
    yield TITLE
    for spec in tasks.TASKS:
        yield f"\n## {spec.title}\n\n| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}"
        for name in (name for name in recipes if specs[name] is spec):
            scores = map("; ".join, (published.get(name, ["none"]), measured.get(name, ["not measured"])))
            sizes = _sizes(*networks[name], latencies.get(name.removesuffix(PLUS)))
            yield f"| {' | '.join([f'[{name}](../configs/{name}.yaml)', *scores, *sizes])} |"
    if latencies:
        yield "\n" + MACHINE.format(repeats=ROUNDS * TURNS, turns=TURNS, machine=machine())


def _sizes(network: nn.Module, image_hw: tuple[int, int], latency: Latency | None) -> tuple[str, str, str]:
    """Return parameters, multiply-adds and milliseconds; the last is empty where there are none."""
    time = "" if latency is None else f"{latency.median:.1f} ({latency.low:.1f}-{latency.high:.1f})"
    parameters = f"{count_parameters(network, norm_affine=True) / 1e6:.2f}M"
    return parameters, f"{count_madds(network, image_hw) / 1e9:.3f}B ({image_hw[0]}x{image_hw[1]})", time


def _published() -> Mapping[str, list[str]]:
    """Return each recipe's published scores by its name."""
    found: dict[str, list[str]] = {}
    for row in published_rows(list(TABLES)):
        if row.recipe is not None and not row.overrides:
            score = f"{row.score} {TABLES[row.table].score} (Table {row.table})"
            found.setdefault(row.recipe, []).append(score)
    text = files("dettoolkit.paper").joinpath("others.csv").read_text(encoding="utf-8")
    for line in csv.DictReader(text.splitlines()):
        found.setdefault(line["recipe"], []).append(f"{line['score']} ({line['source']})")
    return found


def measured_scores(logs: Path) -> Mapping[str, list[str]]:
    """Read each recipe's measured scores from the logs of its trainings: the best checkpoint's.

    In the folder `logs` is `scores.csv`: lines of a recipe, the data, the log's name and its column.
    """
    index = logs / SCORES
    if not index.is_file():
        raise FileNotFoundError(
            f"no list of measured scores at {index}: choose a page next to a folder logs with it"
        )
    found: dict[str, list[str]] = {}
    for line in csv.DictReader(index.read_text(encoding="utf-8").splitlines()):
        log, column = logs / line["log"], line["column"]
        if not log.is_file():
            raise FileNotFoundError(
                f"{index} lists the log {log}, which does not exist: add it or delete the line"
            )
        rows = csv.DictReader(log.read_text(encoding="utf-8").splitlines())
        scores = [float(row[column]) for row in rows if row.get(column)]
        if not scores:
            raise ValueError(
                f"{log} has no score in a column '{column}', as {index} says it has: correct the line"
            )
        score = f"{100 * max(scores):.1f} {column} on {line['data']} ([log](logs/{line['log']}))"
        found.setdefault(line["recipe"], []).append(score)
    return found
