"""Figures of classification: an image's class in a band on it, and grids of predictions and of a batch.

N: images, H, W: an image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from dettoolkit.drawing.boxes import Color, Picture, class_color, class_name, contrasting
from dettoolkit.drawing.fonts import fit_font
from dettoolkit.drawing.grids import Cell, fit_to_cell, grid

RIGHT, WRONG = 0, 1
FRAMES: dict[int, Color] = {RIGHT: (0, 114, 178), WRONG: (213, 94, 0)}  # told apart by the color-blind too
FRAME = 8  # pixels
PER_ROW = 4


@dataclass(frozen=True, slots=True, eq=False)
class ClassificationItem:
    """An image with its class and the predicted one."""

    image: Picture  # uint8 (H, W, 3) RGB, as the network got it
    label: int  # true class
    predicted: int  # best class
    score: float  # its probability


def classification_figure(
    items: Sequence[ClassificationItem], class_names: Sequence[str], *, title: str
) -> Picture:
    """Draw images in frames that tell right from wrong, with their predictions below; uint8 (H, W, 3)."""
    cells = []
    for item in items:
        wrong = int(item.predicted != item.label)
        caption = f"{class_name(item.predicted, class_names)} {item.score:.2f}"
        if wrong:
            caption += f" · is {class_name(item.label, class_names)}"
        _, fitted = fit_to_cell(item.image)
        framed = ImageOps.expand(Image.fromarray(fitted), border=FRAME, fill=FRAMES[wrong])
        cells.append(Cell(np.asarray(framed), caption))
    legend = [("right", RIGHT), ("wrong", WRONG)]
    return grid(cells, PER_ROW, title=title, legend=legend, color_of=FRAMES.__getitem__)


def classification_batch_figure(batch: Mapping[str, Any], class_names: Sequence[str]) -> Picture:
    """Draw the images of a training batch as the model gets them, with their classes; uint8 (H, W, 3).

    The batch is on the CPU: images uint8 (N, 3, H, W) RGB, class_labels (N,).
    """
    cells = []
    for image, label in zip(batch["images"], batch["class_labels"], strict=True):
        _, fitted = fit_to_cell(np.ascontiguousarray(np.asarray(image).transpose(1, 2, 0)))
        cells.append(Cell(fitted, class_name(int(label), class_names)))
    return grid(cells, PER_ROW, title="Training images after augmentation, with their classes")


def draw_band(image: Picture, label: int, *, class_names: Sequence[str], score: float) -> Picture:
    """Draw a class and its score in a band along the lower edge of an image, as many letters as fit.

    The image is uint8 (H, W, 3) RGB and is copied; the band has the color of the 0-based label.
    """
    height, width = image.shape[:2]
    canvas = Image.fromarray(image)
    pen = ImageDraw.Draw(canvas, "RGBA")
    color = class_color(label)
    size = max(10, round(max(height, width) / 30))
    text, font = fit_font(f"{class_name(label, class_names)} {score:.2f}", size, f"class {label} {score:.2f}")
    shown = next((text[:end] for end in range(len(text), 0, -1) if font.getlength(text[:end]) < width), "")
    high = min(height, round(1.6 * size))
    pen.rectangle((0, height - high, width, height), fill=(*color, 235))
    place = (size / 3, height - high / 2)
    pen.text(place, shown, font=font, fill=contrasting(color), anchor="lm")
    return np.asarray(canvas)
