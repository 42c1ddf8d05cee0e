"""Read a COCO-format json into a few packed arrays: I images, A annotations.

msgspec decodes into records that lack what boxes do not need, such as polygons, most of a COCO file.
"""

from __future__ import annotations

import json
import mmap
import os
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from dettoolkit.datasets.data_report import NO_ID
from dettoolkit.datasets.regular_files import PackedStrings, open_regular

Int64 = Annotated[int, msgspec.Meta(ge=-(2**63) + 1, le=2**63 - 1)]  # -2**63 is NO_ID

SEGMENTATION = "segmentation"
"""Key of an annotation's polygons or RLE, which `convert` keeps; nothing else reads them."""

LAYOUT = (
    "a COCO detection file is one object with the lists images (id, file_name, width, height), annotations "
    "(id, image_id, category_id, bbox) and categories (id, name)"
)


# gc=False: these records cannot be part of a reference cycle, and there are a million of them.
class _Image(msgspec.Struct, gc=False):
    id: Int64
    file_name: str
    width: float | None = None
    height: float | None = None


class _Annotation(msgspec.Struct, gc=False):
    image_id: Int64
    category_id: Int64
    id: int | float | str | None = None
    bbox: tuple[float, ...] | None = None
    area: float | None = None
    iscrowd: bool | int | float | None = None


class _Category(msgspec.Struct, gc=False):
    id: Int64
    name: str
    supercategory: Any = None


class _Document(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


@dataclass(frozen=True, eq=False)
class Columns:
    """The content of a COCO json, in the file's order; nothing is cleaned yet."""

    image_ids: NDArray[np.int64]  # (I,)
    image_hw: NDArray[np.int64]  # (I, 2), 0 where the file gives no usable size
    file_names: PackedStrings  # I of them
    annotation_ids: NDArray[np.int64]  # (A,), NO_ID where there is no integer id
    annotation_image_ids: NDArray[np.int64]  # (A,)
    annotation_category_ids: NDArray[np.int64]  # (A,)
    has_bbox: NDArray[np.bool_]  # (A,) bbox is there and holds four numbers
    boxes_xywh: NDArray[np.float64]  # (A, 4), NaN without bbox
    areas: NDArray[np.float64]  # (A,), NaN where missing
    has_iscrowd: NDArray[np.bool_]  # (A,)
    iscrowd: NDArray[np.bool_]  # (A,), False where missing
    categories: list[tuple[int, str]]  # (id, name) in the file's order
    supercategories: list[Any]  # of each, as in the file; None where missing


def read_columns(path: Path) -> Columns:
    """Read a COCO json; the text of an error names the file and the place, or the json files beside it."""
    document = _read(path)
    for kind, items in (("images", document.images), ("categories", document.categories)):
        if not items:
            raise ValueError(f"{path} has no {kind}: its list {kind!r} is empty; {LAYOUT}")
    images, annotations = document.images, document.annotations
    boxes = [each.bbox if each.bbox is not None and len(each.bbox) == 4 else None for each in annotations]
    flat = chain.from_iterable((np.nan,) * 4 if box is None else box for box in boxes)
    # Annotation ids only serve reports (evaluation numbers anew), so any kind of id is let pass.
    ids = (a.id if isinstance(a.id, int) and abs(a.id) < 2**63 else NO_ID for a in annotations)
    image_hw = [(_size(each.height), _size(each.width)) for each in images]
    return Columns(
        image_ids=np.fromiter((each.id for each in images), np.int64),
        image_hw=np.array(image_hw, np.int64).reshape(-1, 2),
        file_names=PackedStrings.pack(each.file_name for each in images),
        annotation_ids=np.fromiter(ids, np.int64),
        annotation_image_ids=np.fromiter((each.image_id for each in annotations), np.int64),
        annotation_category_ids=np.fromiter((each.category_id for each in annotations), np.int64),
        has_bbox=np.fromiter((box is not None for box in boxes), np.bool_),
        boxes_xywh=np.fromiter(flat, np.float64, count=4 * len(boxes)).reshape(-1, 4),
        areas=np.fromiter((np.nan if each.area is None else each.area for each in annotations), np.float64),
        has_iscrowd=np.fromiter((each.iscrowd is not None for each in annotations), np.bool_),
        iscrowd=np.fromiter((bool(each.iscrowd) for each in annotations), np.bool_),
        categories=[(each.id, each.name) for each in document.categories],
        supercategories=[each.supercategory for each in document.categories],
    )


def _size(value: float | None) -> int:
    return int(value) if value is not None and 1 <= value < 2**31 else 0


def _read(path: Path) -> _Document:
    if not path.exists():
        if not path.parent.is_dir():
            raise FileNotFoundError(
                f"{path} does not exist, nor does its folder; correct data.root or the split"
            )
        found = sorted(each.name for each in path.parent.glob("*.json"))
        raise FileNotFoundError(
            f"{path} does not exist; {path.parent} has {', '.join(found[:20]) or 'no JSON file'}. Correct "
            "data.*.annotations"
        )
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise ValueError(f"{path} is empty (0 bytes): download or export it again")
        # Mapped, not read: half a gigabyte less at the peak for COCO's train2017.
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return msgspec.json.decode(data, type=_Document)
            except msgspec.DecodeError:  # ValidationError is one
                try:
                    document = json.loads(data[:])
                except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError too
                    raise ValueError(
                        f"{path} is not valid JSON: {error} (it starts with {data[:40]!r}); download or "
                        "export it again"
                    ) from None
    # Python's json writes NaN and Infinity, which are no JSON but occur; such boxes are reported later.
    try:
        return msgspec.convert(document, _Document)
    except msgspec.ValidationError as error:
        raise ValueError(f"{path}{_mistake(document, error)}") from None


def _mistake(document: Any, error: msgspec.ValidationError) -> str:
    """Say, after its path, what is wrong with a file, naming the very element, and what to do."""
    if isinstance(document, list):
        return f" contains a list, not an object; maybe results: use the annotation file; {LAYOUT}"
    if not isinstance(document, dict):
        return f" contains a {type(document).__name__}, not an object; {LAYOUT}"
    if missing := [key for key in _Document.__struct_fields__ if key not in document]:
        note = ""
        if "imgHeight" in document or "shapes" in document:
            note = " (polygons of one image, as written by Cityscapes or labelme: convert them to COCO first)"
        has = ", ".join(list(document)[:8]) or "nothing"
        return f" has no {', '.join(missing)}; it has {has}{note}; {LAYOUT}"
    where = _culprit(document) or str(error)
    remedy = "correct it in the file or the export"
    if where.startswith("images") and "].id" in where:
        remedy = "COCO results name images by integer id: number the images and their annotations"
    return f": {where}; {remedy}"


def _culprit(document: dict[str, Any]) -> str | None:
    """Find the first element that is refused, with its index, which msgspec's message leaves out."""
    records = (("categories", _Category), ("images", _Image), ("annotations", _Annotation))
    for key, record in records:
        items = document[key]
        if not isinstance(items, list):
            return f"{key} is a {type(items).__name__}, not a list"
        for index, item in enumerate(items):
            try:
                msgspec.convert(item, record)
            except msgspec.ValidationError as error:
                what, _, place = str(error).partition(" - at `$")
                return f"{key}[{index}]{place.rstrip('`')}: {what}"
    return None
