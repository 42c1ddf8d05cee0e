"""Images in rows, with captions, column titles and a legend; and pictures as files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from dettoolkit.datasets.images import encode_image
from dettoolkit.drawing.boxes import INK, PAPER, Color, Picture, class_color
from dettoolkit.drawing.fonts import fit_font

CELL_HW = (360, 480)  # pixels that an image is fitted into, portrait or landscape
PANEL = 400  # pixels of a picture in a report, in which panels are joined
PORTRAIT = 0.8  # width / height below which panels stand side by side
MARGIN, GAP, CAPTION_SIZE, TITLE_SIZE = 24, 12, 13, 20  # pixels
CAPTION_HIGH = round(CAPTION_SIZE * 1.9)
GRAY = (95, 101, 110)


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """One image of a grid, uint8 (H, W, 3) RGB, and the line below it."""

    image: Picture
    caption: str = ""


def grid(
    cells: Sequence[Cell],
    columns: int,
    *,
    title: str,
    column_titles: Sequence[str] = (),
    legend: Sequence[tuple[str, int]] = (),
    color_of: Callable[[int], Color] = class_color,
    group: int | None = None,
) -> Picture:
    """Lay images out in rows, captions below them, column titles above and a legend of classes at the foot.

    The legend has (text, label) for each class that is explained by its color. `group` columns belong
    together, and groups stand further apart; None: all do.
    """
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    lefts, widths = _columns(rows, len(column_titles), group)
    row_high = [max(cell.image.shape[0] for cell in row) + CAPTION_HIGH + GAP for row in rows]
    title, title_font = fit_font(title, TITLE_SIZE)
    ends = [left + width for left, width in zip(lefts, widths, strict=True)]
    right = max([MARGIN + max(CELL_HW[1], round(title_font.getlength(title))), *ends])
    entries, legend_high = _place_legend(legend, right - MARGIN)
    head = MARGIN + round(TITLE_SIZE * 1.7) + (CAPTION_HIGH if column_titles else 0)
    sheet = Image.new("RGB", (right + MARGIN, head + sum(row_high) + legend_high + MARGIN), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, MARGIN), title, font=title_font, fill=INK, anchor="lt")
    for text, left, width in zip(column_titles, lefts, widths, strict=False):
        _text(pen, (left + width / 2, head - CAPTION_HIGH / 2), text, anchor="mm", fill=INK)
    for number, row in enumerate(rows):
        for cell, left, width in zip(row, lefts, widths, strict=False):
            _paste(sheet, cell, (left, head + sum(row_high[:number])), width)
    for text, label, x, y in entries:
        x, y = MARGIN + x, head + sum(row_high) + y + CAPTION_HIGH / 2  # the middle of its left edge
        square = (x, y - CAPTION_SIZE / 2, x + CAPTION_SIZE, y + CAPTION_SIZE / 2)
        pen.rounded_rectangle(square, radius=3, fill=color_of(label))
        _text(pen, (x + 1.5 * CAPTION_SIZE, y), text, anchor="lm", fill=INK)
    return np.asarray(sheet)


def _columns(rows: Sequence[Sequence[Cell]], titles: int, group: int | None) -> tuple[list[int], list[int]]:
    """Measure the left edges and widths of the columns, in pixels."""
    count = max([titles, *(len(row) for row in rows)])
    widths = [max([0, *(r[c].image.shape[1] for r in rows if c < len(r))]) for c in range(count)]
    wider = [0 if group is None else 2 * GAP * (column // group) for column in range(count)]
    return [MARGIN + sum(widths[:c]) + GAP * c + wider[c] for c in range(count)], widths


def _paste(sheet: Image.Image, cell: Cell, corner: tuple[int, int], width: int) -> None:
    """Put an image in the middle of its column, and its caption below."""
    high, wide = cell.image.shape[:2]
    left, top = corner[0] + (width - wide) // 2, corner[1]
    sheet.paste(Image.fromarray(cell.image), (left, top))
    below = (left, top + high + CAPTION_HIGH / 2)
    _text(ImageDraw.Draw(sheet), below, cell.caption, anchor="lm", fill=GRAY, limit=corner[0] + width - left)


def save_figure(path: Path, image: Picture) -> None:
    """Write uint8 (H, W, 3) RGB as PNG or JPEG, by the path's ending; missing folders are made."""
    if path.suffix.lower() not in {".png", ".jpg", ".jpeg"}:
        raise ValueError(f"{path}: cannot save a picture as '{path.suffix}', expected .png, .jpg or .jpeg")
    path.parent.mkdir(parents=True, exist_ok=True)
    png = path.suffix.lower() == ".png"
    settings = {} if png else {"quality": 90, "subsampling": 0}  # full chroma keeps thin colored lines sharp
    path.write_bytes(encode_image(Image.fromarray(image), format="png" if png else "jpeg", **settings))


def save_pages(
    folder: Path,
    name: str,
    rows: Sequence[int],
    *,
    per_page: int,
    draw: Callable[[list[int]], Picture | None],
) -> None:
    """Write figures <name>_1.jpg, <name>_2.jpg, … of some rows of a data set, up to `per_page` on each.

    `draw` draws the rows it is given, or returns None where there is nothing to see.
    """
    for page, start in enumerate(range(0, len(rows), per_page), start=1):
        figure = draw([int(row) for row in rows[start : start + per_page]])
        if figure is not None:
            save_figure(folder / f"{name}_{page}.jpg", figure)


def fit_to_cell(image: Picture, hw: tuple[int, int] = CELL_HW) -> tuple[float, Picture]:
    """Scale an image (H, W, 3) to the cell; lines and letters drawn afterwards are alike on all."""
    scale = min(hw[0] / image.shape[0], hw[1] / image.shape[1])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    return scale, np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def panel_hw(image: Picture) -> tuple[int, int]:
    """Return the size into which an image is fitted as a panel, so that letters on it stay readable."""
    portrait = image.shape[1] < PORTRAIT * image.shape[0]
    return (PANEL, PANEL // 2) if portrait else (PANEL, PANEL)


def joined(panels: Sequence[Picture]) -> Picture:
    """Put pictures of one size together: portraits side by side, others below each other; uint8 (H, W, 3)."""
    height, width = panels[0].shape[:2]
    axis = 1 if width < PORTRAIT * height else 0
    band = np.full((4, width, 3) if axis == 0 else (height, 4, 3), 255, np.uint8)
    parts = [part for panel in panels for part in (band, panel)][1:]
    return np.concatenate(parts, axis=axis)


def stacked(figures: Sequence[Picture]) -> Picture:
    """Put figures of any widths below each other, on paper: uint8 (H, W, 3)."""
    width = max(figure.shape[1] for figure in figures)
    sheet = Image.new("RGB", (width, sum(figure.shape[0] for figure in figures)), PAPER)
    top = 0
    for figure in figures:
        sheet.paste(Image.fromarray(figure), (0, top))
        top += figure.shape[0]
    return np.asarray(sheet)


def _place_legend(
    legend: Sequence[tuple[str, int]], width: int
) -> tuple[list[tuple[str, int, float, float]], int]:
    """Wrap the legend to a width: (text, label, x, y) of each entry, and the height of all."""
    entries, x, y = [], 0.0, 0.0
    for text, label in legend:
        text, font = fit_font(text, CAPTION_SIZE, f"class {label}")
        long = font.getlength(text) + 2.6 * CAPTION_SIZE
        if x > 0 and x + long > width:
            x, y = 0.0, y + CAPTION_HIGH
        entries.append((text, label, x, y))
        x += long
    return entries, round(y) + CAPTION_HIGH if entries else 0


def _text(
    pen: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    *,
    anchor: str,
    fill: tuple[int, int, int],
    limit: float | None = None,
) -> None:
    """Write a line, shortened at its start to `limit` pixels: the end of a file's name tells files apart."""
    text, font = fit_font(text, CAPTION_SIZE)
    if limit is not None and font.getlength(text) > limit:
        while text and font.getlength("…" + text) > limit:
            text = text[1:]
        text = "…" + text
    pen.text(place, text, font=font, fill=fill, anchor=anchor)
