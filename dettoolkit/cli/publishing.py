"""`dettoolkit publish`."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from dettoolkit.cli.arguments import adder, command_parser, run
from dettoolkit.cli.failures import quiet
from dettoolkit.cli.progress import tell

DESCRIPTION = """Write a model to a folder that travels, and send it to Hugging Face's hub if you wish.

The folder has model.safetensors, manifest.json, recipe.yaml, measured.json and README.md, a model card of
what was measured: scores, sizes, latency on this machine, and how exported files compare. Nothing in it can
run code. 'dettoolkit predict', 'export' and 'evaluate' take such a folder, or its address hf://owner/name."""
EXAMPLES = """examples:
  dettoolkit publish runs/ssdlite_scenes/2026-01-31_12-00-00 --out scenes \\
      --license apache-2.0 --dataset "generated scenes" --data-license apache-2.0
  dettoolkit publish scenes --push me/scenes
  dettoolkit predict hf://me/scenes photo.jpg"""


def publish(argv: Sequence[str] | None = None) -> int:
    """Publish a run, a checkpoint or a named model."""
    parser = command_parser(
        "publish",
        usage="%(prog)s MODEL --out DIR --license ID --dataset NAME --data-license TEXT [--push owner/name]",
        description=DESCRIPTION,
        epilog=EXAMPLES,
    )
    add = adder(parser)
    add("model", "model", "a run's folder, a checkpoint, a published folder, or a model's name", type=Path)
    add("--out", "DIR", "the folder to write; it must not exist", type=Path)
    add("--license", "ID", "license of the weights, as the hub calls it: apache-2.0, mit, other", default="")
    add(
        "--dataset",
        "NAME",
        "the data they were trained on; their name on the hub if any",
        default="",
    )
    add("--data-license", "TEXT", "license of these data", default="")
    add("--weights", "FILE", "weights of a named model (default: torchvision's)", type=Path)
    add("--evaluation", "FILE", "an evaluation.json of this model (default: its run's)", type=Path)
    add("--push", "OWNER/NAME", "send the folder to this repository of the hub")
    add("--private", None, "make the repository private, if it is new")
    return run(parser, argv, _publish)


def _publish(options: argparse.Namespace) -> int:
    if options.private and options.push is None:
        raise ValueError("--private is an option of --push: use both, or neither")
    quiet()
    from dettoolkit.hub import check_repository, push
    from dettoolkit.weights.safe import MODEL

    if options.push is not None:
        check_repository(options.push)
    ready = options.out is None and (options.model / MODEL).is_file()
    if options.out is None and options.push is None:
        raise ValueError("choose a folder to write with --out DIR, or a repository with --push owner/name")
    if ready and (options.license or options.dataset or options.data_license):
        raise ValueError(
            f"{options.model} has a card already and is pushed as it is: to change it, write "
            "a new folder with --out"
        )
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.model
        if not ready:
            folder = _write(options, options.out or Path(temporary) / "model")
            if options.out is not None:
                print(f"published: {folder}; read its README.md before you pass it on")
        if options.push is not None:
            print(f"pushed: {push(folder, options.push, private=options.private)}")
    return 0


def _write(options: argparse.Namespace, out: Path) -> Path:
    from dettoolkit.named_models import is_named, named_recipe
    from dettoolkit.publishing.card import Terms
    from dettoolkit.publishing.publish import publish as write

    recipe = None
    if options.weights is not None:
        if not is_named(options.model):
            raise ValueError(f"{options.model} has weights of its own: omit --weights")
        recipe = named_recipe(options.model, [f"model.weights={json.dumps(str(options.weights))}"])
    return write(
        options.model,
        out,
        terms=Terms(license=options.license, data_license=options.data_license, dataset=options.dataset),
        recipe=recipe,
        evaluation=options.evaluation,
        address=None if options.push is None else f"hf://{options.push}",
        tell=tell,
    )
