"""The page of all shipped recipes: sizes, published and measured scores, latency here."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping
from importlib.resources import files
from pathlib import Path

from torch import nn

from dettoolkit.complexity import count_madds, count_parameters
from dettoolkit.config import Recipe, load_recipe
from dettoolkit.config.layers import shipped_folder
from dettoolkit.paper.counts import ROUNDS, TURNS, Latency, measure
from dettoolkit.paper.machine import machine
from dettoolkit.paper.published import TABLES, published_rows
from dettoolkit.tasks import TASKS, spec_of

SCORES = "scores.csv"

TITLE = """# Model zoo

Every shipped recipe. `dettoolkit paper-tables --zoo docs/model_zoo.md` writes this page to the last figure;
nothing in it is typed by hand.

- **published**: the score that the paper prints (*Searching for MobileNetV3*, arXiv 1905.02244; the table is
  named), or torchvision for its own weights. It is no score of ours.
- **measured here**: the best score in a log of a training of ours, and on which data. No recipe has been
  trained to its end on the data of its published score yet.
- **parameters** include batch normalization's scale and offset; **MAdds** are those of one image of the size
  in brackets. Both are for as many classes as the recipe's data have. `dettoolkit paper-tables` counts as the
  paper does, and prints its figures beside ours."""
HEADER = ("recipe", "published", "measured here", "parameters", "MAdds", "ms")
MACHINE = """## What the milliseconds were measured on

**ms** is one image through the network as training builds it, in PyTorch on one thread: the median of
{repeats} turns, in brackets the 10th to 90th percentile. The networks take turns, {turns} of each in every
round, so that rows can be compared. Reading the image and what follows the network are left out.
`dettoolkit predict` runs a version that is rewritten for speed, and exported files are faster still
([performance.md](performance.md)).

Measured on {machine}."""


def model_zoo(logs: Path, *, tell: Callable[[str], None] | None) -> Iterator[str]:
    """Write the page, a part at a time; each recipe's network is built, counted and run.

    Args:
        logs: folder of training logs with their list, `scores.csv`; the page links to it as `logs`.
        tell: is called with what is being done, while networks are run; None does not run them.

    Raises:
        FileNotFoundError: there is no such list, or a log that it names is missing.
        ValueError: the list names a recipe or a score that is not there.
    """
    published, measured = _published(), measured_scores(logs)
    recipes = {path.stem: load_recipe(path.stem).recipe for path in sorted(shipped_folder().glob("*.yaml"))}
    if unknown := sorted(measured.keys() - recipes.keys()):
        raise ValueError(f"{logs / SCORES} names the recipe '{unknown[0]}', which is not shipped: correct it")
    networks = {name: _network(recipe) for name, recipe in recipes.items()}
    latencies = measure(networks, tell=tell) if tell is not None else {}
    yield TITLE
    for spec in TASKS:
        yield f"\n## {spec.title}\n\n| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}"
        for name, recipe in recipes.items():
            if spec_of(recipe) is spec:
                scores = (published.get(name, ["none"]), measured.get(name, ["not measured"]))
                cells = [
                    f"[{name}](../configs/{name}.yaml)",
                    *map("; ".join, scores),
                    *_sizes(*networks[name], latencies.get(name)),
                ]
                yield f"| {' | '.join(cells)} |"
    if latencies:
        yield "\n" + MACHINE.format(repeats=ROUNDS * TURNS, turns=TURNS, machine=machine())


def _sizes(network: nn.Module, image_hw: tuple[int, int], latency: Latency | None) -> tuple[str, str, str]:
    """Return parameters, multiply-adds and milliseconds; the last is empty where there are none."""
    height, width = image_hw
    time = "" if latency is None else f"{latency.median:.1f} ({latency.low:.1f}-{latency.high:.1f})"
    parameters = f"{count_parameters(network, norm_affine=True) / 1e6:.2f}M"
    return parameters, f"{count_madds(network, (height, width)) / 1e9:.3f}B ({height}x{width})", time


def _network(recipe: Recipe) -> tuple[nn.Module, tuple[int, int]]:
    """Build a network for the classes of the data that a recipe names; return the size of one image too."""
    spec = spec_of(recipe)
    classes, image_hw = spec.zoo_size(recipe)
    return spec.build_network(recipe, num_classes=classes).eval(), image_hw


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

    Args:
        logs: folder with `scores.csv`, lines of a recipe, the data, the log's name and its column.

    Raises:
        FileNotFoundError: there is no such list, or a log that it names is missing.
        ValueError: a log has no such column, or no score in it.
    """
    index = logs / SCORES
    if not index.is_file():
        raise FileNotFoundError(
            f"no list of measured scores at {index}: name a page beside a folder logs with it"
        )
    found: dict[str, list[str]] = {}
    for line in csv.DictReader(index.read_text(encoding="utf-8").splitlines()):
        log, column = logs / line["log"], line["column"]
        if not log.is_file():
            raise FileNotFoundError(
                f"{index} names the log {log}, which is not there: add it or take the line out"
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
