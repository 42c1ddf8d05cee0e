"""`dettoolkit train|evaluate|download-coco`; the scripts in tools/ call the same functions.

Nothing heavy is imported before it is needed: a wrong recipe is refused without loading torch.
"""

from __future__ import annotations

import argparse
import dis
import json
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any

# Warnings of libraries about their own affairs, or about what the recipe decides.
QUIET_WARNINGS = (
    ".*LeafSpec.*",
    ".*does not have many workers.*",
    ".*smaller than the logging interval.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*litlogger.*",
    ".*The dirpath has changed.*",
    ".*contains too few points.*",
    ".*sync_dist=True.*",
)
# A checkpoint is scored on the machine at hand, not on the one it was trained on.
HERE = {"accelerator": "auto", "devices": "auto", "num_nodes": 1, "strategy": "auto"}
OVERRIDES = (
    "overlay files and values, later ones win; a value is YAML (optim.lr=1e-2),\n"
    "in quotes where the shell would read brackets ('model.input_hw=[256, 512]')"
)
USAGE = """usage: dettoolkit COMMAND ...   (each has --help)
  train           train by a recipe, check it, or print it
  evaluate        score a run, a checkpoint or a recipe's own weights
  download-coco   fetch and unpack COCO 2017
  --version       print the version"""
TRAIN_EXAMPLES = """examples:
  dettoolkit train ssdlite_mnv3_large data.root=data/coco
  dettoolkit train ssdlite_mnv3_large finetune.yaml data.root=my_data --check
  dettoolkit train ssdlite_scenes trainer.max_epochs=5
"""
EVALUATE_EXAMPLES = """examples:
  dettoolkit evaluate runs/ssdlite_scenes/2026-01-31_12-00-00
  dettoolkit evaluate last.ckpt --data other_data
  dettoolkit evaluate ssdlite_mnv3_large_torchvision data.root=data/coco
  dettoolkit evaluate runs/lraspp_mnv3_large/2026-01-31_12-00-00 evaluation.flip=true --write-predictions"""


def shipped_names() -> str:
    """List the recipes and overlays that are found by name."""
    from dettoolkit.config.layers import shipped_folder

    folder = shipped_folder()
    recipes = ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))
    overlays = ", ".join(sorted(path.name for path in folder.glob("overlays/*.yaml")))
    return f"shipped recipes: {recipes}\nshipped overlays: {overlays}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand and give its exit status."""
    commands = {"train": train, "evaluate": evaluate, "download-coco": download_coco}
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    if arguments[0] == "--version":
        print(f"dettoolkit {version('dettoolkit')}")
        return 0
    if arguments[0] not in commands:
        print(f"dettoolkit has no command '{arguments[0]}'; it has: {', '.join(commands)}", file=sys.stderr)
        return 2
    return commands[arguments[0]](arguments[1:])


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
        "recipe", nargs="?", help="a recipe's file, or a shipped one's name; left out with --resume"
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
    return _guarded(lambda: _train(options, parser), options.traceback)


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
    _quiet()
    from dettoolkit import commands

    if options.check:
        print(commands.check(resolved.name, resolved.recipe))
        return 0
    run_dir, score = commands.train(resolved.name, resolved.recipe, config_yaml=resolved.to_yaml())
    _report(run_dir, score)
    return 0


def _resume(run: Path, extras: Sequence[str]) -> int:
    from dettoolkit.config import load_recipe
    from dettoolkit.resume import changed_keys, check_changes, describe_changes

    config = run / "config.yaml"
    if not config.is_file():
        raise FileNotFoundError(f"{run} is no run's folder: it has no config.yaml; give runs/<recipe>/<time>")
    stored = load_recipe(str(config))
    resolved = load_recipe(str(config), extras)
    changes = changed_keys(stored.recipe, resolved.recipe)
    check_changes(changes)
    _quiet()
    from dettoolkit import commands
    from dettoolkit.runs import is_first_process

    if changes and is_first_process():
        print("\n".join(describe_changes(changes, resolved.recipe)))

    name = run.resolve().parent.name
    run_dir, score = commands.train(name, resolved.recipe, config_yaml=resolved.to_yaml(), resume=run)
    _report(run_dir, score)
    return 0


def evaluate(argv: Sequence[str] | None = None) -> int:
    """Score a run, a checkpoint or a recipe's own weights."""
    parser = argparse.ArgumentParser(
        prog="dettoolkit evaluate",
        usage="%(prog)s RUN | CHECKPOINT | RECIPE [OVERLAY.yaml | key=value ...] [options]",
        description="Score a detector by COCO's rules, a segmenter by Cityscapes', on the machine at hand.",
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
        help="folder for report and pictures (default: <run>/evaluation, evaluation_2 ...)",
    )
    parser.add_argument(
        "--write-predictions",
        action="store_true",
        help="write every prediction: a segmenter's as PNGs of label ids, named as Cityscapes' test\n"
        "server wants them, into <out>/predictions (a detector's are always in predictions.json)",
    )
    parser.add_argument("--traceback", action="store_true", help="show where an error arose")
    options = parser.parse_intermixed_args(argv)
    return _guarded(lambda: _evaluate(options), options.traceback)


def _evaluate(options: argparse.Namespace) -> int:
    from dettoolkit.config import load_recipe
    from dettoolkit.config.layers import shipped_folder

    source = Path(options.source)
    out = Path(options.out) if options.out is not None else None

    def load(path: str) -> Any:
        extras = list(options.extras)
        if options.data is not None:
            extras.append(f"data.root={json.dumps(options.data)}")
            recipe = load_recipe(path, extras).recipe
            if recipe.data.type == "scenes":  # what lies there is not to be generated
                extras.append(f"data.type={recipe.files}")
        return load_recipe(path, extras).recipe

    if not source.exists() and (shipped_folder() / f"{source}.yaml").is_file():
        source = Path(f"{source}.yaml")
    is_recipe = source.suffix in (".yaml", ".yml")
    recipe = load(str(source)) if is_recipe else None
    _quiet()
    from dettoolkit import commands
    from dettoolkit.runs import stored_recipe

    if recipe is None:
        with stored_recipe(source, trainer=HERE) as config:
            recipe = load(str(config))
    _report(*commands.evaluate(source, recipe=recipe, out=out, keep=options.write_predictions))
    return 0


def download_coco(argv: Sequence[str] | None = None) -> int:
    """Fetch and unpack COCO 2017."""
    from dettoolkit.download import main as download

    return download(argv, prog="dettoolkit download-coco")


def _report(folder: Path, score: Any) -> None:
    from dettoolkit.runs import is_first_process

    if is_first_process():
        print(score.table())
        print(f"\nreport, checkpoints and pictures: {folder}")


def _quiet() -> None:
    """Show our own messages, and of the libraries' only those that a user can act on."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    from dettoolkit.runs import is_first_process

    level = logging.INFO if is_first_process() else logging.ERROR
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)
    import_module("lightning.pytorch")  # it sets its loggers' levels when it is imported
    for name in ("lightning.pytorch", "lightning.fabric", "lightning", "faster_coco_eval"):
        logging.getLogger(name).setLevel(logging.WARNING)
        logging.getLogger(name).propagate = False
    for text in QUIET_WARNINGS:
        warnings.filterwarnings("ignore", message=text)


def _guarded(command: Callable[[], int], traceback: bool) -> int:
    """Print an expected error as a sentence; keep tracebacks for defects, and for those who ask."""
    try:
        return command()
    except KeyboardInterrupt as error:
        if traceback:
            raise
        print(str(error) or "interrupted", file=sys.stderr)
        return 130  # what shells make of Ctrl-C
    except Exception as error:
        text = _sentence(error)
        if traceback or text is None:
            raise
        print(f"error: {text}" if "\n" not in text else f"error:\n{text}", file=sys.stderr)
        return 2


def _sentence(error: Exception) -> str | None:
    """Give the message of an error that was foreseen; None for any other: its traceback is worth more."""
    text, name = str(error), type(error).__name__
    if type(error).__module__.startswith("dettoolkit."):
        # A loader's worker sends its error as text, with the traceback before the message.
        from_worker = text.startswith(f"Caught {name} in DataLoader worker")
        return re.split(rf"\n[\w.]*{name}: ", text)[-1].strip() if from_worker else text
    if name == "OutOfMemoryError":  # torch's
        return f"{text.splitlines()[0]} Try a smaller data.batch_size"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    foreseen = isinstance(error, (ValueError, OSError, RuntimeError, ModuleNotFoundError))
    return text if foreseen and _is_raised_here(error.__traceback__) else None


def _is_raised_here(traceback: TracebackType | None) -> bool:
    """Tell a `raise` of this package, which has a message for people, from what went wrong inside a call."""
    if traceback is None:
        return False
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    frame = traceback.tb_frame
    ours = str(frame.f_globals.get("__name__", "")).startswith("dettoolkit")
    return ours and dis.opname[frame.f_code.co_code[traceback.tb_lasti]] == "RAISE_VARARGS"
