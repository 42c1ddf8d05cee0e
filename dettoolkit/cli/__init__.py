"""The command `dettoolkit` and its subcommands; tools/ call the same functions.

Nothing heavy is imported before it is needed: a wrong recipe is refused without loading torch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import version

from dettoolkit.cli.converting import convert
from dettoolkit.cli.demo import export_demo
from dettoolkit.cli.evaluating import evaluate
from dettoolkit.cli.exporting import export
from dettoolkit.cli.paper import paper_tables
from dettoolkit.cli.predicting import predict
from dettoolkit.cli.training import train

__all__ = [
    "convert",
    "download_coco",
    "evaluate",
    "export",
    "export_demo",
    "main",
    "paper_tables",
    "predict",
    "train",
]

USAGE = """usage: dettoolkit COMMAND ...   (each has --help)
  train           train by a recipe, check it, or print it
  evaluate        score a run, a checkpoint or a recipe's own weights
  predict         find objects, or each pixel's class, in images and videos
  export          write a model for another runtime, if it agrees with PyTorch
  export-demo     make a web page that runs a model in the browser
  paper-tables    print the paper's tables beside our networks, or the page of all recipes
  download-coco   fetch and unpack COCO 2017
  convert         convert labels of YOLO, VOC, labelme and others to what recipes read
  --version       print the version"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand and give its exit status."""
    commands = {
        "train": train,
        "evaluate": evaluate,
        "predict": predict,
        "export": export,
        "export-demo": export_demo,
        "paper-tables": paper_tables,
        "download-coco": download_coco,
        "convert": convert,
    }
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


def download_coco(argv: Sequence[str] | None = None) -> int:
    """Fetch and unpack COCO 2017."""
    from dettoolkit.download import main as download

    return download(argv, prog="dettoolkit download-coco")
