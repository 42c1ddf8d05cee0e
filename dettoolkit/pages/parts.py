"""What a page is made of: plain data that knows nothing of HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Cell = str | int | float | None


@dataclass(frozen=True, kw_only=True)
class Block:
    """A part of a page.

    Attributes:
        title: its heading.
        note: a sentence below that, or none.
        folded: whether only the heading shows at first.
    """

    title: str
    note: str = ""
    folded: bool = False


@dataclass(frozen=True, kw_only=True)
class Facts(Block):
    """Names and what they stand for, such as score and data."""

    rows: Sequence[tuple[str, Cell]]


@dataclass(frozen=True, kw_only=True)
class Numbers(Block):
    """Scores at a glance: name, value and what it means; the first is the one that counts."""

    rows: Sequence[tuple[str, float | None, str]]


@dataclass(frozen=True, kw_only=True)
class Table(Block):
    """Rows of cells; a number that is None or NaN shows as a dash."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True, kw_only=True)
class Points(Block):
    """Sentences, one below the other."""

    sentences: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Colors(Block):
    """Names with the color of each in the pictures, (red, green, blue) in [0, 255]."""

    rows: Sequence[tuple[str, Sequence[int]]]


@dataclass(frozen=True)
class Series:
    """A line of a chart; NaN leaves a gap."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True, kw_only=True)
class Chart(Block):
    """Lines over a common axis; a range fixes an axis, which otherwise fits the lines."""

    x_label: str
    y_label: str
    series: Sequence[Series]
    y_range: tuple[float, float] | None = None
    x_range: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Matrix(Block):
    """Counts by row and column, shaded by their fraction of the row; `fractions` writes these instead."""

    corner: str
    rows: Sequence[str]
    columns: Sequence[str]
    counts: NDArray[np.int64]
    fractions: bool = False


@dataclass(frozen=True)
class Picture:
    """An image with what there is to say about it, and its file's name: RGB uint8 (H, W, 3)."""

    image: NDArray[np.uint8]
    caption: str
    file: str = ""


@dataclass(frozen=True, kw_only=True)
class Gallery(Block):
    """Images side by side."""

    pictures: Sequence[Picture]


@dataclass(frozen=True, kw_only=True)
class Listing(Block):
    """Text as it is, such as a command or a recipe."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Section:
    """Blocks under one heading."""

    title: str
    blocks: Sequence[Block] = field(default_factory=list)
