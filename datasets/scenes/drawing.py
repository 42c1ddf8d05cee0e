"""Drawing for the generated street scenes: colors, shapes, and a canvas with labels.

The image is drawn at twice its size and averaged down; the labels are drawn at the same size without
anti-aliasing and sampled, so that both agree to a quarter of a pixel.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Color = tuple[float, ...] | str  # RGB, 0 to 255, or a code such as 'f7b267'
Points = NDArray[np.float64]  # (..., P, 2): x to the right and y down, in pixels of the finished image
FixedPoints = NDArray[np.int32]  # the same in OpenCV's fixed-point coordinates of canvas pixel centers
Window = tuple[slice, slice]  # rows and columns of the canvas

SUPERSAMPLING = 2
FRACTION_BITS = 4  # OpenCV draws at 1/16 of a canvas pixel
_UNIT = 1 << FRACTION_BITS
_TURN = np.linspace(0, 2 * np.pi, 28, endpoint=False)
CIRCLE: Points = np.stack([np.cos(_TURN), np.sin(_TURN)], axis=-1)
_MIN_GRADIENT = 8.0  # canvas pixels; a gradient cannot be seen on polygons less high
_AXIS = np.linspace(-1, 1, 65)
_FALLOFF = np.clip(1 - np.hypot(_AXIS[:, None], _AXIS[None, :]), 0, 1)[..., None] ** 2


def rgb(color: Color) -> tuple[float, ...]:
    """Return a color as numbers."""
    return tuple(bytes.fromhex(color)) if isinstance(color, str) else color


def points(text: str) -> Points:
    """Return the points written as 'x,y x,y', in hundredths."""
    return np.array([point.split(",") for point in text.split()], np.float64) / 100


def mix(first: Color, second: Color, fraction: float) -> Color:
    """Return a blend of two colors; `fraction` 0 gives the first, 1 the second."""
    return tuple(a + (b - a) * fraction for a, b in zip(rgb(first), rgb(second), strict=True))


class Canvas:
    """An image of this size in pixels that is being drawn, and the number of what is at each pixel.

    Where a method takes a number, a labelId or an object's number, None leaves the numbers as they are.
    """

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width
        shape = (height * SUPERSAMPLING, width * SUPERSAMPLING)
        self.color = np.zeros((*shape, 4), np.uint8)  # RGB and an unused byte, drawn faster than three bytes
        self.numbers = np.zeros(shape, np.uint16)

    def fill(self, points: ArrayLike, color: Color, number: int | None = None) -> None:
        """Draw one polygon `(P, 2)` or many `(N, P, 2)`."""
        polygons = _fixed_point(points)
        for layer, value, edge in self._layers(color, number):
            cv2.fillPoly(layer, polygons, value, edge, FRACTION_BITS)

    def line(self, points: ArrayLike, width: float, color: Color, number: int | None = None) -> None:
        """Draw one polyline `(P, 2)` or many `(N, P, 2)` with round ends, `width` pixels wide."""
        lines, thickness = _fixed_point(points), min(max(1, round(width * SUPERSAMPLING)), 2000)
        for layer, value, edge in self._layers(color, number):
            cv2.polylines(layer, lines, False, value, thickness, edge, FRACTION_BITS)

    def discs(self, centers: ArrayLike, radii: ArrayLike, color: Color, number: int | None = None) -> None:
        """Draw discs with these centers `(N, 2)` and radii `(N,)`, which may overlap."""
        sizes = np.rint(np.asarray(radii) * (SUPERSAMPLING * _UNIT)).astype(np.int32).tolist()
        for layer, value, edge in self._layers(color, number):
            for center, size in zip(_fixed_point(centers)[0].tolist(), sizes, strict=True):
                cv2.circle(layer, center, size, value, -1, edge, FRACTION_BITS)

    def gradient(self, points: ArrayLike, top: Color, bottom: Color, number: int | None = None) -> None:
        """Draw one polygon with a blend from the color at its top to the one at its bottom."""
        polygon = _fixed_point(points)[0]
        low, high = polygon[:, 1].min() / _UNIT, polygon[:, 1].max() / _UNIT
        if high - low < _MIN_GRADIENT:
            self.fill(points, mix(top, bottom, 0.5), number)
            return
        if number is not None:
            cv2.fillPoly(self.numbers, [polygon], (number,), cv2.LINE_8, FRACTION_BITS)
        window, mask = self._mask(polygon)
        blend = np.clip((np.arange(window[0].start, window[0].stop) - low) / (high - low), 0, 1)[:, None]
        first, last = np.array((*rgb(top), 0.0)), np.array((*rgb(bottom), 0.0))
        column = (first + (last - first) * blend + 0.5).astype(np.uint8)
        painted = np.repeat(column.view(np.uint32), mask.shape[1], axis=1).view(np.uint8)
        cv2.copyTo(painted.reshape(*mask.shape, 4), mask, self.color[window])

    def darken(self, points: ArrayLike, strength: float, blur: float = 0.0) -> None:
        """Draw a shadow on what is there so far: `strength` 0 to 1, edges `blur` pixels soft."""
        window, mask = self._mask(_fixed_point(points)[0], margin=2 * blur * SUPERSAMPLING)
        if blur * SUPERSAMPLING >= 1:
            size = 2 * round(blur * SUPERSAMPLING) + 1
            mask = np.asarray(cv2.blur(cv2.blur(mask, (size, size)), (size, size)), np.uint8)
        keep = cv2.LUT(mask, (255 - np.arange(256) * strength).astype(np.uint8))
        cv2.multiply(self.color[window], cv2.merge([keep] * 4), dst=self.color[window], scale=1 / 255)

    def glow(self, center: ArrayLike, radius: float, color: Color, strength: float) -> None:
        """Draw light around `center`, fading out at `radius` pixels."""
        square = np.asarray(center) + np.array([(-radius, -radius), (radius, radius)])
        window, mask = self._mask(_fixed_point(square)[0])
        left, top = (square[0] * SUPERSAMPLING).round().astype(int) - (window[1].start, window[0].start)
        scale = max(1, round(2 * radius * SUPERSAMPLING)) / len(_AXIS)
        texture = (_FALLOFF * (np.array((*rgb(color), 0.0)) * strength) + 0.5).astype(np.uint8)
        light = cv2.warpAffine(texture, np.array([[scale, 0, left], [0, scale, top]]), mask.shape[::-1])
        cv2.add(self.color[window], light, dst=self.color[window])

    def image(self) -> NDArray[np.uint8]:
        """Return the finished image, uint8 (H, W, 3) RGB."""
        small = cv2.resize(self.color, (self.width, self.height), interpolation=cv2.INTER_AREA)
        return np.ascontiguousarray(small[..., :3], np.uint8)

    def count(self, number: int) -> int:
        """Return about how many pixels of the finished image show this label or object."""
        return int(np.count_nonzero(self.numbers == number)) // SUPERSAMPLING**2

    def labels(self) -> NDArray[np.uint16]:
        """Return what is at each pixel, uint16 (H, W): a labelId, or an object's number."""
        return np.ascontiguousarray(self.numbers[1::SUPERSAMPLING, 1::SUPERSAMPLING])

    def _layers(self, color: Color, number: int | None) -> list[tuple[NDArray[Any], tuple[float, ...], int]]:
        """Return the arrays to draw on, each with the value to draw and the kind of edge."""
        image = (self.color, rgb(color), cv2.LINE_AA)
        return [image] if number is None else [image, (self.numbers, (number,), cv2.LINE_8)]

    def _mask(self, polygon: FixedPoints, margin: float = 0.0) -> tuple[Window, NDArray[np.uint8]]:
        """Return the window around a polygon, and in it 255 on the polygon and 0 elsewhere."""
        size = np.array(self.numbers.shape[::-1])
        left, top = np.clip((polygon.min(axis=0) / _UNIT - (margin + 1)).astype(int), 0, size - 1).tolist()
        high = (polygon.max(axis=0) / _UNIT + (margin + 1)).astype(int) + 1
        right, bottom = np.clip(high, (left + 1, top + 1), size).tolist()  # OpenCV takes no empty arrays
        mask = np.zeros((bottom - top, right - left), np.uint8)
        moved = polygon - np.array([left, top], np.int32) * _UNIT
        cv2.fillPoly(mask, [moved], (255,), cv2.LINE_8, FRACTION_BITS)
        return (slice(top, bottom), slice(left, right)), mask


def _fixed_point(points: ArrayLike) -> list[FixedPoints]:
    """Return one `(P, 2)` or many `(N, P, 2)` as a list."""
    pixels = np.asarray(points, dtype=np.float64)
    fixed = np.rint(pixels * (SUPERSAMPLING * _UNIT) - _UNIT / 2).astype(np.int32)
    return list(fixed.reshape(-1, *fixed.shape[-2:]))
