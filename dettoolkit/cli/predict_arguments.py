"""The arguments of `dettoolkit predict`."""

from __future__ import annotations

import argparse
from pathlib import Path

from dettoolkit.cli.arguments import adder, command_parser

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
SOURCES_HELP = """images, videos, folders (with all below them), patterns in quotes, lists (.txt, a path
a line), webcam, webcam:1, rtsp://..., s3://bucket/folder"""
SAVE_HELP = """of figures, masks, crops, json, csv, coco, parquet, with commas between; results.jsonl
is always written (default: figures, and masks of a model that makes them; with --resume or
--shard json)"""
ANNOTATIONS_HELP = "COCO json whose image ids the results get, by file name; for scoring, with --threshold 0"
MEGAPIXELS_HELP = "largest image that is read; a larger one counts as unreadable (default: 100)"
TRUST_HELP = "open a .pt2 file, which can run any code: give it only for files of people you trust"

MODEL_HELP = "a name that 'dettoolkit models' lists, a run's folder, a checkpoint, or an exported file"


def arguments() -> argparse.ArgumentParser:
    """Build the parser."""
    description = "Run a model on images, on videos or on what a camera sees."
    parser = command_parser("predict", usage=USAGE, description=description, epilog=EXAMPLES)
    add = adder(parser)
    add("model", "MODEL", MODEL_HELP, nargs="?", type=_path)
    add("sources", "SOURCE", SOURCES_HELP, nargs="*", type=_given)
    add = adder(parser.add_argument_group("results"))
    add("--out", "DIR", "new folder for the results (default: runs/predictions/<time>)", type=_path)
    add("--save", "LIST", SAVE_HELP, type=_names)
    add("--threshold", "T", "lowest score (default: the recipe's threshold)", type=float)
    add("--classes", "NAMES", "keep these classes only, with commas between", type=_names)
    add("--every", "N", "of a video, take the first of each N frames", type=_count)
    add("--limit", "N", "take at most N images, and N frames of each video", type=_count)
    add("--annotations", "FILE", ANNOTATIONS_HELP, type=_absolute)
    add("--max-megapixels", "N", MEGAPIXELS_HELP, type=float)
    add("--strict", None, "exit with 1 if any image could not be read")
    add = adder(parser.add_argument_group("machine"))
    add("--batch-size", "N", "images that go through the network at once (default: 1)", type=_count)
    add("--device", "D", "cpu, cuda, cuda:1 ... for a checkpoint (default: a GPU if there is one)")
    add("--weights", "FILE", "of a named model: its weights, instead of fetching them", type=_path)
    add("--trust", None, TRUST_HELP)
    add("--threads", "N", "threads of the network's runtime", type=_count)
    add("--workers", "N", "threads that read images (default: %(default)s)", type=_count, default=2)
    add = adder(parser.add_argument_group("very many images"))
    add("--resume", "DIR", "continue in this folder with what is not done; start if it is new", type=_path)
    add("--shard", "I/N", "only the I-th of N parts; N processes may write to one folder", type=_shard)
    add("--merge", "DIR", "make tables of a folder whose shards are all finished", type=_path)
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
