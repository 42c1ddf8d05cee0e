"""Cars of a generated scene: a side profile drawn out to the car's width, seen in perspective."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dettoolkit.datasets.scenes.drawing import CIRCLE, Color, Points, points
from dettoolkit.datasets.scenes.stage import Shade, Sprite, Stage

_PAINTS = "c93c3c 2f6fb0 f2efe8 e0a52b 3c8d7a 39414d 9fb4c3 d96f3a 6d4b86 b8bcc0 7fa35b 24456b"

# Side profiles in centimeters, (along, up), from the rear's lower edge over the roof to the front's lower
# edge. Each has the same ten corners, so strip 3 between corners 3 and 4 is always the rear window.
# Proportions are drawn by eye after common cars.
_PROFILES = {
    "sedan": "8,28 0,58 8,98 62,102 125,144 245,146 315,100 420,84 435,58 428,26",
    "hatchback": "6,28 0,55 6,95 12,102 50,146 205,150 285,102 375,86 390,58 384,26",
    "suv": "6,36 0,66 5,108 10,116 38,168 230,172 305,116 420,104 438,72 432,34",
    "van": "4,30 0,60 2,105 3,115 12,190 315,192 395,112 445,95 460,60 454,28",
}
CAR_KINDS = tuple(_PROFILES)
_REAR, _REAR_WINDOW, _WINDSHIELD, _FRONT = 1, 3, 5, 7
_FROM_BOTH_ENDS = (2, 4, 6)  # trunk lid, roof and hood
_SHADES = (0.62, 0.9, 1.08, 0.95, 1.16, 1.0, 1.12, 0.95, 0.62)
_HALF_WIDTH = 0.9
_DARK, _PLATE = "2c2f35", "f3efe0"

# What is on a strip: left and right (-1 to 1), low and high (0 to 1), color, and color of a lamp that is lit
_DETAILS: dict[int, tuple[tuple[float, float, float, float, str, str], ...]] = {
    0: ((-1, 1, 0.0, 0.45, _DARK, ""),),
    _REAR: (
        (-0.97, -0.66, 0.45, 0.9, "c22f2f", "ff4b3e"), (-0.97, -0.8, 0.32, 0.45, "f0b056", ""),
        (0.97, 0.66, 0.45, 0.9, "c22f2f", "ff4b3e"), (0.97, 0.8, 0.32, 0.45, "f0b056", ""),
        (-0.3, 0.3, 0.3, 0.62, _PLATE, ""),
    ),
    _FRONT: (
        (-0.97, -0.58, 0.25, 0.75, "e9eef0", "fff6d8"), (0.97, 0.58, 0.25, 0.75, "e9eef0", "fff6d8"),
        (-0.5, 0.5, 0.3, 0.9, "2b2f36", ""),
    ),
    8: ((-1, 1, 0.55, 1.0, _DARK, ""), (-0.28, 0.28, 0.1, 0.5, _PLATE, "")),
}  # fmt: skip
_GLOWS = {_REAR: (0.65, "ff4030", 0.4), _FRONT: (0.5, "fff0c0", 0.8)}  # height on the strip, color, strength
# From the outside in: size, lowest point in meters, color
_WHEEL = (
    (1.18, 0.3, "1d1e22"), (1.0, 0, "26282d"), (0.62, 0, "aeb6bd"), (0.46, 0, "7d868e"), (0.14, 0, "d5dade")
)  # fmt: skip


class Car(Sprite):
    """A car: the middle of its footprint in meters, its heading in radians from z to x, and its kind."""

    def __init__(self, stage: Stage, x: float, z: float, heading: float, kind: str) -> None:
        super().__init__(stage, x, z)
        self.profile = points(_PROFILES[kind])
        self.length = float(self.profile[8, 0])
        self.is_van = kind == "van"
        self.sin, self.cos = np.sin(heading), np.cos(heading)
        ahead = -x * self.sin - z * self.cos  # how far the camera is ahead of the car
        self.visible_side = 1.0 if z * self.sin - x * self.cos > 0 else -1.0
        self.sees_rear = bool(ahead < 0)
        self.is_edge_on = abs(ahead) < 0.3 * np.hypot(x, z)  # neither end is worth seeing

    def footprint(self, grow: float) -> NDArray[np.float64]:
        """Return the 4 corners of the car's footprint on the ground, `grow` meters larger on each side."""
        along = np.array([-grow, self.length + grow])[[0, 1, 1, 0]]
        return self._world(along, (_HALF_WIDTH + grow) * np.array([-1, -1, 1, 1]), 0.0)

    def draw(self, place: Sprite) -> None:
        """Draw the tires, the visible strips from far to near, the visible side and its wheels."""
        number, paint = place.number, self.stage.pick(_PAINTS)
        axles = np.array([0.75, self.length - 0.8])
        if not self.is_edge_on:
            ends = np.array([0.3, 0.3, self.length - 0.3, self.length - 0.3])
            self._fill(self._project(ends, [-0.8, 0.8, 0.8, -0.8], 0.3), "1d1e22", 1.0, number)
            for u in axles[::-1] - 0.3 if self.sees_rear else axles + 0.3:
                for side in (-1, 1):
                    across = side * np.array([0.62, 0.86, 0.86, 0.62])
                    self._fill(self._project([u] * 4, across, [0.0, 0.0, 0.5, 0.5]), "24262b", 1.0, number)
        for strip in range(8, -1, -1) if self.sees_rear else range(9):
            if strip in _FROM_BOTH_ENDS or (strip <= _REAR_WINDOW) == self.sees_rear:
                self._fill(self._on_strip(strip, -1, 1, 0, 1), paint, _SHADES[strip], number)
                self._details(strip)
        self._side(paint, number)
        for along in axles:
            for size, low, color in _WHEEL:
                ring = CIRCLE * 0.34 * size + (along, 0.34)
                ring[:, 1] = np.maximum(ring[:, 1], low)
                self._fill(self._on_side(ring), color, 1.0, number)

    def _world(self, along: ArrayLike, across: ArrayLike, up: ArrayLike) -> NDArray[np.float64]:
        """Return the car's own meters (from its rear, its middle and the ground) as the street's."""
        u, v = np.asarray(along, dtype=np.float64) - self.length / 2, np.asarray(across, dtype=np.float64)
        xyz = np.empty((*u.shape, 3))
        xyz[..., 0], xyz[..., 1] = self.x + u * self.sin + v * self.cos, up
        xyz[..., 2] = self.z + u * self.cos - v * self.sin
        return xyz

    def _project(self, along: ArrayLike, across: ArrayLike, up: ArrayLike) -> Points:
        return self.stage.project(self._world(along, across, up))

    def _half_width(self, up: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return half the car's width at this height: it narrows above the belt line."""
        narrower: NDArray[np.float64] = np.maximum(0.0, up - self.profile[3, 1])
        return _HALF_WIDTH - narrower * (0.2 if self.is_van else 0.42)

    def _on_strip(self, strip: int, left: float, right: float, low: float, high: float) -> Points:
        """Return a rectangle on a strip: left and right -1 to 1 across it, low and high 0 to 1 along it."""
        (u0, y0), (u1, y1) = self.profile[strip], self.profile[strip + 1]
        t = np.array([low, low, high, high])
        y = y0 + (y1 - y0) * t
        across = np.array([left, right, right, left]) * self._half_width(y)
        return self._project(u0 + (u1 - u0) * t, across, y)

    def _on_side(self, outline: ArrayLike) -> Points:
        """Return (along, up) points on the visible side in pixels."""
        u, y = np.asarray(outline, dtype=np.float64).T
        return self._project(u, self.visible_side * (self._half_width(y) + 0.005), y)

    def _fill(self, pixels: Points, color: Color, shade: Shade = 1.0, number: int | None = None) -> None:
        self.stage.canvas.fill(pixels, self.tone(color, shade), number)

    def _details(self, strip: int) -> None:
        canvas, dark = self.stage.canvas, self.stage.lamps
        if strip in (_REAR_WINDOW, _WINDSHIELD):
            glass = self._on_strip(strip, -0.88, 0.88, 0.1, 0.9)
            canvas.gradient(glass, self.tone("8fb0c4"), self.tone("3d5163"))
            shine = self._on_strip(strip, -0.5, -0.15, 0.1 if strip == _WINDSHIELD else 0.12, 0.88)
            shine[[0, 1]] += (shine[1] - shine[0]) * 0.6
            self._fill(shine, "a9c6d6")
        for left, right, low, high, color, lit in _DETAILS.get(strip, ()):
            patch = self._on_strip(strip, left, right, low, high)
            self._fill(patch, *((lit, None) if lit and dark else (color, 1.0)))
        if dark and strip in _GLOWS:
            height, color, strength = _GLOWS[strip]
            for side in (-0.8, 0.8):
                lamp = self._on_strip(strip, side, side, height, height)[0]
                canvas.glow(lamp, 0.6 * self.scale, color, strength)

    def _side(self, paint: Color, number: int | None) -> None:
        """Draw the visible side without the wheels: body, windows and door lines."""
        canvas, p = self.stage.canvas, self.profile
        belt, middle = p[3, 1] - 0.04, (p[4, 0] + p[6, 0]) / 2
        low, top = (p[3, 1] + p[6, 1]) / 2 + 0.05, p[4, 1] - 0.1
        pillar = 2.0 if self.is_van else middle
        left, right, back = pillar - 0.06, pillar + 0.06, p[3, 0] + (p[4, 0] - p[3, 0]) * 0.2 + 0.14
        shade = 0.98 if self.stage.sun * self.cos * self.visible_side > 0 else 0.84
        self._fill(self._on_side(p[3:7]), paint, shade * 0.97, number)
        body = self._on_side(p[[0, 1, 2, 3, 6, 7, 8, 9]])
        canvas.gradient(body, self.tone(paint, shade * 1.08), self.tone(paint, shade * 0.86), number)
        self._fill(self._on_side([p[0], p[0] + (0, 0.1), p[9] + (0, 0.12), p[9]]), _DARK)
        windows = [[(right, low), (p[6, 0] - 0.22, low), (p[5, 0] - 0.02, top), (right, top)]]
        if not self.is_van:  # a van has no windows at the back
            windows.insert(0, [(back, low), (left, low), (left, top), (p[4, 0] + 0.12, top)])
        for window in windows:
            canvas.gradient(self._on_side(window), self.tone("6f8ea3"), self.tone("34475a"))
        for u in (middle - 0.95, middle, middle + 0.85):
            canvas.line(
                self._on_side([(u, 0.42), (u, belt)]), 0.02 * self.scale, self.tone(paint, shade * 0.72)
            )
        for u in (middle - 0.3, middle + 0.6):
            handle = self._on_side([(u, belt - 0.12), (u + 0.15, belt - 0.12)])
            canvas.line(handle, 0.04 * self.scale, self.tone(paint, 0.6))
