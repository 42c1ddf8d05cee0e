"""Draw a label map over its image, with the classes' names where they are.

Letters of the shapes: H, W the image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from dettoolkit.drawing.boxes import Color, Picture, Rect, class_color, class_name, contrasting
from dettoolkit.drawing.fonts import fit_font
from dettoolkit.drawing.segmentation_grids import COVER

SEARCHED = 512  # pixels of the longer side of the label map in which places for names are looked for
LEAST_AREA = 5e-4  # of the image: smaller regions have their color and no name
REGIONS = 3  # of a class that are tried for its name, the largest first


def draw_segments(
    image: Picture,
    labels: NDArray[Any],
    *,
    class_names: Sequence[str],
    colors: Sequence[Color | None] | None = None,
) -> Picture:
    """Cover an image with its classes' colors, line their borders and write each name on a large region.

    Args:
        image: uint8 (H, W, 3) RGB.
        labels: (H, W) 0-based classes; others, such as void, stay as the image has them.
        class_names: name of each class.
        colors: color of each class; None chooses one.

    Returns:
        uint8 (H, W, 3) RGB, of the image's size.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or labels.shape != image.shape[:2] or image.shape[2] != 3:
        raise ValueError(
            f"draw_segments: image {image.dtype} {image.shape} and labels {labels.shape}, wanted uint8 "
            "(H, W, 3) RGB and (H, W): resize one to the other first"
        )
    given = [None] * len(class_names) if colors is None else colors
    chosen = [class_color(label) if color is None else color for label, color in enumerate(given)]
    inks = np.zeros((256, 3), np.uint8)
    inks[: len(chosen)] = np.array(chosen, np.uint8).reshape(-1, 3)
    covered = cv2.addWeighted(image, 1 - COVER, inks[labels], COVER, 0)
    stroke = max(1, round(max(labels.shape) / 700))
    covered[_borders(labels, stroke)] = 255
    picture = np.where((labels < len(chosen))[..., None], covered, image)
    return _named(picture, labels, class_names, chosen)


def _borders(labels: NDArray[Any], stroke: int) -> NDArray[np.bool_]:
    """Find the pixels along which classes meet, bool (H, W), in lines of about `stroke` pixels."""
    edge = np.zeros(labels.shape, np.uint8)
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edge[1:] |= labels[1:] != labels[:-1]
    if stroke > 1:
        edge = np.asarray(cv2.dilate(edge, np.ones((stroke, stroke), np.uint8)), np.uint8)
    return edge.astype(np.bool_)


def _named(
    picture: Picture, labels: NDArray[Any], class_names: Sequence[str], colors: Sequence[Color]
) -> Picture:
    """Write the classes' names, those with most pixels first; one that finds no free place is left out."""
    height, width = labels.shape
    canvas = Image.fromarray(picture)
    pen = ImageDraw.Draw(canvas, "RGBA")
    size = max(10, round(max(height, width) / 50))
    plates: list[Rect] = []
    for label, regions in _regions(labels, len(colors)):
        text, font = fit_font(class_name(label, class_names), size, f"class {label}")
        padding = max(2, round(font.size / 4))
        wide, high = round(font.getlength(text)) + 2 * padding, round(font.size * 1.35)
        for x, y in (place for region in regions for place in _around(region, high)):
            left = min(max(round(x - wide / 2), 0), width - wide)
            top = min(max(round(y - high / 2), 0), height - high)
            plate = (left, top, left + wide, top + high)
            if left < 0 or top < 0 or any(_overlap(plate, other) for other in plates):
                continue
            plates.append(plate)
            pen.rounded_rectangle(plate, radius=padding, fill=(*colors[label], 235))
            ink = contrasting(colors[label])
            pen.text((left + padding, top + high / 2), text, font=font, fill=ink, anchor="lm")
            break
    return np.asarray(canvas)


class _Region(NamedTuple):
    """Connected pixels of a class, in pixels of the image."""

    x: float  # of the inmost point
    y: float
    radius: float  # of the circle about it that is in the region
    top: float
    bottom: float


def _regions(labels: NDArray[Any], classes: int) -> Iterator[tuple[int, list[_Region]]]:
    """Yield each class that occurs, the one with most pixels first, and its largest regions."""
    step = max(1, -(-max(labels.shape) // SEARCHED))
    small = np.ascontiguousarray(labels[::step, ::step])
    pixels = np.bincount(small.reshape(-1), minlength=classes)[:classes]
    for label in np.argsort(-pixels, kind="stable"):
        if pixels[label] == 0:
            return
        mask = (small == label).astype(np.uint8)
        _, numbers, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        areas = stats[1:, cv2.CC_STAT_AREA]  # 0 is all that is not of the class
        largest = np.argsort(-areas, kind="stable")[:REGIONS] + 1
        found = [number for number in largest if areas[number - 1] >= LEAST_AREA * small.size]
        yield int(label), [_region(numbers == number, stats[number], step) for number in found]


def _region(mask: NDArray[np.bool_], stats: NDArray[np.int32], step: int) -> _Region:
    """Measure a region of a label map of which every `step`th row and column is left."""
    inside = np.pad(mask.astype(np.uint8), 1)  # the image's border is one of the region too
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, 3)
    # Of points that are about as deep, as in a strip, the one nearest to the middle.
    points = np.argwhere(depth >= 0.9 * depth.max())
    row, column = points[((points - np.argwhere(mask).mean(axis=0)) ** 2).sum(axis=1).argmin()]
    top, high = int(stats[cv2.CC_STAT_TOP]), int(stats[cv2.CC_STAT_HEIGHT])
    return _Region(
        x=(float(column) - 0.5) * step,
        y=(float(row) - 0.5) * step,
        radius=float(depth.max()) * step,
        top=top * step,
        bottom=(top + high) * step,
    )


def _around(region: _Region, high: int) -> list[tuple[float, float]]:
    """List places for a plate's middle: in the region, or above and below one that the plate would hide."""
    if 2 * region.radius > high:
        return [(region.x, region.y)]
    return [(region.x, region.top - 0.6 * high), (region.x, region.bottom + 0.6 * high)]


def _overlap(first: Rect, second: Rect) -> bool:
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]
