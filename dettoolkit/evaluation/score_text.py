"""Scores as aligned text for people, and as plain data; "–" and None stand for NaN, what is undefined."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any


def score_text(
    numbers: Mapping[str, float], words: Mapping[str, str], sections: Sequence[list[str]], note: str | None
) -> str:
    """Write the numbers with what each means in words, then sections of lines and a note, apart by a line."""
    width = max(len(name) for name in numbers)
    lines = [f"{'number':<{width + 2}}{'value':>6}  what"]
    lines += [f"{name:<{width}}{_cell(value):>8}  {words[name]}" for name, value in numbers.items()]
    for section in (*sections, [note] if note else []):
        lines += ["", *section] if section else []
    return "\n".join(lines)


def table(
    heading: str, columns: Mapping[str, int], rows: Sequence[tuple[str | float, ...]], *, width: int = 0
) -> list[str]:
    """Align rows of a name and cells below a heading; `columns` has each cell's width by its heading.

    Fractions are written with three digits. `width` is that of the names at least, in a terminal's columns.
    """
    width = max([width, len(heading), *(text_width(str(name)) for name, *_ in rows)])
    lines = []
    for name, *cells in ((heading, *columns), *rows):
        texts = [f"{_cell(cell):>{size}}" for cell, size in zip(cells, columns.values(), strict=True)]
        lines.append("".join([str(name), " " * (width - text_width(str(name))), *texts]))
    return lines


def left_out(classes: int, what: str) -> list[str]:
    """Write how many classes a table does not list."""
    return [f"{classes} class{'es' if classes > 1 else ''} {what}"] if classes else []


def text_width(text: str) -> int:
    """Count the columns that a terminal gives to text: Chinese, Japanese and Korean characters take two."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _cell(value: str | float) -> str:
    if not isinstance(value, float):
        return str(value)
    return "–" if math.isnan(value) else f"{value:.3f}"


def plain(value: Any) -> Any:
    """Turn scores into what `json.dump` takes: named tuples become dictionaries, NaN becomes None."""
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [plain(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value
