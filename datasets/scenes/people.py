"""People of a generated scene: on foot, and on bicycles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from dettoolkit.datasets.scenes.drawing import CIRCLE, Color, Points, rgb
from dettoolkit.datasets.scenes.stage import Stage

_SKINS = "f3cfb3 e4b48f c98f66 9a6844 6f4a33"
_HAIRS = "2a211d 4a3327 7b5233 c79a55 8d8f94 a4552e"
_TOPS = "d8504a 2f73b3 f0b53c 3f9a7c f3eee4 7d5aa6 e38aa0 3b4252 e6783c 93bf5f 5fb3c7 7b3f45"
_BOTTOMS = "2e3a52 3d3d45 6b5a4a 4a6078 8a8f98 24262d a98f6d"
_SHOES = "2a2623 f0ece6 6a4532 b8413a"


@dataclass(frozen=True)
class _Figure:
    """Someone being drawn: own coordinates are x ahead and y up, in units of `scale` pixels from the feet."""

    stage: Stage
    number: int
    foot: Points
    scale: float
    facing: float  # -1 to the left, 1 to the right
    z: float
    skin: Color
    hair: Color
    top: Color
    bottom: Color
    shoes: Color

    def at(self, points: ArrayLike) -> Points:
        """Turn own coordinates into pixels."""
        return self.foot + np.asarray(points, dtype=np.float64) * (self.scale * self.facing, -self.scale)

    def tone(self, color: Color, shade: float = 1.0) -> Color:
        return self.stage.light.on(color, shade, self.z)

    def limb(self, points: ArrayLike, width: float, color: Color, shade: float = 1.0) -> None:
        """Draw a bent line with round ends."""
        self.stage.canvas.line(self.at(points), width * self.scale, self.tone(color, shade), self.number)

    def shape(self, points: ArrayLike, color: Color) -> None:
        """Fill a shape, a little lighter at its top."""
        px = self.at(points)
        self.stage.canvas.gradient(px, self.tone(color, 1.08), self.tone(color, 0.9), self.number)

    def blob(self, x: float, y: float, radii: tuple[float, float], color: Color) -> None:
        size = (radii[0] * self.scale, radii[1] * self.scale)
        self.stage.canvas.ellipse(self.at((x, y)), size, self.tone(color), self.number)

    def head(
        self, x: float, y: float, *, size: float = 1.0, back: bool = False, long_hair: bool = False
    ) -> None:
        """Draw a head whose middle is at (x, y)."""
        wide, high = 0.062 * size, 0.074 * size
        side = 0.0 if back else -0.018 * size
        if long_hair:
            self.blob(x + side * 1.3, y - 0.02 * size, (wide * 1.12, high * 1.35), self.hair)
        self.limb([(x, y - high), (x - 0.01, y - high * 1.5)], 0.05 * size, self.skin, 0.85)
        self.blob(x, y, (wide, high), self.skin)
        cap = CIRCLE * (wide * 1.1, high * 1.08)
        cap[:, 1] = np.maximum(cap[:, 1], -0.9 * high if back else 0.16 * high)
        self.stage.canvas.fill(self.at(np.add(cap, (x + side * 0.5, y))), self.tone(self.hair), self.number)
        if not back:
            nape = CIRCLE * (wide * 0.6, high * 0.75)
            self.stage.canvas.fill(
                self.at(np.add(nape, (x + side * 2.4, y + 0.01))), self.tone(self.hair), self.number
            )


def _figure(stage: Stage, number: int, x: float, z: float, height: float) -> _Figure:
    return _Figure(
        stage=stage,
        number=number,
        foot=stage.camera.project((x, 0.0, z)),
        scale=stage.camera.pixels_per_meter(z) * height,
        facing=float(stage.rng.choice((-1.0, 1.0))),
        z=z,
        skin=stage.pick(_SKINS),
        hair=stage.pick(_HAIRS),
        top=stage.pick(_TOPS),
        bottom=stage.pick(_BOTTOMS),
        shoes=stage.pick(_SHOES),
    )


def draw_person(stage: Stage, number: int, x: float, z: float, height: float) -> None:
    """Draw someone on foot, `height` meters tall, standing at `(x, z)` meters; `number` is the object's."""
    figure = _figure(stage, number, x, z, height)
    if stage.chance(0.62):
        _from_the_side(figure)
    else:
        _from_the_front(figure, back=stage.chance(0.5))


def _from_the_side(f: _Figure) -> None:
    """Draw someone walking across the view, far limbs first."""
    chance = f.stage.chance
    stride = f.stage.between(0.45, 1.05)
    dress, coat = chance(0.2), chance(0.25)
    legs = f.skin if dress else f.bottom
    f.limb([(0.0, 0.8), (0.09 * stride, 0.63), (0.16 * stride, 0.51)], 0.062, f.top, 0.8)
    f.blob(0.165 * stride, 0.495, (0.028, 0.028), f.skin)
    back, front = (-0.18 * stride, 0.05), (0.15 * stride, 0.045)
    f.limb([(-0.005, 0.5), (-0.03 * stride, 0.28), back], 0.078, legs, 0.8)
    f.limb([(back[0], 0.035), (back[0] + 0.06, 0.022)], 0.045, f.shoes, 0.85)
    f.limb([(0.0, 0.5), (0.1 * stride, 0.28), front], 0.082, legs)
    f.limb([(front[0], 0.03), (front[0] + 0.07, 0.022)], 0.045, f.shoes)
    if chance(0.3):
        f.limb([(-0.12, 0.75), (-0.12, 0.6)], 0.1, f.shoes, 1.1)
    hem = 0.34 if dress or coat else 0.47
    wide = 0.13 if dress else 0.09
    f.shape(
        [(-0.075, 0.79), (-0.03, 0.845), (0.045, 0.845), (0.085, 0.78), (0.075, 0.62),
         (wide, hem), (-wide, hem), (-0.08, 0.63)], f.top
    )  # fmt: skip
    f.head(0.025, 0.925, long_hair=chance(0.4))
    f.limb([(0.0, 0.795), (-0.07 * stride, 0.64), (-0.08 * stride, 0.52)], 0.066, f.top, 0.9)
    f.blob(-0.082 * stride, 0.495, (0.03, 0.03), f.skin)
    if chance(0.3):
        f.limb([(-0.08 * stride, 0.49), (-0.08 * stride, 0.42)], 0.012, f.shoes)
        hand = np.array([(-0.07, 0.42), (0.07, 0.42), (0.06, 0.3), (-0.06, 0.3)])
        f.shape(np.add(hand, (-0.08 * stride, 0.0)), f.shoes)


def _from_the_front(f: _Figure, *, back: bool) -> None:
    """Draw someone who faces the camera, or the other way."""
    chance = f.stage.chance
    dress = chance(0.25)
    legs = f.skin if dress else f.bottom
    lift = f.stage.between(0.0, 0.07)
    for side, up in ((-1, 0.0), (1, lift)):
        f.limb(
            [(side * 0.045, 0.5), (side * 0.05, 0.28), (side * 0.05, 0.06 + up)], 0.082, legs, 0.95 - up * 2
        )
        f.limb([(side * 0.05, 0.035 + up), (side * 0.062, 0.025 + up)], 0.055, f.shoes)
    for side in (-1, 1):
        f.limb([(side * 0.12, 0.785), (side * 0.155, 0.64), (side * 0.155, 0.52)], 0.062, f.top, 0.86)
        f.blob(side * 0.157, 0.49, (0.029, 0.029), f.skin)
    hem, wide = (0.33, 0.15) if dress else (0.47, 0.1)
    f.shape(
        [(-0.13, 0.8), (-0.06, 0.845), (0.06, 0.845), (0.13, 0.8), (0.095, 0.62),
         (wide, hem), (-wide, hem), (-0.095, 0.62)], f.top
    )  # fmt: skip
    f.head(0.0, 0.925, back=back, long_hair=chance(0.4))
    if back and chance(0.5):
        f.shape([(-0.085, 0.8), (0.085, 0.8), (0.095, 0.57), (-0.095, 0.57)], f.shoes)
    elif not back and chance(0.5):
        f.shape([(-0.02, 0.84), (0.02, 0.84), (0.015, 0.48), (-0.015, 0.48)], f.bottom)


def draw_rider(stage: Stage, number: int, bicycle: int, x: float, z: float) -> None:
    """Draw someone on a bicycle; `number` and `bicycle` are the two objects'."""
    figure = _figure(stage, number, x, z, 1.0)
    if stage.chance(0.6):
        _riding_across(figure, bicycle)
    else:
        _riding_along(figure, bicycle, back=x > stage.street.middle)


def _riding_across(f: _Figure, bicycle: int) -> None:
    """Draw a cyclist from the side: far leg, bicycle, near leg, body."""
    canvas, scale = f.stage.canvas, f.scale
    frame = f.stage.pick("d0483e 2d8f86 e5a93b 3c4350 4f7fc0")
    pedal, hip, hand = (-0.02, 0.3), (-0.24, 0.98), (0.44, 1.06)
    f.limb([hip, (0.18, 0.82), (0.1, 0.46)], 0.13, f.bottom, 0.75)
    f.limb([(0.1, 0.42), (0.2, 0.4)], 0.08, f.shoes, 0.85)
    rim = np.concatenate([CIRCLE, CIRCLE[:1]]) * 0.33
    for hub in (-0.52, 0.54):
        canvas.line(f.at(np.add(rim, (hub, 0.34))), 0.05 * scale, f.tone(rgb("26282d")), bicycle)
        spokes = np.stack([f.at(CIRCLE[::2] * 0.31 + (hub, 0.34)), f.at(np.full((14, 2), (hub, 0.34)))], 1)
        canvas.line(spokes, 0.008 * scale, f.tone(rgb("9aa2a8")), bicycle)
    tubes = ([(-0.52, 0.34), pedal, (0.4, 0.84), (-0.2, 0.8), (-0.52, 0.34)], [pedal, (-0.23, 0.92)],
             [(0.54, 0.34), (0.4, 0.86), (0.38, 1.0), (0.46, 1.04)])  # fmt: skip
    for tube in tubes:
        canvas.line(f.at(tube), 0.05 * scale, f.tone(frame), bicycle)
    canvas.line(f.at([(-0.33, 0.94), (-0.13, 0.93)]), 0.06 * scale, f.tone(rgb("26282d")), bicycle)
    canvas.ellipse(f.at(pedal), (0.08 * scale, 0.08 * scale), f.tone(rgb("4a4f55")), bicycle)
    f.limb([hip, (0.14, 0.74), (-0.04, 0.26)], 0.14, f.bottom)
    f.limb([(-0.04, 0.2), (0.1, 0.17)], 0.08, f.shoes)
    f.shape(
        [(-0.36, 1.0), (-0.2, 1.28), (0.0, 1.5), (0.14, 1.5), (0.2, 1.38), (0.02, 1.1), (-0.1, 0.92)], f.top
    )
    f.head(0.22, 1.66, size=1.65)
    _helmet(f, 0.22, 1.68)
    f.limb([(0.08, 1.4), (0.22, 1.14), hand], 0.1, f.top, 0.88)
    f.blob(hand[0], hand[1], (0.05, 0.05), f.skin)


def _riding_along(f: _Figure, bicycle: int, *, back: bool) -> None:
    """Draw a cyclist from the front or from behind."""
    canvas, scale = f.stage.canvas, f.scale
    frame = f.tone(f.stage.pick("d0483e 2d8f86 e5a93b 3c4350 4f7fc0"))
    f.shape([(-0.23, 1.42), (-0.1, 1.5), (0.1, 1.5), (0.23, 1.42), (0.17, 0.9), (-0.17, 0.9)], f.top)
    f.head(0.0, 1.64, size=1.65, back=back)
    _helmet(f, 0.0, 1.66)
    for side, knee, foot in ((-1, 0.62, 0.2), (1, 0.76, 0.42)):
        f.limb([(side * 0.1, 0.95), (side * 0.18, knee), (side * 0.12, foot)], 0.14, f.bottom, 0.9)
        f.limb([(side * 0.12, foot - 0.05), (side * 0.14, foot - 0.06)], 0.1, f.shoes)
    canvas.line(f.at([(0, 0.66), (0, 0.98)]), 0.05 * scale, frame, bicycle)
    canvas.line(f.at([(0, 0.04), (0, 0.66)]), 0.075 * scale, f.tone(rgb("26282d")), bicycle)
    if back:
        canvas.line(f.at([(-0.09, 0.93), (0.09, 0.93)]), 0.09 * scale, f.tone(rgb("26282d")), bicycle)
        canvas.ellipse(f.at((0, 0.72)), (0.04 * scale, 0.04 * scale), rgb("ff4b3e"), bicycle)
    else:
        canvas.line(f.at([(-0.3, 1.06), (0.3, 1.06)]), 0.045 * scale, frame, bicycle)
        canvas.ellipse(f.at((0, 0.95)), (0.06 * scale, 0.06 * scale), rgb("fff3cf"), bicycle)
    for side in (-1, 1):
        f.limb([(side * 0.21, 1.4), (side * 0.33, 1.2), (side * 0.27, 1.07)], 0.1, f.top, 0.86)
        f.blob(side * 0.27, 1.06, (0.045, 0.045), f.skin)


def _helmet(f: _Figure, x: float, y: float) -> None:
    dome = CIRCLE * (0.135, 0.125)
    dome[:, 1] = np.maximum(dome[:, 1], 0.02)
    f.shape(np.add(dome, (x - 0.01, y + 0.02)), f.stage.pick("e94f3d f5f2ea 2f73b3 f0b53c 2b2f36"))
