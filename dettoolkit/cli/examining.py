"""`dettoolkit doctor`."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dettoolkit.cli.arguments import OVERRIDES, adder, command_parser, run
from dettoolkit.cli.failures import quiet, quiet_images, sentence

if TYPE_CHECKING:
    from dettoolkit.config import Recipe, ResolvedRecipe
    from dettoolkit.doctor.diagnosis import Diagnosis
    from dettoolkit.doctor.examination import Item
    from dettoolkit.doctor.findings import Finding

DESCRIPTION = """Look for what is wrong with a recipe's data, and with the recipe for these data. Nothing is
changed. Errors stop a training or teach it what is wrong; warnings cost accuracy or time; notes are
worth knowing."""
LABELS_HELP = """also rank the annotations that a trained model doubts, of a run or a checkpoint;
needs the extra cleanlab, and runs the model on every image"""
EXAMPLES = """examples:
  dettoolkit doctor ssdlite_mnv3_large finetune.yaml data.root=my_data
  dettoolkit doctor lraspp_mnv3_large data.root=data/cityscapes --html cityscapes.html
  dettoolkit doctor ssdlite_mnv3_large my_data.yaml --label-errors runs/ssdlite_mnv3_large/2026-01-31_12-00-00
exit status: 0; 1 with --strict if there are warnings; 2 if there are errors"""


def doctor(argv: Sequence[str] | None = None) -> int:
    """Look for what is wrong with data and recipe."""
    parser = command_parser(
        "doctor",
        usage="%(prog)s RECIPE [OVERLAY.yaml | key=value ...] [options]",
        description=DESCRIPTION,
        epilog=EXAMPLES,
    )
    add = adder(parser)
    add("recipe", "recipe", "a recipe's file, or a shipped one's name")
    add("extras", "extras", OVERRIDES, nargs="*")
    add("--json", "FILE", "also write all findings as JSON", type=Path)
    add("--html", "FILE", "also write a page with the examples' images", type=Path)
    add("--strict", None, "exit status 1 if there are warnings")
    add("--quick", None, "read some headers instead of every image")
    add("--label-errors", "RUN", LABELS_HELP, type=Path)
    return run(parser, argv, _doctor)


def _doctor(options: argparse.Namespace) -> int:
    from dettoolkit.config import load_recipe

    resolved = load_recipe(options.recipe, options.extras)
    for path in (options.json, options.html):
        if path is not None:
            _check_ours(path)
    quiet_images()
    doubted = [] if options.label_errors is None else _label_findings(resolved.recipe, options.label_errors)
    diagnosis = _diagnose(resolved, options)
    diagnosis = replace(diagnosis, findings=[*diagnosis.findings, *doubted])
    print(*diagnosis.lines(), sep="\n")
    if options.json is not None:
        options.json.write_text(diagnosis.to_json(), encoding="utf-8")
    if options.html is not None:
        options.html.write_text(diagnosis.page(), encoding="utf-8")
    counts = diagnosis.counts
    return 2 if counts["error"] else int(options.strict and counts["warning"] > 0)


def _diagnose(resolved: ResolvedRecipe, options: argparse.Namespace) -> Diagnosis:
    from dettoolkit.doctor.examine import diagnose, refused
    from dettoolkit.tasks import spec_of

    recipe, deep = resolved.recipe, not options.quick
    try:
        with _unsaid():
            task = spec_of(recipe).examine(recipe, deep=deep, progress=_bar)
            files = without_values(options.recipe, options.extras)
            return diagnose(resolved.name, recipe, task, files=files, deep=deep, progress=_bar)
    except Exception as error:
        text = sentence(error)
        if options.traceback or text is None:
            raise
        return refused(resolved.name, recipe, text)


@contextmanager
def _unsaid() -> Iterator[None]:
    """Leave unsaid what loading says of the data: it is among the findings."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _label_findings(recipe: Recipe, source: Path) -> list[Finding]:
    quiet()
    from dettoolkit.training.label_check import label_findings

    with _unsaid():
        return label_findings(source, recipe, progress=_bar)


def without_values(recipe: str, extras: Sequence[str]) -> ResolvedRecipe | None:
    """Load a recipe with its overlays only; None where they make no whole recipe."""
    from dettoolkit.config import RecipeError, load_recipe

    try:
        return load_recipe(recipe, [each for each in extras if "=" not in each])
    except RecipeError:
        return None


def _bar(items: Iterable[Item], total: int, what: str) -> Iterable[Item]:
    from tqdm import tqdm

    shown: Iterable[Item] = tqdm(
        items, total=total, unit=f" {what}", leave=False, disable=not sys.stderr.isatty()
    )
    return shown


def _check_ours(path: Path) -> None:
    """Refuse to write over a file that is not from here, and into a folder that is not there."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent} is no folder: {path.name} cannot be written there")
    if path.exists():
        from dettoolkit.doctor.diagnosis import MARK

        with path.open("rb") as file:
            start = file.read(4096)
        if MARK.encode() not in start:
            raise FileExistsError(f"{path} is there and not from this command: name another file")
