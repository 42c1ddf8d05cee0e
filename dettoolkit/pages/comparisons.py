"""Tables that set several runs beside each other."""

from __future__ import annotations

from collections.abc import Mapping

from dettoolkit.pages.parts import Cell, Table


def class_table(scores: Mapping[str, Mapping[str, float | None]], measure: str) -> Table:
    """Return a table of each class's score in several runs, with differences to the first."""
    first, *others = scores
    names = dict.fromkeys(name for each in scores.values() for name in each)
    rows: list[list[Cell]] = []
    for name in names:
        values = [scores[run].get(name) for run in scores]
        rows.append([name, *values, *(difference(values[0], value) for value in values[1:])])
    columns = ["class", *scores, *(f"{other} − {first}" for other in others)]
    return Table(title=f"{measure} of each class", columns=columns, rows=rows)


def difference(first: float | None, second: float | None) -> str | None:
    """Write how much more the second is, with its sign."""
    return None if first is None or second is None else f"{second - first:+.3f}"
