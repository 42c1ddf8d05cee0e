"""Draw objects over the classes of all pixels, so that the names of both can be read.

Letters of the shapes: n boxes, H, W the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from dettoolkit.drawing.boxes import Color, Picture, class_color, label_boxes
from dettoolkit.drawing.masks import cover_segments, write_names


def draw_boxes_over_segments(
    image: Picture,
    segments: NDArray[Any],
    *,
    segment_names: Sequence[str],
    colors: Sequence[Color | None] | None,
    boxes_xyxy: NDArray[Any],
    labels: NDArray[Any],
    scores: NDArray[Any] | None,
    class_names: Sequence[str],
) -> Picture:
    """Cover an image with the classes' colors, draw boxes over them, and write the names of both.

    The image is uint8 (H, W, 3) RGB, segments (H, W), boxes (n, 4) in its pixels, labels and scores (n,).
    Boxes have the few places around them for a name, and choose first. `colors` are the segments'; those that
    are None follow those of the boxes' classes, so that no two are the same.
    """
    chosen: list[Color | None] = [None] * len(segment_names) if colors is None else list(colors)
    chosen = [own or class_color(len(class_names) + label) for label, own in enumerate(chosen)]
    covered = cover_segments(image, segments, chosen)
    drawn, plates = label_boxes(covered, boxes_xyxy, labels, class_names=class_names, scores=scores)
    return write_names(drawn, segments, class_names=segment_names, colors=chosen, taken=plates)
