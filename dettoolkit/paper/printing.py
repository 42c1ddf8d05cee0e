"""The tables as text, Markdown or csv."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Literal

from dettoolkit.paper.counts import Count
from dettoolkit.paper.machine import machine
from dettoolkit.paper.published import TABLES, Row

Format = Literal["text", "markdown", "csv"]

# Why a count is further from the print than 2 % (parameters) or the table's tolerance (multiply-adds).
NOTES = {
    "slots": "This row is that of MobileNetV2's paper (arXiv 1801.04381, Table 6), which counts 81 class "
    "slots: COCO's 80 categories and background. The other rows count 91, all ids.",
    "rounded": "0.16 is printed with two digits and stands for up to 0.165; ours is 1% above that.",
    "cut": "The print seems to be cut, not rounded: 0.169 to 0.16, as 0.987 to 0.98 in row 4.",
    "norm": "MobileNetV2's paper prints 3.4M too. Without batch normalization's scale and offset ours is "
    "3.47M, and 1.66M at width 0.35: the print seems to be cut, not rounded.",
    "whole": "5.4 is printed. Ours is 5.48M, as torchvision's network of the same rows, and 5.46M without "
    "batch normalization's scale and offset: the print seems to be cut, not rounded.",
    "digits": "2.0 is printed with one decimal and stands for up to 2.05; ours is 2.04.",
    "absent": "Not built here.",
}


CSV_COLUMNS = (
    "table",
    "row",
    "recipe",
    "overrides",
    "metric",
    "published_score",
    "published_parameters_m",
    "parameters_m",
    "parameters_off",
    "published_madds_b",
    "madds_b",
    "madds_off",
    "published_ms",
    "published_ms_on",
    "ms",
    "ms_10",
    "ms_90",
)


def render(lines: Sequence[Count | Row], kind: Format) -> str:
    """Write the tables of some rows; a Row, unlike a Count, has no network here.

    csv is one table for all, without footnotes.
    """
    if kind == "csv":
        return _csv(lines)
    numbers = list(dict.fromkeys(_row(line).table for line in lines))
    return "\n\n".join(
        _table(number, [line for line in lines if _row(line).table == number], kind) for number in numbers
    )


def _csv(lines: Sequence[Count | Row]) -> str:
    """Write rows for programs: columns named with their units, empty where nothing is known."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for line in lines:
        row = _row(line)
        unit = TABLES[row.table].madds_unit / 1e9
        cells: dict[str, object] = {
            "table": row.table,
            "row": row.name,
            "recipe": row.recipe,
            "overrides": " ".join(row.overrides),
            "metric": TABLES[row.table].score,
            "published_score": row.score,
            "published_parameters_m": row.parameters,
            "published_madds_b": f"{float(row.madds) * unit:g}",
            "published_ms": row.latency,
            "published_ms_on": TABLES[row.table].device if row.latency is not None else None,
        }
        if isinstance(line, Count):
            cells |= {
                "parameters_m": f"{line.parameters:.4f}",
                "parameters_off": None if line.parameters_off is None else f"{line.parameters_off:.4f}",
                "madds_b": f"{line.madds * unit:.5f}",
                "madds_off": f"{line.madds_off:.4f}",
            }
            if (here := line.latency) is not None:
                cells |= {"ms": f"{here.median:.2f}", "ms_10": f"{here.low:.2f}", "ms_90": f"{here.high:.2f}"}
        writer.writerow(cells)
    return text.getvalue()


def _row(line: Count | Row) -> Row:
    return line.row if isinstance(line, Count) else line


def _timed(lines: Sequence[Count | Row]) -> bool:
    return any(isinstance(line, Count) and line.latency is not None for line in lines)


def _header(lines: Sequence[Count | Row], score: str, unit: str, device: str) -> list[str]:
    columns = [
        "row",
        score,
        "params M",
        "ours",
        "off",
        f"MAdds {unit}".strip(),
        "ours",
        "off",
        f"ms {device}",
    ]
    return [*columns, *(["ms here", "10-90%"] if _timed(lines) else []), "recipe"]


def _cells(line: Count | Row, lines: Sequence[Count | Row], mark: str) -> list[str]:
    """Write a row; `lines` are those of its table, which decide on its columns."""
    row = _row(line)
    latency = "" if row.latency is None else f"{row.latency:g}"
    name, printed = row.name + mark, row.parameters or ""
    here = ["", ""] if _timed(lines) else []
    if isinstance(line, Row):
        return [name, row.score, printed, "", "", row.madds, "", "", latency, *here, ""]
    if line.latency is not None:
        here = [f"{line.latency.median:.1f}", f"{line.latency.low:.1f}-{line.latency.high:.1f}"]
    ours = f"{line.parameters:.{2 if row.table != '3' else 1}f}"
    madds = f"{line.madds:.{1 if row.table == '3' else 2}f}"
    off = "" if line.parameters_off is None else f"{line.parameters_off:+.1%}"
    recipe = " ".join([row.recipe or "", *row.overrides])
    return [
        name,
        row.score,
        printed,
        ours,
        off,
        row.madds,
        madds,
        f"{line.madds_off:+.1%}",
        latency,
        *here,
        recipe,
    ]


def _table(number: str, lines: Sequence[Count | Row], kind: Literal["text", "markdown"]) -> str:
    table = TABLES[number]
    keys = [_row(line).note or ("absent" if isinstance(line, Row) else "") for line in lines]
    notes = list(dict.fromkeys(key for key in keys if key))
    marks = [f" [{notes.index(key) + 1}]" if key else "" for key in keys]
    header = _header(lines, table.score, "M" if table.madds_unit == 1e6 else "B", table.device)
    cells = [_cells(line, lines, mark) for line, mark in zip(lines, marks, strict=True)]
    below = [f"[{index}] {NOTES[key]}" for index, key in enumerate(notes, start=1)]
    if _timed(lines):
        below.append(f"ms here: one image on one thread, {machine()}.")
    if kind == "markdown":
        return "\n\n".join([f"**{table.title}**", _markdown(header, cells), *below])
    return "\n".join([table.title, _text(header, cells), *below])


def _markdown(header: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _text(header: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[index]) for line in (header, *cells)) for index in range(len(header))]
    last = len(header) - 1  # names left, figures right
    return "\n".join(
        "  ".join(
            text.ljust(width) if index in (0, last) else text.rjust(width)
            for index, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in (header, *cells)
    )
