"""`dettoolkit export`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dettoolkit.cli.arguments import OVERRIDES, adder, chosen_recipe, command_parser, run
from dettoolkit.cli.failures import quiet
from dettoolkit.formats import DEFAULT, NAMES

DESCRIPTION = """Export a trained model. The file is written only if its outputs match the model's.

The file is opened in its own runtime and compared with PyTorch on real images: raw outputs and results,
and with --metric the score on the validation set. The comparison is printed, stored in the file and written
to <file>.report.json. If it fails, no file is written and the exit status is not 0."""
EXAMPLES = """examples:
  dettoolkit export runs/ssdlite_scenes/2026-01-31_12-00-00
  dettoolkit export last.ckpt --preprocessing --postprocessing --out detector.onnx
  dettoolkit export runs/lraspp_mnv3_large/2026-01-31_12-00-00 --size 512 1024 --batch dynamic
  dettoolkit export runs/ssdlite_scenes/2026-01-31_12-00-00 --int8
  dettoolkit export best.ckpt --images photos --tolerance pixels=0.002"""

SIZE_HELP = "input size, for a segmenter that keeps image sizes\n(default: size of the first image)"
SCORE_HELP = """minimum score of results (default: the recipe's evaluation.score_threshold;
0.05 with --postprocessing)"""
INT8_HELP = (
    "8-bit weights and activations, calibrated on training images; "
    f"{', '.join(each.name for each in NAMES.values() if each.int8)} only"
)
METRIC_HELP = """compare scores on the whole validation set too (default: with --int8,
unless --images are given)"""


def export(argv: Sequence[str] | None = None) -> int:
    """Export a run or a checkpoint."""
    from dettoolkit.export.report import error_kinds
    from dettoolkit.tasks import TASKS

    names = dict.fromkeys(name for spec in TASKS for name in error_kinds(spec))
    # What is not given is left out, so that the defaults stand in one place: export.request.
    parser = command_parser(
        "export",
        usage="%(prog)s RUN | CHECKPOINT [key=value ...] [options]",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        argument_default=argparse.SUPPRESS,
    )
    add = adder(parser)
    add("source", "source", "run folder (its best checkpoint is exported) or checkpoint", type=Path)
    add("extras", "extras", OVERRIDES, nargs="*")
    parser.add_argument("--format", choices=NAMES, help=f"file format (default: {DEFAULT})")
    ending = NAMES[DEFAULT].ending
    add("--out", "FILE", f"output file (default: model{ending} or similar, in the run folder)", type=Path)
    add("--batch", "N", "batch size; 'dynamic' for any (default: 1)", type=_batch)
    add("--preprocessing", None, "include preprocessing: resize and normalize uint8 images of any size")
    add("--postprocessing", None, "include post-processing: return boxes, label maps or best classes")
    add("--size", ("H", "W"), SIZE_HELP, nargs=2, type=int, dest="input_hw")
    add("--score-threshold", "S", SCORE_HELP, type=float)
    add("--int8", None, INT8_HELP, action="store_const", const="int8", dest="precision")
    add("--images", "DIR", "images for the comparison with PyTorch (default: the validation set)", type=Path)
    add("--limit", "N", "maximum number of these images (default: 32)", type=int)
    add("--metric", None, METRIC_HELP, action=argparse.BooleanOptionalAction)
    errors = f"maximum allowed error, one of: {', '.join(names)}"
    add("--tolerance", "NAME=X", errors, action="append", type=_tolerance, dest="tolerances")
    return run(parser, argv, _export)


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
    print(f"{done.report.table()}\n\n{done.path} matches PyTorch; report: {done.report_path}")
    return 0
