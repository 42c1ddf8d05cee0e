"""Who and what stands in a generated scene, where, and drawn in which order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from dettoolkit.datasets.scenes.cars import CAR_KINDS, CarPose, draw_car
from dettoolkit.datasets.scenes.drawing import CIRCLE
from dettoolkit.datasets.scenes.furniture import (
    draw_bush,
    draw_lamp_post,
    draw_traffic_light,
    draw_traffic_sign,
    draw_tree,
)
from dettoolkit.datasets.scenes.people import draw_person, draw_rider
from dettoolkit.datasets.scenes.stage import BICYCLE, CAR, PERSON, RIDER, TRAFFIC_LIGHT, TRAFFIC_SIGN, Stage

Box = tuple[float, float, float, float]
Ground = NDArray[np.float64]  # (P, 3) points with y = 0, meters
_NEAR = 24.0  # meters; things further away only cast a shadow when the sun shines
_TRIES = 8  # places tried for each object before the scene goes without it


@dataclass(frozen=True)
class _Place:
    """Where something stands, in meters: its foot, its outline on the ground `(P, 3)`, and what stands up."""

    x: float
    z: float
    footprint: Ground
    width: float
    top: float
    bottom: float = 0.0


class Cast:
    """The parts of one scene."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.parts: list[tuple[_Place, Callable[[], None]]] = []
        self.boxes: list[Box] = []
        self.plots: list[Box] = []

    def choose(self) -> None:
        """Fill the street."""
        stage = self.stage
        self._greenery()
        if stage.chance(0.02):
            return  # an empty street
        numbers = stage.rng
        for _ in range(int(numbers.choice(4, p=(0.08, 0.32, 0.36, 0.24)))):
            self._try(self._car)
        for _ in range(int(numbers.choice(3, p=(0.40, 0.45, 0.15)))):
            self._try(self._rider)
        for _ in range(int(numbers.choice(3, p=(0.35, 0.45, 0.20)))):
            self._try(self._traffic_light)
        for _ in range(int(numbers.choice(3, p=(0.30, 0.45, 0.25)))):
            self._try(self._traffic_sign)
        for _ in range(int(numbers.choice(5, p=(0.08, 0.27, 0.30, 0.22, 0.13)))):
            self._try(self._person)
        if stage.chance(0.06):
            self._try(self._crowd)

    def draw(self) -> None:
        """Draw the shadows, then everything from far to near."""
        for place, _ in self.parts:
            self._shadow(place)
        for _, draw in sorted(self.parts, key=lambda part: -part[0].z):
            draw()

    def _try(self, place: Callable[[], bool]) -> None:
        """Try places until one is free."""
        for _ in range(_TRIES):
            if place():
                return

    def _shadow(self, place: _Place) -> None:
        """Darken the ground from the footprint to where the top's shadow falls."""
        stage = self.stage
        scale = stage.camera.pixels_per_meter(place.z)
        if place.z < _NEAR:
            stage.canvas.darken(stage.camera.project(place.footprint), 0.30, blur=0.05 * scale)
        reach = min(place.top, 3.6) * 0.55
        moved = np.add(place.footprint, (-stage.light.sun * reach, 0.0, reach * 0.16))
        both = stage.camera.project(np.concatenate([place.footprint, moved])).astype(np.float32)
        stage.canvas.darken(cv2.convexHull(both)[:, 0], stage.light.shadow * 0.8, blur=0.03 * scale)

    def _put(self, place: _Place, draw: Callable[[], None]) -> bool:
        """Add a part if it would be well visible and collide with nothing; say whether."""
        canvas, scale = self.stage.canvas, self.stage.camera.pixels_per_meter(place.z)
        x, y = self.stage.camera.project((place.x, 0.0, place.z)).tolist()
        wide = place.width / 2 * scale
        box = (x - wide, y - place.top * scale, x + wide, y - place.bottom * scale)
        if _shared(box, (0.0, 0.0, canvas.width, canvas.height)) < 0.72 * _area(box):
            return False
        low, high = place.footprint.min(axis=0).tolist(), place.footprint.max(axis=0).tolist()
        plot = (low[0] - 0.15, low[2] - 0.15, high[0] + 0.15, high[2] + 0.15)
        hidden = any(_shared(box, b) > 0.45 * min(_area(box), _area(b)) for b in self.boxes)
        if hidden or any(_shared(plot, p) > 0 for p in self.plots):
            return False
        self.boxes.append(box)
        self.plots.append(plot)
        self.parts.append((place, draw))
        return True

    def _distance(self, near: float, far: float) -> float:
        """Draw a distance at which a meter measures `far` to `near` 256ths of the picture's height."""
        size = np.exp(self.stage.rng.uniform(np.log(far), np.log(near)))
        return float(self.stage.camera.focal / (size * self.stage.canvas.height / 256))

    def _greenery(self) -> None:
        """Plant trees and bushes and set up lamp posts along the pavements."""
        stage, street = self.stage, self.stage.street
        sides = ((-1, street.left_curb, street.left_wall), (1, street.right_curb, street.right_wall))
        for side, curb, wall in sides:
            spacing, z = stage.between(6, 14), stage.between(9, 16)
            trees, lamps, bushes = stage.chance(0.65), stage.chance(0.6), stage.chance(0.4)
            while z < 50:
                free = street.crossing is None or not street.crossing[0] - 1 < z < street.crossing[1] + 1
                if trees and free:
                    self._tree(curb + side * 1.0, z)
                if bushes and free:
                    self._bush(wall - side * 0.5, z - 1.5)
                if lamps and free:
                    self._lamp_post(curb + side * 0.4, z + spacing / 2)
                z += spacing * (2.0 if lamps else 1.0)

    def _tree(self, x: float, z: float) -> None:
        height = self.stage.between(4.6, 6.8)
        place = _Place(x, z, _round(x, z, 0.9), 3.0, 3.2)
        self.parts.append((place, lambda: draw_tree(self.stage, x, z, height)))

    def _bush(self, x: float, z: float) -> None:
        width = self.stage.between(1.0, 2.2)
        place = _Place(x, z, _round(x, z, width / 2), width, 0.7)
        self.parts.append((place, lambda: draw_bush(self.stage, x, z, width)))

    def _lamp_post(self, x: float, z: float) -> None:
        place = _Place(x, z, _round(x, z, 0.12), 0.3, 5.7)
        self.parts.append((place, lambda: draw_lamp_post(self.stage, x, z)))

    def _car(self) -> bool:
        stage = self.stage
        pose = self._pose(CAR_KINDS[int(stage.rng.choice(len(CAR_KINDS), p=(0.32, 0.32, 0.22, 0.14)))])
        outline = pose.footprint(0.06)
        near, wide = float(outline[:, 2].min()), float(np.ptp(outline[:, 0]))

        def draw() -> None:
            draw_car(stage, stage.next_number(), pose)
            stage.register(CAR)

        return self._put(_Place(pose.x, near + 0.3, outline, wide, 1.5), draw)

    def _pose(self, kind: str) -> CarPose:
        """Choose where a car stands and where it heads."""
        stage, street = self.stage, self.stage.street
        z, heading = self._distance(58, 27) + 2.1, 0.0
        way = stage.rng.choice(
            ("ahead", "oncoming", "parked", "across", "turning"), p=(0.25, 0.27, 0.22, 0.14, 0.12)
        )
        if way == "ahead":
            x = (street.middle + street.right_curb) / 2 + stage.between(-0.3, 0.3)
        elif way == "oncoming":
            x, heading = (street.middle + street.left_curb) / 2 + stage.between(-0.3, 0.3), np.pi
        elif way == "parked" and stage.chance(0.5):
            x = street.right_curb - 1.1
        elif way == "parked":
            x, heading = street.left_curb + 1.1, np.pi
        elif way == "across":
            heading = float(stage.rng.choice((-1.0, 1.0))) * np.pi / 2
            z, x = self._distance(46, 30), stage.between(street.left_curb + 2.2, street.right_curb - 2.2)
            if street.crossing is not None:
                z, x = (
                    stage.between(street.crossing[0] + 1.6, street.crossing[1] - 1.6),
                    stage.between(-5.5, 5.5),
                )
        else:
            x, heading = (
                stage.between(street.left_curb + 1.5, street.right_curb - 1.5),
                stage.between(0, 2 * np.pi),
            )
        return CarPose(x, z, heading + stage.between(-0.06, 0.06), kind)

    def _pavement_x(self) -> float:
        """Choose a place on one of the pavements."""
        stage, street = self.stage, self.stage.street
        if stage.chance(0.5):
            return stage.between(street.left_wall + 0.7, street.left_curb - 0.3)
        return stage.between(street.right_curb + 0.3, street.right_wall - 0.7)

    def _person(self) -> bool:
        stage, street = self.stage, self.stage.street
        z, x = self._distance(84, 36), self._pavement_x()
        if stage.chance(0.3):
            x = stage.between(street.left_curb, street.right_curb)
            if street.zebra is not None and stage.chance(0.7):
                z = street.zebra + stage.between(0.4, 2.4)
        height = stage.between(1.58, 1.9) if stage.chance(0.88) else stage.between(1.2, 1.45)

        def draw() -> None:
            draw_person(stage, stage.next_number(), x, z, height)
            stage.register(PERSON)

        return self._put(_Place(x, z, _round(x, z, 0.24), 0.7, height), draw)

    def _rider(self) -> bool:
        stage, street = self.stage, self.stage.street
        z, x = self._distance(74, 38), stage.between(street.left_curb + 0.4, street.right_curb - 0.4)

        def draw() -> None:
            rider = stage.next_number()
            draw_rider(stage, rider, rider + 1, x, z)
            stage.register(RIDER)
            stage.register(BICYCLE)

        return self._put(_Place(x, z, _round(x, z, 0.4), 1.5, 1.8), draw)

    def _roadside_x(self) -> float:
        stage, street = self.stage, self.stage.street
        return street.left_curb - 0.45 if stage.chance(0.45) else street.right_curb + 0.45

    def _traffic_light(self) -> bool:
        stage = self.stage
        z, x = self._distance(62, 36), self._roadside_x()

        def draw() -> None:
            draw_traffic_light(stage, stage.next_number(), x, z)
            stage.register(TRAFFIC_LIGHT)

        return self._put(_Place(x, z, _round(x, z, 0.12), 0.55, 3.6, bottom=2.3), draw)

    def _traffic_sign(self) -> bool:
        stage = self.stage
        z, x, size = self._distance(58, 34), self._roadside_x(), stage.between(0.82, 1.02)

        def draw() -> None:
            draw_traffic_sign(stage, stage.next_number(), x, z, size)
            stage.register(TRAFFIC_SIGN)

        return self._put(_Place(x, z, _round(x, z, 0.1), size, 2.55 + size / 2, bottom=2.55 - size / 2), draw)

    def _crowd(self) -> bool:
        """Place a dense group far down the street, marked as one crowd."""
        stage = self.stage
        z, x = self._distance(20, 15), self._pavement_x()
        offsets = stage.rng.uniform(-1, 1, (int(stage.rng.integers(7, 12)), 2)) * (1.3, 0.8)
        far_to_near = offsets[np.argsort(-offsets[:, 1])].tolist()

        def draw() -> None:
            for dx, dz in far_to_near:
                draw_person(stage, stage.next_number(), x + dx, z + dz, stage.between(1.55, 1.85))
            stage.register(PERSON, crowd=True)

        return self._put(_Place(x, z, _round(x, z, 1.3), 2.8, 1.8), draw)


def _round(x: float, z: float, radius: float) -> Ground:
    """Return a round footprint."""
    points = np.zeros((len(CIRCLE), 3))
    points[:, ::2] = CIRCLE * radius + (x, z)
    return points


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _shared(a: Box, b: Box) -> float:
    """Return the area that two boxes (low, low, high, high) share."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
