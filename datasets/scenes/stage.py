"""What all parts of a generated scene share: the stage, its street and light, and the labelIds used."""

from __future__ import annotations

from dataclasses import dataclass, field

from numpy.random import Generator

from dettoolkit.datasets.scenes.drawing import FIRST_OBJECT, Camera, Canvas, Color, Light, mix, rgb

# labelIds of Cityscapes (cityscapesScripts, helpers/labels.py)
ROAD, SIDEWALK, BUILDING, POLE, TRAFFIC_LIGHT, TRAFFIC_SIGN = 7, 8, 11, 17, 19, 20
VEGETATION, SKY, PERSON, RIDER, CAR, BICYCLE = 21, 23, 24, 25, 26, 33

# name: (sky at zenith, half way, horizon, ambient light, haze, shadow strength, lamps)
_LIGHTS: dict[str, tuple[str, str, str, str, str, float, bool]] = {
    "day": ("4f9bd9", "93c8ec", "e3f1f6", "ffffff", "d5e7ef", 0.40, False),
    "morning": ("7fb4dc", "c3dbe6", "fdeccb", "fff4dd", "f3e3c8", 0.36, False),
    "overcast": ("9fb0bd", "bccad3", "e2e7e8", "e2e7ea", "d0d8dc", 0.16, False),
    "dusk": ("3d3f77", "b1658e", "fdbb74", "c4a8bc", "dd9a86", 0.26, True),
}


@dataclass(frozen=True)
class Street:
    """The plan of a street, in meters; the camera stands at x = 0, z = 0 and looks along z."""

    left_curb: float
    right_curb: float
    left_wall: float
    right_wall: float
    crossing: tuple[float, float] | None  # near and far edge of a street across
    zebra: float | None  # near edge of a pedestrian crossing

    @property
    def middle(self) -> float:
        """The line between the two directions."""
        return (self.left_curb + self.right_curb) / 2


@dataclass(frozen=True)
class SceneObject:
    """An object: its number on the canvas, its labelId and its size in pixels before others hid it."""

    number: int
    label_id: int
    crowd: bool
    full_area: int


@dataclass
class Stage:
    """Where a scene is drawn."""

    canvas: Canvas
    camera: Camera
    light: Light
    street: Street
    rng: Generator
    autumn: bool  # the trees' color
    objects: list[SceneObject] = field(default_factory=list)

    def next_number(self) -> int:
        """Return the number that the next registered object will have."""
        return FIRST_OBJECT + len(self.objects)

    def register(self, label_id: int, *, crowd: bool = False) -> None:
        """Record the object that was just drawn with `next_number`."""
        number = self.next_number()
        full_area = self.canvas.count(number)
        self.objects.append(SceneObject(number, label_id, crowd, full_area))

    def pick(self, codes: str) -> Color:
        """Pick one of the colors written in `codes`, as 'e9d8b6 d08a5b'."""
        choices = codes.split()
        return rgb(choices[int(self.rng.integers(len(choices)))])

    def between(self, low: float, high: float) -> float:
        """Draw a number between two."""
        return float(self.rng.uniform(low, high))

    def chance(self, probability: float) -> bool:
        """Draw yes or no."""
        return bool(self.rng.random() < probability)


def make_stage(rng: Generator, height: int, width: int) -> Stage:
    """Choose camera, light and street of a scene of this size in pixels."""
    horizon = height * rng.uniform(0.40, 0.48)
    camera = Camera(
        focal=height * float(rng.uniform(1.5, 1.8)),
        height=float(rng.uniform(1.55, 2.1)),
        vanishing_xy=(width * float(rng.uniform(0.36, 0.64)), horizon),
    )
    right_curb = float(rng.uniform(2.3, 4.2))
    left_curb = right_curb - float(rng.uniform(6.5, 9.5))
    crossing = None
    zebra = float(rng.uniform(8.5, 13)) if rng.random() < 0.45 else None
    if rng.random() < 0.4:
        near = float(rng.uniform(11.5, 15)) if zebra is None else zebra + 4.0
        crossing = (near, near + float(rng.uniform(6, 8)))
    street = Street(
        left_curb=left_curb,
        right_curb=right_curb,
        left_wall=left_curb - float(rng.uniform(2.8, 4.8)),
        right_wall=right_curb + float(rng.uniform(2.8, 4.8)),
        crossing=crossing,
        zebra=zebra,
    )
    return Stage(
        Canvas(height, width), camera, _make_light(rng), street, rng, autumn=bool(rng.random() < 0.2)
    )


def _make_light(rng: Generator) -> Light:
    """Choose one of the kinds of light, varied a little."""
    names = list(_LIGHTS)
    zenith, half_way, horizon, ambient, haze, shadow, lamps = _LIGHTS[
        names[int(rng.choice(4, p=(0.4, 0.2, 0.2, 0.2)))]
    ]
    warm = float(rng.uniform(0, 0.25))
    dim = float(rng.uniform(0.93, 1.0))
    red, green, blue = mix(rgb(ambient), rgb("ffe2b8"), warm)
    return Light(
        sky=(mix(rgb(zenith), rgb(half_way), warm), rgb(half_way), rgb(horizon)),
        ambient=(red * dim, green * dim, blue * dim),
        haze=rgb(haze),
        sun=float(rng.choice((-1.0, 1.0)) * rng.uniform(0.4, 1.0)),
        shadow=shadow,
        lamps=lamps,
    )
