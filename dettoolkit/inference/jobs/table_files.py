"""The results of a job as one file: CSV, COCO's json, Parquet. Made from records, one after the other."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import IO, Any

from dettoolkit.inference.jobs.journal import Record
from dettoolkit.inference.whole_files import whole

ROWS = 10_000  # images of a Parquet row group
FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
"""What begins with one of these is a formula to a spreadsheet, which runs it (OWASP, CSV Injection)."""
CSV_COLUMNS = {
    "detection": ("name", "class", "class_id", "score", "left", "top", "right", "bottom"),
    "segmentation": ("name", "class", "class_id", "pixels", "share"),
}


def write_csv(path: Path, records: Iterable[Record], task: str) -> None:
    """Write a row for each object, or for each class that occurs in an image; texts are no formulas."""
    with whole(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(CSV_COLUMNS[task])
        for record in records:
            name = _cell(record["name"])
            for each in record.get("objects", ()):
                row = (name, _cell(each["name"]), each["class_id"], each["score"], *each["box_xyxy"])
                writer.writerow(row)
            for each in record.get("classes", ()):
                row = (name, _cell(each["name"]), each["class_id"], each["pixels"], each["share"])
                writer.writerow(row)


def _cell(text: str) -> str:
    """Put a ' before what a spreadsheet would take for a formula: it is shown as text then."""
    return f"'{text}" if text.startswith(FORMULA) else text


def write_coco(path: Path, records: Iterable[Record], categories: Mapping[int, str]) -> int:
    """Write COCO's results json, and beside it `<name>_images.json` with the images' ids and sizes.

    Images have the ids of their annotation file, where one was given; else they are numbered from 1 in the
    order of the records. The second file has the lists images, categories and annotations (empty): COCO's
    tools load it, and the results on top of it.

    Returns:
        how many images were left out because the annotation file does not list them.
    """
    left_out = 0
    images = path.with_name(f"{path.stem}_images.json")
    with (
        whole(path) as results_part,
        whole(images) as images_part,
        results_part.open("w") as results,
        images_part.open("w", encoding="utf-8") as table,
    ):
        table.write('{"images": ')
        result, image = _List(results), _List(table)
        for number, record in enumerate(records, start=1):
            image_id = record.get("image_id", number)
            if image_id is None:
                left_out += 1
            elif "error" not in record:
                sizes = {"height": record["height"], "width": record["width"]}
                image.append({"id": image_id, "file_name": record["name"], **sizes})
                for each in _coco(record, image_id):
                    result.append(each)
        result.close()
        image.close()
        named = [{"id": id_, "name": name} for id_, name in categories.items()]
        table.write(f', "annotations": [], "categories": {json.dumps(named)}}}\n')
    return left_out


def _coco(record: Record, image_id: int) -> Iterator[dict[str, Any]]:
    for each in record.get("objects", ()):
        left, top, right, bottom = each["box_xyxy"]
        box = [left, top, right - left, bottom - top]
        yield {"image_id": image_id, "category_id": each["class_id"], "bbox": box, "score": each["score"]}
    for each in record.get("classes", ()):
        coded = {"size": [record["height"], record["width"]], "counts": each["rle"]}
        yield {"image_id": image_id, "category_id": each["class_id"], "segmentation": coded}


def write_parquet(path: Path, records: Iterable[Record], task: str) -> None:
    """Write a row for each image, with a list in each of the columns that say what was found.

    Raises:
        ModuleNotFoundError: pyarrow is not installed.
    """
    arrow = import_arrow()
    schema = _schema(arrow, task)
    rest = iter(records)
    with whole(path) as part, arrow.parquet.ParquetWriter(part, schema) as file:
        while rows := list(islice(rest, ROWS)):
            file.write_table(arrow_table(rows, task))


def arrow_table(records: Iterable[Record], task: str) -> Any:
    """Make a `pyarrow.Table` of records; its columns have the same types whatever was found."""
    arrow = import_arrow()
    return arrow.Table.from_pylist([_row(record) for record in records], schema=_schema(arrow, task))


def import_arrow() -> Any:
    """Import pyarrow.

    Raises:
        ModuleNotFoundError: it is not installed; the message says how to get it.
    """
    try:
        arrow = import_module("pyarrow")
        import_module("pyarrow.parquet")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"Parquet needs the Python package '{error.name}', which is not installed: "
            "pip install 'dettoolkit[parquet]'",
            name=error.name,
        ) from None
    return arrow


def _schema(arrow: Any, task: str) -> Any:
    found = {"class_names": arrow.string(), "class_ids": arrow.int64()}
    if task == "detection":
        found |= {"scores": arrow.float32(), "boxes_xyxy": arrow.list_(arrow.float32(), 4)}
    else:
        found |= {"pixels": arrow.int64(), "rle": arrow.string()}
    one = {"name": arrow.string(), "height": arrow.int32(), "width": arrow.int32(), "error": arrow.string()}
    return arrow.schema([*one.items(), *((name, arrow.list_(kind)) for name, kind in found.items())])


def _row(record: Record) -> dict[str, Any]:
    row = {key: record.get(key) for key in ("name", "height", "width", "error")}
    found: list[Record] = record.get("objects") or record.get("classes") or []
    columns = {"class_names": "name", "class_ids": "class_id", "scores": "score", "boxes_xyxy": "box_xyxy"}
    columns |= {"pixels": "pixels", "rle": "rle"}
    return row | {column: [each.get(key) for each in found] for column, key in columns.items()}


class _List:
    """Write a JSON list one value at a time."""

    def __init__(self, file: IO[str]) -> None:
        self._file, self._before = file, "[\n"

    def append(self, value: object) -> None:
        self._file.write(self._before + json.dumps(value, allow_nan=False))
        self._before = ",\n"

    def close(self) -> None:
        self._file.write("[]" if self._before == "[\n" else "\n]")
