"""Street furniture of a generated scene: trees, bushes, lamp posts, traffic signs and traffic lights."""

from dataclasses import replace

import numpy as np

from dettoolkit.datasets.scenes.drawing import CIRCLE, Color, Points, mix, points
from dettoolkit.datasets.scenes.stage import POLE, VEGETATION, Sprite

_GREENS = "5f9a4d 6fa552 4c8a55 86ab4f 7fa04a 558f5f"
_AUTUMN = "d29a3f c9774a dba94b 86ab4f b9573f"


def draw_tree(place: Sprite, height: float) -> None:
    """Draw a round tree of this height in meters."""
    stage, tree = place.stage, replace(place, number=VEGETATION)
    crown = (0, height * 0.66)
    tree.line([(0, 0), crown], 0.26, "6b5244")
    lean = -0.14 * np.sign(stage.sun)
    tree.line(np.array([(0, 0.36), (lean, 0.52)]) * height, 0.14, "6b5244")
    leaves = stage.pick(_AUTUMN if stage.autumn else _GREENS)
    radius = height * 0.27
    count = 7 if tree.z < 22 else 3
    turn = (np.arange(count) + stage.rng.uniform(-0.3, 0.3, count)) * 2 * np.pi / count
    puffs = np.concatenate([[(0, 0)], np.stack([np.cos(turn) * 0.72, np.sin(turn) * -0.6], -1)])
    sizes = np.concatenate([[0.95], stage.rng.uniform(0.42, 0.66, count)])
    _foliage(tree, np.add(crown, puffs * radius), sizes * radius, leaves)


def draw_bush(bush: Sprite, width: float) -> None:
    """Draw a low bush of this width in meters."""
    heights = bush.stage.rng.uniform(0.35, 0.6, 5)
    centers = np.stack([np.linspace(-0.5, 0.5, 5) * width, heights * 0.9], -1)
    _foliage(bush, centers, heights, bush.stage.pick(_GREENS))


def _foliage(plant: Sprite, centers: Points, radii: Points, leaves: Color) -> None:
    """Draw leaves as round puffs in three tones, lighter toward the sun."""
    toward = np.array([np.sign(plant.stage.sun) * 0.22, 0.25])
    tones = ((0.74, 1.0, 0.0), (0.95, 0.84, 0.6), (1.16, 0.5, 1.5))
    for shade, size, shift in tones if plant.z < 26 else tones[:2]:
        shown = slice(None) if shift <= 1 else radii >= radii.max() * 0.55
        middles = plant.at(centers[shown] + toward * radii[shown, None] * shift)
        pixels, number = radii[shown] * size * plant.scale, VEGETATION if shift == 0 else None
        plant.stage.canvas.discs(middles, pixels, plant.tone(leaves, shade), number)


def draw_lamp_post(place: Sprite) -> None:
    """Draw a street lamp whose arm reaches over the road."""
    lamps, facing = place.stage.lamps, -1.0 if place.x > place.stage.middle else 1.0
    post = replace(place, number=POLE, facing=facing)
    post.line([(0, 0), (0, 5.2), (0.4, 5.7), (1.3, 5.75)], 0.13, "4a525a")
    post.line([(0, 0), (0, 0.9)], 0.22, "4a525a")
    color, shade = ("ffe7ac", None) if lamps else ("6a727a", 1.0)
    post.line([(1.0, 5.7), (1.7, 5.66)], 0.2, color, shade)
    if lamps:
        post.glow((1.7, 5.66), 1.4, "ffcf80", 0.7)


def draw_signal(signal: Sprite) -> None:
    """Draw a traffic light of 0.5 m x 1.25 m on a post."""
    stage, inside = signal.stage, replace(signal, number=None)
    replace(signal, number=POLE).line([(0, 0), (0, 2.5)], 0.14, "555d63")
    housing = np.array([(-0.25, 2.3), (0.25, 2.3), (0.25, 3.5), (0.2, 3.55), (-0.2, 3.55), (-0.25, 3.5)])
    case = stage.pick("23282c 2c3a30 2b2b2b")
    signal.fill(housing, stage.pick("d9b13b 3a4247 e6e2d8"))
    inside.fill((housing - (0, 2.92)) * (0.84, 0.93) + (0, 2.92), case)
    lit = int(stage.rng.integers(3))
    for lamp, (color, y) in enumerate((("ff4a3d", 3.28), ("ffb52e", 2.93), ("3fdc7f", 2.58))):
        if lamp == lit:
            inside.ellipse((0, y), 0.15, color, None)
            inside.ellipse((0, y + 0.0225), 0.075, mix(color, "ffffff", 0.45), None)
            inside.glow((0, y), 0.45, color, 0.45)
        else:
            inside.ellipse((0, y), 0.15, mix(color, "20252a", 0.78))


def draw_sign(sign: Sprite, size: float) -> None:
    """Draw one of six kinds of sign, `size` meters wide, on a post."""
    inside, middle, down = replace(sign, number=None), np.array((0, 2.55)), np.array((size / 2, -size / 2))
    replace(sign, number=POLE).line([(0, 0), (0, 2.55)], 0.09, "8b9399")
    outline, face, inner, inset, ink, strokes = _SIGNS[int(sign.stage.rng.integers(len(_SIGNS)))]
    sign.fill(middle + outline * 1.06 * down, "f6f4ef")
    inside.fill(middle + outline * down, face, 1.05)
    if inner:
        inside.fill(middle + outline * inset * down, inner, 1.05)
    for stroke in strokes:
        inside.line(middle + points(stroke) * down, max(0.075 * size, 0.5 / sign.scale), ink)


def _polygon(corners: int, turn: float) -> Points:
    angles = np.arange(corners) * 2 * np.pi / corners + turn
    return np.stack([np.cos(angles), np.sin(angles)], -1)


# outline (y down), color, color and size of the inner field, color of the symbol, its strokes (y down)
_SIGNS: tuple[tuple[Points, str, str, float, str, tuple[str, ...]], ...] = (
    (CIRCLE, "cf2e2e", "f6f4ef", 0.74, "2a2d33",  # speed limit
     ("-42,-30 -12,-30 -30,-5 -12,15 -22,33 -42,30", "14,-30 40,-30 40,32 14,32 14,-30")),
    (_polygon(8, np.pi / 8), "cf2e2e", "", 0.0, "f6f4ef", ("-60,0 60,0",)),  # stop
    (_polygon(3, -np.pi / 2) * 1.1, "cf2e2e", "f6f4ef", 0.62, "2a2d33",  # danger
     ("0,-30 0,12", "0,30 0,31")),
    (CIRCLE, "2d6cb5", "", 0.0, "f6f4ef", ("0,55 0,-50", "-35,-15 0,-55 35,-15")),  # direction
    (points("-92,-92 92,-92 92,92 -92,92"), "2d6cb5", "", 0.0, "f6f4ef",  # parking
     ("-25,60 -25,-55 20,-55 38,-30 20,-2 -25,-2",)),
    (_polygon(4, 0) * 1.05, "f6f4ef", "f2bd2b", 0.78, "", ()),  # priority road
)  # fmt: skip
