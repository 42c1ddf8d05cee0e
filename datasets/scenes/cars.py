"""Cars of a generated scene: a side profile drawn out to the car's width, seen in perspective."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dettoolkit.datasets.scenes.drawing import CIRCLE, Color, Points, rgb
from dettoolkit.datasets.scenes.stage import Stage

_PAINTS = "c93c3c 2f6fb0 f2efe8 e0a52b 3c8d7a 39414d 9fb4c3 d96f3a 6d4b86 b8bcc0 7fa35b 24456b"

# Side profiles in meters, (along, up), from the rear's lower edge over the roof to the front's lower edge.
# Each has the same ten corners: strip 1 is always the rear panel, 3 the rear window, 5 the windscreen, 7 the
# front. Proportions are drawn by eye after common cars.
_PROFILES: dict[str, tuple[tuple[float, float], ...]] = {
    "saloon": (
        (0.08, 0.28), (0.0, 0.58), (0.08, 0.98), (0.62, 1.02), (1.25, 1.44),
        (2.45, 1.46), (3.15, 1.0), (4.2, 0.84), (4.35, 0.58), (4.28, 0.26),
    ),
    "hatchback": (
        (0.06, 0.28), (0.0, 0.55), (0.06, 0.95), (0.12, 1.02), (0.5, 1.46),
        (2.05, 1.5), (2.85, 1.02), (3.75, 0.86), (3.9, 0.58), (3.84, 0.26),
    ),
    "suv": (
        (0.06, 0.36), (0.0, 0.66), (0.05, 1.08), (0.1, 1.16), (0.38, 1.68),
        (2.3, 1.72), (3.05, 1.16), (4.2, 1.04), (4.38, 0.72), (4.32, 0.34),
    ),
    "van": (
        (0.04, 0.3), (0.0, 0.6), (0.02, 1.05), (0.03, 1.15), (0.12, 1.9),
        (3.15, 1.92), (3.95, 1.12), (4.45, 0.95), (4.6, 0.6), (4.54, 0.28),
    ),
}  # fmt: skip
_REAR, _REAR_WINDOW, _ROOF, _WINDSCREEN, _FRONT = 1, 3, 4, 5, 7
_HALF_WIDTH = 0.9
_SHADES = (0.62, 0.9, 1.08, 0.95, 1.16, 1.0, 1.12, 0.95, 0.62)


@dataclass(frozen=True)
class CarPose:
    """Where a car stands: the middle of its footprint in meters, its heading in radians from z to x."""

    x: float
    z: float
    heading: float
    kind: str

    @property
    def length(self) -> float:
        """Meters from bumper to bumper."""
        return _PROFILES[self.kind][8][0]

    def world(self, along: ArrayLike, across: ArrayLike, up: ArrayLike) -> NDArray[np.float64]:
        """Turn the car's own meters (from its rear, from its middle, from the ground) into the street's."""
        u, v = np.asarray(along, dtype=np.float64) - self.length / 2, np.asarray(across, dtype=np.float64)
        sin, cos = math.sin(self.heading), math.cos(self.heading)
        x = self.x + u * sin + v * cos
        points = np.empty((*x.shape, 3))
        points[..., 0], points[..., 1], points[..., 2] = x, up, self.z + u * cos - v * sin
        return points

    def footprint(self, grow: float = 0.0) -> NDArray[np.float64]:
        """Return the 4 corners of the car's footprint on the ground."""
        u = np.array([-grow, self.length + grow])[[0, 1, 1, 0]]
        v = (_HALF_WIDTH + grow) * np.array([-1, -1, 1, 1])
        return self.world(u, v, 0.0)


class _Car:
    """One car being drawn."""

    def __init__(self, stage: Stage, pose: CarPose, number: int) -> None:
        self.stage, self.pose, self.number = stage, pose, number
        self.profile = np.array(_PROFILES[pose.kind])
        self.paint = stage.pick(_PAINTS)
        toward = np.array([-pose.x, -pose.z])
        right = np.array([np.cos(pose.heading), -np.sin(pose.heading)])
        ahead = np.array([np.sin(pose.heading), np.cos(pose.heading)])
        self.visible_side = 1.0 if toward @ right > 0 else -1.0
        self.sees_rear = bool(toward @ ahead < 0)
        self.edge_on = abs(toward @ ahead) < 0.3 * np.hypot(*toward)  # neither end is worth seeing
        lit = stage.light.sun * np.cos(pose.heading) * self.visible_side
        self.side_shade = 0.98 if lit > 0 else 0.84

    def color(self, color: Color, shade: float) -> Color:
        return self.stage.light.on(color, shade, self.pose.z)

    def project(self, along: ArrayLike, across: ArrayLike, up: ArrayLike) -> Points:
        return self.stage.camera.project(self.pose.world(along, across, up))

    def half_width(self, up: ArrayLike) -> NDArray[np.float64]:
        """Return half the car's width at this height: it narrows above the belt line."""
        belt = self.profile[3, 1]
        lean = 0.2 if self.pose.kind == "van" else 0.42
        narrower: NDArray[np.float64] = np.maximum(0.0, np.asarray(up, dtype=np.float64) - belt) * lean
        return _HALF_WIDTH - narrower

    def on_strip(self, strip: int, left: float, right: float, low: float, high: float) -> Points:
        """Return a rectangle on a strip: left and right -1 to 1 across it, low and high 0 to 1 along it."""
        (u0, y0), (u1, y1) = self.profile[strip], self.profile[strip + 1]
        t = np.array([low, low, high, high])
        u, y = u0 + (u1 - u0) * t, y0 + (y1 - y0) * t
        return self.project(u, np.array([left, right, right, left]) * self.half_width(y), y)

    def on_side(self, points: ArrayLike) -> Points:
        """Project (along, up) points on the visible side."""
        u, y = np.asarray(points, dtype=np.float64).T
        return self.project(u, self.visible_side * (self.half_width(y) + 0.005), y)

    def draw(self) -> None:
        """Draw the visible strips from far to near, then the visible side."""
        self.tyres()
        order = range(8, -1, -1) if self.sees_rear else range(9)
        for strip in order:
            is_rear = strip <= _REAR_WINDOW
            if strip != _ROOF and strip not in (2, 6) and is_rear != self.sees_rear:
                continue
            shade = _SHADES[strip]
            self.stage.canvas.fill(
                self.on_strip(strip, -1, 1, 0, 1), self.color(self.paint, shade), self.number
            )
            self.details(strip)
        self.side()

    def tyres(self) -> None:
        """Draw the tyres and the dark below the car as seen from its end."""
        canvas, dark = self.stage.canvas, self.color(rgb("24262b"), 1.0)
        if self.edge_on:
            return
        axles = (0.75, self.pose.length - 0.8)
        below = self.project(
            np.array([0.3, 0.3, self.pose.length - 0.3, self.pose.length - 0.3]),
            np.array([-0.8, 0.8, 0.8, -0.8]),
            0.3,
        )
        canvas.fill(below, self.color(rgb("1d1e22"), 1.0), self.number)
        for axle in axles if not self.sees_rear else axles[::-1]:
            for side in (-1, 1):
                v = side * np.array([0.62, 0.86, 0.86, 0.62])
                u = axle + (-0.3 if self.sees_rear else 0.3)
                canvas.fill(self.project(u, v, np.array([0.0, 0.0, 0.5, 0.5])), dark, self.number)

    def details(self, strip: int) -> None:
        """Draw glass, lamps and plates on one end of the car."""
        fill, tone = self.stage.canvas.fill, self.color
        if strip in (_REAR_WINDOW, _WINDSCREEN):
            glass = self.on_strip(strip, -0.88, 0.88, 0.1, 0.9)
            self.stage.canvas.gradient(glass, tone(rgb("8fb0c4"), 1.0), tone(rgb("3d5163"), 1.0))
            low = 0.1 if strip == _WINDSCREEN else 0.12
            shine = self.on_strip(strip, -0.5, -0.15, low, 0.88)
            shine[[0, 1]] += (shine[1] - shine[0]) * 0.6
            fill(shine, tone(rgb("a9c6d6"), 1.0))
        elif strip == _REAR:
            lamp = rgb("ff4b3e") if self.stage.light.lamps else tone(rgb("c22f2f"), 1.0)
            for side in (-1, 1):
                fill(self.on_strip(strip, side * 0.97, side * 0.66, 0.45, 0.9), lamp)
                fill(self.on_strip(strip, side * 0.97, side * 0.8, 0.32, 0.45), tone(rgb("f0b056"), 1.0))
            fill(self.on_strip(strip, -0.3, 0.3, 0.3, 0.62), tone(rgb("f3efe0"), 1.0))
            self.glow(strip, 0.65, rgb("ff4030"), 0.4)
        elif strip == _FRONT:
            lamp = rgb("fff6d8") if self.stage.light.lamps else tone(rgb("e9eef0"), 1.0)
            for side in (-1, 1):
                fill(self.on_strip(strip, side * 0.97, side * 0.58, 0.25, 0.75), lamp)
            fill(self.on_strip(strip, -0.5, 0.5, 0.3, 0.9), tone(rgb("2b2f36"), 1.0))
            self.glow(strip, 0.5, rgb("fff0c0"), 0.8)
        elif strip in (0, 8):
            plain = self.on_strip(strip, -1, 1, 0.0 if strip == 0 else 0.55, 0.45 if strip == 0 else 1.0)
            fill(plain, tone(rgb("2c2f35"), 1.0))
            if strip == 8:
                fill(self.on_strip(strip, -0.28, 0.28, 0.1, 0.5), tone(rgb("f3efe0"), 1.0))

    def glow(self, strip: int, height: float, color: Color, strength: float) -> None:
        """Let the lamps shine when it is dark."""
        if not self.stage.light.lamps:
            return
        radius = 0.6 * self.stage.camera.pixels_per_meter(self.pose.z)
        for side in (-0.8, 0.8):
            center = self.on_strip(strip, side, side, height, height)[0]
            self.stage.canvas.glow((float(center[0]), float(center[1])), radius, color, strength)

    def side(self) -> None:
        """Draw the visible side: body, windows, door lines and wheels."""
        canvas, tone, shade = self.stage.canvas, self.color, self.side_shade
        p = self.profile
        canvas.fill(self.on_side(p[[3, 4, 5, 6]]), tone(self.paint, shade * 0.97), self.number)
        body = self.on_side(p[[0, 1, 2, 3, 6, 7, 8, 9]])
        canvas.gradient(body, tone(self.paint, shade * 1.08), tone(self.paint, shade * 0.86), self.number)
        sill = [tuple(p[0]), (p[0, 0], p[0, 1] + 0.1), (p[9, 0], p[9, 1] + 0.12), tuple(p[9])]
        canvas.fill(self.on_side(sill), tone(rgb("2c2f35"), 1.0))
        self.side_windows()
        scale = self.stage.camera.pixels_per_meter(self.pose.z)
        belt = p[3, 1] - 0.04
        middle = (p[4, 0] + p[6, 0]) / 2
        for u in (middle - 0.95, middle, middle + 0.85):
            canvas.line(self.on_side([(u, 0.42), (u, belt)]), 0.02 * scale, tone(self.paint, shade * 0.72))
        for u in (middle - 0.3, middle + 0.6):
            canvas.line(
                self.on_side([(u, belt - 0.12), (u + 0.15, belt - 0.12)]), 0.04 * scale, tone(self.paint, 0.6)
            )
        for u in (0.75, self.pose.length - 0.8):
            self.wheel(u)

    def side_windows(self) -> None:
        """Draw the side windows, one pillar between them."""
        p = self.profile
        low = p[[3, 6]].mean(axis=0)[1] + 0.05
        top = p[4, 1] - 0.1
        back = p[3] + (p[4] - p[3]) * 0.2 + (0.14, 0)
        front = p[6] - (0.22, 0)
        pillar = (p[4, 0] + p[6, 0]) / 2
        rear_top, front_top = p[4, 0] + 0.12, p[5, 0] - 0.02
        dark, pale = self.color(rgb("34475a"), 1.0), self.color(rgb("6f8ea3"), 1.0)
        if self.pose.kind == "van":
            back, rear_top, pillar = np.array([2.1, low]), 2.1, 2.0
        else:
            rear = self.on_side([(back[0], low), (pillar - 0.06, low), (pillar - 0.06, top), (rear_top, top)])
            self.stage.canvas.gradient(rear, pale, dark)
        ahead = self.on_side([(pillar + 0.06, low), (front[0], low), (front_top, top), (pillar + 0.06, top)])
        self.stage.canvas.gradient(ahead, pale, dark)

    def wheel(self, along: float) -> None:
        """Draw one wheel on the visible side."""
        circle = CIRCLE * 0.34 + (along, 0.34)
        for size, code in (
            (1.18, "1d1e22"),
            (1.0, "26282d"),
            (0.62, "aeb6bd"),
            (0.46, "7d868e"),
            (0.14, "d5dade"),
        ):
            ring = (circle - (along, 0.34)) * size + (along, 0.34)
            ring[:, 1] = np.maximum(ring[:, 1], 0.0) if size <= 1 else np.maximum(ring[:, 1], 0.3)
            self.stage.canvas.fill(self.on_side(ring), self.color(rgb(code), 1.0), self.number)


def draw_car(stage: Stage, number: int, pose: CarPose) -> None:
    """Draw a car; `number` is its object's."""
    _Car(stage, pose, number).draw()


CAR_KINDS = tuple(_PROFILES)
