"""The street of a generated scene: sky, skyline, ground and buildings, drawn from far to near."""

import numpy as np

from dettoolkit.datasets.scenes.buildings import plan_side
from dettoolkit.datasets.scenes.drawing import CIRCLE, mix
from dettoolkit.datasets.scenes.stage import BUILDING, ROAD, SIDEWALK, SKY, VEGETATION, Stage

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
    """Draw the sky, the sun unless it is overcast, and clouds."""
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
    """Draw hills and towers that stand at the end of the street."""
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
    """Draw sidewalks, the road, the cross street and curbs."""
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
    """Draw the lines on the road and the crosswalk."""
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
