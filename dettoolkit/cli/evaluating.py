"""`dettoolkit evaluate`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dettoolkit.cli.failures import guarded, quiet
from dettoolkit.cli.training import OVERRIDES, report

# A checkpoint is scored on the machine at hand, not on the one it was trained on.
HERE = {"accelerator": "auto", "devices": "auto", "num_nodes": 1, "strategy": "auto"}
EVALUATE_EXAMPLES = """examples:
  dettoolkit evaluate runs/ssdlite_scenes/2026-01-31_12-00-00
  dettoolkit evaluate last.ckpt --data other_data
  dettoolkit evaluate ssdlite_mnv3_large_torchvision data.root=data/coco
  dettoolkit evaluate runs/lraspp_mnv3_large/2026-01-31_12-00-00 evaluation.flip=true --write-predictions
  dettoolkit evaluate runs/imagenet_mnv3_small/2026-01-31_12-00-00 --data other_images"""


def evaluate(argv: Sequence[str] | None = None) -> int:
    """Score a run, a checkpoint or a recipe's own weights."""
    parser = argparse.ArgumentParser(
        prog="dettoolkit evaluate",
        usage="%(prog)s RUN | CHECKPOINT | RECIPE [OVERLAY.yaml | key=value ...] [options]",
        description="Score a detector by COCO's rules, a segmenter by Cityscapes', a classifier by top-1\n"
        "and top-5, on the machine at hand.",
        epilog=EVALUATE_EXAMPLES,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument(
        "source", help="a run's folder, a checkpoint, or a recipe whose model.weights are set"
    )
    parser.add_argument("extras", nargs="*", help=OVERRIDES)
    parser.add_argument(
        "--data", metavar="ROOT", help="folder to use as data.root; data.val.* stay as in the recipe"
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="folder for report and figures (default: <run>/evaluation, evaluation_2 ...)",
    )
    parser.add_argument(
        "--write-predictions",
        action="store_true",
        help="write every prediction: a segmenter's as PNGs of label ids, named as Cityscapes' test\n"
        "server wants them, into <out>/predictions (others' are always in predictions.json)",
    )
    parser.add_argument("--traceback", action="store_true", help="show where an error arose")
    options = parser.parse_intermixed_args(argv)
    return guarded(lambda: _evaluate(options), options.traceback)


def _evaluate(options: argparse.Namespace) -> int:
    from dettoolkit.config import load_recipe

    source = _found(Path(options.source))
    out = Path(options.out) if options.out is not None else None

    def load(path: str) -> Any:
        extras = list(options.extras)
        if options.data is not None:
            extras.append(f"data.root={json.dumps(options.data)}")
            recipe = load_recipe(path, extras).recipe
            if recipe.data.type == "scenes":  # what lies there is not to be generated
                extras.append(f"data.type={recipe.files}")
        return load_recipe(path, extras).recipe

    is_recipe = source.suffix in (".yaml", ".yml")
    recipe = load(str(source)) if is_recipe else None
    quiet()
    from dettoolkit.training import commands
    from dettoolkit.training.run_folder import stored_recipe

    if recipe is None:
        with stored_recipe(source, trainer=HERE) as config:
            recipe = load(str(config))
    report(*commands.evaluate(source, recipe=recipe, out=out, keep=options.write_predictions))
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
