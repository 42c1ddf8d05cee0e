"""The arguments of `dettoolkit predict`."""

from __future__ import annotations

import argparse

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


def arguments() -> argparse.ArgumentParser:
    """Make the parser."""
    parser = argparse.ArgumentParser(
        prog="dettoolkit predict",
        usage=USAGE,
        description="Run a model on images, on videos or on what a camera sees.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add = parser.add_argument
    add(
        "model",
        nargs="?",
        type=_given,
        metavar="MODEL",
        help="a run's folder, a checkpoint, or an exported file",
    )
    add(
        "sources",
        nargs="*",
        type=_given,
        metavar="SOURCE",
        help="images, videos, folders (with all below them), patterns in quotes, lists (.txt, a path\n"
        "a line), webcam, webcam:1, rtsp://..., s3://bucket/folder",
    )
    _results(parser.add_argument_group("results"))
    _machine(parser.add_argument_group("machine"))
    _fleet(parser.add_argument_group("very many images"))
    add("--traceback", action="store_true", help="show where an error arose")
    return parser


def _results(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--out",
        type=_given,
        metavar="DIR",
        help="new folder for the results (default: runs/predictions/<time>)",
    )
    add(
        "--save",
        type=_given,
        metavar="LIST",
        help="of figures, masks, crops, json, csv, coco, parquet, with commas between; results.jsonl\n"
        "is always written (default: figures, and masks of a model that makes them; with --resume or\n"
        "--shard json)",
    )
    add("--threshold", type=float, metavar="T", help="lowest score (default: the recipe's threshold)")
    add("--classes", type=_given, metavar="NAMES", help="keep these classes only, with commas between")
    add("--every", type=_count, metavar="N", help="of a video, take the first of each N frames")
    add("--limit", type=_count, metavar="N", help="take at most N images, and N frames of each video")
    add(
        "--annotations",
        type=_given,
        metavar="FILE",
        help="COCO json whose image ids the results get, by file name; for scoring, with --threshold 0",
    )
    add(
        "--max-megapixels",
        type=float,
        metavar="N",
        help="largest image that is read; a larger one counts as unreadable (default: 100)",
    )
    add("--strict", action="store_true", help="exit with 1 if any image could not be read")


def _machine(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--batch-size",
        type=_count,
        metavar="N",
        help="images that go through the network at once (default: 1)",
    )
    add(
        "--device",
        metavar="D",
        help="cpu, cuda, cuda:1 ... for a checkpoint (default: a GPU if there is one)",
    )
    add(
        "--trust",
        action="store_true",
        help="open a .pt2 file, which can run any code: give it only for files of people you trust",
    )
    add("--threads", type=_count, metavar="N", help="threads of the network's runtime")
    add(
        "--workers",
        type=_count,
        default=2,
        metavar="N",
        help="threads that read images (default: %(default)s)",
    )


def _fleet(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--resume",
        type=_given,
        metavar="DIR",
        help="continue in this folder with what is not done; start if it is new",
    )
    add(
        "--shard",
        type=_shard,
        metavar="I/N",
        help="only the I-th of N parts; N processes may write to one folder",
    )
    add("--merge", type=_given, metavar="DIR", help="make tables of a folder whose shards are all finished")


def names(text: str | None) -> tuple[str, ...] | None:
    """Split a list at its commas."""
    return None if text is None else tuple(part.strip() for part in text.split(",") if part.strip())


def _given(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("it is empty: is a variable of your script not set?")
    return text


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: wanted a number, 1 or more")
    return int(text)


def _shard(text: str) -> tuple[int, int]:
    number, slash, of = text.partition("/")
    if not (slash and number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise argparse.ArgumentTypeError(f"{text}: wanted I/N with I from 1 to N, such as 1/8")
    return int(number), int(of)
