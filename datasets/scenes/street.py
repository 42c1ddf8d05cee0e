"""The street of a generated scene: sky, skyline, ground and buildings, drawn from far to near."""

from __future__ import annotations

import numpy as np

from dettoolkit.datasets.scenes.buildings import Garden, House, plan_side
from dettoolkit.datasets.scenes.drawing import CIRCLE, mix, rgb
from dettoolkit.datasets.scenes.stage import BUILDING, ROAD, SIDEWALK, SKY, VEGETATION, Stage

FAR = 80.0  # meters; where the street ends in the haze


def draw_backdrop(stage: Stage) -> None:
    """Draw everything that objects stand in front of."""
    _sky(stage)
    _skyline(stage)
    _ground(stage)
    _markings(stage)
    rows = {side: plan_side(stage, side, FAR) for side in (-1, 1)}
    _house_shadows(stage, rows[1 if stage.light.sun > 0 else -1])
    for house in sorted(rows[-1] + rows[1], key=lambda h: -h.near):
        x = stage.camera.project((house.wall, 0.0, house.far))[0]
        if 0 < x < stage.canvas.width:
            house.draw(stage)


def _sky(stage: Stage) -> None:
    """Draw the sky, the sun unless it is overcast, and clouds."""
    canvas, light = stage.canvas, stage.light
    width, horizon = canvas.width, stage.camera.vanishing_xy[1]
    half = horizon * 0.55
    canvas.gradient([(0, 0), (width, 0), (width, half), (0, half)], light.sky[0], light.sky[1], SKY)
    canvas.gradient(
        [(0, half), (width, half), (width, horizon + 2), (0, horizon + 2)],
        light.sky[1],
        light.sky[2],
        SKY,
    )
    if light.shadow > 0.2:
        sun = (stage.camera.vanishing_xy[0] + light.sun * width * 0.2, horizon * stage.between(0.25, 0.8))
        canvas.glow(sun, canvas.height * 0.55, rgb("ffd9a0"), 0.55)
        canvas.ellipse(sun, (canvas.height * 0.028,) * 2, mix(rgb("fff6dc"), light.sky[2], 0.15))
    for _ in range(int(stage.rng.integers(1, 6))):
        _cloud(stage, stage.between(0, width), stage.between(0.08, 0.75) * horizon)


def _cloud(stage: Stage, x: float, y: float) -> None:
    """Draw a cloud of round puffs with a flat base."""
    size = stage.canvas.height * stage.between(0.02, 0.05)
    color = mix(stage.light.sky[1], mix(stage.light.sky[2], rgb("ffffff"), 0.6), stage.between(0.5, 0.9))
    puffs = int(stage.rng.integers(3, 6))
    radii = size * stage.rng.uniform(0.7, 1.3, puffs)
    left = (np.arange(puffs) - puffs / 2) * size * 1.15
    rounds = CIRCLE[None] * radii[:, None, None]
    rounds[..., 0] += x + left[:, None]
    rounds[..., 1] = y + np.minimum(rounds[..., 1], size * 0.25)
    for puff in rounds:
        stage.canvas.fill(puff, color)


def _skyline(stage: Stage) -> None:
    """Draw hills and towers that stand at the end of the street."""
    canvas, light, width = stage.canvas, stage.light, stage.canvas.width
    horizon = stage.camera.vanishing_xy[1]
    x = np.linspace(0, width, 40)
    waves = stage.rng.uniform(0.3, 1.0, 3)[:, None] * np.sin(
        x / width * np.array([[7.0], [13.0], [29.0]]) + stage.rng.uniform(0, 6, (3, 1))
    )
    hills = horizon - canvas.height * (0.05 + 0.014 * waves.sum(axis=0))
    ridge = np.concatenate([np.stack([x, hills], -1), [(width, horizon + 2), (0, horizon + 2)]])
    canvas.gradient(ridge, light.on(rgb("6f9468"), 0.95, 130), light.on(rgb("8fae86"), 1, 170), VEGETATION)
    for _ in range(int(stage.rng.integers(6, 14))):
        left = stage.camera.vanishing_xy[0] + stage.between(-0.35, 0.35) * width
        wide, high = stage.between(0.02, 0.045) * width, stage.between(0.05, 0.17) * canvas.height
        tower = [
            (left, horizon + 1),
            (left, horizon - high),
            (left + wide, horizon - high),
            (left + wide, horizon + 1),
        ]
        shade = stage.between(0.75, 1.0)
        canvas.fill(tower, light.on(rgb("8794a8"), shade, stage.between(110, 190)), BUILDING)


def _ground(stage: Stage) -> None:
    """Draw pavement, carriageway, the street across and curbs."""
    canvas, camera, light, street = stage.canvas, stage.camera, stage.light, stage.street
    horizon, bottom, width = camera.vanishing_xy[1], canvas.height, canvas.width
    paving = stage.pick("c9bfb2 bdb9b4 cfc4b0 b9b3ae")
    everything = [(0, horizon), (width, horizon), (width, bottom), (0, bottom)]
    canvas.gradient(everything, light.on(paving, 1, 60), light.on(paving, 0.98), SIDEWALK)
    slabs = [
        camera.project([(street.left_wall - 9, 0, z), (street.right_wall + 9, 0, z)])
        for z in np.arange(3, 24, 1.5)
    ]
    canvas.line(np.stack(slabs), 0.5 * canvas.height / 256, light.on(paving, 0.92, 12))
    asphalt = stage.pick("5d6169 666870 585c66 6d6c70")
    road = camera.ground(street.left_curb, street.right_curb, 1.0, 400)
    canvas.gradient(road, light.on(asphalt, 1.0, 70), light.on(asphalt, 1.0), ROAD)
    if street.crossing is not None:
        near, far = street.crossing
        across = camera.ground(-60, 60, near, far)
        canvas.gradient(across, light.on(asphalt, 1, far * 1.3), light.on(asphalt, 1, near * 0.6), ROAD)
    for side, curb in ((-1, street.left_curb), (1, street.right_curb)):
        for near, far in _stretches(stage):
            top = camera.ground(curb, curb + side * 0.28, near, far)
            canvas.fill(top, light.on(paving, 1.12, near), SIDEWALK)
            canvas.fill(
                camera.ground(curb - side * 0.09, curb, near, far), light.on(paving, 0.62, near), SIDEWALK
            )


def _stretches(stage: Stage) -> list[tuple[float, float]]:
    """Return the stretches of z that the street across leaves."""
    crossing = stage.street.crossing
    return [(1.0, FAR * 2)] if crossing is None else [(1.0, crossing[0]), (crossing[1], FAR * 2)]


def _markings(stage: Stage) -> None:
    """Draw the lines on the road and the pedestrian crossing."""
    canvas, camera, light, street = stage.canvas, stage.camera, stage.light, stage.street
    paint = rgb("eeeae0")
    gap = street.zebra
    for z in np.arange(1.5, 60, 4.5):
        inside = street.crossing is not None and street.crossing[0] - 2.5 < z < street.crossing[1]
        if inside or (gap is not None and gap - 3.5 < z < gap + 4):
            continue
        dash = camera.ground(street.middle - 0.07, street.middle + 0.07, z, z + 2.4)
        canvas.fill(dash, light.on(paint, 0.97, z))
    for side, curb in ((1, street.left_curb), (-1, street.right_curb)):
        for near, far in _stretches(stage):
            edge = camera.ground(curb + side * 0.35, curb + side * 0.47, near, far)
            canvas.fill(edge, light.on(paint, 0.93, near * 0.5 + 6))
    if gap is not None:
        bars = np.arange(street.left_curb + 0.7, street.right_curb - 0.8, 0.95)
        stripes = np.stack([camera.ground(x, x + 0.5, gap, gap + 2.8) for x in bars])
        canvas.fill(stripes, light.on(paint, 1.0, gap))


def _house_shadows(stage: Stage, row: list[House | Garden]) -> None:
    """Darken the ground before the houses that stand towards the sun."""
    edge: list[tuple[float, float, float]] = []
    for house in row:
        if isinstance(house, House):
            reach = house.wall - house.side * house.height * 0.34 * abs(stage.light.sun)
            edge += [(house.wall, 0, house.near), (reach, 0, house.near + 1.5), (reach, 0, house.far + 1.5)]
            edge += [(house.wall, 0, house.far + 1.5)]
    if edge:
        outline = stage.camera.project(edge)
        stage.canvas.darken(outline, stage.light.shadow * 0.62, blur=stage.canvas.height / 200)
