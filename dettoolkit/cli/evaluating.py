"""`dettoolkit evaluate`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from dettoolkit.cli.arguments import OVERRIDES, add, command_parser, recipe_of, run
from dettoolkit.cli.failures import quiet
from dettoolkit.cli.training import report

USAGE = "%(prog)s RUN | CHECKPOINT | RECIPE [OVERLAY.yaml | key=value ...] [options]"
DESCRIPTION = """Score a detector by COCO's rules, a segmenter by Cityscapes', a classifier by top-1
and top-5, on the machine at hand."""
EXAMPLES = """examples:
  dettoolkit evaluate runs/ssdlite_scenes/2026-01-31_12-00-00
  dettoolkit evaluate last.ckpt --data other_data
  dettoolkit evaluate ssdlite_mnv3_large_torchvision data.root=data/coco
  dettoolkit evaluate runs/lraspp_mnv3_large/2026-01-31_12-00-00 evaluation.flip=true --write-predictions
  dettoolkit evaluate runs/imagenet_mnv3_small/2026-01-31_12-00-00 --data other_images"""
HELP = {
    "source": "a run's folder, a checkpoint, or a recipe whose model.weights are set",
    "extras": OVERRIDES,
    "--data": "folder to use as data.root; data.val.* stay as in the recipe",
    "--out": "folder for report and figures (default: <run>/evaluation, evaluation_2 ...)",
    "--write-predictions": "write every prediction: a segmenter's as PNGs of label ids, named as Cityscapes' "
    "test\nserver wants them, into <out>/predictions (others' are always in predictions.json)",
}


def evaluate(argv: Sequence[str] | None = None) -> int:
    """Score a run, a checkpoint or a recipe's own weights."""
    parser = command_parser("evaluate", usage=USAGE, description=DESCRIPTION, epilog=EXAMPLES)
    add(parser, HELP, "source")
    add(parser, HELP, "extras", nargs="*")
    add(parser, HELP, "--data", metavar="ROOT")
    add(parser, HELP, "--out", metavar="DIR", type=Path)
    add(parser, HELP, "--write-predictions", action="store_true")
    return run(parser, argv, _evaluate)


def _evaluate(options: argparse.Namespace) -> int:
    source, extras = _found(Path(options.source)), list(options.extras)
    if options.data is not None:
        extras.append(f"data.root={json.dumps(options.data)}")
        recipe = recipe_of(source, extras)
        if recipe.data.type == "scenes":  # what lies there is not to be generated
            extras.append(f"data.type={recipe.files}")
    recipe = recipe_of(source, extras)
    quiet()
    from dettoolkit.training import commands

    report(*commands.evaluate(source, recipe=recipe, out=options.out, keep=options.write_predictions))
    return 0


def _found(source: Path) -> Path:
    """Return the file of a shipped recipe that is meant by its name; anything else as it is."""
    from dettoolkit.config import RecipeError, find_recipe

    if source.suffix in (".yaml", ".yml") or source.is_file() or (source / "checkpoints").is_dir():
        return source
    try:
        return find_recipe(str(source))
    except RecipeError as error:
        if source.exists() or source.suffix or source.parent.name:
            return source
        raise FileNotFoundError(f"{source} is no run's folder and no checkpoint, and as a {error}") from None
