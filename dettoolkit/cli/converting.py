"""`dettoolkit convert`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dettoolkit.cli.failures import guarded, quiet_images

if TYPE_CHECKING:
    from dettoolkit.converting.collection import Lost

DESCRIPTION = """Convert labels to what recipes read. The source is not changed; what cannot be carried
over is counted and listed. The new folder has a data.yaml to lay over a recipe.

  yolo        boxes or polygons of YOLO: a folder with data.yaml, or with classes.txt
  voc         boxes of Pascal VOC: a folder with Annotations, JPEGImages and ImageSets
  labelme     boxes of labelme: a folder of images and JSON files
  coco-split  one COCO json, cut into training and validation
  polygons    polygons of labelme (a folder), or of COCO (a json), to label PNGs
  colors      a folder of color PNGs to label PNGs"""
EXAMPLES = """examples:
  dettoolkit convert voc VOC2007 --out data/voc
  dettoolkit convert labelme photos --out data/photos --fraction 0.2
  dettoolkit convert coco-split result.json --images photos --out data/mine --group folder
  dettoolkit convert polygons photos --out data/masks
  dettoolkit convert colors masks --images photos --colors label_colors.txt --out data/masks"""
KINDS = ("yolo", "voc", "labelme", "coco-split", "polygons", "colors")


def convert(argv: Sequence[str] | None = None) -> int:
    """Convert labels of other formats."""
    parser = argparse.ArgumentParser(
        prog="dettoolkit convert",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add = parser.add_argument
    add("kind", choices=KINDS, metavar="KIND", help="yolo, voc, labelme, coco-split, polygons or colors")
    add("source", type=Path, metavar="SRC", help="what to convert")
    add("--out", type=Path, metavar="DIR", required=True, help="folder to write; it must not exist yet")
    add("--images", type=Path, metavar="DIR", help=IMAGES_HELP)
    add("--fraction", type=float, metavar="F", help=FRACTION_HELP)
    add("--group", metavar="G", help=GROUP_HELP)
    add("--seed", type=int, default=0, metavar="N", help="of the cut (default: 0)")
    add("--unlabeled", choices=("background", "ignore"), default="background", help=UNLABELED_HELP)
    add("--colors", type=Path, metavar="FILE", help="of colors: a line 'red green blue name' for each class")
    add("--traceback", action="store_true", help="show where an error arose")
    options = parser.parse_args(argv)
    return guarded(lambda: _convert(options), options.traceback)


IMAGES_HELP = (
    "folder of the images: of coco-split and of polygons of COCO (default: that of the json), of\ncolors"
)
FRACTION_HELP = (
    "fraction of each class's images that goes to validation, where the source has one part only\n"
    "(default: 0.2 where training needs a cut, otherwise none)"
)
GROUP_HELP = (
    "keep images together in the cut: 'folder', or a regular expression whose match in the name\n"
    "is the group, such as '^video_\\d+'"
)
UNLABELED_HELP = "what pixels outside every polygon are: a class of their own (default), or ignored"


def _convert(options: argparse.Namespace) -> int:
    quiet_images()
    if not options.source.exists():
        raise FileNotFoundError(f"{options.source} does not exist: give what is to be converted")
    lines, lost = (_label_maps if options.kind in ("polygons", "colors") else _boxes)(options)
    print(*lines, sep="\n")
    if lost.counts:
        print("not carried over:", *(f"  {line}" for line in lost.lines()), sep="\n")
    return 0


def _boxes(options: argparse.Namespace) -> tuple[list[str], Lost]:
    from dettoolkit.converting.collection import write
    from dettoolkit.converting.labelme import read_labelme
    from dettoolkit.converting.split import cut, split_coco
    from dettoolkit.converting.voc import read_voc
    from dettoolkit.converting.yolo import read_yolo

    fraction, seed, group = options.fraction, options.seed, options.group
    if options.kind == "coco-split":
        images = options.images or options.source.parent
        return split_coco(
            options.source, options.out, images=images, fraction=fraction or 0.2, seed=seed, group=group
        )
    readers = {"yolo": read_yolo, "voc": read_voc, "labelme": read_labelme}
    found = readers[options.kind](options.source)
    if fraction is not None:
        found = cut(found, fraction=fraction, seed=seed, group=group)
    return write(found, options.out), found.lost


def _label_maps(options: argparse.Namespace) -> tuple[list[str], Lost]:
    from dettoolkit.converting import label_maps

    if options.kind == "colors":
        if options.images is None or options.colors is None:
            raise ValueError("colors need --images DIR and --colors FILE: see dettoolkit convert --help")
        maps = label_maps.colored(options.images, options.source, options.colors)
    elif options.source.is_dir():
        maps = label_maps.polygons_of_labelme(options.source, unlabeled=options.unlabeled)
    else:
        images = options.images or options.source.parent
        maps = label_maps.polygons_of_coco(options.source, images, unlabeled=options.unlabeled)
    fraction = options.fraction or 0.2
    lines = label_maps.write_label_maps(
        maps, options.out, fraction=fraction, seed=options.seed, group=options.group
    )
    return lines, maps.lost
