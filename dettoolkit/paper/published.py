"""The published tables, read from `tables.csv`."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files


@dataclass(frozen=True)
class Table:
    """What a table's columns mean."""

    title: str  # what it compares, and where
    score: str  # its name; scores are in per cent
    madds_unit: float  # 1e6 or 1e9
    input_hw: tuple[int, int]  # at which the networks are counted
    classes: int  # of its data; class slots of a detector, background included
    norm_affine: bool = True  # whether its parameters include BN's scale and offset
    device: str = "Pixel 1"  # on which its latencies were measured
    tolerance: float = 0.03  # largest relative difference of multiply-adds without a footnote


# DeepLab evaluates images of 1024x2048 as crops of 1025x2049.
CITYSCAPES = Table(
    "Table 7: Cityscapes validation set, 1024x2048", "mIoU", 1e9, (1025, 2049), 19,
    device="Pixel 3", tolerance=0.05,
)  # fmt: skip
TABLES = {
    "3": Table("Table 3: ImageNet, float, 224x224", "top-1", 1e6, (224, 224), 1000),
    "6": Table("Table 6: SSDLite, COCO test set, 320x320", "mAP", 1e9, (320, 320), 91, norm_affine=False),
    "7": CITYSCAPES,
    "8": replace(CITYSCAPES, title="Table 8: Cityscapes test set, 1024x2048"),
}


@dataclass(frozen=True)
class Row:
    """A published row."""

    table: str  # its number
    name: str  # as printed
    recipe: str | None  # the shipped recipe of its network; None where it is not built here
    overrides: tuple[str, ...]  # values laid over the recipe
    classes: int  # that the count has, background included for a detector
    parameters: str | None  # millions, as printed; None where the table has none
    madds: str  # as printed, in the table's unit
    score: str  # as printed
    latency: float | None  # milliseconds on a large core of the table's device; None where it has none
    note: str  # key of a footnote in `printing.NOTES`, or empty


def published_rows(tables: Sequence[str]) -> list[Row]:
    """Read the rows of some tables, in the paper's order."""
    text = files("dettoolkit.paper").joinpath("tables.csv").read_text(encoding="utf-8")
    return [
        Row(
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
        for line in csv.DictReader(text.splitlines())
        if line["table"] in tables
    ]
