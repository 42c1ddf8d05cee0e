"""A page as one HTML file: no script, no network, images inside."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from importlib.resources import files

import cv2
import numpy as np
from jinja2 import Environment, StrictUndefined
from numpy.typing import NDArray
from PIL import Image

from dettoolkit.pages.charts import chart_svg
from dettoolkit.pages.parts import Cell, Gallery, Matrix, Section

MAX_SIDE = 640  # a thumbnail's width in pixels; several pictures below each other are higher
MAX_ASPECT = 3
MAX_IMAGE_BYTES = 2_200_000  # of all thumbnails together, so that a page stays below 3 MB


def render(title: str, sections: Sequence[Section], *, footer: str = "") -> str:
    """Return the page of some sections.

    Thumbnails are shrunk further where there are many; what still does not fit is left out, with a line.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"cell": cell, "number": is_number}
    template = environment.from_string(files("dettoolkit.pages").joinpath("page.html").read_text("utf-8"))
    pictures = [
        picture
        for section in sections
        for block in section.blocks
        if isinstance(block, Gallery)
        for picture in block.pictures
    ]
    return template.render(
        title=title,
        sections=sections,
        footer=footer,
        chart=chart_svg,
        kind=lambda block: type(block).__name__,
        matrix=matrix_rows,
        id=id,
        pictures=dict(zip(map(id, pictures), thumbnails([each.image for each in pictures]), strict=True)),
    )


def cell(value: Cell) -> str:
    """Write a cell: fractions with three decimals, whole numbers and text as they are, a dash for none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, int) and abs(value) >= 10_000:
        return f"{value:,}"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def is_number(value: Cell) -> bool:
    """Return whether a cell is aligned as a number; a difference has its sign before it."""
    if isinstance(value, str):
        return value[:1] in ("+", "-") and value[1:2].isdigit()
    return True


def matrix_rows(block: Matrix) -> list[tuple[str, list[tuple[int, float]]]]:
    """Return each row's name with its counts and their fractions of the row."""
    counts = block.counts.astype(np.float64)
    fractions = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return [
        (name, list(zip(row.tolist(), fraction.tolist(), strict=True)))
        for name, row, fraction in zip(block.rows, block.counts, fractions, strict=True)
    ]


def thumbnails(images: Sequence[NDArray[np.uint8]]) -> list[str | None]:
    """Return the images as data URLs of JPEGs, MAX_IMAGE_BYTES at most; None for what does not fit."""
    for side, quality in ((MAX_SIDE, 82), (480, 80), (360, 75), (280, 70), (200, 60)):
        encoded = [_jpeg(image, side, quality) for image in images]
        if sum(map(len, encoded)) * 4 / 3 <= MAX_IMAGE_BYTES:
            break
    urls, room = list[str | None](), MAX_IMAGE_BYTES
    for data in encoded if images else []:
        url = "data:image/jpeg;base64," + base64.b64encode(data).decode()
        room -= len(url)
        urls.append(url if room >= 0 else None)
    return urls


def _jpeg(image: NDArray[np.uint8], side: int, quality: int) -> bytes:
    height, width = image.shape[:2]
    scale = side / max(height / MAX_ASPECT, width)
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
