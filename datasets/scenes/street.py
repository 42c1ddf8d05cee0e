"""The street of a generated scene: sky, skyline, ground, houses and gardens, drawn from far to near."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dettoolkit.datasets.scenes.drawing import CIRCLE, Color, Points, mix
from dettoolkit.datasets.scenes.furniture import draw_tree
from dettoolkit.datasets.scenes.stage import BUILDING, ROAD, SIDEWALK, SKY, VEGETATION, Sprite, Stage

_Meters = float | NDArray[np.floating[Any]]

_FACADES = "c4694c e8d5b0 d48c5c 9db09a 8fa6bb dba89c dcb45f 76889a e9e5dc b8c4c2 a85a4a cfa67e"
_AWNINGS = "c8473f 2f7f79 e0a13a 3f6fa8 6a9a4b"
_DETAILED = 40.0  # meters; houses farther away have no trim, and plain windows sooner
_DEPTH = 9.0  # meters from the front to the back of a house
_FAR = 80.0  # meters; where the street ends in the haze
_PAINT = "eeeae0"


def draw_backdrop(stage: Stage) -> None:
    """Draw everything that objects stand in front of."""
    _sky(stage)
    _skyline(stage)
    _ground(stage)
    _markings(stage)
    rows = {side: plan_side(stage, side, _FAR) for side in (-1, 1)}
    edge: list[tuple[float, float, float]] = []  # of the shadow of the houses that stand toward the sun
    for lot in rows[1 if stage.sun > 0 else -1]:
        if lot.stories:
            reach = lot.wall - lot.side * lot.height * 0.34 * abs(stage.sun)
            near, far = lot.near, lot.far + 1.5
            edge += [(lot.wall, 0, near), (reach, 0, near + 1.5), (reach, 0, far), (lot.wall, 0, far)]
    if edge:
        outline = stage.project(edge)
        stage.canvas.darken(outline, stage.shadow * 0.62, blur=stage.canvas.height / 200)
    for lot in sorted(rows[-1] + rows[1], key=lambda lot: -lot.near):
        x = stage.project((lot.wall, 0.0, lot.far))[0]
        if 0 < x < stage.canvas.width:
            lot.draw(stage)


def _band(stage: Stage, top: float, bottom: float) -> list[tuple[float, float]]:
    """Return the part of the image between two rows."""
    width = stage.canvas.width
    return [(0, top), (width, top), (width, bottom), (0, bottom)]


def _sky(stage: Stage) -> None:
    canvas, horizon = stage.canvas, stage.horizon
    canvas.gradient(_band(stage, 0, horizon * 0.55), stage.sky[0], stage.sky[1], SKY)
    canvas.gradient(_band(stage, horizon * 0.55, horizon + 2), stage.sky[1], stage.sky[2], SKY)
    if stage.shadow > 0.2:
        sun = (stage.vanishing_x + stage.sun * canvas.width * 0.2, horizon * stage.between(0.25, 0.8))
        canvas.glow(sun, canvas.height * 0.55, "ffd9a0", 0.55)
        canvas.fill(sun + CIRCLE * (canvas.height * 0.028), mix("fff6dc", stage.sky[2], 0.15))
    for _ in range(int(stage.rng.integers(1, 6))):
        x, y = stage.between(0, canvas.width), stage.between(0.08, 0.75) * horizon
        size = canvas.height * stage.between(0.02, 0.05)
        color = mix(stage.sky[1], mix(stage.sky[2], "ffffff", 0.6), stage.between(0.5, 0.9))
        puffs = int(stage.rng.integers(3, 6))
        for index, radius in enumerate(size * stage.rng.uniform(0.7, 1.3, puffs)):
            puff = CIRCLE * radius
            puff[:, 1] = np.minimum(puff[:, 1], size * 0.25)  # a flat base
            canvas.fill(np.add(puff, (x + (index - puffs / 2) * size * 1.15, y)), color)


def _skyline(stage: Stage) -> None:
    canvas, width, horizon = stage.canvas, stage.canvas.width, stage.horizon
    x = np.linspace(0, width, 40)
    swing = stage.rng.uniform(0.3, 1.0, 3)[:, None]
    waves = swing * np.sin(x / width * np.array([[7.0], [13.0], [29.0]]) + stage.rng.uniform(0, 6, (3, 1)))
    hills = horizon - canvas.height * (0.05 + 0.014 * waves.sum(axis=0))
    ridge = np.concatenate([np.stack([x, hills], -1), [(width, horizon + 2), (0, horizon + 2)]])
    canvas.gradient(ridge, stage.tone("6f9468", 0.95, 130), stage.tone("8fae86", 1, 170), VEGETATION)
    for _ in range(int(stage.rng.integers(6, 14))):
        left = stage.vanishing_x + stage.between(-0.35, 0.35) * width
        right = left + stage.between(0.02, 0.045) * width
        top, foot = horizon - stage.between(0.05, 0.17) * canvas.height, horizon + 1
        color = stage.tone("8794a8", stage.between(0.75, 1.0), stage.between(110, 190))
        canvas.fill([(left, foot), (left, top), (right, top), (right, foot)], color, BUILDING)


def _patch(left: float, right: float, near: float, far: float) -> list[tuple[float, float, float]]:
    """Return a rectangle on the ground, in meters."""
    return [(left, 0, near), (right, 0, near), (right, 0, far), (left, 0, far)]


def _ground(stage: Stage) -> None:
    canvas, project = stage.canvas, stage.project
    paving = stage.pick("c9bfb2 bdb9b4 cfc4b0 b9b3ae")
    everything = _band(stage, stage.horizon, canvas.height)
    canvas.gradient(everything, stage.tone(paving, 1, 60), stage.tone(paving, 0.98), SIDEWALK)
    slabs = [[(stage.walls[0] - 9, 0, z), (stage.walls[1] + 9, 0, z)] for z in np.arange(3, 24, 1.5)]
    canvas.line(project(slabs), 0.5 * canvas.height / 256, stage.tone(paving, 0.92, 12))
    asphalt = stage.pick("5d6169 666870 585c66 6d6c70")
    road = project(_patch(*stage.curbs, 1.0, 400))
    canvas.gradient(road, stage.tone(asphalt, 1.0, 70), stage.tone(asphalt, 1.0), ROAD)
    if stage.crossing is not None:
        near, far = stage.crossing
        across = project(_patch(-60, 60, near, far))
        canvas.gradient(across, stage.tone(asphalt, 1, far * 1.3), stage.tone(asphalt, 1, near * 0.6), ROAD)
    for side, curb in zip((-1, 1), stage.curbs, strict=True):
        for near, far in _stretches(stage):
            stage.fill(_patch(curb, curb + side * 0.28, near, far), paving, 1.12, near, SIDEWALK)
            stage.fill(_patch(curb - side * 0.09, curb, near, far), paving, 0.62, near, SIDEWALK)


def _stretches(stage: Stage) -> list[tuple[float, float]]:
    """Return the stretches of z that the cross street leaves."""
    crossing = stage.crossing
    return [(1.0, _FAR * 2)] if crossing is None else [(1.0, crossing[0]), (crossing[1], _FAR * 2)]


def _markings(stage: Stage) -> None:
    crosswalk, crossing = stage.crosswalk, stage.crossing
    for z in np.arange(1.5, 60, 4.5):
        inside = crossing is not None and crossing[0] - 2.5 < z < crossing[1]
        if not inside and (crosswalk is None or not crosswalk - 3.5 < z < crosswalk + 4):
            stage.fill(_patch(stage.middle - 0.07, stage.middle + 0.07, z, z + 2.4), _PAINT, 0.97, z)
    for side, curb in zip((1, -1), stage.curbs, strict=True):
        for near, far in _stretches(stage):
            edge = _patch(curb + side * 0.35, curb + side * 0.47, near, far)
            stage.fill(edge, _PAINT, 0.93, near * 0.5 + 6)
    if crosswalk is not None:
        bars = np.arange(stage.curbs[0] + 0.7, stage.curbs[1] - 0.8, 0.95)
        stripes = [_patch(x, x + 0.5, crosswalk, crosswalk + 2.8) for x in bars]
        stage.fill(stripes, _PAINT, 1.0, crosswalk)


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
        pale = mix(self.color, "fff8ea", 0.55)
        for low, high, out in ((self.height - 0.45, self.height, 0.25), (3.3, 3.55, 0.12)):
            band = self._panel(0, self.far - self.near, low, high, out)
            stage.fill(band, pale, lit, self.near, BUILDING)
            cap = self._panel(-out, _DEPTH, low, high, on_end=True)
            stage.fill(cap, pale, 0.86, self.near, BUILDING)

    def _windows(self, stage: Stage, shade: float, *, on_end: bool = False) -> None:
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
