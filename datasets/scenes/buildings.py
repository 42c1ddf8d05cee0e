"""The houses and gardens of a generated scene."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dettoolkit.datasets.scenes.drawing import Color, Points, mix
from dettoolkit.datasets.scenes.furniture import draw_tree
from dettoolkit.datasets.scenes.sprite import Sprite
from dettoolkit.datasets.scenes.stage import BUILDING, Stage

_Meters = float | NDArray[np.floating[Any]]

_FACADES = "c4694c e8d5b0 d48c5c 9db09a 8fa6bb dba89c dcb45f 76889a e9e5dc b8c4c2 a85a4a cfa67e"
_AWNINGS = "c8473f 2f7f79 e0a13a 3f6fa8 6a9a4b"
_DETAILED = 40.0  # meters; houses farther away have no trim, and plain windows sooner
_DEPTH = 9.0  # meters from the front to the back of a house


@dataclass(frozen=True)
class Lot:
    """A house or a garden beside the street: its front runs from `near` to `far` at x = `wall`."""

    side: int  # -1 left of the street, 1 right
    wall: float
    near: float
    far: float
    free: bool = True  # no other house stands against the end that faces the camera
    stories: int = 0  # of a house; a garden has none
    color: Color = ""
    pitched: bool = False
    shop: bool = False

    @property
    def height(self) -> float:
        """Meters to the eaves."""
        return 3.6 + 3.0 * (self.stories - 1) + 0.7

    def draw(self, stage: Stage) -> None:
        """Draw roof, end and front of a house, or the trees of a garden from far to near."""
        if not self.stories:
            for z in np.linspace(self.far - 1, self.near + 1, 3 if self.near < 20 else 1):
                x = self.wall + self.side * stage.between(1.5, 3.5)
                draw_tree(Sprite(stage, x, float(z)), stage.between(4.5, 8.0))
            return
        wall, near, far, top = self.wall, self.near, self.far, self.height
        lit = 1.04 if stage.sun * self.side < 0 else 0.80
        end = list(self._panel(0, _DEPTH, 0, top, on_end=True))
        if self.pitched:
            x, y = wall + self.side * _DEPTH / 2, top + 3.2
            roof = [(wall, top, near), (x, y, near), (x, y, far), (wall, top, far)]
            stage.fill(roof, "9b594a", lit, near, BUILDING)
            end.insert(3, np.array((x, y, near)))
        stage.fill(end, self.color, 0.9, near, BUILDING)
        if self.free:
            self._windows(stage, 0.9, on_end=True)
        front = stage.project(self._panel(0, far - near, 0, top))
        middle = (near + far) / 2
        upper, lower = (stage.tone(self.color, lit * shade, middle) for shade in (1.05, 0.9))
        stage.canvas.gradient(front, upper, lower, BUILDING)
        self._windows(stage, lit)
        if near < _DETAILED:
            self._trim(stage, lit)
            self._ground_floor(stage, lit)

    def _panel(
        self,
        start: _Meters,
        stop: _Meters,
        low: _Meters,
        high: _Meters,
        out: _Meters = 0.0,
        on_end: bool = False,
    ) -> Points:
        """Return rectangles `(..., 4, 3)` in meters: on the front, `out` meters before it, or on the end."""
        along = np.stack([start, stop, stop, start], axis=-1)
        corners = np.empty((*along.shape, 3))
        corners[..., 0] = self.wall + self.side * (along if on_end else -out)
        corners[..., 1] = np.stack([low, low, high, high], axis=-1)
        corners[..., 2] = self.near if on_end else self.near + along
        return corners

    def _trim(self, stage: Stage, lit: float) -> None:
        """Draw the cornice and the line above the ground floor."""
        pale = mix(self.color, "fff8ea", 0.55)
        for low, high, out in ((self.height - 0.45, self.height, 0.25), (3.3, 3.55, 0.12)):
            band = self._panel(0, self.far - self.near, low, high, out)
            stage.fill(band, pale, lit, self.near, BUILDING)
            cap = self._panel(-out, _DEPTH, low, high, on_end=True)
            stage.fill(cap, pale, 0.86, self.near, BUILDING)

    def _windows(self, stage: Stage, shade: float, *, on_end: bool = False) -> None:
        """Draw the windows of the upper stories on the front or on the end."""
        length = _DEPTH if on_end else self.far - self.near
        count = max(1, int(length / 2.7))
        step = length / count
        start = np.tile(np.arange(count) * step + step / 2 - 0.62, self.stories - 1)
        floor = np.repeat(4.3 + 3.0 * np.arange(self.stories - 1), count)

        def panes(grow: float = 0.0, low: float = 0.0) -> Points:
            stop, high = start + 1.24 + grow, floor + 1.65 + grow
            return self._panel(start - grow, stop, floor + low - grow, high, on_end=on_end)

        near = self.near
        detailed = near < _DETAILED * 0.7
        if detailed:
            stage.fill(panes(0.13), mix(self.color, "fff8ea", 0.6), shade, near)
        stage.fill(panes(), "5b7388", shade, near)
        if detailed:
            stage.fill(panes(low=0.85), "7f9bb0", shade, near)
        chosen = stage.rng.random(start.size) < (0.45 if stage.lamps else 0.12)
        tone = "ffd88a" if stage.lamps else stage.tone("dfeaf0", shade, near)
        stage.fill(panes()[chosen], mix(tone, stage.haze, 0.1), None, near)

    def _ground_floor(self, stage: Stage, lit: float) -> None:
        """Draw doors, shop windows and awnings."""
        near = self.near
        count = max(1, int((self.far - near) / 4.0))
        step = (self.far - near) / count
        low, high, wide, door = (0.5, 2.6, step - 1.0, 0.2) if self.shop else (1.0, 2.2, 1.3, 1.7)
        start = np.arange(count) * step + 0.5
        frames = self._panel(start - 0.12, start + wide + 0.12, low - 0.12, high + 0.12)
        stage.fill(frames, mix(self.color, "3b3a40", 0.6), lit, near)
        glass, shade = ("ffdf9c", None) if stage.lamps else ("6d8798", lit)
        stage.fill(self._panel(start, start + wide, low, high), glass, shade, near)
        door += start[int(stage.rng.integers(count))]
        stage.fill(self._panel(door, door + 1.0, 0.0, 2.3), stage.pick("5a3d33 33484f 43563f"), lit, near)
        if self.shop:
            left = (start[:, None] + np.arange(6) * wide / 6).ravel()
            out = np.array([1.1, 1.1, 0, 0])  # the lower edge stands out over the sidewalk
            awnings = self._panel(left, left + wide / 6, 2.25, 2.95, out)
            stage.fill(awnings[0::2], stage.pick(_AWNINGS), lit, near, BUILDING)
            stage.fill(awnings[1::2], "f4ede0", lit, near, BUILDING)


def plan_side(stage: Stage, side: int, far_end: float) -> list[Lot]:
    """Return the lots on one side of the street, near to far; the cross street stays free."""
    wall = stage.walls[side > 0]
    row: list[Lot] = []
    z, free = stage.between(2.0, 5.0), True
    while z < far_end:
        far, crossing = z + stage.between(7, 15), stage.crossing
        if crossing is not None and z < crossing[1] + 2 and far > crossing[0] - 2:
            if crossing[0] - 2 - z > 5:
                row.append(_house(stage, side, wall, z, crossing[0] - 2, free))
            z, free = crossing[1] + 2.5, True
            continue
        if stage.chance(0.85):
            row.append(_house(stage, side, wall + side * stage.between(0, 0.5), z, far, free))
        else:
            row.append(Lot(side, wall, z, far))
        z, free = far, not row[-1].stories
    return row


def _house(stage: Stage, side: int, wall: float, near: float, far: float, free: bool) -> Lot:
    stories, color = int(stage.rng.integers(2, 6)), stage.pick(_FACADES)
    return Lot(side, wall, near, far, free, stories, color, stage.chance(0.4), stage.chance(0.55))
