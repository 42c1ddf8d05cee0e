"""`dettoolkit export`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dettoolkit.cli.arguments import OVERRIDES, adder, chosen_recipe, command_parser, run
from dettoolkit.cli.failures import quiet
from dettoolkit.formats import DEFAULT, NAMES

DESCRIPTION = """Export a trained model, and write the file only if it does what the model does.

The file is opened again in its own runtime and compared with PyTorch on real images: raw outputs and results,
with --metric the score on the validation set too. What was measured is printed, kept in the file and written
to <file>.report.json. A file that fails is not written, and the exit status is not 0."""
EXAMPLES = """examples:
  dettoolkit export runs/ssdlite_scenes/2026-01-31_12-00-00
  dettoolkit export last.ckpt --preprocessing --postprocessing --out detector.onnx
  dettoolkit export runs/lraspp_mnv3_large/2026-01-31_12-00-00 --size 512 1024 --batch dynamic
  dettoolkit export runs/ssdlite_scenes/2026-01-31_12-00-00 --int8
  dettoolkit export best.ckpt --images photos --tolerance pixels=0.002"""

SIZE_HELP = "the network's input, where images keep their own size\n(default: that of the first image)"
SCORE_HELP = """results have scores above it (default: the recipe's evaluation.score_threshold;
0.05 with --postprocessing)"""
INT8_HELP = (
    "8-bit weights and activations, calibrated on training images; "
    f"{', '.join(each.name for each in NAMES.values() if each.int8)} only"
)
METRIC_HELP = """compare scores on the whole validation set too (default: with --int8,
unless --images are given)"""


def export(argv: Sequence[str] | None = None) -> int:
    """Export a run or a checkpoint."""
    # What is not given is left out, so that the defaults stand in one place: export.request.
    parser = command_parser(
        "export",
        usage="%(prog)s RUN | CHECKPOINT [key=value ...] [options]",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        argument_default=argparse.SUPPRESS,
    )
    add = adder(parser)
    add(
        "source",
        "source",
        "a run's folder, of which the best checkpoint is exported, or a checkpoint",
        type=Path,
    )
    add("extras", "extras", OVERRIDES, nargs="*")
    parser.add_argument("--format", choices=NAMES, help=f"kind of file (default: {DEFAULT})")
    ending = NAMES[DEFAULT].ending
    add("--out", "FILE", f"the file (default: model{ending} and the like, in the run)", type=Path)
    add("--batch", "N", "images at once; 'dynamic' for any number (default: 1)", type=_batch)
    add("--preprocessing", None, "take uint8 images of any size; resize and normalize inside")
    add("--postprocessing", None, "return final results: boxes, label maps, best classes")
    add("--size", ("H", "W"), SIZE_HELP, nargs=2, type=int, dest="input_hw")
    add("--score-threshold", "S", SCORE_HELP, type=float)
    add("--int8", None, INT8_HELP, action="store_const", const="int8", dest="precision")
    add("--images", "DIR", "images to compare on (default: the validation set)", type=Path)
    add("--limit", "N", "max images to compare on (default: 32)", type=int)
    add("--metric", None, METRIC_HELP, action=argparse.BooleanOptionalAction)
    errors = f"largest value of an error: {', '.join(_errors())}"
    add("--tolerance", "NAME=X", errors, action="append", type=_tolerance, dest="tolerances")
    return run(parser, argv, _export)


def _errors() -> list[str]:
    """List the errors that files of any task are judged by."""
    from dettoolkit.export.report import error_kinds
    from dettoolkit.tasks import TASKS

    return list(dict.fromkeys(name for spec in TASKS for name in error_kinds(spec)))


def _batch(text: str) -> int | None:
    return None if text == "dynamic" else int(text)


def _tolerance(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    return name, float(value)


def _export(options: argparse.Namespace) -> int:
    given: dict[str, Any] = vars(options)
    given.pop("traceback")
    source, extras, out = given.pop("source"), given.pop("extras", []), given.pop("out", None)
    if "input_hw" in given:
        given["input_hw"] = tuple(given["input_hw"])
    if "tolerances" in given:
        given["tolerances"] = dict(given["tolerances"])
    quiet()
    from dettoolkit.export.command import export as convert
    from dettoolkit.export.request import Request, default_out

    request = Request(**given)
    out = out if out is not None else default_out(source, request)
    done = convert(source, out, request, recipe=chosen_recipe(source, extras))
    print(f"{done.report.table()}\n\n{done.path} agrees with PyTorch; the report: {done.report_path}")
    return 0
