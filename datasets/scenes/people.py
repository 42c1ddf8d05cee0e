"""People of a generated scene: on foot, and on bicycles."""

from dataclasses import replace

import numpy as np

from dettoolkit.datasets.scenes.drawing import CIRCLE, Points
from dettoolkit.datasets.scenes.stage import Sprite

_PALETTES = (
    "f3cfb3 e4b48f c98f66 9a6844 6f4a33",  # skin
    "2a211d 4a3327 7b5233 c79a55 8d8f94 a4552e",  # hair
    "d8504a 2f73b3 f0b53c 3f9a7c f3eee4 7d5aa6 e38aa0 3b4252 e6783c 93bf5f 5fb3c7 7b3f45",  # top
    "2e3a52 3d3d45 6b5a4a 4a6078 8a8f98 24262d a98f6d",  # bottom
    "2a2623 f0ece6 6a4532 b8413a",  # shoes
)
_FRAMES = "d0483e 2d8f86 e5a93b 3c4350 4f7fc0"
_HELMETS = "e94f3d f5f2ea 2f73b3 f0b53c 2b2f36"
_RUBBER = "26282d"


class _Figure(Sprite):
    """Someone who stands at `place`: own coordinates are x ahead and y up, in units of `height` meters."""

    def __init__(self, place: Sprite, height: float) -> None:
        stage, facing = place.stage, float(place.stage.rng.choice((-1.0, 1.0)))
        super().__init__(stage, place.x, place.z, place.number, height, facing)
        self.skin, self.hair, self.top, self.bottom, self.shoes = map(stage.pick, _PALETTES)

    def head(
        self, x: float, y: float, size: float = 1.0, back: bool = False, long_hair: bool = False
    ) -> None:
        """Draw a head whose middle is at (x, y)."""
        wide, high = 0.062 * size, 0.074 * size
        side = 0.0 if back else -0.018 * size
        if long_hair:
            self.ellipse((x + side * 1.3, y - 0.02 * size), (wide * 1.12, high * 1.35), self.hair)
        self.line([(x, y - high), (x - 0.01, y - high * 1.5)], 0.05 * size, self.skin, 0.85)
        self.ellipse((x, y), (wide, high), self.skin)
        floor = -0.9 * high if back else 0.16 * high
        self.fill(_dome(x + side * 0.5, y, wide * 1.1, high * 1.08, floor), self.hair)
        if not back:
            self.fill(_dome(x + side * 2.4, y + 0.01, wide * 0.6, high * 0.75, -high), self.hair)

    def helmet(self, x: float, y: float) -> None:
        self.gradient(_dome(x, y, 0.135, 0.125, 0.02), self.stage.pick(_HELMETS))


def _dome(x: float, y: float, wide: float, high: float, floor: float) -> Points:
    """Return an ellipse around (x, y), cut off `floor` above its middle."""
    outline = CIRCLE * (wide, high)
    outline[:, 1] = np.maximum(outline[:, 1], floor)
    return np.add(outline, (x, y))


def draw_person(place: Sprite, height: float) -> None:
    """Draw someone on foot, `height` meters tall."""
    figure, chance = _Figure(place, height), place.stage.chance
    if chance(0.62):
        _from_the_side(figure)
    else:
        _from_the_front(figure, back=chance(0.5))


def draw_crowd(place: Sprite, offsets: list[tuple[float, float]]) -> None:
    """Draw a dense group of people, at these offsets in meters, as one object."""
    for dx, dz in offsets:
        height = place.stage.between(1.55, 1.85)
        draw_person(replace(place, x=place.x + dx, z=place.z + dz), height)


def _from_the_side(f: _Figure) -> None:
    chance, stride = f.stage.chance, f.stage.between(0.45, 1.05)
    dress, coat = chance(0.2), chance(0.25)
    legs = f.skin if dress else f.bottom
    f.line([(0.0, 0.8), (0.09 * stride, 0.63), (0.16 * stride, 0.51)], 0.062, f.top, 0.8)
    f.ellipse((0.165 * stride, 0.495), 0.028, f.skin)
    back, front = -0.18 * stride, 0.15 * stride
    f.line([(-0.005, 0.5), (-0.03 * stride, 0.28), (back, 0.05)], 0.078, legs, 0.8)
    f.line([(back, 0.035), (back + 0.06, 0.022)], 0.045, f.shoes, 0.85)
    f.line([(0.0, 0.5), (0.1 * stride, 0.28), (front, 0.045)], 0.082, legs)
    f.line([(front, 0.03), (front + 0.07, 0.022)], 0.045, f.shoes)
    if chance(0.3):  # a backpack
        f.line([(-0.12, 0.75), (-0.12, 0.6)], 0.1, f.shoes, 1.1)
    hem, wide = 0.34 if dress or coat else 0.47, 0.13 if dress else 0.09
    shoulders = [(-0.075, 0.79), (-0.03, 0.845), (0.045, 0.845), (0.085, 0.78)]
    f.gradient([*shoulders, (0.075, 0.62), (wide, hem), (-wide, hem), (-0.08, 0.63)], f.top)
    f.head(0.025, 0.925, long_hair=chance(0.4))
    f.line([(0.0, 0.795), (-0.07 * stride, 0.64), (-0.08 * stride, 0.52)], 0.066, f.top, 0.9)
    f.ellipse((-0.082 * stride, 0.495), 0.03, f.skin)
    if chance(0.3):  # a bag
        x = -0.08 * stride
        f.line([(x, 0.49), (x, 0.42)], 0.012, f.shoes)
        f.gradient([(x - 0.07, 0.42), (x + 0.07, 0.42), (x + 0.06, 0.3), (x - 0.06, 0.3)], f.shoes)


def _from_the_front(f: _Figure, *, back: bool) -> None:
    chance = f.stage.chance
    dress = chance(0.25)
    legs = f.skin if dress else f.bottom
    for side, up in ((-1, 0.0), (1, f.stage.between(0.0, 0.07))):
        leg = [(side * 0.045, 0.5), (side * 0.05, 0.28), (side * 0.05, 0.06 + up)]
        f.line(leg, 0.082, legs, 0.95 - up * 2)
        f.line([(side * 0.05, 0.035 + up), (side * 0.062, 0.025 + up)], 0.055, f.shoes)
    for side in (-1, 1):
        f.line([(side * 0.12, 0.785), (side * 0.155, 0.64), (side * 0.155, 0.52)], 0.062, f.top, 0.86)
        f.ellipse((side * 0.157, 0.49), 0.029, f.skin)
    hem, wide = (0.33, 0.15) if dress else (0.47, 0.1)
    shoulders = [(-0.13, 0.8), (-0.06, 0.845), (0.06, 0.845), (0.13, 0.8)]
    f.gradient([*shoulders, (0.095, 0.62), (wide, hem), (-wide, hem), (-0.095, 0.62)], f.top)
    f.head(0.0, 0.925, back=back, long_hair=chance(0.4))
    if chance(0.5):  # a backpack, or an open jacket
        if back:
            f.gradient([(-0.085, 0.8), (0.085, 0.8), (0.095, 0.57), (-0.095, 0.57)], f.shoes)
        else:
            f.gradient([(-0.02, 0.84), (0.02, 0.84), (0.015, 0.48), (-0.015, 0.48)], f.bottom)


def draw_rider(place: Sprite) -> None:
    """Draw someone on a bicycle, which is the next object."""
    figure = _Figure(place, 1.0)
    bicycle = replace(place, number=place.stage.next_number() + 1, facing=figure.facing)
    if place.stage.chance(0.6):
        _riding_across(figure, bicycle)
    else:
        _riding_along(figure, bicycle, back=place.x > place.stage.middle)


def _riding_across(f: _Figure, bicycle: Sprite) -> None:
    """Draw a cyclist from the side: far leg, bicycle, near leg, body."""
    frame = f.stage.pick(_FRAMES)
    rear, front, pedal, hip, hand = (-0.52, 0.34), (0.54, 0.34), (-0.02, 0.3), (-0.24, 0.98), (0.44, 1.06)
    f.line([hip, (0.18, 0.82), (0.1, 0.46)], 0.13, f.bottom, 0.75)
    f.line([(0.1, 0.42), (0.2, 0.4)], 0.08, f.shoes, 0.85)
    for hub in (rear, front):
        bicycle.line(np.concatenate([CIRCLE, CIRCLE[:1]]) * 0.33 + hub, 0.05, _RUBBER)
        ends = CIRCLE[::2] * 0.31 + hub
        bicycle.line(np.stack([ends, np.full_like(ends, hub)], 1), 0.008, "9aa2a8")
    bicycle.line([rear, pedal, (0.4, 0.84), (-0.2, 0.8), rear], 0.05, frame)
    bicycle.line([pedal, (-0.23, 0.92)], 0.05, frame)
    bicycle.line([front, (0.4, 0.86), (0.38, 1.0), (0.46, 1.04)], 0.05, frame)
    bicycle.line([(-0.33, 0.94), (-0.13, 0.93)], 0.06, _RUBBER)
    bicycle.ellipse(pedal, 0.08, "4a4f55")
    f.line([hip, (0.14, 0.74), (-0.04, 0.26)], 0.14, f.bottom)
    f.line([(-0.04, 0.2), (0.1, 0.17)], 0.08, f.shoes)
    body = [(-0.36, 1.0), (-0.2, 1.28), (0.0, 1.5), (0.14, 1.5), (0.2, 1.38), (0.02, 1.1), (-0.1, 0.92)]
    f.gradient(body, f.top)
    f.head(0.22, 1.66, size=1.65)
    f.helmet(0.21, 1.7)
    f.line([(0.08, 1.4), (0.22, 1.14), hand], 0.1, f.top, 0.88)
    f.ellipse(hand, 0.05, f.skin)


def _riding_along(f: _Figure, bicycle: Sprite, *, back: bool) -> None:
    frame = f.stage.pick(_FRAMES)
    f.gradient([(-0.23, 1.42), (-0.1, 1.5), (0.1, 1.5), (0.23, 1.42), (0.17, 0.9), (-0.17, 0.9)], f.top)
    f.head(0.0, 1.64, size=1.65, back=back)
    f.helmet(-0.01, 1.68)
    for side, knee, foot in ((-1, 0.62, 0.2), (1, 0.76, 0.42)):
        f.line([(side * 0.1, 0.95), (side * 0.18, knee), (side * 0.12, foot)], 0.14, f.bottom, 0.9)
        f.line([(side * 0.12, foot - 0.05), (side * 0.14, foot - 0.06)], 0.1, f.shoes)
    bicycle.line([(0, 0.66), (0, 0.98)], 0.05, frame)
    bicycle.line([(0, 0.04), (0, 0.66)], 0.075, _RUBBER)
    if back:
        bicycle.line([(-0.09, 0.93), (0.09, 0.93)], 0.09, _RUBBER)
        bicycle.ellipse((0, 0.72), 0.04, "ff4b3e", None)
    else:
        bicycle.line([(-0.3, 1.06), (0.3, 1.06)], 0.045, frame)
        bicycle.ellipse((0, 0.95), 0.06, "fff3cf", None)
    for side in (-1, 1):
        f.line([(side * 0.21, 1.4), (side * 0.33, 1.2), (side * 0.27, 1.07)], 0.1, f.top, 0.86)
        f.ellipse((side * 0.27, 1.06), 0.045, f.skin)
