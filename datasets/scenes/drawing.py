"""Drawing for the generated street scenes: a canvas with labels, a pinhole camera, and light.

The picture is drawn at twice its size and averaged down, the labels are drawn at the same size without
anti-aliasing and sampled, so both agree to a quarter of a pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Color = tuple[float, float, float]  # RGB, 0 to 255
Points = NDArray[np.float64]  # (..., P, 2): x to the right and y down, in pixels of the finished picture

SUPERSAMPLING = 2
FRACTION_BITS = 4  # OpenCV draws at 1/16 of a canvas pixel
FIRST_OBJECT = 64  # object numbers start here; a smaller number on the canvas is a labelId itself
_TURN = np.linspace(0, 2 * np.pi, 28, endpoint=False)
CIRCLE: Points = np.stack([np.cos(_TURN), np.sin(_TURN)], axis=-1)
_LEAST_GRADIENT = 8.0  # canvas pixels; on lower polygons a blend cannot be seen
_AXIS = np.linspace(-1, 1, 65)
_FALLOFF = np.clip(1 - np.hypot(_AXIS[:, None], _AXIS[None, :]), 0, 1)[..., None] ** 2


def mix(first: Color, second: Color, share: float) -> Color:
    """Blend two colors; `share` 0 gives the first, 1 the second."""
    red, green, blue = (a + (b - a) * share for a, b in zip(first, second, strict=True))
    return red, green, blue


def rgb(code: str) -> Color:
    """Read a color such as 'f7b267'."""
    return int(code[0:2], 16), int(code[2:4], 16), int(code[4:6], 16)


@dataclass(frozen=True)
class Light:
    """The light of a scene."""

    sky: tuple[Color, Color, Color]  # at the zenith, half way, at the horizon
    ambient: Color  # multiplies every color, 255 leaves it
    haze: Color  # what far things fade to
    sun: float  # where it stands: -1 left, 1 right
    shadow: float  # darkness of cast shadows, 0 to 1
    lamps: bool  # lamps and many windows are lit

    def on(self, color: Color, shade: float = 1.0, distance: float = 0.0) -> Color:
        """Return `color` as it appears with this shade, `distance` meters away."""
        clear = math.exp(-distance / 110.0)
        (r, g, b), (lit_r, lit_g, lit_b), (haze_r, haze_g, haze_b) = color, self.ambient, self.haze
        return (
            min(r * shade, 255.0) * lit_r / 255.0 * clear + haze_r * (1 - clear),
            min(g * shade, 255.0) * lit_g / 255.0 * clear + haze_g * (1 - clear),
            min(b * shade, 255.0) * lit_b / 255.0 * clear + haze_b * (1 - clear),
        )


@dataclass(frozen=True)
class Camera:
    """A level pinhole camera; X to the right, Y up from the ground, Z ahead, in meters."""

    focal: float  # pixels
    height: float  # meters above the ground
    vanishing_xy: tuple[float, float]  # pixels, on the horizon

    def project(self, points: ArrayLike) -> Points:
        """Project `(..., 3)` meters to `(..., 2)` pixels; points behind the camera are pulled before it."""
        xyz = np.asarray(points, dtype=np.float64)
        xy = np.empty((*xyz.shape[:-1], 2))
        scale = self.focal / np.maximum(xyz[..., 2], 0.5)
        xy[..., 0] = self.vanishing_xy[0] + xyz[..., 0] * scale
        xy[..., 1] = self.vanishing_xy[1] + (self.height - xyz[..., 1]) * scale
        return xy

    def ground(self, left: float, right: float, near: float, far: float) -> Points:
        """Project a rectangle on the ground to 4 points."""
        return self.project([(left, 0, near), (right, 0, near), (right, 0, far), (left, 0, far)])

    def pixels_per_meter(self, z: float) -> float:
        """Return the size of a meter at distance `z`."""
        return self.focal / max(z, 0.5)


class Canvas:
    """A picture and, for each of its pixels, what is there.

    Args:
        height: of the finished picture, pixels.
        width: of the finished picture, pixels.
    """

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width
        shape = (height * SUPERSAMPLING, width * SUPERSAMPLING)
        self.color = np.zeros(
            (*shape, 4), np.uint8
        )  # RGB and an unused byte: four are drawn faster than three
        self.numbers = np.zeros(shape, np.uint16)
        self._scratch = np.empty_like(self.color)

    def fill(self, points: ArrayLike, color: Color | None, number: int | None = None) -> None:
        """Fill one polygon `(P, 2)` or many `(N, P, 2)`.

        Args:
            points: pixels.
            color: None draws only the label.
            number: what the polygon is, a labelId or an object's number; None leaves the label as it is.
        """
        polygons = self._fixed_point(points)
        if polygons.ndim == 2:
            polygons = polygons[None]
        if not polygons.size:
            return
        if color is not None:
            cv2.fillPoly(self.color, list(polygons), color, cv2.LINE_AA, FRACTION_BITS)
        if number is not None:
            cv2.fillPoly(self.numbers, list(polygons), (number,), cv2.LINE_8, FRACTION_BITS)

    def line(self, points: ArrayLike, width: float, color: Color, number: int | None = None) -> None:
        """Draw one polyline `(P, 2)` or many `(N, P, 2)` with round ends, `width` pixels wide."""
        lines = self._fixed_point(points)
        if lines.ndim == 2:
            lines = lines[None]
        thickness = min(max(1, round(width * SUPERSAMPLING)), 2000)
        cv2.polylines(self.color, list(lines), False, color, thickness, cv2.LINE_AA, FRACTION_BITS)
        if number is not None:
            cv2.polylines(self.numbers, list(lines), False, (number,), thickness, cv2.LINE_8, FRACTION_BITS)

    def ellipse(
        self, center: ArrayLike, radii: tuple[float, float], color: Color, number: int | None = None
    ) -> None:
        """Fill an upright ellipse; `radii` along x and y."""
        self.fill(np.asarray(center) + CIRCLE * radii, color, number)

    def discs(self, centers: ArrayLike, radii: ArrayLike, color: Color, number: int | None = None) -> None:
        """Fill discs with these centers `(N, 2)` and radii `(N,)`, which may overlap."""
        unit = SUPERSAMPLING << FRACTION_BITS
        sizes = np.rint(np.asarray(radii) * unit).astype(np.int32).tolist()
        for middle, size in zip(self._fixed_point(centers).tolist(), sizes, strict=True):
            cv2.circle(self.color, middle, size, color, -1, cv2.LINE_AA, FRACTION_BITS)
            if number is not None:
                cv2.circle(self.numbers, middle, size, (number,), -1, cv2.LINE_8, FRACTION_BITS)

    def gradient(self, points: ArrayLike, top: Color, bottom: Color, number: int | None = None) -> None:
        """Fill one polygon with a blend from the color at its top to the one at its bottom."""
        polygon = self._fixed_point(points)
        box = self._window(polygon)
        if box is None:
            return
        rows, columns, low, high = box
        if high - low < _LEAST_GRADIENT:
            self.fill(points, mix(top, bottom, 0.5), number)
            return
        if number is not None:
            cv2.fillPoly(self.numbers, [polygon], (number,), cv2.LINE_8, FRACTION_BITS)
        blend = np.clip((np.arange(rows.start, rows.stop) - low) / max(high - low, 1.0), 0, 1)[:, None]
        first, last = np.array((*top, 0.0)), np.array((*bottom, 0.0))
        colors = (first + (last - first) * blend + 0.5).astype(np.uint8)
        painted = self._scratch[rows, columns]
        painted.view(np.uint32)[:] = colors.view(np.uint32)[:, None]
        cv2.copyTo(painted, self._mask(polygon, rows, columns), self.color[rows, columns])

    def darken(self, points: ArrayLike, strength: float, blur: float = 0.0) -> None:
        """Cast a shadow on what is drawn so far: `strength` 0 to 1, edges `blur` pixels soft."""
        polygon = self._fixed_point(points)
        box = self._window(polygon, margin=2 * blur * SUPERSAMPLING)
        if box is None or strength <= 0:
            return
        rows, columns = box[:2]
        mask = self._mask(polygon, rows, columns)
        if blur * SUPERSAMPLING >= 1:
            size = 2 * round(blur * SUPERSAMPLING) + 1
            mask = np.asarray(cv2.blur(cv2.blur(mask, (size, size)), (size, size)), np.uint8)
        keep = cv2.LUT(mask, (255 - np.arange(256) * strength).astype(np.uint8))
        region = self.color[rows, columns]
        cv2.multiply(region, cv2.merge([keep, keep, keep, keep]), dst=region, scale=1 / 255)

    def glow(self, center: tuple[float, float], radius: float, color: Color, strength: float) -> None:
        """Add light around `center`, fading out at `radius` pixels."""
        square = np.asarray(center) + np.array([(-radius, -radius), (radius, radius)])
        box = self._window(self._fixed_point(square))
        if box is None:
            return
        rows, columns = box[:2]
        first = (square[0] * SUPERSAMPLING).round().astype(int)
        side = max(1, round(2 * radius * SUPERSAMPLING))
        move = np.array([[side / 65, 0, first[0] - columns.start], [0, side / 65, first[1] - rows.start]])
        size = (columns.stop - columns.start, rows.stop - rows.start)
        texture = (_FALLOFF * (np.array((*color, 0.0)) * strength) + 0.5).astype(np.uint8)
        region = self.color[rows, columns]
        cv2.add(region, cv2.warpAffine(texture, move, size), dst=region)

    def picture(self) -> NDArray[np.uint8]:
        """Return the finished picture, uint8 (H, W, 3) RGB."""
        small = cv2.resize(self.color, (self.width, self.height), interpolation=cv2.INTER_AREA)
        return np.asarray(cv2.cvtColor(small, cv2.COLOR_RGBA2RGB), np.uint8)

    def count(self, number: int) -> int:
        """Return about how many pixels of the finished picture show this label or object."""
        return int(np.count_nonzero(self.numbers == number)) // SUPERSAMPLING**2

    def labels(self) -> NDArray[np.uint16]:
        """Return what is at each pixel, uint16 (H, W): a labelId, or an object's number."""
        return np.ascontiguousarray(self.numbers[1::SUPERSAMPLING, 1::SUPERSAMPLING])

    def _fixed_point(self, points: ArrayLike) -> NDArray[np.int32]:
        """Convert pixels of the picture to OpenCV's fixed-point coordinates of canvas pixel centers."""
        unit = 1 << FRACTION_BITS
        fixed = np.asarray(points, dtype=np.float64) * (SUPERSAMPLING * unit)
        fixed -= unit / 2
        return np.rint(fixed, out=fixed).astype(np.int32)

    def _window(
        self, polygon: NDArray[np.int32], margin: float = 0.0
    ) -> tuple[slice, slice, float, float] | None:
        """Return rows and columns of the canvas around fixed-point `polygon`, its first and last row."""
        unit = 1 << FRACTION_BITS
        left, top = (polygon.min(axis=0) / unit).tolist()
        right, bottom = (polygon.max(axis=0) / unit).tolist()
        edge = margin + 1
        height, width = self.numbers.shape
        rows = slice(max(0, int(top - edge)), min(height, int(bottom + edge) + 1))
        columns = slice(max(0, int(left - edge)), min(width, int(right + edge) + 1))
        if rows.start >= rows.stop or columns.start >= columns.stop:
            return None
        return rows, columns, top, bottom

    def _mask(self, polygon: NDArray[np.int32], rows: slice, columns: slice) -> NDArray[np.uint8]:
        """Draw a fixed-point polygon as 0 or 255 in a window of the canvas."""
        mask = np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.uint8)
        origin = np.array([columns.start, rows.start], np.int32) * (1 << FRACTION_BITS)
        cv2.fillPoly(mask, [polygon - origin], (255,), cv2.LINE_8, FRACTION_BITS)
        return mask
