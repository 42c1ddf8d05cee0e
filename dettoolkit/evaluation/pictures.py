"""Picture grids: the batch a model is trained on, and predictions beside ground truth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from dettoolkit.evaluation.drawing import (
    INK,
    PAPER,
    Color,
    Picture,
    class_color,
    class_name,
    draw_boxes,
)
from dettoolkit.evaluation.fonts import fit_font
from dettoolkit.evaluation.image_files import encode_image

__all__ = [
    "Cell",
    "ComparisonItem",
    "batch_picture",
    "comparison_picture",
    "draw_boxes",
    "fit_to_cell",
    "grid",
    "in_rows",
    "save_picture",
]

CELL_HW = (360, 480)  # pixels that an image is fitted into, portrait or landscape
MARGIN, GAP, CAPTION_SIZE, TITLE_SIZE = 24, 12, 13, 20  # pixels
CAPTION_HIGH = round(CAPTION_SIZE * 1.9)
GREY = (95, 101, 110)


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """One image of a grid, uint8 (H, W, 3) RGB, and the line below it."""

    image: Picture
    caption: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class ComparisonItem:
    """An image with its ground truth and predictions.

    Attributes:
        image: uint8 (H, W, 3) RGB, as in the file.
        boxes_xyxy, labels, crowds: (m, 4) pixels of `image`, (m,) 0-based classes, (m,) true for crowds.
        predicted_boxes_xyxy, predicted_labels, predicted_scores: (n, 4), (n,), (n,); those to be drawn.
        title: the image's name.
    """

    image: Picture
    boxes_xyxy: NDArray[Any]
    labels: NDArray[Any]
    crowds: NDArray[Any]
    predicted_boxes_xyxy: NDArray[Any]
    predicted_labels: NDArray[Any]
    predicted_scores: NDArray[Any]
    title: str


def comparison_picture(
    items: Sequence[ComparisonItem],
    class_names: Sequence[str],
    *,
    title: str = "Predictions beside ground truth",
) -> Picture:
    """Draw ground truth and prediction of each item side by side, two items in a row; uint8 (H, W, 3)."""
    cells: list[Cell] = []
    for item in items:
        scale, image = fit_to_cell(item.image)
        truth = draw_boxes(
            image, item.boxes_xyxy * scale, item.labels, class_names=class_names, crowds=item.crowds
        )
        prediction = draw_boxes(
            image,
            item.predicted_boxes_xyxy * scale,
            item.predicted_labels,
            class_names=class_names,
            scores=item.predicted_scores,
        )
        cells.append(Cell(truth, f"{item.title} · {_counted(len(item.labels), 'object')}"))
        cells.append(Cell(prediction, _counted(len(item.predicted_labels), "detection")))
    columns = 4 if len(items) > 1 else 2
    labels = [label for item in items for label in (*item.labels, *item.predicted_labels)]
    return grid(
        in_rows(cells, columns),
        title=title,
        column_titles=["ground truth", "prediction"] * (columns // 2),
        legend=_legend(labels, class_names),
        group=2,
    )


def batch_picture(batch: Mapping[str, Any], class_names: Sequence[str], max_images: int) -> Picture:
    """Draw the first images of a training batch as the model gets them, with their boxes; uint8 (H, W, 3).

    Args:
        batch: on the CPU, images uint8 (N, 3, H, W) RGB, boxes_xyxy (N, M, 4) pixels, labels (N, M) with -1
            for padding, image_ids (N,).
        class_names: name of each class.
        max_images: images drawn at most.
    """
    cells: list[Cell] = []
    drawn: list[int] = []
    for image, boxes, labels, image_id in zip(
        *(np.asarray(batch[key]) for key in ("images", "boxes_xyxy", "labels", "image_ids")), strict=True
    ):
        if len(cells) == max_images:
            break
        real = labels >= 0
        scale, fitted = fit_to_cell(np.ascontiguousarray(image.transpose(1, 2, 0)))  # (3, H, W) -> (H, W, 3)
        picture = draw_boxes(fitted, boxes[real] * scale, labels[real], class_names=class_names)
        cells.append(Cell(picture, f"image {image_id} · {_counted(int(real.sum()), 'box')}"))
        drawn.extend(labels[real])
    return grid(
        in_rows(cells, 4),
        title="Training images after augmentation, with their boxes",
        column_titles=[],
        legend=_legend(drawn, class_names),
    )


def grid(
    rows: Sequence[Sequence[Cell]],
    *,
    title: str,
    column_titles: Sequence[str],
    legend: Sequence[tuple[str, int]],
    colors: Mapping[int, Color] | None = None,
    group: int | None = None,
) -> Picture:
    """Lay images out in rows, captions below them, column titles above and a legend of classes at the foot.

    Args:
        rows: the images; they may differ in size, and rows in length.
        title: a line at the top.
        column_titles: a word above each column, or none.
        legend: (text, label) for each class that is explained by its colour.
        colors: the colour of each label of the legend; None: `class_color`'s.
        group: columns that belong together; groups stand further apart. None: all do.

    Returns:
        uint8 (H, W, 3) RGB.
    """
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
        color = class_color(label) if colors is None else colors[label]
        _legend_entry(pen, text, color, (MARGIN + x, head + sum(row_high) + y))
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
    _text(ImageDraw.Draw(sheet), below, cell.caption, anchor="lm", fill=GREY, limit=corner[0] + width - left)


def save_picture(path: Path, image: Picture) -> None:
    """Write uint8 (H, W, 3) RGB as PNG or JPEG, by the path's ending; missing folders are made.

    Raises:
        ValueError: another ending.
    """
    if path.suffix.lower() not in {".png", ".jpg", ".jpeg"}:
        raise ValueError(f"{path}: cannot save a picture as '{path.suffix}', wanted .png, .jpg or .jpeg")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".png":
        data = encode_image(Image.fromarray(image), format="png")
    else:  # full chroma, so thin coloured lines stay sharp
        data = encode_image(Image.fromarray(image), format="jpeg", quality=90, subsampling=0)
    path.write_bytes(data)


def fit_to_cell(image: Picture) -> tuple[float, Picture]:
    """Scale an image (H, W, 3) to the cell; lines and letters drawn afterwards are alike on all."""
    scale = min(CELL_HW[0] / image.shape[0], CELL_HW[1] / image.shape[1])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    return scale, np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def in_rows(cells: list[Cell], columns: int) -> list[list[Cell]]:
    """Break cells into rows, the last of which may be shorter."""
    return [cells[start : start + columns] for start in range(0, len(cells), columns)]


def _counted(number: int, noun: str) -> str:
    plural = noun + ("es" if noun.endswith("x") else "s")
    return f"{number or 'no'} {noun if number == 1 else plural}"


def _legend(labels: Sequence[Any], class_names: Sequence[str]) -> list[tuple[str, int]]:
    """Name the classes that occur, the most frequent first."""
    counts = Counter(int(label) for label in labels)
    return [(class_name(label, class_names), label) for label, _ in counts.most_common()]


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


def _legend_entry(pen: ImageDraw.ImageDraw, text: str, color: Color, place: tuple[float, float]) -> None:
    x, y = place[0], place[1] + CAPTION_HIGH / 2
    half = CAPTION_SIZE / 2
    pen.rounded_rectangle((x, y - half, x + CAPTION_SIZE, y + half), radius=3, fill=color)
    _text(pen, (x + 1.5 * CAPTION_SIZE, y), text, anchor="lm", fill=INK)


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
