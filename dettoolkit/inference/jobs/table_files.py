"""The results of a job as one file: CSV, COCO's json, Parquet. Made from records, one after the other."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import IO, Any

from dettoolkit.formats import requires
from dettoolkit.inference.jobs.journal import Record
from dettoolkit.inference.whole_files import whole
from dettoolkit.spec import TaskSpec

ROWS = 10_000  # images of a Parquet row group
FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
"""What begins with one of these is a formula to a spreadsheet, which runs it (OWASP, CSV Injection)."""


def write_csv(path: Path, records: Iterable[Record], spec: TaskSpec) -> None:
    """Write a row for each entry of the records' lists, such as an object; texts are no formulas.

    Lists of several kinds share the columns that have one name; those of the other kinds are blank.
    """
    columns = dict.fromkeys(("name", *(column for part in spec.parts for column in part.csv_columns)))
    with whole(path) as part_file, part_file.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(columns))
        writer.writeheader()
        for record in records:
            for part in spec.parts:
                for each in record.get(part.record_key, ()):
                    cells = zip(part.csv_columns, part.csv_row(each), strict=True)
                    row = {"name": record["name"], **dict(cells)}
                    writer.writerow({column: _cell(value) for column, value in row.items()})


def _cell(value: object) -> object:
    """Prefix a text that a spreadsheet would run as a formula with ', so that it is shown as text."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def write_coco(path: Path, records: Iterable[Record], spec: TaskSpec, categories: Mapping[int, str]) -> int:
    """Write COCO's results json of a task's list, and beside it `<name>_images.json` with ids and sizes.

    Images have the ids of their annotation file, where one was given; else they are numbered from 1 in the
    order of the records. The second file has the lists images, categories and annotations (empty): COCO's
    tools load it, and the results on top of it. Returned is how many images were left out because the
    annotation file does not list them.
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
                for each in record[spec.record_key]:
                    result.append({"image_id": image_id, **spec.coco_entry(each, record)})
        result.close()
        image.close()
        named = [{"id": id_, "name": name} for id_, name in categories.items()]
        table.write(f', "annotations": [], "categories": {json.dumps(named)}}}\n')
    return left_out


def write_parquet(path: Path, records: Iterable[Record], spec: TaskSpec) -> None:
    """Write a row for each image, with a list in each of the columns that say what was found."""
    arrow = import_arrow()
    schema = _schema(arrow, spec)
    rest = iter(records)
    with whole(path) as part, arrow.parquet.ParquetWriter(part, schema) as file:
        while rows := list(islice(rest, ROWS)):
            file.write_table(arrow_table(rows, spec))


def arrow_table(records: Iterable[Record], spec: TaskSpec) -> Any:
    """Make a `pyarrow.Table` of records; its columns have the same types whatever was found."""
    arrow = import_arrow()
    return arrow.Table.from_pylist([_row(record, spec) for record in records], schema=_schema(arrow, spec))


def import_arrow() -> Any:
    """Import pyarrow."""
    with requires("parquet", what="Parquet"):
        arrow = import_module("pyarrow")
        import_module("pyarrow.parquet")
    return arrow


def _schema(arrow: Any, spec: TaskSpec) -> Any:
    one = {"name": arrow.string(), "height": arrow.int32(), "width": arrow.int32(), "error": arrow.string()}
    found = {
        _column(column, part, spec): arrow.list_(_arrow_type(arrow, kind))
        for part in spec.parts
        for column, (_, kind) in part.arrow_columns.items()
    }
    return arrow.schema([*one.items(), *found.items()])


def _column(name: str, part: TaskSpec, spec: TaskSpec) -> str:
    """Name a column of a list; where there are several, it begins with the list's key."""
    return name if len(spec.parts) == 1 else f"{part.record_key}_{name}"


def _arrow_type(arrow: Any, kind: str) -> Any:
    """Return Arrow's type of a name such as float32, or float32[4] of lists of one length."""
    name, _, length = kind.rstrip("]").partition("[")
    return arrow.list_(arrow.type_for_alias(name), int(length)) if length else arrow.type_for_alias(name)


def _row(record: Record, spec: TaskSpec) -> dict[str, Any]:
    row = {key: record.get(key) for key in ("name", "height", "width", "error")}
    return row | {
        _column(column, part, spec): [each.get(key) for each in record.get(part.record_key, [])]
        for part in spec.parts
        for column, (key, _) in part.arrow_columns.items()
    }


class _List:
    """Write a JSON list one value at a time."""

    def __init__(self, file: IO[str]) -> None:
        self._file, self._before = file, "[\n"

    def append(self, value: object) -> None:
        self._file.write(self._before + json.dumps(value, allow_nan=False))
        self._before = ",\n"

    def close(self) -> None:
        self._file.write("[]" if self._before == "[\n" else "\n]")
