"""Draw a label map over its image, with the classes' names where they are.

Letters of the shapes: H, W the image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from dettoolkit.drawing import boxes
from dettoolkit.drawing.boxes import Color, Picture, class_color, class_name, contrasting
from dettoolkit.drawing.fonts import fit_font

COVER = 0.55  # of an image by its labels: both stay readable
DARK = (20, 20, 22)  # what is no class
SEARCHED = 512  # pixels of the longer side of the label map in which places for names are looked for
MIN_AREA = 5e-4  # of the image: smaller regions have their color and no name
REGIONS = 3  # of a class that are tried for its name, the largest first


def palette_of(colors: Sequence[Color | None]) -> Picture:
    """Return every value of a label map its color, uint8 (256, 3)."""
    palette = np.full((256, 3), DARK, np.uint8)
    for label, color in enumerate(colors):
        palette[label] = class_color(label) if color is None else color
    return palette


def draw_segments(
    image: Picture,
    labels: NDArray[Any],
    *,
    class_names: Sequence[str],
    colors: Sequence[Color | None] | None = None,
) -> Picture:
    """Cover an image with its classes' colors, line their borders and write each name on a large region.

    The image is uint8 (H, W, 3) RGB, labels (H, W); those of no class, such as void, stay as the image has
    them. A color that is None is chosen.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or labels.shape != image.shape[:2] or image.shape[2] != 3:
        raise ValueError(
            f"draw_segments: image {image.dtype} {image.shape} and labels {labels.shape}, expected uint8 "
            "(H, W, 3) RGB and (H, W): resize one to the other first"
        )
    colors = [None] * len(class_names) if colors is None else colors
    covered = cover_segments(image, labels, colors)
    return write_names(covered, labels, class_names=class_names, colors=colors)


def cover_segments(image: Picture, labels: NDArray[Any], colors: Sequence[Color | None]) -> Picture:
    """Cover an image with its classes' colors and line their borders, as `draw_segments`."""
    covered = cv2.addWeighted(image, 1 - COVER, palette_of(colors)[labels], COVER, 0)
    covered[_borders(labels, max(1, round(max(labels.shape) / 700)))] = 255
    return np.where((labels < len(colors))[..., None], covered, image)


def write_names(
    image: Picture,
    labels: NDArray[Any],
    *,
    class_names: Sequence[str],
    colors: Sequence[Color | None],
    taken: Sequence[boxes.Rect] = (),
) -> Picture:
    """Write each class's name on one of its large regions, as `draw_segments`, away from what is `taken`."""
    canvas = Image.fromarray(image)
    palette = palette_of(colors)[: len(colors)]
    _write_names(ImageDraw.Draw(canvas, "RGBA"), labels, class_names, palette, list(taken))
    return np.asarray(canvas)


def _borders(labels: NDArray[Any], stroke: int) -> NDArray[np.bool_]:
    """Find the pixels along which classes meet, bool (H, W), in lines of about `stroke` pixels."""
    edge = np.zeros(labels.shape, np.uint8)
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edge[1:] |= labels[1:] != labels[:-1]
    if stroke > 1:
        edge = np.asarray(cv2.dilate(edge, np.ones((stroke, stroke), np.uint8)), np.uint8)
    return edge.astype(np.bool_)


def _write_names(
    pen: ImageDraw.ImageDraw,
    labels: NDArray[Any],
    class_names: Sequence[str],
    palette: Picture,
    plates: list[boxes.Rect],
) -> None:
    """Write the classes' names, those with most pixels first; one that finds no free place is left out.

    No name goes where one of the plates is, to which its own is added.
    """
    height, width = labels.shape
    size = max(10, round(max(height, width) / 50))
    step = max(1, -(-max(height, width) // SEARCHED))
    for label, regions in _regions(np.ascontiguousarray(labels[::step, ::step]), len(palette)):
        text, font = fit_font(class_name(label, class_names), size, f"class {label}")
        padding, (wide, high) = boxes.plate_padding(font), boxes.plate_size(text, font)
        for x, y in (place for region in regions for place in _places(region, step, high)):
            left = min(max(round(x - wide / 2), 0), width - wide)
            top = min(max(round(y - high / 2), 0), height - high)
            plate = (left, top, left + wide, top + high)
            if left < 0 or top < 0 or boxes.intersections(plate, plates).any():
                continue
            plates.append(plate)
            color = tuple(palette[label].tolist())
            pen.rounded_rectangle(plate, radius=padding, fill=(*color, 235))
            ink = contrasting(color)
            pen.text((left + padding, top + high / 2), text, font=font, fill=ink, anchor="lm")
            break


def _regions(labels: NDArray[Any], classes: int) -> Iterator[tuple[int, list[NDArray[np.bool_]]]]:
    """Yield each class that occurs, the one with most pixels first, and its largest regions, bool (h, w)."""
    pixels = np.bincount(labels.reshape(-1), minlength=classes)[:classes]
    for label in np.argsort(-pixels, kind="stable"):
        if pixels[label] == 0:
            return
        mask = (labels == label).astype(np.uint8)
        _, numbers, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        areas = stats[1:, cv2.CC_STAT_AREA]  # 0 is all that is not of the class
        largest = np.argsort(-areas, kind="stable")[:REGIONS]
        yield int(label), [numbers == n + 1 for n in largest if areas[n] >= MIN_AREA * labels.size]


def _places(region: NDArray[np.bool_], step: int, high: int) -> list[tuple[float, float]]:
    """List places for a plate's middle: in the region, or above and below one that the plate would hide.

    In the region are every `step`th row and column of the image.
    """
    inside = np.pad(region.astype(np.uint8), 1)  # the image's border is one of the region too
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, 3)
    # Of points that are about as deep, as in a strip, the one nearest to the middle.
    points, pixels = np.argwhere(depth >= 0.9 * depth.max()), np.argwhere(region)
    row, column = points[((points - pixels.mean(axis=0)) ** 2).sum(axis=1).argmin()]
    x, y = (float(column) - 0.5) * step, (float(row) - 0.5) * step
    if 2 * float(depth.max()) * step > high:
        return [(x, y)]
    top, bottom = int(pixels[0, 0]) * step, (int(pixels[-1, 0]) + 1) * step
    return [(x, top - 0.6 * high), (x, bottom + 0.6 * high)]
