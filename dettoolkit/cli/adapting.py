"""`dettoolkit adapt`."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from dettoolkit.cli.arguments import OVERRIDES, add_runtime, adder, command_parser, run
from dettoolkit.cli.failures import quiet
from dettoolkit.cli.progress import tell

if TYPE_CHECKING:
    from dettoolkit.adaptation.adapt import Adaptation
    from dettoolkit.adaptation.page import Beside
    from dettoolkit.adaptation.settings import Settings
    from dettoolkit.adaptation.table_latency import TableLatency
    from dettoolkit.adaptation.workers import Workers

USAGE = """%(prog)s RUN [OVERLAY.yaml | key=value ...] --target-ms MS [options]
       %(prog)s --resume DIR [--jobs N] [--ray ADDRESS] [--beside RUN ...]"""
DESCRIPTION = """Make a trained network narrower until it meets a latency, by NetAdapt.

In each step every space of channels (an expansion, the outputs that share a residual, the last convolution)
is cut, alone, by as much as saves the time wanted; each of these networks is trained for some steps on the
recipe's data, and the one with the largest change of accuracy per change of latency is taken. At the end it
is trained at length. Everything is in a folder: the recipe with its blocks, the run of the last training,
and a page, adaptation.html. An adaptation that was interrupted, however it was, goes on with --resume."""
EXAMPLES = """examples:
  dettoolkit adapt runs/ssdlite_scenes/2026-01-31_12-00-00 --target-ms 5 --runtime onnx
  dettoolkit adapt runs/ssdlite_scenes/2026-01-31_12-00-00 --target-fraction 0.7 --steps 100 --jobs 2
  dettoolkit adapt --resume runs/adapt/ssdlite_scenes/2026-02-01_09-00-00"""
MAX_JOBS = 256
logger = logging.getLogger(__name__)


def adapt(argv: Sequence[str] | None = None) -> int:
    """Adapt a trained network to a latency."""
    parser = command_parser("adapt", usage=USAGE, description=DESCRIPTION, epilog=EXAMPLES)
    add = adder(parser)
    add("model", "RUN", "folder or checkpoint of a training; omit with --resume", nargs="?")
    add("extras", "extras", OVERRIDES, nargs="*")
    _add_settings(add)
    add("--jobs", "N", "fine-tunes at once, each a process (default: 1, and see --ray)", type=int)
    add(
        "--ray",
        "ADDRESS",
        "run fine-tunes on this Ray cluster (auto: the one this machine is in; local: a new one), which "
        "shares the folders; --jobs is then one for each GPU, or without GPUs for each machine",
    )
    add("--beside", "RUN", "trained runs of other widths, for the page", nargs="+", default=[], type=Path)
    add("--table", "FILE", "table of blocks, as dettoolkit latency keeps it", type=Path)
    add("--reuse-table", None, "predict from a table of another machine or version, measuring nothing")
    add(
        "--out",
        "DIR",
        "folder to write, which must not exist (default: runs/adapt/<recipe>/<time>)",
        type=Path,
    )
    add("--resume", "DIR", "go on with the adaptation in this folder, with its settings", type=Path)
    return run(parser, argv, lambda options: _adapt(options, parser))


def _add_settings(add: Callable[..., None]) -> None:
    """Add what is kept in the folder: each has the name of a field of `Settings`."""
    add("--target-ms", "MS", "milliseconds to reach", type=float)
    add("--target-fraction", "F", "the same, as a fraction of the network's latency now", type=float)
    add_runtime(add)
    add(
        "--reduction",
        "F",
        "fraction of the latency that the first step saves (default: 0.05)",
        type=float,
        default=0.05,
    )
    add(
        "--decay",
        "F",
        "each later step saves F times as much as the one before (default: 0.96)",
        type=float,
        default=0.96,
    )
    add("--steps", "N", "optimizer steps of each short fine-tune (default: 200)", type=int, default=200)
    add(
        "--lr-factor",
        "F",
        "learning rate of short fine-tunes over the recipe's (default: 0.1)",
        type=float,
        default=0.1,
    )
    add(
        "--final-steps",
        "N",
        "optimizer steps of the last training; 0: none (default: the recipe's length)",
        type=int,
    )
    add("--from-scratch", None, "begin the last training with random weights")
    add("--divisor", "N", "channel counts are multiples of N (default: 8)", type=int, default=8)
    add(
        "--by",
        "BY",
        "channels that stay: norm (of filters) or scale (of normalization)",
        choices=("norm", "scale"),
        default="norm",
    )
    add("--seed", "N", "of the fine-tunes (default: 0)", type=int, default=0)


def _adapt(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    if (options.model is None) == (options.resume is None):
        parser.error("specify a run, or --resume with the folder of an adaptation")
    if options.jobs is not None and not 1 <= options.jobs <= MAX_JOBS:
        parser.error(f"--jobs must be 1 to {MAX_JOBS}, got {options.jobs}")
    from dettoolkit.adaptation.settings import read_settings

    settings = _settings(options) if options.resume is None else read_settings(options.resume)
    if changed := [name for name in _setting_names() if options.resume and _is_given(options, parser, name)]:
        named = ", ".join(f"--{name.replace('_', '-')}" for name in changed)
        parser.error(f"--resume goes on with the settings of its folder: omit {named}")
    quiet()
    from dettoolkit.adaptation.adapt import Adaptation
    from dettoolkit.adaptation.final import finish
    from dettoolkit.adaptation.page import write_page
    from dettoolkit.training.run_folder import locked

    latency = _latency(options, settings)
    folder = options.resume or _new_folder(options.out, settings)
    with locked(folder):
        if options.resume is None:
            settings.write(folder)
        print(f"folder    {folder}")
        adaptation = Adaptation(folder, settings, latency, workers=_workers(options))
        state = adaptation.run(after_step=lambda: write_page(adaptation))
        finish(adaptation, state)
        write_page(adaptation, list(_beside(options.beside, adaptation)))
    print("\n".join(_outcome(adaptation)))
    return 0


def _setting_names() -> list[str]:
    from dettoolkit.adaptation.settings import Settings

    return [each.name for each in fields(Settings)]


def _is_given(options: argparse.Namespace, parser: argparse.ArgumentParser, name: str) -> bool:
    return name != "extras" and getattr(options, name) != parser.get_default(name)


def _settings(options: argparse.Namespace) -> Settings:
    from dettoolkit.adaptation.settings import Settings

    values = {name: getattr(options, name) for name in _setting_names()}
    return Settings(**{**values, "extras": tuple(options.extras)})


def _new_folder(out: Path | None, settings: Settings) -> Path:
    """Make the folder of a new adaptation."""
    from dettoolkit.destinations import check_free
    from dettoolkit.training.run_folder import BEST, LAST, checkpoint_of, new_run_dir
    from dettoolkit.weights.read import read_checkpoint

    if out is None:
        description, _ = read_checkpoint(checkpoint_of(Path(settings.model), names=(BEST, LAST)))
        return new_run_dir(Path("runs", "adapt"), str(description["name"]))
    check_free(out)
    out.mkdir(parents=True, exist_ok=True)
    return out


def _latency(options: argparse.Namespace, settings: Settings) -> TableLatency:
    from dettoolkit.adaptation.table_latency import TableLatency
    from dettoolkit.latency.forecast import Forecast
    from dettoolkit.latency.runtimes import Runtime
    from dettoolkit.latency.subjects import subject_of

    runtime = Runtime(name=settings.runtime, threads=settings.threads)
    if not options.reuse_table:
        runtime.check()
    subject = subject_of(Path(settings.model), settings.extras)
    forecast = Forecast(subject, runtime, path=options.table, reuse=options.reuse_table)
    if forecast.warning is not None:
        logger.warning("%s: no network is measured", forecast.warning)
    return TableLatency(forecast, tell=tell)


def _workers(options: argparse.Namespace) -> Workers:
    if options.ray is None:
        from dettoolkit.adaptation.workers import Processes

        return Processes(options.jobs or 1)
    from dettoolkit.adaptation.cluster import Cluster

    return Cluster(options.ray, options.jobs)


def _beside(runs: Sequence[Path], adaptation: Adaptation) -> Iterator[Beside]:
    """Yield other trained networks, measured in the same runtime."""
    from dettoolkit.adaptation.page import Beside
    from dettoolkit.reporting.scored_folder import open_folder
    from dettoolkit.training.trained import open_model

    for path in runs:
        score = open_folder(path).evaluation["numbers"].get(adaptation.monitor)
        if score is None:
            raise ValueError(f"{path} has no {adaptation.monitor}: give runs of the same task with --beside")
        network = open_model(path)[1].eval()
        milliseconds = adaptation.latency.measure(network) or adaptation.latency.predict(network)
        yield Beside(str(path), milliseconds, float(score))


def _outcome(adaptation: Adaptation) -> Iterator[str]:
    from dettoolkit.adaptation.final import RECIPE
    from dettoolkit.adaptation.page import FILE

    start, final = (adaptation.journal.find(kind) or {} for kind in ("start", "final"))
    name = adaptation.monitor
    yield f"start     {start['milliseconds']:.3g} ms, {name} {start['score']:.4f}"
    yield f"now       {final['milliseconds']:.3g} ms, {name} {final['score']:.4f}"
    yield f"recipe    {adaptation.folder / RECIPE}"
    yield f"weights   {final['run'] or adaptation.state().weights}"
    yield f"page      {adaptation.folder / FILE}"
