"""Upright drawings in a generated scene, which face the camera and have coordinates of their own."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from dettoolkit.datasets.scenes.drawing import CIRCLE, Color, Points
from dettoolkit.datasets.scenes.stage import Shade, Stage


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
