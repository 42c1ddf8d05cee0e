"""Who and what stands in a generated scene, where, and drawn in which order."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import cv2
import numpy as np
from numpy.typing import NDArray

from dettoolkit.datasets.scenes import stage as labels
from dettoolkit.datasets.scenes.cars import CAR_KINDS, Car
from dettoolkit.datasets.scenes.drawing import CIRCLE
from dettoolkit.datasets.scenes.furniture import draw_bush, draw_lamp_post, draw_sign, draw_signal, draw_tree
from dettoolkit.datasets.scenes.people import draw_crowd, draw_person, draw_rider
from dettoolkit.datasets.scenes.stage import Sprite, Stage

Box = tuple[float, float, float, float]  # low x, low y, high x, high y
_NEAR = 24.0  # meters; things farther away only cast a shadow when the sun shines
_TRIES = 8  # places tried for each object before the scene goes without it


@dataclass(frozen=True)
class _Part:
    """Something that stands in the street at `(x, z)`, in meters."""

    x: float
    z: float
    ground: float | NDArray[np.float64]  # radius of its footprint, or outline (P, 3)
    width: float
    top: float
    draw: Callable[[Sprite], None]  # takes its place, with the number of its first object
    labels: tuple[int, ...] = ()  # of its objects
    bottom: float = 0.0
    crowd: bool = False

    @cached_property
    def footprint(self) -> NDArray[np.float64]:
        """Its outline on the ground, (P, 3)."""
        if isinstance(self.ground, np.ndarray):
            return self.ground
        return np.insert(CIRCLE * self.ground + (self.x, self.z), 1, 0.0, axis=1)


class Cast:
    """The parts of one scene, chosen at random."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.parts: list[_Part] = []
        self._add_greenery()
        if stage.chance(0.02):
            return  # an empty street
        for propose, probabilities in (  # of none, one, two …
            (self._car, (0.08, 0.32, 0.36, 0.24)),
            (self._rider, (0.40, 0.45, 0.15)),
            (self._traffic_light, (0.35, 0.45, 0.20)),
            (self._traffic_sign, (0.30, 0.45, 0.25)),
            (self._person, (0.08, 0.27, 0.30, 0.22, 0.13)),
        ):
            for _ in range(int(stage.rng.choice(len(probabilities), p=probabilities))):
                self._add(propose)
        if stage.chance(0.06):
            self._add(self._crowd)

    def draw(self) -> None:
        """Draw the shadows, then everything from far to near."""
        for part in self.parts:
            self._draw_shadow(part)
        for part in sorted(self.parts, key=lambda part: -part.z):
            part.draw(Sprite(self.stage, part.x, part.z, self.stage.next_number()))
            for label_id in part.labels:
                self.stage.register(label_id, crowd=part.crowd)

    def _draw_shadow(self, part: _Part) -> None:
        """Darken the ground from the footprint to where the top's shadow falls."""
        stage, footprint = self.stage, part.footprint
        scale = stage.pixels_per_meter(part.z)
        if part.z < _NEAR:
            stage.canvas.darken(stage.project(footprint), 0.30, blur=0.05 * scale)
        reach = min(part.top, 3.6) * 0.55
        moved = np.add(footprint, (-stage.sun * reach, 0.0, reach * 0.16))
        both = stage.project(np.concatenate([footprint, moved])).astype(np.float32)
        stage.canvas.darken(cv2.convexHull(both)[:, 0], stage.shadow * 0.8, blur=0.03 * scale)

    def _add(self, propose: Callable[[], _Part]) -> None:
        """Add the first proposal that would be well visible and collide with nothing."""
        view = (0.0, 0.0, self.stage.canvas.width, self.stage.canvas.height)
        for _ in range(_TRIES):
            part = propose()
            box, plot = self._box(part), _plot(part)
            others = [(self._box(other), _plot(other)) for other in self.parts if other.labels]
            hidden = any(_overlap(box, b) > 0.45 * min(_overlap(box, box), _overlap(b, b)) for b, _ in others)
            collides = any(_overlap(plot, p) > 0 for _, p in others)
            if _overlap(box, view) >= 0.72 * _overlap(box, box) and not hidden and not collides:
                self.parts.append(part)
                return

    def _box(self, part: _Part) -> Box:
        """Return where a part is in the image, in pixels."""
        half, corner = part.width / 2, Sprite(self.stage, part.x, part.z).at
        return (*corner((-half, part.top)).tolist(), *corner((half, part.bottom)).tolist())

    def _distance(self, near: float, far: float) -> float:
        """Return a distance at which a meter measures `far` to `near` 256ths of the image's height."""
        size = np.exp(self.stage.rng.uniform(np.log(far), np.log(near)))
        return float(self.stage.focal / (size * self.stage.canvas.height / 256))

    def _add_greenery(self) -> None:
        stage = self.stage
        for side, curb, wall in zip((-1, 1), stage.curbs, stage.walls, strict=True):
            spacing, z = stage.between(6, 14), stage.between(9, 16)
            trees, lamps, bushes = stage.chance(0.65), stage.chance(0.6), stage.chance(0.4)
            while z < 50:
                free = stage.crossing is None or not stage.crossing[0] - 1 < z < stage.crossing[1] + 1
                if trees and free:
                    tree = partial(draw_tree, height=stage.between(4.6, 6.8))
                    self.parts.append(_Part(curb + side, z, 0.9, 3.0, 3.2, tree))
                if bushes and free:
                    width = stage.between(1.0, 2.2)
                    bush = partial(draw_bush, width=width)
                    self.parts.append(_Part(wall - side * 0.5, z - 1.5, width / 2, width, 0.7, bush))
                if lamps and free:
                    x = curb + side * 0.4
                    self.parts.append(_Part(x, z + spacing / 2, 0.12, 0.3, 5.7, draw_lamp_post))
                z += spacing * (2.0 if lamps else 1.0)

    def _car(self) -> _Part:
        """Return a car that drives, is parked, crosses the street or turns."""
        stage = self.stage
        kind = CAR_KINDS[int(stage.rng.choice(len(CAR_KINDS), p=(0.32, 0.32, 0.22, 0.14)))]
        z, ways = self._distance(58, 27) + 2.1, ("ahead", "oncoming", "parked", "across", "turning")
        way = stage.rng.choice(ways, p=(0.25, 0.27, 0.22, 0.14, 0.12))
        on_right = way == "ahead" or (way == "parked" and stage.chance(0.5))
        side, heading = (1, 0.0) if on_right else (-1, np.pi)
        curb = stage.curbs[on_right]
        if way in ("ahead", "oncoming"):
            x = (stage.middle + curb) / 2 + stage.between(-0.3, 0.3)
        elif way == "parked":
            x = curb - side * 1.1
        elif way == "across":
            heading = float(stage.rng.choice((-1.0, 1.0))) * np.pi / 2
            z, x = self._distance(46, 30), self._road_x(2.2)
            if stage.crossing is not None:
                z = stage.between(stage.crossing[0] + 1.6, stage.crossing[1] - 1.6)
                x = stage.between(-5.5, 5.5)
        else:
            x, heading = self._road_x(1.5), stage.between(0, 2 * np.pi)
        car = Car(stage, x, z, heading + stage.between(-0.06, 0.06), kind)
        outline = car.footprint(0.06)
        near, width = float(outline[:, 2].min()), float(np.ptp(outline[:, 0]))
        return _Part(x, near + 0.3, outline, width, 1.5, car.draw, (labels.CAR,))

    def _road_x(self, margin: float) -> float:
        return self.stage.between(self.stage.curbs[0] + margin, self.stage.curbs[1] - margin)

    def _sidewalk_x(self) -> float:
        if self.stage.chance(0.5):
            return self.stage.between(self.stage.walls[0] + 0.7, self.stage.curbs[0] - 0.3)
        return self.stage.between(self.stage.curbs[1] + 0.3, self.stage.walls[1] - 0.7)

    def _roadside_x(self) -> float:
        return self.stage.curbs[0] - 0.45 if self.stage.chance(0.45) else self.stage.curbs[1] + 0.45

    def _person(self) -> _Part:
        stage, crosswalk, z, x = self.stage, self.stage.crosswalk, self._distance(84, 36), self._sidewalk_x()
        if stage.chance(0.3):
            x = self._road_x(0.0)
            if crosswalk is not None and stage.chance(0.7):
                z = crosswalk + stage.between(0.4, 2.4)
        height = stage.between(1.58, 1.9) if stage.chance(0.88) else stage.between(1.2, 1.45)
        return _Part(x, z, 0.24, 0.7, height, partial(draw_person, height=height), (labels.PERSON,))

    def _rider(self) -> _Part:
        z, x = self._distance(74, 38), self._road_x(0.4)
        return _Part(x, z, 0.4, 1.5, 1.8, draw_rider, (labels.RIDER, labels.BICYCLE))

    def _traffic_light(self) -> _Part:
        z, x = self._distance(62, 36), self._roadside_x()
        return _Part(x, z, 0.12, 0.55, 3.6, draw_signal, (labels.TRAFFIC_LIGHT,), bottom=2.3)

    def _traffic_sign(self) -> _Part:
        z, x, size = self._distance(58, 34), self._roadside_x(), self.stage.between(0.82, 1.02)
        top, bottom = 2.55 + size / 2, 2.55 - size / 2
        return _Part(x, z, 0.1, size, top, partial(draw_sign, size=size), (labels.TRAFFIC_SIGN,), bottom)

    def _crowd(self) -> _Part:
        """Return a dense group far down the street, marked as one crowd."""
        rng, z, x = self.stage.rng, self._distance(20, 15), self._sidewalk_x()
        offsets = rng.uniform(-1, 1, (int(rng.integers(7, 12)), 2)) * (1.3, 0.8)
        draw = partial(draw_crowd, offsets=offsets[np.argsort(-offsets[:, 1])].tolist())  # far to near
        return _Part(x, z, 1.3, 2.8, 1.8, draw, (labels.PERSON,), crowd=True)


def _plot(part: _Part) -> Box:
    """Return what a part takes of the ground, with some space around it."""
    low, high = part.footprint.min(axis=0) - 0.15, part.footprint.max(axis=0) + 0.15
    return float(low[0]), float(low[2]), float(high[0]), float(high[2])


def _overlap(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
