"""`dettoolkit train`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dettoolkit.cli.failures import guarded, quiet

OVERRIDES = (
    "overlay files and values, later ones win; a value is YAML (optim.lr=1e-2),\n"
    "in quotes where the shell would read brackets ('model.input_hw=[256, 512]')"
)
TRAIN_EXAMPLES = """examples:
  dettoolkit train ssdlite_mnv3_large data.root=data/coco
  dettoolkit train ssdlite_mnv3_large finetune.yaml data.root=my_data --check
  dettoolkit train ssdlite_scenes trainer.max_epochs=5
"""


def shipped_names() -> str:
    """List the recipes and overlays that are found by name."""
    from dettoolkit.config.layers import shipped_folder

    folder = shipped_folder()
    recipes = ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))
    overlays = ", ".join(sorted(path.name for path in folder.glob("overlays/*.yaml")))
    return f"shipped recipes: {recipes}\nshipped overlays: {overlays}"


def train(argv: Sequence[str] | None = None) -> int:
    """Train by a recipe, or check it, or print it."""
    parser = argparse.ArgumentParser(
        prog="dettoolkit train",
        usage="%(prog)s RECIPE [OVERLAY.yaml | key=value ...] [options]\n"
        "       %(prog)s --resume RUN [key=value ...]",
        description="Train by a recipe.",
        epilog=TRAIN_EXAMPLES + shipped_names(),
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument(
        "recipe", nargs="?", help="a recipe's file, or a shipped one's name; omit it with --resume"
    )
    parser.add_argument("extras", nargs="*", help=OVERRIDES)
    parser.add_argument(
        "--resume", metavar="RUN", help="continue the run in this folder, runs/<recipe>/<time>"
    )
    parser.add_argument(
        "--check", action="store_true", help="try recipe, data and one forward; train nothing"
    )
    parser.add_argument(
        "--print-config", action="store_true", help="print the recipe and where values come from"
    )
    parser.add_argument("--schema", action="store_true", help="print the recipes' JSON Schema, for editors")
    parser.add_argument("--traceback", action="store_true", help="show where an error arose")
    options = parser.parse_intermixed_args(argv)
    return guarded(lambda: _train(options, parser), options.traceback)


def _train(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from dettoolkit.config import json_schema, load_recipe

    if options.schema:
        print(json_schema(), end="")
        return 0
    if options.resume is not None:
        return _resume(Path(options.resume), [each for each in (options.recipe, *options.extras) if each])
    if options.recipe is None:
        parser.error("name a recipe, such as configs/ssdlite_mnv3_large.yaml")
    resolved = load_recipe(options.recipe, options.extras)
    if options.print_config:
        print(resolved.with_provenance(), end="")
        return 0
    quiet()
    from dettoolkit.training import commands

    if options.check:
        print(commands.check(resolved.name, resolved.recipe))
        return 0
    run_dir, score = commands.train(resolved.name, resolved.recipe, config_yaml=resolved.to_yaml())
    report(run_dir, score)
    return 0


def _resume(run: Path, extras: Sequence[str]) -> int:
    from dettoolkit.config import load_recipe

    config = run / "config.yaml"
    if not config.is_file():
        raise FileNotFoundError(f"{run} is no run's folder: it has no config.yaml; give runs/<recipe>/<time>")
    resolved = load_recipe(str(config), extras)
    quiet()
    from dettoolkit.training import commands

    name = run.resolve().parent.name
    run_dir, score = commands.train(name, resolved.recipe, config_yaml=resolved.to_yaml(), resume=run)
    report(run_dir, score)
    return 0


def report(folder: Path, score: Any) -> None:
    """Print a score, and where the rest is."""
    from dettoolkit.training.run_folder import is_first_process

    if is_first_process():
        print(score.table())
        print(f"\nreport, checkpoints and figures: {folder}")
