"""`dettoolkit train` and `dettoolkit evaluate`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dettoolkit.cli.arguments import OVERRIDES, adder, chosen_recipe, command_parser, origins_of, run
from dettoolkit.cli.examining import without_values
from dettoolkit.cli.failures import quiet

TRAIN_USAGE = """%(prog)s RECIPE [OVERLAY.yaml | key=value ...] [options]
       %(prog)s --resume RUN [key=value ...]"""
TRAIN_EXAMPLES = """examples:
  dettoolkit train ssdlite_mnv3_large data.root=data/coco
  dettoolkit train ssdlite_mnv3_large finetune.yaml data.root=my_data --check
  dettoolkit train ssdlite_scenes trainer.max_epochs=5
"""
EVALUATE_USAGE = "%(prog)s RUN | CHECKPOINT | RECIPE [OVERLAY.yaml | key=value ...] [options]"
EVALUATE_DESCRIPTION = """Evaluate a detector with COCO's metrics, a segmenter with Cityscapes' metrics, or a
classifier with top-1 and top-5 accuracy, on this machine."""
EVALUATE_EXAMPLES = """examples:
  dettoolkit evaluate runs/ssdlite_scenes/2026-01-31_12-00-00
  dettoolkit evaluate last.ckpt --data other_data
  dettoolkit evaluate ssdlite_mnv3_large_torchvision data.root=data/coco
  dettoolkit evaluate runs/lraspp_mnv3_large/2026-01-31_12-00-00 evaluation.flip=true --write-predictions
  dettoolkit evaluate runs/imagenet_mnv3_small/2026-01-31_12-00-00 --data other_images"""
PREDICTIONS_HELP = """write a segmenter's predictions to <out>/predictions, as PNGs of label ids named as
Cityscapes' test server requires (other tasks always write predictions.json)"""


def train(argv: Sequence[str] | None = None) -> int:
    """Train with a recipe, or check it, or print it."""
    from dettoolkit.config import shipped_folder

    recipes = ", ".join(sorted(path.stem for path in shipped_folder().glob("*.yaml")))
    overlays = ", ".join(sorted(path.name for path in shipped_folder().glob("overlays/*.yaml")))
    shipped = f"shipped recipes: {recipes}\nshipped overlays: {overlays}"
    parser = command_parser(
        "train", usage=TRAIN_USAGE, description="Train with a recipe.", epilog=TRAIN_EXAMPLES + shipped
    )
    add = adder(parser)
    add("recipe", "recipe", "recipe file, or name of a shipped recipe; omit with --resume", nargs="?")
    add("extras", "extras", OVERRIDES, nargs="*")
    add("--resume", "RUN", "continue the run in this folder, runs/<recipe>/<time>")
    add("--check", None, "dry run: check recipe and data, run one batch, train nothing")
    add("--print-config", None, "print the resolved recipe and the origin of each value")
    add("--schema", None, "print the JSON Schema of recipes, for editors")
    return run(parser, argv, lambda options: _train(options, parser))


def _train(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from dettoolkit.config.files import json_schema, load_recipe

    if options.schema:
        print(json_schema(), end="")
        return 0
    folder, recipe, extras = None, options.recipe, options.extras
    if options.resume is not None:
        folder, extras = Path(options.resume), [each for each in (recipe, *extras) if each]
        recipe = str(folder / "config.yaml")
        if not Path(recipe).is_file():
            raise FileNotFoundError(
                f"{folder} is not a run folder: it has no config.yaml; use runs/<recipe>/<time>"
            )
    elif recipe is None:
        parser.error("specify a recipe, such as configs/ssdlite_mnv3_large.yaml")
    resolved = load_recipe(recipe, extras)
    if options.print_config:
        print(resolved.with_provenance(), end="")
        return 0
    quiet()
    from dettoolkit.training import commands

    name = resolved.name if folder is None else folder.resolve().parent.name
    files = without_values(recipe, extras) if folder is None else None
    if options.check:
        print(commands.check(name, resolved.recipe, files=files))
        return 0
    run_dir, score = commands.train(
        name,
        resolved.recipe,
        config_yaml=resolved.to_yaml(),
        resume=folder,
        provenance=resolved.provenance,
        files=files,
    )
    report(run_dir, score)
    return 0


def evaluate(argv: Sequence[str] | None = None) -> int:
    """Score a run, a checkpoint or a recipe's own weights."""
    parser = command_parser(
        "evaluate", usage=EVALUATE_USAGE, description=EVALUATE_DESCRIPTION, epilog=EVALUATE_EXAMPLES
    )
    add = adder(parser)
    add("source", "source", "run folder, checkpoint, or recipe with model.weights set")
    add("extras", "extras", OVERRIDES, nargs="*")
    add("--data", "ROOT", "folder to use as data.root; data.val.* stay as in the recipe")
    add(
        "--out",
        "DIR",
        "folder for report and figures (default: <run>/evaluation, evaluation_2 ...)",
        type=Path,
    )
    add("--write-predictions", None, PREDICTIONS_HELP)
    return run(parser, argv, _evaluate)


def _evaluate(options: argparse.Namespace) -> int:
    source, extras = _found(Path(options.source)), list(options.extras)
    if options.data is not None:
        extras.append(f"data.root={json.dumps(options.data)}")
        recipe = chosen_recipe(source, extras)
        if recipe.data.type == "scenes":  # what lies there is not to be generated
            extras.append(f"data.type={recipe.files}")
    recipe = chosen_recipe(source, extras)
    quiet()
    from dettoolkit.training import commands

    folder, score = commands.evaluate(
        source,
        recipe=recipe,
        out=options.out,
        keep=options.write_predictions,
        provenance=origins_of(source, extras),
    )
    report(folder, score)
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
        raise FileNotFoundError(f"{source} is neither a run folder nor a checkpoint; {error}") from None


def report(folder: Path, score: Any) -> None:
    """Print a score, and where the rest is."""
    from dettoolkit.training.run_folder import is_first_process

    if is_first_process():
        print(score.table())
        print(f"\nreport.html, checkpoints and figures: {folder}")
