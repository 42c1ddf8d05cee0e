"""YOLO's format: a text file for each image, a line for each object, in fractions of the image."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from dettoolkit.config.yaml12 import syntax_text
from dettoolkit.converting.collection import Box, Collection, Hw, Lost, Picture, annotated_size
from dettoolkit.datasets.images import ENDINGS
from dettoolkit.datasets.regular_files import Walk, open_regular
from dettoolkit.wording import listing

SPLITS = ("train", "val", "test")
MAX_BYTES = 64 << 20  # of a text file


def read_yolo(source: Path) -> Collection:
    """Read a data set by its `data.yaml`, or a folder of images and text files with a `classes.txt`.

    The layout is ultralytics': `train`, `val` and `test` name folders of images, or text files that list
    images; an image in `…/images/…` has its labels in `…/labels/…`, or beside it. Classes are in the order of
    `names`. A line is `class x y width height`, the center first, in fractions of the image as it is shown;
    one of a polygon is read as the box around it, and the polygon is kept. An image without a text file, or
    with an empty one, has no objects.

    Raises:
        FileNotFoundError: there is no data.yaml or classes.txt, or what it names is missing.
        ValueError: a file is not YOLO's; the message names it and the line.
    """
    described = next(iter(sorted(source.glob("*.yaml")) + sorted(source.glob("*.yml"))), None)
    described = source if source.suffix in (".yaml", ".yml") else described
    lost = Lost()
    if described is None:
        lists = [source / name for name in ("classes.txt", "obj.names")]
        path = next((path for path in lists if path.is_file()), None)
        if path is None:
            raise FileNotFoundError(
                f"{source} has neither a data.yaml nor a classes.txt: give the folder that lists the classes"
            )
        classes = [line.strip() for line in _read(path).splitlines() if line.strip()]
        splits = {"all": [source]}
    else:
        content = _yaml(described)
        classes = _names(content.get("names"), described)
        base = described.parent
        if isinstance(content.get("path"), str):
            base = next(
                (base for base in (base / content["path"], Path(content["path"])) if base.is_dir()), base
            )
        splits = {split: _paths(content.get(split), base, described) for split in SPLITS}
        splits = {split: paths for split, paths in splits.items() if paths}
        if not splits:
            raise ValueError(f"{described} names no images: it has none of {', '.join(SPLITS)}")
    return Collection(
        classes,
        {split: list(_pictures(paths, split, classes, lost)) for split, paths in splits.items()},
        lost,
    )


def _yaml(path: Path) -> Mapping[str, Any]:
    try:
        values = YAML(typ="safe", pure=True).load(_read(path))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ValueError(f"{path}:{mark.line + 1 if mark else 1}: {syntax_text(error)}") from None
    except (YAMLError, RecursionError):
        raise ValueError(
            f"{path} is not valid YAML: it has characters that are not allowed there, or is nested too deep"
        ) from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} is no data.yaml: it has no names and no train")
    return values


def _names(names: object, path: Path) -> list[str]:
    """Return the classes in order: `names` is a list, or a mapping of numbers to names."""
    if isinstance(names, dict):
        if set(names) != set(range(len(names))):
            raise ValueError(
                f"{path}: names must be numbered 0, 1, 2 and so on, got {listing(list(map(str, names)))}"
            )
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise ValueError(f"{path} has no names: list the classes there")
    return [str(name) for name in names]


def _paths(value: object, base: Path, described: Path) -> list[Path]:
    """Find what a split names: Roboflow's exports have `../train/images` where `train/images` is meant."""
    found = []
    for text in value if isinstance(value, list) else [] if value is None else [value]:
        tries = [base / str(text), base / str(text).removeprefix("../")]
        path = next((path for path in tries if path.exists()), None)
        if path is None:
            raise FileNotFoundError(
                f"{described} names {text}, and {tries[0]} does not exist: correct the path"
            )
        found.append(path)
    return found


def _pictures(paths: Sequence[Path], split: str, classes: Sequence[str], lost: Lost) -> Iterator[Picture]:
    for path in paths:
        listed = path.suffix == ".txt"
        images = (
            [path.parent / line.strip() for line in _read(path).splitlines() if line.strip()]
            if listed
            else None
        )
        for image in images if images is not None else map(Path, Walk(path, endings=ENDINGS)):
            hw = annotated_size(image, None, lost)
            if hw is not None:
                name = image.name if listed else image.relative_to(path).as_posix()
                boxes = list(_boxes(_labels_of(image), hw, classes, lost))
                yield Picture(image, name if split == "all" else f"{split}/{name}", hw, boxes)


def _labels_of(image: Path) -> Path:
    """Return where an image's text file is: in `labels` for the last folder `images`, or beside the image."""
    parts = list(image.parts)
    if "images" in parts[:-1]:
        last = len(parts) - 2 - parts[-2::-1].index("images")
        there = Path(*parts[:last], "labels", *parts[last + 1 :]).with_suffix(".txt")
        if there.is_file():
            return there
    return image.with_suffix(".txt")


def _boxes(path: Path, hw: Hw, classes: Sequence[str], lost: Lost) -> Iterator[Box]:
    if not path.is_file():
        return
    for number, line in enumerate(_read(path).splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        try:
            values = [float(word) for word in words]
            if not all(map(math.isfinite, values)):
                raise ValueError
        except ValueError:
            raise ValueError(f"{path}:{number}: wanted finite numbers, got '{line:.60}'") from None
        label, *rest = values
        if label != int(label) or not 0 <= label < len(classes):
            raise ValueError(
                f"{path}:{number}: wanted a class from 0 to {len(classes) - 1}, as names are numbered, got "
                f"'{line:.60}'"
            )
        if len(rest) == 4:
            x, y, width, height = rest
            yield _box(
                classes[int(label)], (x - width / 2, y - height / 2, x + width / 2, y + height / 2), hw
            )
        elif len(rest) >= 6 and len(rest) % 2 == 0:
            xs, ys = rest[::2], rest[1::2]
            scaled = [
                value * side for x, y in zip(xs, ys, strict=True) for value, side in ((x, hw[1]), (y, hw[0]))
            ]
            yield _box(classes[int(label)], (min(xs), min(ys), max(xs), max(ys)), hw, segmentation=[scaled])
        else:
            lost.add("line that is neither a box nor a polygon, left out", f"{path}:{number}: {line:.60}")


def _box(name: str, corners: tuple[float, float, float, float], hw: Hw, **extra: Any) -> Box:
    left, top, right, bottom = corners
    height, width = hw
    return Box(name, (left * width, top * height, (right - left) * width, (bottom - top) * height), extra)


def _read(path: Path) -> str:
    with open_regular(path) as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"{path} is larger than {MAX_BYTES >> 20} MB, which no such file is")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from None
