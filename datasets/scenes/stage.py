"""What all parts of a generated scene need: labelIds, the stage with its street and light, and sprites."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike

from dettoolkit.datasets.scenes.drawing import CIRCLE, Canvas, Color, Points, mix, rgb

Shade = float | None  # how light a color appears; None for what shines by itself

# labelIds of Cityscapes (cityscapesScripts, helpers/labels.py)
ROAD, SIDEWALK, BUILDING, POLE, TRAFFIC_LIGHT, TRAFFIC_SIGN = 7, 8, 11, 17, 19, 20
VEGETATION, SKY, PERSON, RIDER, CAR, BICYCLE = 21, 23, 24, 25, 26, 33
# The detection classes; category ids are Cityscapes' labelIds, so they have gaps and do not start at 1.
CATEGORIES = {
    TRAFFIC_LIGHT: "traffic light", TRAFFIC_SIGN: "traffic sign", PERSON: "person", RIDER: "rider", CAR: "car"
}  # fmt: skip
# Classes of which Cityscapes separates instances; its instanceIds are labelId * 1000 + k for these.
_INSTANCES = (PERSON, RIDER, CAR, BICYCLE)
_FIRST_OBJECT = 64  # object numbers start here; a smaller number on the canvas is a labelId itself

# probability, colors (sky at zenith, halfway and horizon, ambient light, haze), shadow strength, lamps
_LIGHTS = (
    (0.4, "4f9bd9 93c8ec e3f1f6 ffffff d5e7ef", 0.40, False),  # day
    (0.2, "7fb4dc c3dbe6 fdeccb fff4dd f3e3c8", 0.36, False),  # morning
    (0.2, "9fb0bd bccad3 e2e7e8 e2e7ea d0d8dc", 0.16, False),  # overcast
    (0.2, "3d3f77 b1658e fdbb74 c4a8bc dd9a86", 0.26, True),  # dusk
)


@dataclass(frozen=True)
class SceneObject:
    """An object that was drawn."""

    number: int  # on the canvas
    label_id: int
    instance_id: int
    crowd: bool
    full_area: int  # pixels before others hid it


class Stage:
    """What a scene of this size in pixels is drawn with: its canvas, and its random camera, street and light.

    Lengths are meters: X to the right, Y up from the ground, Z ahead of the camera, which stands at X = Z = 0
    and is level.
    """

    def __init__(self, rng: Generator, height: int, width: int) -> None:
        self.rng = rng
        self.canvas = Canvas(height, width)
        self.objects: list[SceneObject] = []
        self.horizon = height * self.between(0.40, 0.48)  # pixels
        self.focal = height * self.between(1.5, 1.8)  # pixels
        self.eye_level = self.between(1.55, 2.1)
        self.vanishing_x = width * self.between(0.36, 0.64)  # pixels, on the horizon

        right = self.between(2.3, 4.2)
        left = right - self.between(6.5, 9.5)
        self.curbs, self.middle = (left, right), (left + right) / 2  # middle: between the two directions
        self.crosswalk = self.between(8.5, 13) if self.chance(0.45) else None  # its near edge
        self.crossing: tuple[float, float] | None = None  # near and far edge of a cross street
        if self.chance(0.4):
            near = self.between(11.5, 15) if self.crosswalk is None else self.crosswalk + 4.0
            self.crossing = (near, near + self.between(6, 8))
        self.walls = (left - self.between(2.8, 4.8), right + self.between(2.8, 4.8))  # of the houses

        kind = int(self.rng.choice(len(_LIGHTS), p=[light[0] for light in _LIGHTS]))
        _, codes, self.shadow, self.lamps = _LIGHTS[kind]
        zenith, halfway, horizon, ambient, self.haze = codes.split()
        warm, dim = self.between(0, 0.25), self.between(0.93, 1.0)
        self.sky = (mix(zenith, halfway, warm), halfway, horizon)
        self.ambient = tuple(channel * dim for channel in rgb(mix(ambient, "ffe2b8", warm)))
        self.sun = float(self.rng.choice((-1.0, 1.0))) * self.between(0.4, 1.0)  # -1 left, 1 right
        self.autumn = self.chance(0.2)  # the trees' color

    def next_number(self) -> int:
        """Return the number that the next registered object will have."""
        return _FIRST_OBJECT + len(self.objects)

    def register(self, label_id: int, *, crowd: bool) -> None:
        """Write down the object that was just drawn with `next_number`."""
        number, instance_id = self.next_number(), label_id
        if label_id in _INSTANCES and not crowd:
            before = sum(item.label_id == label_id and not item.crowd for item in self.objects)
            instance_id = label_id * 1000 + before
        self.objects.append(SceneObject(number, label_id, instance_id, crowd, self.canvas.count(number)))

    def pick(self, codes: str) -> Color:
        """Return a random one of the colors in `codes`, such as 'e9d8b6 d08a5b'."""
        choices = codes.split()
        return choices[int(self.rng.integers(len(choices)))]

    def between(self, low: float, high: float) -> float:
        """Return a random number between two."""
        return float(self.rng.uniform(low, high))

    def chance(self, probability: float) -> bool:
        """Return True with this probability."""
        return bool(self.rng.random() < probability)

    def project(self, xyz: ArrayLike) -> Points:
        """Return `(..., 3)` meters as `(..., 2)` pixels; points behind the camera are moved before it."""
        points = np.asarray(xyz, dtype=np.float64)
        scale = self.focal / np.maximum(points[..., 2], 0.5)
        xy = np.empty((*scale.shape, 2))
        xy[..., 0] = self.vanishing_x + points[..., 0] * scale
        xy[..., 1] = self.horizon + (self.eye_level - points[..., 1]) * scale
        return xy

    def pixels_per_meter(self, z: float) -> float:
        """Return the size of a meter at distance `z`."""
        return self.focal / max(z, 0.5)

    def tone(self, color: Color, shade: Shade = 1.0, z: float = 0.0) -> Color:
        """Return a color as it appears at distance `z`, fading to the haze."""
        if shade is None:
            return color
        clear = math.exp(-z / 110.0)
        channels = zip(rgb(color), self.ambient, rgb(self.haze), strict=True)
        return tuple(
            min(c * shade, 255.0) * lit / 255.0 * clear + haze * (1 - clear) for c, lit, haze in channels
        )

    def fill(self, xyz: ArrayLike, color: Color, shade: Shade, z: float, number: int | None = None) -> None:
        """Draw one polygon `(P, 3)` or many `(N, P, 3)` in meters, with their color at distance `z`."""
        self.canvas.fill(self.project(xyz), self.tone(color, shade, z), number)


@dataclass
class Sprite:
    """Something flat that stands upright at `(x, z)` meters and faces the camera.

    Its own coordinates are x to the right (to the left when `facing` is -1) and y up from its foot, in units
    of `unit` meters. What it draws gets `number` on the canvas.
    """

    stage: Stage
    x: float
    z: float
    number: int | None = None
    unit: float = 1.0
    facing: float = 1.0

    def __post_init__(self) -> None:
        self.foot = self.stage.project((self.x, 0.0, self.z))
        self.scale = self.stage.pixels_per_meter(self.z) * self.unit  # pixels per unit

    def at(self, points: ArrayLike) -> Points:
        """Return own coordinates as pixels."""
        return self.foot + np.asarray(points, dtype=np.float64) * (self.scale * self.facing, -self.scale)

    def tone(self, color: Color, shade: Shade = 1.0) -> Color:
        """Return a color as it appears from here."""
        return self.stage.tone(color, shade, self.z)

    def fill(self, points: ArrayLike, color: Color, shade: Shade = 1.0) -> None:
        """Draw a polygon."""
        self.stage.canvas.fill(self.at(points), self.tone(color, shade), self.number)

    def line(self, points: ArrayLike, width: float, color: Color, shade: Shade = 1.0) -> None:
        """Draw a bent line with round ends."""
        self.stage.canvas.line(self.at(points), width * self.scale, self.tone(color, shade), self.number)

    def ellipse(self, center: ArrayLike, radii: ArrayLike, color: Color, shade: Shade = 1.0) -> None:
        """Draw an upright ellipse with these radii along x and y, or with one for both."""
        outline = self.at(center) + CIRCLE * (np.asarray(radii) * self.scale)
        self.stage.canvas.fill(outline, self.tone(color, shade), self.number)

    def gradient(self, points: ArrayLike, color: Color) -> None:
        """Draw a polygon that is a little lighter at its top."""
        self.stage.canvas.gradient(
            self.at(points), self.tone(color, 1.08), self.tone(color, 0.9), self.number
        )

    def glow(self, center: ArrayLike, radius: float, color: Color, strength: float) -> None:
        """Draw light around a lamp."""
        self.stage.canvas.glow(self.at(center), radius * self.scale, color, strength)
