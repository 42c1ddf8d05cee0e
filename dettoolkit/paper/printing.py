"""The tables as text, Markdown or csv."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Literal

from dettoolkit.machine import machine
from dettoolkit.paper.counts import TABLES, Count

Format = Literal["text", "markdown", "csv"]

# Why a count is further from the print than 2 % (parameters) or the table's tolerance (multiply-adds).
NOTES = {
    "slots": "This row is from MobileNetV2's paper (arXiv 1801.04381, Table 6), which counts 81 class "
    "slots: COCO's 80 categories and background. The other rows count 91, all ids.",
    "rounded": "0.16 is rounded to two digits, so it means at most 0.165; ours is 1% above that.",
    "cut": "The published number seems truncated, not rounded: 0.169 to 0.16, as 0.987 to 0.98 in row 4.",
    "norm": "MobileNetV2's paper prints 3.4M too. Without batch normalization's scale and offset ours is "
    "3.47M, and 1.66M at width 0.35: the published number seems truncated, not rounded.",
    "whole": "5.4 is printed. Ours is 5.48M, as torchvision's network of the same rows, and 5.46M without "
    "batch normalization's scale and offset: the published number seems truncated, not rounded.",
    "digits": "2.0 is rounded to one decimal, so it means at most 2.05; ours is 2.04.",
    "absent": "Not implemented.",
}


def render(lines: Sequence[Count], kind: Format) -> str:
    """Write the tables of some rows; csv is one table for all, without footnotes."""
    if kind == "csv":
        return _csv(lines)
    numbers = dict.fromkeys(line.row.table for line in lines)
    return "\n\n".join(
        _table([line for line in lines if line.row.table == number], kind) for number in numbers
    )


def _csv(lines: Sequence[Count]) -> str:
    """Write rows for programs: columns named with their units, empty where nothing is known."""
    rows = [_csv_row(line) for line in lines]
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _csv_row(line: Count) -> dict[str, object]:
    row, table, here = line.row, TABLES[line.row.table], line.latency
    unit = table.madds_unit / 1e9
    return {
        "table": row.table,
        "row": row.name,
        "recipe": row.recipe,
        "overrides": " ".join(row.overrides),
        "metric": table.score,
        "published_score": row.score,
        "published_parameters_m": row.parameters,
        "parameters_m": _number(line.parameters, ".4f"),
        "parameters_off": _number(line.parameters_off, ".4f"),
        "published_madds_b": f"{float(row.madds) * unit:g}",
        "madds_b": "" if line.madds is None else f"{line.madds * unit:.5f}",
        "madds_off": _number(line.madds_off, ".4f"),
        "published_ms": row.latency,
        "published_ms_on": table.device if row.latency is not None else None,
        "ms": here and f"{here.median:.2f}",
        "ms_10": here and f"{here.low:.2f}",
        "ms_90": here and f"{here.high:.2f}",
    }


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _table(lines: Sequence[Count], kind: Literal["text", "markdown"]) -> str:
    table, timed = TABLES[lines[0].row.table], any(line.latency for line in lines)
    keys = [line.row.note or ("absent" if line.madds is None else "") for line in lines]
    notes = list(dict.fromkeys(key for key in keys if key))
    marks = [f" [{notes.index(key) + 1}]" if key else "" for key in keys]
    madds = f"MAdds {'M' if table.madds_unit == 1e6 else 'B'}"
    header = ["row", table.score, "params M", "ours", "off", madds, "ours", "off", f"ms {table.device}"]
    header += ["ms here", "10-90%", "recipe"] if timed else ["recipe"]
    cells = [_cells(line, mark, timed) for line, mark in zip(lines, marks, strict=True)]
    below = [f"[{index}] {NOTES[key]}" for index, key in enumerate(notes, start=1)]
    if timed:
        below.append(f"ms here: one image on one thread, {machine()}.")
    if kind == "markdown":
        return "\n\n".join([f"**{table.title}**", _markdown(header, cells), *below])
    return "\n".join([table.title, _text(header, cells), *below])


def _cells(line: Count, mark: str, timed: bool) -> list[str]:
    row, here = line.row, line.latency
    decimals = ".1f" if row.table == "3" else ".2f"
    cells = [row.name + mark, row.score, row.parameters or ""]
    cells += [_number(line.parameters, decimals), _number(line.parameters_off, "+.1%"), row.madds]
    cells += [_number(line.madds, decimals), _number(line.madds_off, "+.1%"), _number(row.latency, "g")]
    if timed:
        cells += [f"{here.median:.1f}", f"{here.low:.1f}-{here.high:.1f}"] if here else ["", ""]
    return [*cells, " ".join([row.recipe or "", *row.overrides])]


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
