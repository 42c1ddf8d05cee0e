"""The published tables, read from `tables.csv`."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files


@dataclass(frozen=True, kw_only=True)
class Table:
    """What a table's columns mean.

    Attributes:
        title: what it compares, and where.
        score: name of its score, in per cent.
        madds_unit: 1e6 or 1e9.
        input_hw: size at which the networks are counted.
        norm_affine: whether its parameters include BN's scale and offset.
        classes: of its data; class slots of a detector, background included.
        device: on which its latencies were measured.
        tolerance: largest relative difference of multiply-adds without a footnote.
    """

    title: str
    score: str
    madds_unit: float
    input_hw: tuple[int, int]
    norm_affine: bool
    classes: int
    device: str
    tolerance: float


# DeepLab evaluates images of 1024x2048 as crops of 1025x2049.
CITYSCAPES = Table(
    title="Table 7: Cityscapes validation set, 1024x2048",
    score="mIoU",
    madds_unit=1e9,
    input_hw=(1025, 2049),
    norm_affine=True,
    classes=19,
    device="Pixel 3",
    tolerance=0.05,
)

TABLES = {
    "3": Table(
        title="Table 3: ImageNet, float, 224x224",
        score="top-1",
        madds_unit=1e6,
        input_hw=(224, 224),
        norm_affine=True,
        classes=1000,
        device="Pixel 1",
        tolerance=0.03,
    ),
    "6": Table(
        title="Table 6: SSDLite, COCO test set, 320x320",
        score="mAP",
        madds_unit=1e9,
        input_hw=(320, 320),
        norm_affine=False,
        classes=91,
        device="Pixel 1",
        tolerance=0.03,
    ),
    "7": CITYSCAPES,
    "8": replace(CITYSCAPES, title="Table 8: Cityscapes test set, 1024x2048"),
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """A published row.

    Attributes:
        table: its number.
        name: as printed.
        recipe: the shipped recipe of its network; None where it is not built here.
        overrides: values laid over the recipe.
        classes: that the count has, background included for a detector.
        parameters: millions, as printed; None where the table has none.
        madds: as printed, in the table's unit.
        score: per cent, as printed.
        latency: milliseconds on a large core of the table's device; None where it has none.
        note: key of a footnote in `footnotes`, or empty.
    """

    table: str
    name: str
    recipe: str | None
    overrides: tuple[str, ...]
    classes: int
    parameters: str | None
    madds: str
    score: str
    latency: float | None
    note: str


def published_rows(tables: Sequence[str]) -> list[Row]:
    """Read the rows of some tables, in the paper's order."""
    text = files("dettoolkit.paper").joinpath("tables.csv").read_text(encoding="utf-8")
    return [_row(line) for line in csv.DictReader(text.splitlines()) if line["table"] in tables]


def _row(line: dict[str, str]) -> Row:
    return Row(
        table=line["table"],
        name=line["row"],
        recipe=line["recipe"] or None,
        overrides=tuple(line["overrides"].split()),
        classes=int(line["slots"] or TABLES[line["table"]].classes),
        parameters=line["parameters"] or None,
        madds=line["madds"],
        score=line["score"],
        latency=float(line["latency"]) if line["latency"] else None,
        note=line["note"],
    )
