"""`dettoolkit export`."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dettoolkit.cli.evaluating import HERE
from dettoolkit.cli.failures import guarded, quiet
from dettoolkit.cli.training import OVERRIDES
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


def export(argv: Sequence[str] | None = None) -> int:
    """Export a run or a checkpoint."""
    options = _parser().parse_intermixed_args(argv)
    return guarded(lambda: _export(options), options.traceback)


def _parser() -> argparse.ArgumentParser:
    # What is not given is left out, so that the defaults stand in one place: export.request.
    parser = argparse.ArgumentParser(
        prog="dettoolkit export",
        usage="%(prog)s RUN | CHECKPOINT [key=value ...] [options]",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawTextHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    add = parser.add_argument
    add("source", help="a run's folder, of which the best checkpoint is exported, or a checkpoint")
    add("extras", nargs="*", help=OVERRIDES)
    add("--format", choices=NAMES, help=f"kind of file (default: {DEFAULT})")
    add(
        "--out",
        type=Path,
        metavar="FILE",
        help=f"the file (default: model{NAMES[DEFAULT].ending} and the like, in the run)",
    )
    add("--batch", type=_batch, metavar="N", help="images at once; 'dynamic' for any number (default: 1)")
    add(
        "--preprocessing",
        action="store_true",
        help="take uint8 images of any size; resize and normalize inside",
    )
    add("--postprocessing", action="store_true", help="return final results: boxes, label maps, best classes")
    add("--size", nargs=2, type=int, metavar=("H", "W"), dest="input_hw", help=SIZE_HELP)
    add("--score-threshold", type=float, metavar="S", help=THRESHOLD_HELP)
    add("--int8", action="store_const", const="int8", dest="precision", help=INT8_HELP)
    add("--images", type=Path, metavar="DIR", help="images to compare on (default: the validation set)")
    add("--limit", type=int, metavar="N", help="max images to compare on (default: 32)")
    add("--metric", action=argparse.BooleanOptionalAction, help=METRIC_HELP)
    add(
        "--tolerance",
        action="append",
        type=_tolerance,
        metavar="NAME=X",
        dest="tolerances",
        help=f"largest value of an error: {', '.join(_errors())}",
    )
    add("--traceback", action="store_true", default=False, help="show where an error arose")
    return parser


SIZE_HELP = "the network's input, where images keep their own size\n(default: that of the first image)"
THRESHOLD_HELP = (
    "results have scores above it (default: the recipe's evaluation.score_threshold;\n"
    "0.05 with --postprocessing)"
)
INT8_HELP = (
    "8-bit weights and activations, calibrated on training images; "
    f"{', '.join(each.name for each in NAMES.values() if each.int8)} only"
)
METRIC_HELP = (
    "compare scores on the whole validation set too (default: with --int8,\nunless --images are given)"
)


def _errors() -> list[str]:
    """List the errors that files of any task are judged by."""
    from dettoolkit.export.tolerances import error_kinds
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
    source, extras, out = Path(given.pop("source")), given.pop("extras", []), given.pop("out", None)
    if "input_hw" in given:
        given["input_hw"] = tuple(given["input_hw"])
    if "tolerances" in given:
        given["tolerances"] = dict(given["tolerances"])
    quiet()
    for name in ("onnx_ir", "onnxscript", "torch.onnx"):  # they log every step
        logging.getLogger(name).setLevel(logging.WARNING)
    from dettoolkit.config import load_recipe
    from dettoolkit.export.command import export as run
    from dettoolkit.export.request import Request, default_out
    from dettoolkit.training.run_folder import stored_recipe

    request = Request(**given)
    out = out if out is not None else default_out(source, request)
    with stored_recipe(source, trainer=HERE) as config:
        recipe = load_recipe(str(config), extras).recipe
    done = run(source, out, request, recipe=recipe)
    print(f"{done.report.table()}\n\n{done.path} agrees with PyTorch; the report: {done.report_path}")
    return 0
