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
SOURCES_HELP = """images, videos, folders (with subfolders), quoted patterns, lists (.txt, one path per
line), webcam, webcam:1, rtsp://..., s3://bucket/folder"""
SAVE_HELP = """comma-separated: figures, masks, crops, json, csv, coco, parquet; results.jsonl is always
written (default: figures, and masks of label maps; with --resume or --shard: json)"""
ANNOTATIONS_HELP = "COCO JSON: results get its image ids, by file name (for scoring, with --threshold 0)"
MEGAPIXELS_HELP = "largest image to read; larger ones count as unreadable (default: 100)"
TRUST_HELP = "open a .pt2 file, which can run arbitrary code: use it only for files from people you trust"

MODEL_HELP = "a name that 'dettoolkit models' lists, a run's folder, a checkpoint, or an exported file"


def arguments() -> argparse.ArgumentParser:
    """Build the parser."""
    description = "Run a model on images, videos or a camera."
    parser = command_parser("predict", usage=USAGE, description=description, epilog=EXAMPLES)
    add = adder(parser)
    add("model", "MODEL", MODEL_HELP, nargs="?", type=_path)
    add("sources", "SOURCE", SOURCES_HELP, nargs="*", type=_given)
    add = adder(parser.add_argument_group("results"))
    add("--out", "DIR", "new folder for the results (default: runs/predictions/<time>)", type=_path)
    add("--save", "LIST", SAVE_HELP, type=_names)
    add("--threshold", "T", "minimum score (default: the recipe's threshold)", type=float)
    add("--classes", "NAMES", "keep only these classes, comma-separated", type=_names)
    add("--every", "N", "use every Nth frame of a video, from the first on", type=_count)
    add("--limit", "N", "process at most N images, and N frames of each video", type=_count)
    add("--annotations", "FILE", ANNOTATIONS_HELP, type=_absolute)
    add("--max-megapixels", "N", MEGAPIXELS_HELP, type=float)
    add("--strict", None, "exit with 1 if any image could not be read")
    add = adder(parser.add_argument_group("machine"))
    add("--batch-size", "N", "images per batch (default: that of an exported file, or 1)", type=_count)
    add("--device", "D", "cpu, cuda, cuda:1 ... for a checkpoint (default: a GPU if there is one)")
    add("--weights", "FILE", "of a named model: its weights, instead of fetching them", type=_path)
    add("--trust", None, TRUST_HELP)
    add("--threads", "N", "threads of the network's runtime", type=_count)
    add("--workers", "N", "threads that read images (default: %(default)s)", type=_count, default=2)
    add = adder(parser.add_argument_group("large jobs"))
    add("--resume", "DIR", "continue the job in this folder; start it if the folder is new", type=_path)
    add("--shard", "I/N", "process only the I-th of N parts; N processes can use one folder", type=_shard)
    add("--merge", "DIR", "write the tables of a folder once all its shards are finished", type=_path)
    return parser


def _given(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("empty value: is a variable in your script unset?")
    return text


def _path(text: str) -> Path:
    return Path(_given(text)).expanduser()


def _absolute(text: str) -> str:
    return str(_path(text).absolute())


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in _given(text).split(",") if part.strip())


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a number, 1 or more")
    return int(text)


def _shard(text: str) -> tuple[int, int]:
    number, slash, of = text.partition("/")
    if not (slash and number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise argparse.ArgumentTypeError(f"{text}: expected I/N with I from 1 to N, such as 1/8")
    return int(number), int(of)
