"""One generated street scene as arrays: its picture, its labels and its boxed objects."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Literal

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from dettoolkit.datasets.scenes.cast import Cast
from dettoolkit.datasets.scenes.stage import (
    BICYCLE,
    CAR,
    PERSON,
    RIDER,
    TRAFFIC_LIGHT,
    TRAFFIC_SIGN,
    SceneObject,
    make_stage,
)
from dettoolkit.datasets.scenes.street import draw_backdrop

Split = Literal["train", "val"]
SPLITS: tuple[Split, ...] = ("train", "val")

# The detection classes; category ids are Cityscapes' labelIds, so they have gaps and do not start at 1.
CATEGORIES = {
    TRAFFIC_LIGHT: "traffic light",
    TRAFFIC_SIGN: "traffic sign",
    PERSON: "person",
    RIDER: "rider",
    CAR: "car",
}
# Classes of which Cityscapes separates instances; its instanceIds are labelId * 1000 + k for these.
_INSTANCES = (PERSON, RIDER, CAR, BICYCLE)

# An object gets no box when others leave less than this of it visible; it stays in the label maps.
LEAST_VISIBLE_SHARE = 0.2
LEAST_VISIBLE_PIXELS = 30


@dataclass(frozen=True)
class BoxedObject:
    """A visible object.

    Attributes:
        label_id: labelId of Cityscapes, also the COCO category id.
        instance_id: value of its pixels in `Scene.instance_ids`; the plain labelId for signs and lights.
        bbox_xywh: tight box of the visible pixels.
        area: visible pixels.
        crowd: the object is a dense group.
    """

    label_id: int
    instance_id: int
    bbox_xywh: tuple[float, float, float, float]
    area: int
    crowd: bool


@dataclass(frozen=True)
class Scene:
    """A street scene.

    Attributes:
        image: uint8 (H, W, 3), RGB.
        label_ids: uint8 (H, W), Cityscapes' labelIds.
        instance_ids: uint16 (H, W), Cityscapes' instanceIds.
        objects: the objects of the detection classes.
    """

    image: NDArray[np.uint8]
    label_ids: NDArray[np.uint8]
    instance_ids: NDArray[np.uint16]
    objects: list[BoxedObject]


def draw_scene(*, seed: int, split: Split, index: int, image_hw: tuple[int, int]) -> Scene:
    """Draw scene `index` of a split; the same arguments always give the same scene."""
    rng = np.random.default_rng((seed, SPLITS.index(split), index))
    stage = make_stage(rng, *image_hw)
    draw_backdrop(stage)
    cast = Cast(stage)
    cast.choose()
    cast.draw()
    numbers = stage.canvas.labels()
    label_of, instance_of = _id_tables(stage.objects)
    return Scene(
        image=_develop(stage.canvas.picture(), rng),
        label_ids=label_of[numbers].astype(np.uint8),
        instance_ids=instance_of[numbers],
        objects=[
            boxed
            for item in stage.objects
            if item.label_id in CATEGORIES
            and (boxed := _box(numbers, item, int(instance_of[item.number]))) is not None
        ],
    )


def _id_tables(objects: list[SceneObject]) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """Return tables from numbers on the canvas to labelIds and to instanceIds."""
    size = max((item.number for item in objects), default=0) + 1
    label_of = np.arange(max(size, 256), dtype=np.uint16)
    instance_of = label_of.copy()
    counts = dict.fromkeys(_INSTANCES, 0)
    for item in objects:
        label_of[item.number] = instance_of[item.number] = item.label_id
        if item.label_id in counts and not item.crowd:
            instance_of[item.number] = item.label_id * 1000 + counts[item.label_id]
            counts[item.label_id] += 1
    return label_of, instance_of


def _box(numbers: NDArray[np.uint16], item: SceneObject, instance_id: int) -> BoxedObject | None:
    """Return the tight box of an object's visible pixels, or None when too little of it is visible."""
    mask = (numbers == item.number).view(np.uint8)
    area = cv2.countNonZero(mask)
    if area < max(LEAST_VISIBLE_PIXELS, LEAST_VISIBLE_SHARE * item.full_area):
        return None
    x, y, width, height = cv2.boundingRect(mask)
    return BoxedObject(
        label_id=item.label_id,
        instance_id=instance_id,
        bbox_xywh=(float(x), float(y), float(width), float(height)),
        area=area,
        crowd=item.crowd,
    )


def _develop(picture: NDArray[np.uint8], rng: Generator) -> NDArray[np.uint8]:
    """Add what a camera adds: darker corners, sometimes a slight blur, and grain."""
    height, width = picture.shape[:2]
    image = cv2.multiply(picture, _vignette(height, width), scale=1 / 255)
    image = cv2.convertScaleAbs(image, alpha=1.08, beta=-5)  # a little more contrast
    if rng.random() < 0.3:
        image = cv2.GaussianBlur(image, (3, 3), float(rng.uniform(0.35, 0.6)))
    grain = _grain(round(float(rng.uniform(0.6, 2.0)), 1))
    noise = grain[rng.integers(0, 256, (height, width, 1), dtype=np.uint8)]
    developed: NDArray[np.uint8] = np.clip(image + noise, 0, 255).astype(np.uint8)
    return developed


@lru_cache(maxsize=4)
def _vignette(height: int, width: int) -> NDArray[np.uint8]:
    """Return what the corners keep of their light, in 255ths, (H, W, 3)."""
    y, x = np.linspace(-1, 1, height)[:, None, None], np.linspace(-1, 1, width)[None, :, None]
    keep = np.zeros((height, width, 3), np.uint8)
    keep[:] = 255 - 20 * np.clip(np.hypot(x, y) - 0.6, 0, 1)
    return keep


@lru_cache(maxsize=64)
def _grain(sigma: float) -> NDArray[np.int16]:
    """Return normal noise of this deviation for each value of a random byte."""
    normal = NormalDist(0, sigma)
    return np.array([round(normal.inv_cdf((byte + 0.5) / 256)) for byte in range(256)], np.int16)
