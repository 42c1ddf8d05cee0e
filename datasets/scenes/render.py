"""One generated street scene as arrays: its image, its labels and its boxed objects."""

from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Literal

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from dettoolkit.datasets.scenes.cast import Cast
from dettoolkit.datasets.scenes.stage import CATEGORIES, SceneObject, Stage
from dettoolkit.datasets.scenes.street import draw_backdrop

Split = Literal["train", "val"]
SPLITS: tuple[Split, ...] = ("train", "val")

# An object gets no box when others leave less than this of it visible; it stays in the label maps.
MIN_VISIBLE_FRACTION = 0.2
MIN_VISIBLE_PIXELS = 30


@dataclass(frozen=True)
class BoxedObject:
    """A visible object."""

    label_id: int  # labelId of Cityscapes, also the COCO category id
    instance_id: int  # of its pixels in `Scene.instance_ids`; the plain labelId for signs and lights
    bbox_xywh: tuple[float, float, float, float]  # tight around the visible pixels
    area: int  # visible pixels
    crowd: bool  # it is a dense group


@dataclass(frozen=True)
class Scene:
    """A street scene."""

    image: NDArray[np.uint8]  # (H, W, 3), RGB
    label_ids: NDArray[np.uint8]  # (H, W), Cityscapes' labelIds
    instance_ids: NDArray[np.uint16]  # (H, W), Cityscapes' instanceIds
    objects: list[BoxedObject]  # of the detection classes


def draw_scene(*, seed: int, split: Split, index: int, image_hw: tuple[int, int]) -> Scene:
    """Draw scene `index` of a split; the same arguments always give the same scene."""
    rng = np.random.default_rng((seed, SPLITS.index(split), index))
    stage = Stage(rng, *image_hw)
    draw_backdrop(stage)
    Cast(stage).draw()
    numbers = stage.canvas.labels()
    label_of = np.arange(256, dtype=np.uint16)  # of each number on the canvas
    instance_of = label_of.copy()
    for item in stage.objects:
        label_of[item.number], instance_of[item.number] = item.label_id, item.instance_id
    boxed = [_box(numbers, item) for item in stage.objects if item.label_id in CATEGORIES]
    return Scene(
        image=_develop(stage.canvas.image(), rng),
        label_ids=label_of[numbers].astype(np.uint8),
        instance_ids=instance_of[numbers],
        objects=[item for item in boxed if item is not None],
    )


def _box(numbers: NDArray[np.uint16], item: SceneObject) -> BoxedObject | None:
    """Return the tight box of an object's visible pixels, or None when too little of it is visible."""
    mask = (numbers == item.number).view(np.uint8)
    area = cv2.countNonZero(mask)
    if area < max(MIN_VISIBLE_PIXELS, MIN_VISIBLE_FRACTION * item.full_area):
        return None
    x, y, width, height = map(float, cv2.boundingRect(mask))
    return BoxedObject(item.label_id, item.instance_id, (x, y, width, height), area, item.crowd)


def _develop(image: NDArray[np.uint8], rng: Generator) -> NDArray[np.uint8]:
    """Return the image with what a camera adds: darker corners, sometimes a slight blur, and grain."""
    height, width = image.shape[:2]
    darker = cv2.multiply(image, _vignette(height, width), scale=1 / 255)
    developed = cv2.convertScaleAbs(darker, alpha=1.08, beta=-5)  # a little more contrast
    if rng.random() < 0.3:
        developed = cv2.GaussianBlur(developed, (3, 3), float(rng.uniform(0.35, 0.6)))
    normal = NormalDist(0, round(float(rng.uniform(0.6, 2.0)), 1))
    grain = np.array([round(normal.inv_cdf((byte + 0.5) / 256)) for byte in range(256)], np.int16)
    noise = grain[rng.integers(0, 256, (height, width, 1), dtype=np.uint8)]
    return np.asarray(np.clip(developed + noise, 0, 255), np.uint8)


@lru_cache(maxsize=4)
def _vignette(height: int, width: int) -> NDArray[np.uint8]:
    """Return what the corners keep of their light, in 255ths, (H, W, 3)."""
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)
    keep = 255 - 20 * np.clip(np.hypot(x, y) - 0.6, 0, 1)
    return np.repeat(keep.astype(np.uint8)[..., None], 3, axis=2)
