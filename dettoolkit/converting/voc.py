"""Pascal VOC: an XML file for each image, and lists of names for each split."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from glob import escape
from pathlib import Path
from xml.etree import ElementTree

from dettoolkit.converting.collection import Box, Collection, Hw, Lost, Picture, annotated_size
from dettoolkit.datasets.regular_files import open_regular

SPLITS = ("train", "val", "test", "trainval")
MAX_BYTES = 64 << 20  # of an XML file; a real one has some thousand
# What a box's annotation says besides: kept in the COCO file, where pycocotools passes it over.
FLAGS = ("difficult", "truncated", "occluded")


def read_voc(root: Path) -> Collection:
    """Read a data set in Pascal VOC's layout: Annotations, JPEGImages, ImageSets/Main.

    VOC's boxes are of whole pixels, the first pixel is 1 and the last one is inside (VOC2012's development
    kit): a box from 1 to 10 is 10 pixels wide and begins at 0. Where a corner is below 1, or no whole number,
    the files come from a tool that writes edges instead, and are read so.

    Classes are in alphabetical order, as VOC lists its own. Without lists of names there is one split, `all`.
    An image that only trainval lists stands in a split of that name.

    Raises:
        FileNotFoundError: there is no folder Annotations.
        ValueError: an XML file is not VOC's.
    """
    folder = root / "Annotations"
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} does not exist: give the folder that holds Annotations and JPEGImages"
        )
    lost = Lost()
    parsed = {path.stem: _parse(path) for path in sorted(folder.glob("*.xml"))}
    whole_pixels = all(_counts_pixels(box) for _, _, objects in parsed.values() for _, box, _ in objects)
    pictures = dict[str, Picture]()
    for stem, (file_name, said, objects) in parsed.items():
        image = _image_of(root / "JPEGImages", stem, file_name)
        hw = annotated_size(image, said, lost)
        if hw is not None:
            boxes = [Box(name, _xywh(box, whole_pixels), flags) for name, box, flags in objects]
            pictures[stem] = Picture(image, image.name, hw, boxes)
    names = Counter(box.name for picture in pictures.values() for box in picture.boxes)
    return Collection(sorted(names), _splits(root / "ImageSets" / "Main", pictures, lost), lost)


Corners = tuple[float, float, float, float]
Parsed = tuple[str, Hw | None, list[tuple[str, Corners, Mapping[str, int]]]]


def _parse(path: Path) -> Parsed:
    """Read the image's name, its size, and each object's class, corners and flags."""
    try:
        with open_regular(path) as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES or b"<!DOCTYPE" in data or b"<!ENTITY" in data:
            raise ValueError("it is too large, or declares entities, which no VOC file does")
        tree = ElementTree.fromstring(data)
        size = tree.find("size")
        hw = None if size is None else (_whole(size, "height"), _whole(size, "width"))
        objects = list[tuple[str, Corners, Mapping[str, int]]]()
        for entry in tree.iter("object"):
            box = entry.find("bndbox")
            if box is None:
                raise ValueError("an object has no bndbox")
            left, top, right, bottom = (_number(box, key) for key in ("xmin", "ymin", "xmax", "ymax"))
            if not all(map(math.isfinite, (left, top, right, bottom))):
                raise ValueError(f"a box is not finite: {left} {top} {right} {bottom}")
            flags = {flag: 1 for flag in FLAGS if (entry.findtext(flag) or "0").strip() not in ("0", "")}
            objects.append((_text(entry, "name"), (left, top, right, bottom), flags))
    except (ElementTree.ParseError, ValueError) as error:
        raise ValueError(f"{path} is no annotation of Pascal VOC: {error}") from None
    return (tree.findtext("filename") or "").strip(), hw, objects


def _text(entry: ElementTree.Element, tag: str) -> str:
    text = (entry.findtext(tag) or "").strip()
    if not text:
        raise ValueError(f"<{entry.tag}> has no <{tag}>")
    return text


def _number(entry: ElementTree.Element, tag: str) -> float:
    try:
        return float(_text(entry, tag))
    except ValueError:
        raise ValueError(f"<{entry.tag}> needs a number in <{tag}>, got {entry.findtext(tag)!r}") from None


def _whole(entry: ElementTree.Element, tag: str) -> int:
    number = _number(entry, tag)
    if not number.is_integer():
        raise ValueError(f"<{entry.tag}> needs a whole number in <{tag}>, got {entry.findtext(tag)!r}")
    return int(number)


def _counts_pixels(corners: Corners) -> bool:
    return min(corners) >= 1 and all(corner.is_integer() for corner in corners)


def _xywh(corners: Corners, whole_pixels: bool) -> Corners:
    left, top, right, bottom = corners
    first = 1 if whole_pixels else 0
    return left - first, top - first, right - left + first, bottom - top + first


def _image_of(folder: Path, stem: str, file_name: str) -> Path:
    """Return the image of an XML file: the one that it names, or the one that is called as it is."""
    for name in (Path(file_name).name, f"{stem}{Path(file_name).suffix or '.jpg'}"):
        if name and (folder / name).is_file():
            return folder / name
    return next(iter(sorted(folder.glob(f"{escape(stem)}.*"))), folder / f"{stem}.jpg")


def _splits(folder: Path, pictures: Mapping[str, Picture], lost: Lost) -> Mapping[str, list[Picture]]:
    lists = {
        split: list(_names(folder / f"{split}.txt"))
        for split in SPLITS
        if (folder / f"{split}.txt").is_file()
    }
    if not lists:
        return {"all": list(pictures.values())}
    found = dict[str, list[Picture]]()
    placed = dict[str, str]()
    for split, names in lists.items():
        for name in names:
            if name not in pictures:
                lost.add("name in a list without an annotation, left out", f"{folder / split}.txt: {name}")
            elif name not in placed:
                placed[name] = split
                found.setdefault(split, []).append(pictures[name])
            elif split != "trainval" and placed[name] != split:
                lost.add("name in two lists, kept in the first", f"{name}: {placed[name]} and {split}")
    for name in pictures.keys() - placed.keys():
        lost.add("annotation in no list, left out", f"{name}.xml")
    return found


def _names(path: Path) -> Iterator[str]:
    """Yield the names of a list, which may have a 1 or -1 behind each, as VOC's lists of one class do."""
    with open_regular(path) as file:
        for line in file.read().decode("utf-8-sig").splitlines():
            words = line.split()
            if words:
                yield words[0] if len(words) == 2 and words[1] in ("1", "-1", "0") else line.strip()
