"""Draw boxes with labels on an image.

Letters of the shapes: n boxes, H, W the image.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

from dettoolkit.drawing.fonts import fit_font

Picture = NDArray[np.uint8]
Color = tuple[int, int, int]
Rect = tuple[float, float, float, float]

# Found by search: any two are 23 or more apart in CIE Lab for normal sight and for the three kinds of color
# blindness as Machado et al. 2009 simulate them (a test measures it), and bright enough for photographs.
BASE_COLORS: tuple[Color, ...] = (
    (120, 146, 255), (230, 138, 0), (0, 192, 101), (255, 229, 23), (255, 56, 147),
    (99, 73, 221), (196, 25, 9), (194, 245, 120), (171, 48, 162), (0, 255, 255),
)  # fmt: skip
GOLDEN_RATIO = 0.618034  # steps of this on the hue circle never come close to an earlier hue soon
INK, PAPER = (24, 27, 31), (255, 255, 255)
MAX_NAME = 24  # characters on a plate or in a legend
MAX_COVERED = 0.1  # of a plate by other plates
SUPERSAMPLING, LARGE = 3, 4_000_000  # lines are drawn 3 times finer, up to 4 megapixels


def class_color(label: int) -> Color:
    """Return a class its color (RGB); always the same for a label, far apart for the first 10."""
    if label < len(BASE_COLORS):
        return BASE_COLORS[label]
    lightness = (0.55, 0.72, 0.42)[label % 3]
    red, green, blue = colorsys.hls_to_rgb(label * GOLDEN_RATIO % 1, lightness, 0.85)
    return round(255 * red), round(255 * green), round(255 * blue)


def class_name(label: int, class_names: Sequence[str]) -> str:
    """Return a class's name, shortened to MAX_NAME characters; the number of a label beyond the list."""
    name = class_names[label] if 0 <= label < len(class_names) else f"class {label}"
    return name if len(name) <= MAX_NAME else name[: MAX_NAME - 1] + "…"


def contrasting(color: Color) -> Color:
    """Choose dark or white text for a ground, by its luma (ITU-R BT.601)."""
    red, green, blue = color
    return INK if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else PAPER


def draw_boxes(
    image: Picture,
    boxes_xyxy: NDArray[Any],
    labels: NDArray[Any],
    *,
    class_names: Sequence[str],
    scores: NDArray[Any] | None = None,
    crowds: NDArray[Any] | None = None,
) -> Picture:
    """Draw boxes and labels on a copy of the image; line and letters grow with the image.

    The image is uint8 (H, W, 3) RGB, boxes (n, 4) in its pixels: what lies outside is cut off, and boxes that
    are not finite are not drawn. Labels, scores and crowds (dashed and hatched) are (n,). Large boxes are
    drawn first, so small ones stay visible; a label that finds no free place is left out.
    """
    return label_boxes(image, boxes_xyxy, labels, class_names=class_names, scores=scores, crowds=crowds)[0]


def label_boxes(
    image: Picture,
    boxes_xyxy: NDArray[Any],
    labels: NDArray[Any],
    *,
    class_names: Sequence[str],
    scores: NDArray[Any] | None = None,
    crowds: NDArray[Any] | None = None,
) -> tuple[Picture, list[Rect]]:
    """Draw as `draw_boxes`, and return the rectangles of the labels' plates too."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f"draw_boxes: image is {image.dtype} {image.shape}, expected uint8 (H, W, 3) RGB; "
            "move channels last and scale to 0..255 first"
        )
    height, width = image.shape[:2]
    boxes, visible = _cut(np.asarray(boxes_xyxy, np.float64).reshape(-1, 4), width, height)
    order = [int(index) for index in np.argsort(-_areas(boxes), kind="stable") if visible[index]]
    is_crowd = np.zeros(len(boxes), np.bool_) if crowds is None else np.asarray(crowds, np.bool_)
    colors = [class_color(int(label)) for label in labels]

    stroke = max(2, round(max(height, width) / 240))
    factor = SUPERSAMPLING if height * width <= LARGE else 1
    # Enlarged by repetition and averaged back, untouched pixels stay exactly as they were.
    canvas = Image.fromarray(image).resize((width * factor, height * factor), Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(canvas, "RGBA")
    for index in order:
        _outline(pen, boxes[index] * factor, colors[index], stroke * factor, crowd=bool(is_crowd[index]))
    size = max(10, round(max(height, width) / 44))
    texts = _label_texts(labels, class_names, scores, is_crowd, size)
    best_first = order if scores is None else sorted(order, key=lambda index: -float(scores[index]))
    plates = _place_plates(boxes, texts, best_first, (height, width))
    for index, plate in plates.items():
        corners = [value * factor for value in plate]
        pen.rounded_rectangle(corners, radius=stroke * factor, fill=(*colors[index], 235))
    result = canvas.reduce(factor) if factor > 1 else canvas
    pen = ImageDraw.Draw(result)
    for index, (left, top, _, bottom) in plates.items():
        text, font = texts[index]
        place = (left + plate_padding(font), (top + bottom) / 2)
        pen.text(place, text, font=font, fill=contrasting(colors[index]), anchor="lm")
    return np.asarray(result), list(plates.values())


def _cut(
    boxes: NDArray[np.float64], width: int, height: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Clip boxes to the image and tell which are left, (n, 4) and bool (n,)."""
    finite = np.isfinite(boxes.sum(axis=1))
    boxes = np.where(finite[:, None], boxes, 0.0)
    clipped = np.clip(boxes, 0, [width, height, width, height])
    outside = (boxes[:, 0] >= width) | (boxes[:, 1] >= height) | (boxes[:, 2] <= 0) | (boxes[:, 3] <= 0)
    return clipped, finite & ~outside & (clipped[:, 2:] >= clipped[:, :2]).all(axis=1)


def _areas(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _outline(
    pen: ImageDraw.ImageDraw, box: NDArray[np.float64], color: Color, stroke: int, *, crowd: bool
) -> None:
    """Draw one box with a thin dark rim, to show on any ground; a crowd dashed and hatched."""
    left, top, right, bottom = box
    right, bottom = max(right - 1, left + 1), max(bottom - 1, top + 1)
    if crowd:
        _hatched(pen, (left, top, right, bottom), color, stroke)
        return
    rim = max(1, stroke // 3)
    radius = min(stroke * 2, (right - left) / 2, (bottom - top) / 2)
    for grow, ink, line in [(rim, (0, 0, 0, 90), stroke + rim), (0, (*color, 255), stroke)]:
        corners = (left - grow, top - grow, right + grow, bottom + grow)
        if radius < stroke * 2:  # Pillow's rounded corners fail where they would meet
            pen.rectangle(corners, outline=ink, width=line)
        else:
            pen.rounded_rectangle(corners, radius=radius, outline=ink, width=line)


def _hatched(pen: ImageDraw.ImageDraw, rect: Rect, color: Color, stroke: int) -> None:
    """Draw a dashed rectangle filled with diagonal lines: x - y = constant."""
    left, top, right, bottom = rect
    thin = max(1, stroke // 2)
    for constant in np.arange(left - bottom, right - top, 7 * stroke):
        start, end = max(left, top + constant), min(right, bottom + constant)
        if end > start:
            pen.line((start, start - constant, end, end - constant), fill=(*color, 110), width=thin)
    corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
    for (x0, y0), (x1, y1) in pairwise(corners):
        length = max(abs(x1 - x0), abs(y1 - y0))
        steps = np.arange(0, length, 6 * stroke)
        for start, end in zip(steps, np.minimum(steps + 4 * stroke, length), strict=True):
            dash = [(x0 + (x1 - x0) * t / length, y0 + (y1 - y0) * t / length) for t in (start, end)]
            pen.line(dash, fill=(*color, 255), width=stroke)


def _label_texts(
    labels: NDArray[Any],
    class_names: Sequence[str],
    scores: NDArray[Any] | None,
    crowds: NDArray[np.bool_],
    size: int,
) -> list[tuple[str, Any]]:
    """Write each label, with the class's number where no font has the name's characters; with its font."""
    texts = []
    for index, label in enumerate(map(int, labels)):
        behind = " (crowd)" if crowds[index] else ""
        behind += "" if scores is None else f" {float(scores[index]):.2f}"
        texts.append(fit_font(class_name(label, class_names) + behind, size, f"class {label}{behind}"))
    return texts


def plate_padding(font: ImageFont.FreeTypeFont) -> int:
    """Return the pixels between a plate's left edge and its text."""
    return max(2, round(font.size / 4))


def plate_size(text: str, font: ImageFont.FreeTypeFont) -> tuple[int, int]:
    """Return the width and height of a plate with this text, in pixels."""
    return round(font.getlength(text)) + 2 * plate_padding(font), round(font.size * 1.35)


def _place_plates(
    boxes: NDArray[np.float64], texts: list[tuple[str, Any]], order: list[int], size_hw: tuple[int, int]
) -> dict[int, Rect]:
    """Find a place in the image for each box's plate: above, below or in the box, away from other plates.

    `order` lists the boxes that get a plate, the most important first; one without a free place gets none.
    """
    height, width = size_hw
    shown, areas = boxes[order], np.maximum(1.0, _areas(boxes[order]))
    plates: dict[int, Rect] = {}
    for index in order:
        wide, high = plate_size(*texts[index])
        if wide > width or high > height:
            continue
        left, top, right, bottom = boxes[index]
        corners = [(left, top - high), (left, top), (left, bottom), (right - wide, top - high)]
        corners += [(left, bottom - high), (right - wide, bottom)]
        candidates = []
        for rank, (x, y) in enumerate(corners):
            x, y = round(float(np.clip(x, 0, width - wide))), round(float(np.clip(y, 0, height - high)))
            plate = (x, y, x + wide, y + high)
            covered = float(intersections(plate, list(plates.values())).sum()) / (wide * high)
            hidden = float((intersections(plate, shown) / areas).sum())
            candidates.append((covered + 0.5 * hidden + 0.01 * rank, covered, plate))
        _, covered, plate = min(candidates)
        if covered <= MAX_COVERED:
            plates[index] = plate
    return plates


def intersections(rect: Rect, others: ArrayLike) -> NDArray[np.float64]:
    """Measure what a rectangle covers of others (n, 4), in square pixels (n,)."""
    others = np.asarray(others, np.float64).reshape(-1, 4)
    overlap = np.minimum(rect[2:], others[:, 2:]) - np.maximum(rect[:2], others[:, :2])
    area: NDArray[np.float64] = np.clip(overlap, 0, None).prod(axis=1)
    return area
