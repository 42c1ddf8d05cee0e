"""`dettoolkit export`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dettoolkit.cli.arguments import OVERRIDES, add, command_parser, recipe_of, run
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

HELP = {
    "source": "a run's folder, of which the best checkpoint is exported, or a checkpoint",
    "extras": OVERRIDES,
    "--format": f"kind of file (default: {DEFAULT})",
    "--out": f"the file (default: model{NAMES[DEFAULT].ending} and the like, in the run)",
    "--batch": "images at once; 'dynamic' for any number (default: 1)",
    "--preprocessing": "take uint8 images of any size; resize and normalize inside",
    "--postprocessing": "return final results: boxes, label maps, best classes",
    "--size": "the network's input, where images keep their own size\n(default: that of the first image)",
    "--score-threshold": "results have scores above it (default: the recipe's evaluation.score_threshold;\n"
    "0.05 with --postprocessing)",
    "--int8": "8-bit weights and activations, calibrated on training images; "
    f"{', '.join(each.name for each in NAMES.values() if each.int8)} only",
    "--images": "images to compare on (default: the validation set)",
    "--limit": "max images to compare on (default: 32)",
    "--metric": "compare scores on the whole validation set too (default: with --int8,\n"
    "unless --images are given)",
}


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
    add(parser, HELP, "source", type=Path)
    add(parser, HELP, "extras", nargs="*")
    add(parser, HELP, "--format", choices=NAMES)
    add(parser, HELP, "--out", type=Path, metavar="FILE")
    add(parser, HELP, "--batch", type=_batch, metavar="N")
    add(parser, HELP, "--preprocessing", action="store_true")
    add(parser, HELP, "--postprocessing", action="store_true")
    add(parser, HELP, "--size", nargs=2, type=int, metavar=("H", "W"), dest="input_hw")
    add(parser, HELP, "--score-threshold", type=float, metavar="S")
    add(parser, HELP, "--int8", action="store_const", const="int8", dest="precision")
    add(parser, HELP, "--images", type=Path, metavar="DIR")
    add(parser, HELP, "--limit", type=int, metavar="N")
    add(parser, HELP, "--metric", action=argparse.BooleanOptionalAction)
    errors = {"--tolerance": f"largest value of an error: {', '.join(_errors())}"}
    settings = {"action": "append", "type": _tolerance, "metavar": "NAME=X", "dest": "tolerances"}
    add(parser, errors, "--tolerance", **settings)
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
    done = convert(source, out, request, recipe=recipe_of(source, extras))
    print(f"{done.report.table()}\n\n{done.path} agrees with PyTorch; the report: {done.report_path}")
    return 0
