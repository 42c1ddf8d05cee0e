"""Read a COCO-format json into a few packed arrays, in the file's order.

msgspec decodes straight into typed records with only the fields that boxes need, so segmentation polygons
(most of a COCO file) are skipped; then the records are packed and freed. I images, A annotations.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, NoReturn

import msgspec
import numpy as np
from numpy.typing import DTypeLike, NDArray

from dettoolkit.datasets.data_report import NO_ID
from dettoolkit.datasets.regular_files import open_regular

Int64 = Annotated[int, msgspec.Meta(ge=-(2**63) + 1, le=2**63 - 1)]  # -2**63 is NO_ID

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


class _Document(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


@dataclass(frozen=True, eq=False)
class Columns:
    """The content of a COCO json as arrays, in the file's order; nothing is cleaned yet."""

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


@dataclass(frozen=True, eq=False)
class PackedStrings:
    """Many strings in two arrays; a list would be copied into every worker, reference counts and all."""

    data: NDArray[np.uint8]
    offsets: NDArray[np.int64]  # (n + 1,)

    @classmethod
    def pack(cls, strings: Iterable[str]) -> PackedStrings:
        """Pack the strings."""
        encoded = [each.encode("utf-8", "surrogatepass") for each in strings]
        offsets = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum([len(each) for each in encoded], out=offsets[1:])
        return cls(np.frombuffer(b"".join(encoded), np.uint8), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> str:
        start, stop = self.offsets[index], self.offsets[index + 1]
        return self.data[start:stop].tobytes().decode("utf-8", "surrogatepass")

    def take(self, rows: NDArray[np.int64]) -> PackedStrings:
        """Keep the given ones, in the given order."""
        return PackedStrings.pack(self[row] for row in rows.tolist())


def read_columns(path: Path) -> Columns:
    """Read a COCO json.

    Raises:
        FileNotFoundError: there is no such file; the text lists the json files beside it.
        OSError: it is no regular file.
        ValueError: not json, not COCO, or a value of a wrong type; the text names the file and the place.
    """
    document = _read(path)
    for kind, items in (("images", document.images), ("categories", document.categories)):
        if not items:
            raise ValueError(f"{path} has no {kind}: its list {kind!r} is empty; {LAYOUT}")
    return _pack(document)


def missing_file(path: Path) -> FileNotFoundError:
    """Make the error for an annotation file that is not there, listing the json files that are."""
    folder = path.parent
    if not folder.is_dir():
        return FileNotFoundError(
            f"{path} does not exist, nor does its folder; correct data.root or the split"
        )
    found = sorted(each.name for each in folder.glob("*.json"))
    listing = ", ".join(found[:20]) if found else "no json file"
    return FileNotFoundError(f"{path} does not exist; {folder} holds {listing}. Correct data.*.annotations")


def _read(path: Path) -> _Document:
    if not path.exists():
        raise missing_file(path)
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise ValueError(f"{path} is empty (0 bytes): fetch or export it again")
        # Mapped, not read: half a gigabyte less at the peak for COCO's train2017.
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return msgspec.json.decode(data, type=_Document)
            except msgspec.DecodeError:  # ValidationError is one
                document = _lenient_json(path, data[:])
    # Python's json writes NaN and Infinity, which are no JSON but occur; such boxes are reported later.
    try:
        return msgspec.convert(document, _Document)
    except msgspec.ValidationError as error:
        _refuse(path, document, error)


def _lenient_json(path: Path, data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise ValueError(
            f"{path} is not valid json: {error} (it starts with {data[:40]!r}); fetch or export it again"
        ) from None


def _refuse(path: Path, document: Any, error: msgspec.ValidationError) -> NoReturn:
    """Raise the error that names the file, the very element and what to do."""
    if isinstance(document, list):
        raise ValueError(
            f"{path} holds a list, not an object: a detector's results, perhaps; "
            f"give the annotation file; {LAYOUT}"
        )
    if not isinstance(document, dict):
        raise ValueError(f"{path} holds a {type(document).__name__}, not an object; {LAYOUT}")
    missing = [key for key in _Document.__struct_fields__ if key not in document]
    if missing:
        has = ", ".join(list(document)[:8]) or "nothing"
        note = ""
        if "imgHeight" in document or "shapes" in document:
            note = (
                " (one image's polygons, as Cityscapes or labelme write them: convert the set to COCO first)"
            )
        raise ValueError(f"{path} has no {', '.join(missing)}; it has {has}{note}; {LAYOUT}")
    where = _culprit(document) or str(error)
    remedy = "correct it in the file or the export"
    if where.startswith("images") and "].id" in where:
        remedy = "COCO results name images by integer id: number the images and their annotations"
    raise ValueError(f"{path}: {where}; {remedy}")


def _culprit(document: dict[str, Any]) -> str | None:
    """Find the first element that is refused, with its index, which msgspec's message leaves out."""
    records: dict[str, type[msgspec.Struct]] = {
        "categories": _Category,
        "images": _Image,
        "annotations": _Annotation,
    }
    for key, record in records.items():
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


def _pack(document: _Document) -> Columns:
    images, annotations = document.images, document.annotations
    boxes = [a.bbox if a.bbox is not None and len(a.bbox) == 4 else None for a in annotations]
    missing = (np.nan,) * 4
    flat = chain.from_iterable(missing if box is None else box for box in boxes)
    image_hw = [(_size(each.height), _size(each.width)) for each in images]
    return Columns(
        image_ids=_column(images, lambda i: i.id, np.int64),
        image_hw=np.array(image_hw, np.int64).reshape(-1, 2),
        file_names=PackedStrings.pack(each.file_name for each in images),
        annotation_ids=_column(annotations, lambda a: _integer_or(a.id, NO_ID), np.int64),
        annotation_image_ids=_column(annotations, lambda a: a.image_id, np.int64),
        annotation_category_ids=_column(annotations, lambda a: a.category_id, np.int64),
        has_bbox=_column(boxes, lambda box: box is not None, np.bool_),
        boxes_xywh=np.fromiter(flat, np.float64, count=4 * len(boxes)).reshape(-1, 4),
        areas=_column(annotations, lambda a: np.nan if a.area is None else a.area, np.float64),
        has_iscrowd=_column(annotations, lambda a: a.iscrowd is not None, np.bool_),
        iscrowd=_column(annotations, lambda a: bool(a.iscrowd), np.bool_),
        categories=[(each.id, each.name) for each in document.categories],
    )


def _column(records: Sequence[Any], field: Callable[[Any], Any], dtype: DTypeLike) -> NDArray[Any]:
    return np.fromiter(map(field, records), dtype, count=len(records))


def _size(value: float | None) -> int:
    return int(value) if value is not None and 1 <= value < 2**31 else 0


def _integer_or(value: int | float | str | None, otherwise: int) -> int:
    """Annotation ids only serve reports (evaluation numbers anew), so any kind of id is let pass."""
    return value if isinstance(value, int) and abs(value) < 2**63 else otherwise
