"""labelme: a JSON file beside each image, with shapes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from dettoolkit.converting.collection import Box, Collection, Lost, Picture, annotated_size
from dettoolkit.datasets.coco_json import SEGMENTATION
from dettoolkit.datasets.regular_files import Walk, open_regular

MAX_BYTES = 512 << 20  # of a JSON file, which may hold its image
AREAS = ("rectangle", "polygon", "circle")


class Shape(msgspec.Struct):
    """A shape of labelme's: `points` are corners, or of a circle its center and a point on it."""

    label: str
    points: list[tuple[float, float]]
    shape_type: str = "polygon"
    group_id: int | None = None


class Document(msgspec.Struct):
    """What is read of a JSON file of labelme's."""

    shapes: list[Shape]
    imagePath: str
    imageHeight: int | None = None
    imageWidth: int | None = None


def read_labelme(root: Path) -> Collection:
    """Read a folder of labelme's JSON files as boxes; of a polygon or circle the box around it.

    Polygons are kept beside their boxes, as COCO's `segmentation`. Points and lines have no area and are left
    out. Classes are in alphabetical order. There is one split, `all`.

    Raises:
        FileNotFoundError: there are no JSON files.
        ValueError: one is not labelme's.
    """
    lost = Lost()
    pictures = [
        Picture(image, image.relative_to(root).as_posix(), hw, list(_boxes(document.shapes, path, lost)))
        for path, document in read_documents(root)
        for image in [path.parent / document.imagePath.replace("\\", "/")]
        for hw in [annotated_size(image, _size(document), lost)]
        if hw is not None
    ]
    classes = sorted({box.name for picture in pictures for box in picture.boxes})
    return Collection(classes, {"all": pictures}, lost)


def read_documents(root: Path) -> Iterator[tuple[Path, Document]]:
    """Read every JSON file of labelme's below a folder, in order.

    Raises:
        FileNotFoundError: there are none.
        ValueError: one is not labelme's, or names an image outside the folder.
    """
    paths = list(map(Path, Walk(root, endings=(".json",))))
    if not paths:
        raise FileNotFoundError(f"{root} holds no .json files: give the folder in which labelme saved")
    for path in paths:
        try:
            with open_regular(path) as file:
                document = msgspec.json.decode(file.read(MAX_BYTES), type=Document)
            inside = (path.parent / document.imagePath.replace("\\", "/")).resolve()
            if not inside.is_relative_to(root.resolve()):
                raise ValueError(f"its imagePath {document.imagePath} is outside {root}")
            if not all(
                math.isfinite(value) for shape in document.shapes for xy in shape.points for value in xy
            ):
                raise ValueError("a point is not finite")
        except (msgspec.MsgspecError, ValueError) as error:
            raise ValueError(f"{path} is no file of labelme's: {error}") from None
        yield path, document


def _size(document: Document) -> tuple[int, int] | None:
    if document.imageHeight is None or document.imageWidth is None:
        return None
    return document.imageHeight, document.imageWidth


def _boxes(shapes: Sequence[Shape], path: Path, lost: Lost) -> Iterator[Box]:
    for shape in shapes:
        if shape.shape_type not in AREAS or len(shape.points) < 2:
            lost.add(f"{shape.shape_type}, which has no area, left out", f"{path}: {shape.label}")
            continue
        xs, ys = zip(*shape.points, strict=True)
        extra: dict[str, Any] = {}
        if shape.shape_type == "circle":
            (x, y), edge = shape.points[0], shape.points[1]
            radius = math.dist((x, y), edge)
            xs, ys = (x - radius, x + radius), (y - radius, y + radius)
        elif shape.shape_type == "polygon":
            extra = {SEGMENTATION: [[value for point in shape.points for value in point]]}
        box = min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)
        yield Box(shape.label, box, extra)
