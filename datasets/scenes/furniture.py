"""Street furniture of a generated scene: trees, bushes, lamp posts, traffic signs and traffic lights."""

from __future__ import annotations

import numpy as np

from dettoolkit.datasets.scenes.drawing import CIRCLE, Color, Points, mix, rgb
from dettoolkit.datasets.scenes.stage import POLE, VEGETATION, Stage

_GREENS = "5f9a4d 6fa552 4c8a55 86ab4f 7fa04a 558f5f"
_AUTUMN = "d29a3f c9774a dba94b 86ab4f b9573f"


def draw_tree(stage: Stage, x: float, z: float, height: float) -> None:
    """Draw a round tree that stands on the ground at `(x, z)` meters."""
    scale = stage.camera.pixels_per_meter(z)
    foot = stage.camera.project((x, 0.0, z))
    light, canvas = stage.light, stage.canvas
    crown = foot - (0, height * 0.66 * scale)
    bark = light.on(rgb("6b5244"), 1, z)
    canvas.line([foot, crown], 0.26 * scale, bark, VEGETATION)
    branch = foot - np.array([(0, 0.36), (0.14, 0.52)]) * height * scale * (np.sign(light.sun), 1)
    canvas.line(branch, 0.14 * scale, bark, VEGETATION)
    leaves = stage.pick(_AUTUMN if stage.autumn else _GREENS)
    radius = height * 0.27 * scale
    count = 7 if z < 22 else 3
    turn = (np.arange(count) + stage.rng.uniform(-0.3, 0.3, count)) * 2 * np.pi / count
    puffs = np.concatenate([[(0, 0)], np.stack([np.cos(turn) * 0.72, np.sin(turn) * 0.6], -1)])
    sizes = np.concatenate([[0.95], stage.rng.uniform(0.42, 0.66, count)])
    _foliage(stage, crown + puffs * radius, sizes * radius, leaves, z)


def draw_bush(stage: Stage, x: float, z: float, width: float) -> None:
    """Draw a low bush of this width in meters."""
    scale = stage.camera.pixels_per_meter(z)
    foot = stage.camera.project((x, 0.0, z))
    puffs = np.linspace(-0.5, 0.5, 5) * width
    heights = stage.rng.uniform(0.35, 0.6, 5)
    centers = foot + np.stack([puffs, -heights * 0.9], -1) * scale
    _foliage(stage, centers, heights * scale, stage.pick(_GREENS), z)


def _foliage(stage: Stage, centers: Points, radii: Points, leaves: Color, z: float) -> None:
    """Draw leaves as round puffs in three tones, lighter towards the sun."""
    towards = np.array([np.sign(stage.light.sun) * 0.22, -0.25])
    tones = ((0.74, 1.0, 0.0), (0.95, 0.84, 0.6), (1.16, 0.5, 1.5))
    for shade, size, shift in tones if z < 26 else tones[:2]:
        shown = slice(None) if shift <= 1 else radii >= radii.max() * 0.55
        middles = centers[shown] + towards * radii[shown, None] * shift
        number = VEGETATION if shift == 0 else None
        stage.canvas.discs(middles, radii[shown] * size, stage.light.on(leaves, shade, z), number)


def draw_lamp_post(stage: Stage, x: float, z: float) -> None:
    """Draw a street lamp whose arm reaches over the road."""
    project, canvas, light = stage.camera.project, stage.canvas, stage.light
    scale = stage.camera.pixels_per_meter(z)
    inwards = -1.0 if x > stage.street.middle else 1.0
    metal = light.on(rgb("4a525a"), 1, z)
    post = project([(x, 0, z), (x, 5.2, z), (x + inwards * 0.4, 5.7, z), (x + inwards * 1.3, 5.75, z)])
    canvas.line(post, 0.13 * scale, metal, POLE)
    canvas.line(project([(x, 0, z), (x, 0.9, z)]), 0.22 * scale, metal, POLE)
    head = project([(x + inwards * 1.0, 5.7, z), (x + inwards * 1.7, 5.66, z)])
    canvas.line(head, 0.2 * scale, rgb("ffe7ac") if light.lamps else light.on(rgb("6a727a"), 1, z), POLE)
    if light.lamps:
        canvas.glow((float(head[1, 0]), float(head[1, 1])), 1.4 * scale, rgb("ffcf80"), 0.7)


def draw_traffic_light(stage: Stage, number: int, x: float, z: float) -> None:
    """Draw a traffic light of 0.5 m x 1.25 m on a post; `number` is its object's."""
    canvas, light = stage.canvas, stage.light
    scale = stage.camera.pixels_per_meter(z)
    foot = stage.camera.project((x, 0.0, z))

    def at(points: list[tuple[float, float]]) -> Points:
        return foot + np.array(points) * (scale, -scale)

    canvas.line(at([(0, 0), (0, 2.5)]), 0.14 * scale, light.on(rgb("555d63"), 1, z), POLE)
    housing = [(-0.25, 2.3), (0.25, 2.3), (0.25, 3.5), (0.2, 3.55), (-0.2, 3.55), (-0.25, 3.5)]
    case = stage.pick("23282c 2c3a30 2b2b2b")
    canvas.fill(at(housing), light.on(stage.pick("d9b13b 3a4247 e6e2d8"), 1, z), number)
    canvas.fill(at([(px * 0.84, 2.92 + (py - 2.92) * 0.93) for px, py in housing]), light.on(case, 1, z))
    lit = int(stage.rng.integers(3))
    for lamp, (code, y) in enumerate((("ff4a3d", 3.28), ("ffb52e", 2.93), ("3fdc7f", 2.58))):
        center = at([(0.0, y)])[0]
        radius = 0.15 * scale
        on = lamp == lit
        color = rgb(code) if on else light.on(mix(rgb(code), rgb("20252a"), 0.78), 1, z)
        canvas.ellipse(center, (radius, radius), color)
        if on:
            canvas.ellipse(center - (0, radius * 0.15), (radius * 0.5,) * 2, mix(color, rgb("ffffff"), 0.45))
            canvas.glow((float(center[0]), float(center[1])), radius * 3, color, 0.45)


def draw_traffic_sign(stage: Stage, number: int, x: float, z: float, size: float) -> None:
    """Draw one of six kinds of sign, `size` meters wide, on a post; `number` is its object's."""
    canvas, light = stage.canvas, stage.light
    scale = stage.camera.pixels_per_meter(z)
    foot = stage.camera.project((x, 0.0, z))
    center = foot - (0, 2.55 * scale)
    canvas.line([foot, center], 0.09 * scale, light.on(rgb("8b9399"), 1, z), POLE)
    radius = size / 2 * scale
    kind = int(stage.rng.integers(6))
    outline, face, inner, inset = _SIGNS[kind]
    canvas.fill(center + outline * radius * 1.06, light.on(rgb("f6f4ef"), 1, z), number)
    canvas.fill(center + outline * radius, light.on(rgb(face), 1.05, z))
    if inner:
        canvas.fill(center + outline * radius * inset, light.on(rgb(inner), 1.05, z))
    ink = light.on(rgb("f6f4ef" if face in ("2d6cb5", "cf2e2e") and not inner else "2a2d33"), 1, z)
    for stroke in _SYMBOLS[kind]:
        canvas.line(center + np.array(stroke) * radius, max(0.15 * radius, 0.5), ink)


def _polygon(corners: int, turn: float) -> Points:
    angles = np.arange(corners) * 2 * np.pi / corners + turn
    return np.stack([np.cos(angles), np.sin(angles)], -1)


_SQUARE = np.array([(-0.92, -0.92), (0.92, -0.92), (0.92, 0.92), (-0.92, 0.92)])
# outline (y down), color, color of the inner field, size of the inner field
_SIGNS: tuple[tuple[Points, str, str, float], ...] = (
    (CIRCLE, "cf2e2e", "f6f4ef", 0.74),  # speed limit
    (_polygon(8, np.pi / 8), "cf2e2e", "", 0.0),  # stop
    (_polygon(3, -np.pi / 2) * 1.1, "cf2e2e", "f6f4ef", 0.62),  # danger
    (CIRCLE, "2d6cb5", "", 0.0),  # direction
    (_SQUARE, "2d6cb5", "", 0.0),  # parking
    (_polygon(4, 0) * 1.05, "f6f4ef", "f2bd2b", 0.78),  # priority road
)
_SYMBOLS: tuple[tuple[tuple[tuple[float, float], ...], ...], ...] = (
    (
        ((-0.42, -0.3), (-0.12, -0.3), (-0.3, -0.05), (-0.12, 0.15), (-0.22, 0.33), (-0.42, 0.3)),
        ((0.14, -0.3), (0.4, -0.3), (0.4, 0.32), (0.14, 0.32), (0.14, -0.3)),
    ),
    (((-0.6, 0.0), (0.6, 0.0)),),
    (((0.0, -0.3), (0.0, 0.12)), ((0.0, 0.3), (0.0, 0.31))),
    (((0.0, 0.55), (0.0, -0.5)), ((-0.35, -0.15), (0.0, -0.55), (0.35, -0.15))),
    (((-0.25, 0.6), (-0.25, -0.55), (0.2, -0.55), (0.38, -0.3), (0.2, -0.02), (-0.25, -0.02)),),
    (),
)
