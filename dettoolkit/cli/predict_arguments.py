"""The arguments of `dettoolkit predict`."""

from __future__ import annotations

import argparse
from pathlib import Path

from dettoolkit.cli.arguments import add, command_parser

USAGE = """%(prog)s MODEL SOURCE... [options]
       %(prog)s --resume DIR [--shard I/N]
       %(prog)s --merge DIR [--save coco,csv,parquet]"""
EXAMPLES = """examples:
  dettoolkit predict runs/ssdlite_scenes/2026-01-31_12-00-00 photo.jpg
  dettoolkit predict model.onnx photos/ 'more/**/*.png' --threshold 0.4 --save figures,csv
  dettoolkit predict model.onnx clip.mp4 --every 2
  dettoolkit predict model.onnx webcam --limit 500
  dettoolkit predict best.ckpt val2017/ --annotations instances_val2017.json --threshold 0 --save coco
  dettoolkit predict model.onnx photos/ --resume fleet --shard 1/8     starts it, and resumes it"""
HELP = {
    "model": "a run's folder, a checkpoint, or an exported file",
    "sources": "images, videos, folders (with all below them), patterns in quotes, lists (.txt, a path\n"
    "a line), webcam, webcam:1, rtsp://..., s3://bucket/folder",
    "--out": "new folder for the results (default: runs/predictions/<time>)",
    "--save": "of figures, masks, crops, json, csv, coco, parquet, with commas between; results.jsonl\n"
    "is always written (default: figures, and masks of a model that makes them; with --resume or\n"
    "--shard json)",
    "--threshold": "lowest score (default: the recipe's threshold)",
    "--classes": "keep these classes only, with commas between",
    "--every": "of a video, take the first of each N frames",
    "--limit": "take at most N images, and N frames of each video",
    "--annotations": "COCO json whose image ids the results get, by file name; for scoring, with "
    "--threshold 0",
    "--max-megapixels": "largest image that is read; a larger one counts as unreadable (default: 100)",
    "--strict": "exit with 1 if any image could not be read",
    "--batch-size": "images that go through the network at once (default: 1)",
    "--device": "cpu, cuda, cuda:1 ... for a checkpoint (default: a GPU if there is one)",
    "--trust": "open a .pt2 file, which can run any code: give it only for files of people you trust",
    "--threads": "threads of the network's runtime",
    "--workers": "threads that read images (default: %(default)s)",
    "--resume": "continue in this folder with what is not done; start if it is new",
    "--shard": "only the I-th of N parts; N processes may write to one folder",
    "--merge": "make tables of a folder whose shards are all finished",
}


def arguments() -> argparse.ArgumentParser:
    """Build the parser."""
    description = "Run a model on images, on videos or on what a camera sees."
    parser = command_parser("predict", usage=USAGE, description=description, epilog=EXAMPLES)
    add(parser, HELP, "model", nargs="?", type=_path, metavar="MODEL")
    add(parser, HELP, "sources", nargs="*", type=_given, metavar="SOURCE")
    results = parser.add_argument_group("results")
    add(results, HELP, "--out", type=_path, metavar="DIR")
    add(results, HELP, "--save", type=_names, metavar="LIST")
    add(results, HELP, "--threshold", type=float, metavar="T")
    add(results, HELP, "--classes", type=_names, metavar="NAMES")
    add(results, HELP, "--every", type=_count, metavar="N")
    add(results, HELP, "--limit", type=_count, metavar="N")
    add(results, HELP, "--annotations", type=_absolute, metavar="FILE")
    add(results, HELP, "--max-megapixels", type=float, metavar="N")
    add(results, HELP, "--strict", action="store_true")
    machine = parser.add_argument_group("machine")
    add(machine, HELP, "--batch-size", type=_count, metavar="N")
    add(machine, HELP, "--device", metavar="D")
    add(machine, HELP, "--trust", action="store_true")
    add(machine, HELP, "--threads", type=_count, metavar="N")
    add(machine, HELP, "--workers", type=_count, default=2, metavar="N")
    fleet = parser.add_argument_group("very many images")
    add(fleet, HELP, "--resume", type=_path, metavar="DIR")
    add(fleet, HELP, "--shard", type=_shard, metavar="I/N")
    add(fleet, HELP, "--merge", type=_path, metavar="DIR")
    return parser


def _given(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("it is empty: is a variable of your script not set?")
    return text


def _path(text: str) -> Path:
    return Path(_given(text)).expanduser()


def _absolute(text: str) -> str:
    return str(_path(text).absolute())


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in _given(text).split(",") if part.strip())


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: wanted a number, 1 or more")
    return int(text)


def _shard(text: str) -> tuple[int, int]:
    number, slash, of = text.partition("/")
    if not (slash and number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise argparse.ArgumentTypeError(f"{text}: wanted I/N with I from 1 to N, such as 1/8")
    return int(number), int(of)
