"""The command `dettoolkit` and its subcommands; tools/ call the same functions.

Nothing heavy is imported before it is needed: a wrong recipe is refused without loading torch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import version

from dettoolkit.cli.adapting import adapt
from dettoolkit.cli.benchmarking import benchmark
from dettoolkit.cli.converting import convert
from dettoolkit.cli.demo import export_demo
from dettoolkit.cli.examining import doctor
from dettoolkit.cli.exporting import export
from dettoolkit.cli.measuring import latency
from dettoolkit.cli.models import models
from dettoolkit.cli.paper import paper_tables
from dettoolkit.cli.predicting import predict
from dettoolkit.cli.publishing import publish
from dettoolkit.cli.reporting import report
from dettoolkit.cli.searching import search
from dettoolkit.cli.training import evaluate, train

__all__ = [
    "adapt",
    "benchmark",
    "convert",
    "doctor",
    "download_coco",
    "evaluate",
    "export",
    "export_demo",
    "latency",
    "main",
    "models",
    "paper_tables",
    "predict",
    "publish",
    "report",
    "search",
    "train",
]


def download_coco(argv: Sequence[str] | None = None) -> int:
    """Download and unpack COCO 2017."""
    from dettoolkit.download import main as download

    return download(argv, prog="dettoolkit download-coco")


COMMANDS = {
    "train": (train, "train with a recipe, check it, or print it"),
    "doctor": (doctor, "look for what is wrong with data and recipe"),
    "evaluate": (evaluate, "score a run, a checkpoint or a recipe's own weights"),
    "report": (report, "write the report of a run, or compare several"),
    "predict": (predict, "detect objects, segment or classify images and videos"),
    "export": (export, "export a model to another runtime, verified against PyTorch"),
    "export-demo": (export_demo, "create a web page that runs a model in the browser"),
    "benchmark": (benchmark, "measure how long models take for an image, step by step"),
    "latency": (latency, "measure and predict how long a network takes in a runtime, block by block"),
    "adapt": (adapt, "make a trained network narrower until it meets a latency"),
    "search": (search, "search for the best network of a latency"),
    "publish": (publish, "write a model to a folder that travels, with a card; push it to the hub"),
    "models": (models, "list the models that are ready to be used by name"),
    "paper-tables": (
        paper_tables,
        "print the paper's tables next to our networks, or write the page of all recipes",
    ),
    "convert": (convert, "convert labels of YOLO, VOC, labelme and others to what recipes read"),
    "download-coco": (download_coco, "download and unpack COCO 2017"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand and return its exit status."""
    name, *arguments = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in COMMANDS:
        return COMMANDS[name][0](arguments)
    if name == "--version":
        print(f"dettoolkit {version('dettoolkit')}")
    elif name in ("-h", "--help"):
        print("usage: dettoolkit COMMAND ...   (each has --help)")
        print(*(f"  {command:<15} {does}" for command, (_, does) in COMMANDS.items()), sep="\n")
        print("  --version       print the version")
    else:
        print(f"dettoolkit has no command '{name}'; it has: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    return 0
