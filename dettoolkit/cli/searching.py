"""`dettoolkit search`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dettoolkit.cli.arguments import OVERRIDES, add_runtime, adder, command_parser, run
from dettoolkit.cli.failures import quiet
from dettoolkit.cli.progress import tell

if TYPE_CHECKING:
    from dettoolkit.search.finalists import Finalist
    from dettoolkit.search.search_settings import Settings

DESCRIPTION = """Search for the best network of a latency, around the network of a recipe.

Each trial is a network of the space. It inherits the start's weights where shapes allow, is trained for a
short while, and given up after a quarter of it if it is worse than the others. Random search gets as many
trials. The best networks of both, and the recipe's network scaled to the latency, are trained in full."""
EXAMPLES = """examples:
  dettoolkit search ssdlite_scenes.yaml --space space.yaml --start runs/ssdlite_scenes/2026-01-31_12-00-00 \\
      --target-ms 5 --runtime onnx --trials 60 --steps 200 --jobs 2 --out searches/first
  dettoolkit search --resume searches/first --jobs 2"""


def search(argv: Sequence[str] | None = None) -> int:
    """Search for networks."""
    parser = command_parser(
        "search",
        usage="%(prog)s RECIPE [OVERLAY.yaml ...] [key=value ...] --space FILE --start RUN\n"
        "           --target-ms MS --out FOLDER [options]\n"
        "       %(prog)s --resume FOLDER [--jobs N]",
        description=DESCRIPTION,
        epilog=EXAMPLES,
    )
    add = adder(parser)
    add("recipe", "recipe", "recipe of data, head and training", nargs="?", type=Path)
    add("extras", "extras", OVERRIDES, nargs="*")
    add("--space", "FILE", "YAML file of the space; see docs/adapt.md", type=Path)
    add("--start", "RUN", "trained run or checkpoint of the recipe's network", type=Path)
    add("--target-ms", "MS", "latency of the network that is wanted", type=float)
    add_runtime(add)
    add("--table", "FILE", "the latency table (default: that of `dettoolkit latency`)", type=Path)
    add("--blocks", "N", "most blocks that are measured for it (default: 200)", type=int, default=200)
    add("--sampler", "NAME", "random, tpe or evolution (default: tpe)", default="tpe")
    add("--objective", "NAME", "mnasnet, absolute or pareto (default: mnasnet)", default="mnasnet")
    exponents = (
        "of mnasnet: for networks that are fast enough, and\nfor others (default: -0.07 -0.07; hard: 0 -1)"
    )
    add("--exponents", ("W", "W"), exponents, nargs=2, type=float)
    add("--weight", "W", "of absolute (default: -0.07)", type=float)
    add("--trials", "N", "trials, and as many of random search (default: 60)", type=int, default=60)
    add("--steps", "N", "optimizer steps of a trial (default: 500)", type=int, default=500)
    add("--best", "K", "networks of each that are trained in full (default: 2)", type=int, default=2)
    add("--seed", "N", "of proposals and trials (default: 0)", type=int, default=0)
    add("--jobs", "N", "processes on this machine (default: 1)", type=int, default=1)
    add("--storage", "URL", "database of Optuna (default: a file in the folder)")
    add("--out", "FOLDER", "folder of the search", type=Path)
    add("--resume", "FOLDER", "go on with a search, also from another machine", type=Path)
    return run(parser, argv, _search)


def _search(options: argparse.Namespace) -> int:
    folder = _check(options)
    quiet()
    from dettoolkit.search.finalists import finish
    from dettoolkit.search.search_settings import load_settings
    from dettoolkit.search.study import run_trials

    settings = load_settings(folder)[0] if options.resume is not None else _begin(options, folder)
    if options.resume is None:
        print(
            f"folder: {folder}; after an interruption: dettoolkit search --resume {folder}", file=sys.stderr
        )
    run_trials(folder, jobs=options.jobs)
    found = finish(folder)
    print("\n".join(_lines(found, settings, folder)))
    return 0


def _begin(options: argparse.Namespace, folder: Path) -> Settings:
    """Begin a new search."""
    from dettoolkit.config import load_recipe
    from dettoolkit.latency.runtimes import Runtime
    from dettoolkit.search.begin import Request, begin
    from dettoolkit.search.objectives import EXPONENTS, WEIGHT

    given = EXPONENTS if options.exponents is None else tuple(options.exponents)
    request = Request(
        recipe=load_recipe(str(options.recipe), options.extras).recipe,
        name=options.recipe.stem,
        space=options.space,
        start=options.start,
        target_ms=options.target_ms,
        runtime=Runtime(name=options.runtime, threads=options.threads),
        table=options.table,
        blocks=options.blocks,
        sampler=options.sampler,
        objective=options.objective,
        exponents=(given[0], given[1]),
        weight=WEIGHT if options.weight is None else options.weight,
        trials=options.trials,
        steps=options.steps,
        best=options.best,
        seed=options.seed,
        storage=options.storage,
    )
    return begin(request, folder, tell=tell)


def _check(options: argparse.Namespace) -> Path:
    """Refuse what makes no sense, before any work; return the search's folder."""
    from dettoolkit.search.objectives import KINDS

    counts = {
        "--trials": options.trials,
        "--steps": options.steps,
        "--best": options.best,
        "--jobs": options.jobs,
    }
    for name, value in {**counts, "--blocks": options.blocks}.items():
        if not 1 <= value <= 1_000_000:
            raise ValueError(f"{name} {value}: expected 1 or more")
    if options.resume is not None:
        if options.recipe is not None:
            raise ValueError("--resume goes on with the recipe that the search began with: omit the recipe")
        folder: Path = options.resume
        return folder
    needed = {"a recipe": options.recipe, "--space": options.space, "--start": options.start}
    needed |= {"--target-ms": options.target_ms, "--out": options.out}
    missing = [name for name, value in needed.items() if value is None]
    if missing:
        raise ValueError(f"a new search needs {', '.join(missing)}")
    samplers = ("random", "tpe", "evolution")
    for name, value, known in (
        ("--sampler", options.sampler, samplers),
        ("--objective", options.objective, KINDS),
    ):
        if value not in known:
            raise ValueError(f"{name} {value}: choose from {', '.join(known)}")
    if not 0 < options.target_ms <= 1e7:
        raise ValueError(f"--target-ms {options.target_ms:g}: expected a number above 0")
    if any(value > 0 for value in options.exponents or ()) or (options.weight or 0) > 0:
        raise ValueError("--exponents and --weight must be 0 or less: a slower network is not better")
    out: Path = options.out
    return out


def _lines(found: Sequence[Finalist], settings: Settings, folder: Path) -> Iterator[str]:
    """Write the result for people."""
    from dettoolkit.evaluation.score_text import table
    from dettoolkit.search.finalists import RESULTS, short_to_full

    yield (
        f"{settings.trials} trials of {settings.steps} steps by {' and as many by '.join(settings.studies)}; "
        f"target {settings.target_ms:g} ms ({settings.runtime}, threads: {settings.threads})"
    )
    yield ""
    columns = {"short": 9, "full": 9, "predicted ms": 14, "measured ms": 13}
    rows = [
        (
            each.name,
            "diverged" if each.short is None else each.short,
            each.full,
            f"{each.predicted_ms:.3f}",
            f"{each.measured_ms:.3f}",
        )
        for each in found
    ]
    yield from table("network", columns, rows)
    yield ""
    correlation = short_to_full(found)
    shown = "too few networks" if correlation is None else f"{correlation:.3f}"
    yield f"rank correlation of short and full scores: {shown}"
    yield f"recipes: {folder / 'recipes'}; all numbers and the Pareto front: {folder / RESULTS}"
