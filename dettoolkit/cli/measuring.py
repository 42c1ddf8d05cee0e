"""`dettoolkit latency`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dettoolkit.cli.arguments import OVERRIDES, add_runtime, adder, command_parser, run
from dettoolkit.cli.benchmarking import LOAD
from dettoolkit.cli.failures import quiet
from dettoolkit.cli.progress import tell

if TYPE_CHECKING:
    from dettoolkit.latency.forecast import Forecast, Validation
    from dettoolkit.latency.table import Prediction

DESCRIPTION = """Measure how long a network takes for one image in a runtime, whole and block by block.

The network runs from a normalized image to raw outputs. Blocks are measured in the runtime itself, between
layers as in a network, and kept in a table, from which `adapt` and `search` predict other networks. Blocks
that the table does not have are measured; of random networks (--validate) some, and the others are
interpolated. Times are medians, with quartiles over rounds in which all take turns; with one thread they
are the processor's, without waiting for other programs."""
EXAMPLES = """examples:
  dettoolkit latency runs/ssdlite_scenes/2026-01-31_12-00-00 --runtime onnx
  dettoolkit latency ssdlite_mnv3_small --runtime openvino --validate 30
  dettoolkit latency lraspp_mnv3_small model.backbone.width=0.5 --size 512 1024 --runtime pytorch
  dettoolkit latency ssdlite_mnv3_small --runtime litert --table phone.json --reuse-table"""
TOGETHER = (2, 500)  # fewest and most networks of --validate
GOAL = "the goal is at most 7 % and at least 0.95"
WAITED = 0.1  # fraction of the time without a core that is worth a warning


def latency(argv: Sequence[str] | None = None) -> int:
    """Measure and predict the latency of networks."""
    parser = command_parser(
        "latency",
        usage="%(prog)s MODEL [OVERLAY.yaml ...] [key=value ...] --runtime RUNTIME [options]",
        description=DESCRIPTION,
        epilog=EXAMPLES,
    )
    add = adder(parser)
    add("model", "model", "recipe, run folder or checkpoint; weights do not matter", type=Path)
    add("extras", "extras", OVERRIDES, nargs="*")
    add_runtime(add)
    add("--size", ("H", "W"), "input size (default: the recipe's)", nargs=2, type=int)
    add("--validate", "N", "also predict and measure N random networks, and fit a correction", type=int)
    add("--blocks", "N", "most blocks of these that are measured (default: 200)", type=int, default=200)
    add(
        "--table",
        "FILE",
        "the table (default: one per processor, runtime, version and\nthreads in the user's cache folder)",
        type=Path,
    )
    add("--reuse-table", None, "predict from a table of another machine or version, measuring nothing")
    add("--json", "FILE", "also write the results to a file that does not exist, or with - to stdout alone")
    return run(parser, argv, _latency)


def _latency(options: argparse.Namespace) -> int:
    _check(options)
    quiet()
    from dettoolkit.latency.forecast import Forecast
    from dettoolkit.latency.runtimes import Runtime
    from dettoolkit.latency.subjects import subject_of

    size = None if options.size is None else (options.size[0], options.size[1])
    runtime = Runtime(name=options.runtime, threads=options.threads)
    if not options.reuse_table:
        runtime.check()
    subject = subject_of(options.model, options.extras, input_hw=size)
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    forecast = Forecast(subject, runtime, path=options.table, reuse=options.reuse_table)
    found: dict[str, Any] = {
        "model": str(options.model),
        "input_hw": list(subject.input_hw),
        "conditions": asdict(forecast.table.conditions),
        "table": str(forecast.path),
        "busy": busy,
    }
    if forecast.warning is None:
        network = subject.network()
        found["newly_measured"] = forecast.learn([network], tell=tell)
        whole = forecast.measure([network], tell=tell)
        found |= {"whole": asdict(whole.timings[0]), "waited": whole.waited}
    prediction = forecast.predict(subject.network(shapes_only=True))
    found |= _described(prediction, forecast)
    if options.validate is not None:
        validation = forecast.validate(options.validate, most_blocks=options.blocks, tell=tell)
        found["validation"] = asdict(validation)
    tell("")
    _write(found, options.json, [*_lines(found), *_validated(validation if options.validate else None)])
    for warning in _warnings(found, forecast):
        print(f"warning: {warning}", file=sys.stderr)
    return 0


def _check(options: argparse.Namespace) -> None:
    """Refuse what makes no sense, before any work."""
    if options.validate is not None and not TOGETHER[0] <= options.validate <= TOGETHER[1]:
        raise ValueError(f"--validate {options.validate}: expected {TOGETHER[0]} to {TOGETHER[1]} networks")
    if options.blocks < 1:
        raise ValueError(f"--blocks {options.blocks}: expected 1 or more")
    if options.size is not None and not all(32 <= side <= 8192 for side in options.size):
        raise ValueError(f"--size {options.size[0]} {options.size[1]}: expected sides from 32 to 8192")
    if options.reuse_table and options.table is None:
        raise ValueError("--reuse-table needs the table of the other machine: give it with --table")
    if options.reuse_table and not options.table.is_file():
        raise FileNotFoundError(f"{options.table} does not exist: give the table to reuse with --table")
    if options.reuse_table and options.validate is not None:
        raise ValueError("--validate measures on this machine: omit --reuse-table")
    if options.json not in (None, "-") and Path(options.json).exists():
        raise ValueError(f"{options.json} exists and is not overwritten: choose another --json")


def _described(prediction: Prediction, forecast: Forecast) -> dict[str, Any]:
    """Return a network's blocks with their milliseconds, and the prediction, as data."""
    blocks = []
    for block, milliseconds in prediction.blocks:
        timing = forecast.table.times.get(block)
        spread = {} if timing is None else {"low": timing.low, "high": timing.high}
        blocks.append(
            {**asdict(block), "milliseconds": milliseconds, **spread, "measured": timing is not None}
        )
    correction = forecast.correction
    return {
        "blocks": blocks,
        "sum": prediction.total,
        "predicted": prediction.milliseconds,
        "correction": None if correction is None else asdict(correction),
        "interpolated": len(prediction.interpolated),
        "interpolation_error": forecast.table.interpolation_error,
    }


def _lines(found: dict[str, Any]) -> Iterator[str]:
    """Write the results for people."""
    from dettoolkit.evaluation.score_text import table

    height, width = found["input_hw"]
    where = found["conditions"]
    yield (
        f"{found['model']} at {height}x{width}, {where['runtime']} {where['version']}, threads: "
        f"{where['threads']}, {where['processor']}; milliseconds"
    )
    yield ""
    columns = {"size": 10, "in": 6, "out": 6, "kernel": 8, "inside": 8, "stride": 8, "SE": 4}
    rows = []
    for block in found["blocks"]:
        size = f"{block['in_hw'][0]}x{block['in_hw'][1]}"
        cells = [size, *(str(block[key]) for key in ("in_channels", "out_channels", "kernel"))]
        cells += [str(block["expansion"] or "-"), str(block["stride"]), "yes" if block["squeezed"] else "-"]
        spread = f"{block['low']:.3f} to {block['high']:.3f}" if block["measured"] else "interpolated"
        rows.append((block["kind"], *cells, block["activation"], f"{block['milliseconds']:.3f}", spread))
    yield from table("block", {**columns, "activation": 12, "median": 9, "quartiles": 18}, rows)
    yield ""
    parts = f"{len(found['blocks'])} blocks, {found['interpolated']} of them interpolated"
    yield f"sum of the blocks  {found['sum']:.3f}   ({parts})"
    if found["correction"] is not None:
        yield f"corrected          {found['predicted']:.3f}"
    if "whole" in found:
        whole = found["whole"]
        yield f"whole network      {whole['median']:.3f}   ({whole['low']:.3f} to {whole['high']:.3f})"
        off = found["predicted"] / whole["median"] - 1
        yield f"the prediction is {off:+.1%} off"
    error = f"a block estimated from the others is off by {found['interpolation_error']:.1%} on average"
    yield f"table: {found['table']}; {error}"


def _validated(validation: Validation | None) -> Iterator[str]:
    """Write how predictions of random networks agree with measurements."""
    if validation is None:
        return
    correction = validation.correction
    yield ""
    yield f"random networks, predicted and measured ({GOAL}):"
    yield f"  plain sum   {validation.plain}"
    yield f"  corrected   {correction.agreement}, which the fit had not seen"
    yield (
        f"  correction  {correction.slope:.3f} x sum {correction.per_block:+.4f} x blocks "
        f"{correction.constant:+.3f}; {validation.interpolated:.0%} of the blocks were interpolated"
    )


def _write(found: dict[str, Any], out: str | None, lines: list[str]) -> None:
    text = json.dumps(found, indent=1)
    if out == "-":
        print(text)
        return
    print("\n".join(lines))
    if out is not None:
        with Path(out).open("x") as file:
            file.write(text + "\n")


def _warnings(found: dict[str, Any], forecast: Forecast) -> Iterator[str]:
    if forecast.warning is not None:
        yield f"{forecast.warning}, not this machine's"
    elif found["busy"] is not None and found["busy"] > LOAD:
        yield (
            f"this machine was busy before the start (load {found['busy']:.1f} over the last minute): end "
            "other programs, wait a minute, and measure again; blocks that were measured stay in the table"
        )
    if found.get("waited", 0) > WAITED:
        yield (
            f"other programs had the core {found['waited']:.0%} of the time. That is not counted, but "
            "caches and memory are shared, so milliseconds may be too high"
        )
