"""`dettoolkit train`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dettoolkit.cli.arguments import OVERRIDES, add, command_parser, run
from dettoolkit.cli.failures import quiet

USAGE = """%(prog)s RECIPE [OVERLAY.yaml | key=value ...] [options]
       %(prog)s --resume RUN [key=value ...]"""
EXAMPLES = """examples:
  dettoolkit train ssdlite_mnv3_large data.root=data/coco
  dettoolkit train ssdlite_mnv3_large finetune.yaml data.root=my_data --check
  dettoolkit train ssdlite_scenes trainer.max_epochs=5
"""
HELP = {
    "recipe": "a recipe's file, or a shipped one's name; omit it with --resume",
    "extras": OVERRIDES,
    "--resume": "continue the run in this folder, runs/<recipe>/<time>",
    "--check": "try recipe, data and one forward; train nothing",
    "--print-config": "print the recipe and where values come from",
    "--schema": "print the recipes' JSON Schema, for editors",
}


def train(argv: Sequence[str] | None = None) -> int:
    """Train by a recipe, or check it, or print it."""
    from dettoolkit.config import shipped_folder

    recipes = ", ".join(sorted(path.stem for path in shipped_folder().glob("*.yaml")))
    overlays = ", ".join(sorted(path.name for path in shipped_folder().glob("overlays/*.yaml")))
    shipped = f"shipped recipes: {recipes}\nshipped overlays: {overlays}"
    parser = command_parser("train", usage=USAGE, description="Train by a recipe.", epilog=EXAMPLES + shipped)
    add(parser, HELP, "recipe", nargs="?")
    add(parser, HELP, "extras", nargs="*")
    add(parser, HELP, "--resume", metavar="RUN")
    for name in ("--check", "--print-config", "--schema"):
        add(parser, HELP, name, action="store_true")
    return run(parser, argv, lambda options: _train(options, parser))


def _train(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from dettoolkit.config import json_schema, load_recipe

    if options.schema:
        print(json_schema(), end="")
        return 0
    folder, recipe, extras = None, options.recipe, options.extras
    if options.resume is not None:
        folder, extras = Path(options.resume), [each for each in (recipe, *extras) if each]
        recipe = str(folder / "config.yaml")
        if not Path(recipe).is_file():
            raise FileNotFoundError(
                f"{folder} is no run's folder: it has no config.yaml; give runs/<recipe>/<time>"
            )
    elif recipe is None:
        parser.error("name a recipe, such as configs/ssdlite_mnv3_large.yaml")
    resolved = load_recipe(recipe, extras)
    if options.print_config:
        print(resolved.with_provenance(), end="")
        return 0
    quiet()
    from dettoolkit.training import commands

    name = resolved.name if folder is None else folder.resolve().parent.name
    if options.check:
        print(commands.check(name, resolved.recipe))
        return 0
    report(*commands.train(name, resolved.recipe, config_yaml=resolved.to_yaml(), resume=folder))
    return 0


def report(folder: Path, score: Any) -> None:
    """Print a score, and where the rest is."""
    from dettoolkit.training.run_folder import is_first_process

    if is_first_process():
        print(score.table())
        print(f"\nreport, checkpoints and figures: {folder}")
