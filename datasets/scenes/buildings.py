"""The houses of a generated scene."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dettoolkit.datasets.scenes.drawing import Color, Points, mix, rgb
from dettoolkit.datasets.scenes.furniture import draw_tree
from dettoolkit.datasets.scenes.stage import BUILDING, Stage

_FACADES = "c4694c e8d5b0 d48c5c 9db09a 8fa6bb dba89c dcb45f 76889a e9e5dc b8c4c2 a85a4a cfa67e"
_DETAILED = 40.0  # meters; houses further away have no trim, and plain windows sooner
_AWNINGS = "c8473f 2f7f79 e0a13a 3f6fa8 6a9a4b"


@dataclass(frozen=True)
class House:
    """A house beside the street: its front runs from `near` to `far` at x = `wall`."""

    side: int  # -1 left of the street, 1 right
    wall: float
    near: float
    far: float
    storeys: int
    color: Color
    pitched: bool
    shop: bool
    free: bool  # no other house stands against the end that faces the camera

    @property
    def height(self) -> float:
        """Meters to the eaves."""
        return 3.6 + 3.0 * (self.storeys - 1) + 0.7

    def draw(self, stage: Stage) -> None:
        """Draw roof, end and front."""
        light, canvas, project = stage.light, stage.canvas, stage.camera.project
        wall, back, top = self.wall, self.wall + self.side * 9.0, self.height
        lit = 1.04 if light.sun * self.side < 0 else 0.80
        end = [(wall, 0, self.near), (back, 0, self.near), (back, top, self.near), (wall, top, self.near)]
        if self.pitched:
            ridge = (wall + self.side * 4.5, top + 3.2)
            roof = [(wall, top, self.near), (*ridge, self.near), (*ridge, self.far), (wall, top, self.far)]
            canvas.fill(project(roof), light.on(rgb("9b594a"), lit, self.near), BUILDING)
            end[3:3] = [(*ridge, self.near)]
        canvas.fill(project(end), light.on(self.color, 0.9, self.near), BUILDING)
        if self.free:
            self._windows(stage, along_z=False, shade=0.9)
        front = [(wall, 0, self.near), (wall, 0, self.far), (wall, top, self.far), (wall, top, self.near)]
        middle = (self.near + self.far) / 2
        canvas.gradient(
            project(front),
            light.on(self.color, lit * 1.05, middle),
            light.on(self.color, lit * 0.9, middle),
            BUILDING,
        )
        self._windows(stage, along_z=True, shade=lit)
        if self.near < _DETAILED:
            self._trim(stage, lit)
            self._ground_floor(stage, lit)

    def _on_front(
        self, near: NDArray[np.float64], far: NDArray[np.float64], low: float, high: float
    ) -> Points:
        """Return rectangles `(N, 4, 3)` on the front, in meters; near and far are distances along it."""
        corners = np.empty((len(near), 4, 3))
        corners[..., 0] = self.wall
        corners[..., 1] = (low, low, high, high)
        corners[:, 0, 2] = corners[:, 3, 2] = near
        corners[:, 1, 2] = corners[:, 2, 2] = far
        return corners

    def _trim(self, stage: Stage, lit: float) -> None:
        """Draw the cornice and the line above the ground floor."""
        pale = mix(self.color, rgb("fff8ea"), 0.55)
        for low, high, out in ((self.height - 0.45, self.height, 0.25), (3.3, 3.55, 0.12)):
            x = self.wall - self.side * out
            band = [(x, low, self.near), (x, low, self.far), (x, high, self.far), (x, high, self.near)]
            stage.canvas.fill(stage.camera.project(band), stage.light.on(pale, lit, self.near), BUILDING)
            cap = [(x, low, self.near), (self.wall + self.side * 9, low, self.near),
                   (self.wall + self.side * 9, high, self.near), (x, high, self.near)]  # fmt: skip
            stage.canvas.fill(stage.camera.project(cap), stage.light.on(pale, 0.86, self.near), BUILDING)

    def _windows(self, stage: Stage, *, along_z: bool, shade: float) -> None:
        """Draw the windows of the upper storeys on the front (along z) or on the end (along x)."""
        length = self.far - self.near if along_z else 9.0
        count = max(1, int(length / 2.7))
        step = length / count
        start = np.tile(np.arange(count) * step + step / 2 - 0.62, self.storeys - 1)
        floor = np.repeat(4.3 + 3.0 * np.arange(self.storeys - 1), count)
        if not start.size:
            return

        def quads(grow: float, low: float = 0.0, high: float = 1.65) -> Points:
            t = start[:, None] + np.array([-grow, 1.24 + grow])[[0, 1, 1, 0]]
            y = floor[:, None] + np.array([low - grow, high + grow])[[0, 0, 1, 1]]
            corners = np.empty((*t.shape, 3))
            corners[..., 0] = self.wall if along_z else self.wall + self.side * t
            corners[..., 1] = y
            corners[..., 2] = self.near + t if along_z else self.near
            return stage.camera.project(corners)

        canvas, light, away = stage.canvas, stage.light, self.near
        detailed = away < _DETAILED * 0.7
        if detailed:
            canvas.fill(quads(0.13), light.on(mix(self.color, rgb("fff8ea"), 0.6), shade, away))
        canvas.fill(quads(0.0), light.on(rgb("5b7388"), shade, away))
        if detailed:
            canvas.fill(quads(0.0, 0.85), light.on(rgb("7f9bb0"), shade, away))
        share = 0.45 if light.lamps else 0.12
        chosen = stage.rng.random(start.size) < share
        tone = rgb("ffd88a") if light.lamps else light.on(rgb("dfeaf0"), shade, away)
        canvas.fill(quads(0.0)[chosen], mix(tone, light.haze, 0.1))

    def _ground_floor(self, stage: Stage, lit: float) -> None:
        """Draw doors, shop windows and awnings."""
        canvas, light, project = stage.canvas, stage.light, stage.camera.project
        count = max(1, int((self.far - self.near) / 4.0))
        step = (self.far - self.near) / count
        near = self.near + np.arange(count, dtype=np.float64) * step + 0.5
        glass = rgb("ffdf9c") if light.lamps else light.on(rgb("6d8798"), lit, self.near)
        high = 2.6 if self.shop else 2.2
        low = 0.5 if self.shop else 1.0
        wide = step - 1.0 if self.shop else 1.3
        canvas.fill(project(self._on_front(near - 0.12, near + wide + 0.12, low - 0.12, high + 0.12)),
                    light.on(mix(self.color, rgb("3b3a40"), 0.6), lit, self.near))  # fmt: skip
        canvas.fill(project(self._on_front(near, near + wide, low, high)), glass)
        door = np.array([near[int(stage.rng.integers(count))] + (0.2 if self.shop else 1.7)])
        canvas.fill(
            project(self._on_front(door, door + 1.0, 0.0, 2.3)),
            light.on(stage.pick("5a3d33 33484f 43563f"), lit, self.near),
        )
        if self.shop:
            self._awnings(stage, near, wide, lit)

    def _awnings(self, stage: Stage, near: NDArray[np.float64], wide: float, lit: float) -> None:
        """Draw striped awnings over the shop windows."""
        stripes = 6
        z = (near[:, None] + np.arange(stripes) * wide / stripes).ravel()
        shape = self._on_front(z, z + wide / stripes, 2.25, 2.95)
        shape[:, :2, 0] -= self.side * 1.1  # the lower edge stands out over the pavement
        quads = stage.camera.project(shape)
        color, away = stage.pick(_AWNINGS), self.near
        stage.canvas.fill(quads[0::2], stage.light.on(color, lit, away), BUILDING)
        stage.canvas.fill(quads[1::2], stage.light.on(rgb("f4ede0"), lit, away), BUILDING)


@dataclass(frozen=True)
class Garden:
    """A gap between houses, with trees."""

    side: int
    wall: float
    near: float
    far: float

    def draw(self, stage: Stage) -> None:
        """Draw the trees from far to near."""
        count = 3 if self.near < 20 else 1
        for z in np.linspace(self.far - 1, self.near + 1, count):
            draw_tree(
                stage, self.wall + self.side * stage.between(1.5, 3.5), float(z), stage.between(4.5, 8.0)
            )


def plan_side(stage: Stage, side: int, far_end: float) -> list[House | Garden]:
    """Line one side of the street with houses and gardens, near to far; the street across stays free."""
    street = stage.street
    wall = street.left_wall if side < 0 else street.right_wall
    row: list[House | Garden] = []
    z, free = stage.between(2.0, 5.0), True
    while z < far_end:
        far = z + stage.between(7, 15)
        if street.crossing is not None and z < street.crossing[1] + 2 and far > street.crossing[0] - 2:
            corner = street.crossing[0] - 2
            if corner - z > 5:
                row.append(_house(stage, side, wall, (z, corner), free))
            z, free = street.crossing[1] + 2.5, True
            continue
        if stage.chance(0.85):
            row.append(_house(stage, side, wall + side * stage.between(0, 0.5), (z, far), free))
            free = False
        else:
            row.append(Garden(side, wall, z, far))
            free = True
        z = far
    return row


def _house(stage: Stage, side: int, wall: float, reach: tuple[float, float], free: bool) -> House:
    return House(
        side=side,
        wall=wall,
        near=reach[0],
        far=reach[1],
        storeys=int(stage.rng.integers(2, 6)),
        color=stage.pick(_FACADES),
        pitched=stage.chance(0.4),
        shop=stage.chance(0.55),
        free=free,
    )
