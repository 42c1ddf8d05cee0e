"""Augmentation of detection samples: the SSDLite and SSD presets. Letters: t = trials, m = boxes.

A sample's label map, if it has one, moves with its image: the same window, resized to the nearest pixel, and
VOID where there is no image.

Boxes travel through albumentations as fractions of the image, one row (x1, y1, x2, y2, index) per box, not
by its bbox processor: that would round to float32, refuse boxes that touch the border by an ulp, and cost
more than the crop itself.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Mapping
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else the import asks the network for newer versions

import albumentations as A

from dettoolkit.datasets.cityscapes_labels import VOID
from dettoolkit.datasets.coco import BoxedImage
from dettoolkit.datasets.data_report import Reason, clean_boxes
from dettoolkit.datasets.images import check_image, resize_image, resize_labels

Image = NDArray[np.uint8]
LabelMap = NDArray[np.uint8]
Floats = NDArray[np.floating[Any]]

# SSD's batch samplers (weiliu89/caffe: examples/ssd/ssd_coco.py) as torchvision has them (v2.RandomIoUCrop):
# one min overlap is drawn, 1.0 leaves the image as it is. Caffe tries 50 times, torchvision 40.
MIN_OVERLAPS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
TRIALS = 40
CROP_SCALE = (0.3, 1.0)  # of each side
CROP_ASPECT = (0.5, 2.0)  # width / height
# Color and expansion of the same file; brightness +-32 of 255 and hue +-18 of 360 degrees became factors in
# torchvision (v2.RandomPhotometricDistort). random_order_prob is 0 there: channels are not permuted.
BRIGHTNESS = (0.875, 1.125)
CONTRAST = SATURATION = (0.5, 1.5)
HUE = (-0.05, 0.05)
ZOOM_OUT = (1.0, 4.0)
ZOOM_FILL = (123, 117, 104)  # mean_value of the same file, here RGB; also torchvision's detection reference


def candidate_crops(hw: tuple[int, int], rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw `TRIALS` windows of an image of `hw` and return those of a valid aspect: (t, 4) xyxy pixels."""
    low, high = CROP_SCALE
    size_wh = np.array([[hw[1], hw[0]]])
    draws = rng.random((2, TRIALS, 2))
    crop_wh = (size_wh * (low + (high - low) * draws[0])).astype(np.int64)  # (t, 2), rounded down
    corner = ((size_wh - crop_wh) * draws[1]).astype(np.int64)
    w, h = crop_wh[:, 0], crop_wh[:, 1]
    valid = (w > 0) & (h > 0) & (CROP_ASPECT[0] * h <= w) & (w <= CROP_ASPECT[1] * h)
    return np.asarray(np.concatenate([corner, corner + crop_wh], axis=1)[valid])


def centers_inside(boxes_xyxy: Floats, crops_xyxy: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which boxes (m, 4) have their center strictly inside which crops (t, 4): (t, m)."""
    centers = (boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / 2
    crops = crops_xyxy[:, None]  # (t, 1, 4)
    between = (crops[..., :2] < centers) & (centers < crops[..., 2:])  # (t, m, 2)
    return np.logical_and(between[..., 0], between[..., 1])


def clip_to_crop(boxes_xyxy: Floats, crop_xyxy: NDArray[np.int64]) -> tuple[NDArray[np.bool_], Floats]:
    """Return which boxes (m, 4) have their center in a crop (4,), and those, clipped and relative to it."""
    keep = centers_inside(boxes_xyxy, crop_xyxy[None])[0]
    corner, opposite = np.tile(crop_xyxy[:2], 2), np.tile(crop_xyxy[2:], 2)
    return keep, boxes_xyxy[keep].clip(corner, opposite) - corner


def crop_iou(boxes_xyxy: Floats, crops_xyxy: NDArray[np.int64]) -> Floats:
    """Return the IoU of the whole (unclipped) boxes (m, 4) with the crops (t, 4): (t, m)."""
    crops = crops_xyxy[:, None]
    sides = np.minimum(crops[..., 2:], boxes_xyxy[:, 2:]) - np.maximum(crops[..., :2], boxes_xyxy[:, :2])
    intersection = sides.clip(min=0).prod(axis=-1)  # (t, m)
    areas = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).prod(axis=-1)
    crop_areas = (crops[..., 2:] - crops[..., :2]).prod(axis=-1)
    return np.asarray(intersection / (areas + crop_areas - intersection))


def sample_crop(
    boxes_xyxy: Floats, hw: tuple[int, int], rng: np.random.Generator
) -> NDArray[np.int64] | None:
    """Draw SSD's IoU crop (4,) xyxy for boxes (m, 4) in pixels of an image of `hw`; None: the whole image.

    As torchvision's `v2.RandomIoUCrop`: a min overlap is drawn; 1.0 leaves the image alone; else the first of
    40 windows is taken that holds the center of some box and whose IoU with such a box reaches the overlap;
    when none does, another overlap is drawn. TensorFlow's `ssd_random_crop` differs (area 0.1-1, the fraction
    of a box that is covered instead of IoU, no crop with probability 0.15); the gain of this one is published
    (torchvision's SSDLite preset: +1.0 mAP, PyTorch blog on SSDlite, 2021).
    """
    while len(boxes_xyxy):
        min_overlap = MIN_OVERLAPS[rng.integers(len(MIN_OVERLAPS))]
        if min_overlap >= 1.0:
            break
        crops = candidate_crops(hw, rng)
        overlaps = np.where(centers_inside(boxes_xyxy, crops), crop_iou(boxes_xyxy, crops), -1.0)
        accepted = overlaps.max(axis=1) >= min_overlap  # (t,)
        if accepted.any():
            return np.asarray(crops[accepted.argmax()])
    return None


def _pixels(boxes: Floats, shape: tuple[int, ...]) -> Floats:
    """Turn the fractions of rows (m, 5) into pixels of an image of `shape`: (m, 4)."""
    height, width = shape[:2]
    return np.asarray(boxes[:, :4] * (width, height, width, height))


def _fractions(pixels: Floats, index: Floats, hw: tuple[int, int]) -> Floats:
    """Turn boxes (m, 4) in pixels of an image of `hw` into rows (m, 5) of fractions and `index` (m,)."""
    height, width = hw
    return np.column_stack([pixels / (width, height, width, height), index])


TARGETS = tuple(A.core.type_definitions.Targets[name] for name in ("IMAGE", "MASK", "BBOXES"))
"""What a crop of a sample moves, in albumentations' words; a mask is a label map."""


class SSDIoUCrop(A.DualTransform):  # type: ignore[misc]
    """Crop as SSD does (`sample_crop`); boxes whose center is outside go, the others are clipped."""

    _targets = TARGETS

    def get_params_dependent_on_data(self, params: dict[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
        """Draw the crop for this sample's boxes."""
        boxes = _pixels(data["bboxes"], params["shape"])
        return {"crop": sample_crop(boxes, params["shape"][:2], self.random_generator)}

    def apply(self, img: Image, crop: NDArray[np.int64] | None, **_: Any) -> Image:
        """Cut the window out of the image, or its label map."""
        if crop is None:
            return img
        left, top, right, bottom = crop.tolist()
        return img[top:bottom, left:right]

    def apply_to_mask(self, mask: LabelMap, crop: NDArray[np.int64] | None, **_: Any) -> LabelMap:
        """Cut the window out of the label map (H, W)."""
        return self.apply(mask, crop)

    def apply_to_bboxes(
        self, bboxes: Floats, crop: NDArray[np.int64] | None, shape: tuple[int, ...], **_: Any
    ) -> Floats:
        """Keep the rows (m, 5) whose center is inside the window, clipped to it and relative to it."""
        if crop is None:
            return bboxes
        keep, inside = clip_to_crop(_pixels(bboxes, shape), crop)
        left, top, right, bottom = crop.tolist()
        return _fractions(inside, bboxes[keep, 4], (bottom - top, right - left))


class ZoomOut(A.DualTransform):  # type: ignore[misc]
    """Place the image at random on a canvas of up to four times its sides, filled with the mean color."""

    _targets = TARGETS

    def get_params_dependent_on_data(self, params: dict[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        """Draw the canvas and the image's place: padding (left, top, right, bottom) in pixels."""
        height, width = params["shape"][:2]
        ratio = self.random_generator.uniform(*ZOOM_OUT)
        spare = np.array([int(width * ratio) - width, int(height * ratio) - height])
        corner = (spare * self.random_generator.random(2)).astype(np.int64)
        return {"padding": (*corner.tolist(), *(spare - corner).tolist())}

    def apply(self, img: Image, padding: tuple[int, int, int, int], **_: Any) -> Image:
        """Pad the image."""
        left, top, right, bottom = padding
        sides = top, bottom, left, right
        return np.asarray(cv2.copyMakeBorder(img, *sides, cv2.BORDER_CONSTANT, value=ZOOM_FILL))

    def apply_to_mask(self, mask: LabelMap, padding: tuple[int, int, int, int], **_: Any) -> LabelMap:
        """Pad the label map (H, W) with VOID."""
        left, top, right, bottom = padding
        return np.pad(mask, ((top, bottom), (left, right)), constant_values=VOID)

    def apply_to_bboxes(
        self, bboxes: Floats, padding: tuple[int, int, int, int], shape: tuple[int, ...], **_: Any
    ) -> Floats:
        """Move the rows (m, 5) with the image."""
        left, top, right, bottom = padding
        canvas_hw = (shape[0] + top + bottom, shape[1] + left + right)
        moved = _pixels(bboxes, shape) + np.array([left, top, left, top])
        return _fractions(moved, bboxes[:, 4], canvas_hw)


def photometric_distortion() -> list[Any]:
    """Build SSD's color distortion: each of four with probability 0.5, contrast early or late."""

    def jitter(**change: tuple[float, float]) -> Any:
        still = dict.fromkeys(("brightness", "contrast", "saturation"), (1.0, 1.0)) | {"hue": (0.0, 0.0)}
        return A.ColorJitter(**(still | change), p=0.5)

    early = [jitter(contrast=CONTRAST), jitter(saturation=SATURATION), jitter(hue=HUE)]
    late = [jitter(saturation=SATURATION), jitter(hue=HUE), jitter(contrast=CONTRAST)]
    order = A.OneOf([A.Sequential(early, p=1), A.Sequential(late, p=1)], p=1)
    return [jitter(brightness=BRIGHTNESS), order]


def transformed(compose: A.Compose, seed: int, **sample: Any) -> dict[str, Any]:
    """Run albumentations' transforms on a sample; `seed`, not negative, decides everything random.

    One generator serves all: `set_random_seed` would give every transform the same stream, so that everything
    with p=0.5 happened to the same samples.
    """
    rng = np.random.default_rng(seed)
    compose.set_random_state(rng, random.Random(int(rng.integers(2**63))))
    result: dict[str, Any] = compose(**sample)
    return result


def check_sample(sample: BoxedImage) -> None:
    """Raise ValueError unless image (H, W, 3), boxes (m, 4), labels (m,) and label map (H, W) fit."""
    image, boxes_xyxy, labels, label_map = sample
    check_image(image)
    if boxes_xyxy.ndim != 2 or boxes_xyxy.shape[1] != 4 or labels.shape != boxes_xyxy.shape[:1]:
        raise ValueError(
            f"boxes_xyxy must be (m, 4) and labels (m,), got {boxes_xyxy.shape} and {labels.shape}: "
            "an image without objects has shapes (0, 4) and (0,)"
        )
    if label_map is not None and (label_map.dtype != np.uint8 or label_map.shape != image.shape[:2]):
        raise ValueError(
            f"label_map must be uint8 {image.shape[:2]} as the image, got {label_map.dtype} "
            f"{label_map.shape}: read it with label_classes.read_labels"
        )


def augmented(compose: A.Compose, sample: BoxedImage, seed: int, *, input_hw: tuple[int, int]) -> BoxedImage:
    """Run albumentations' transforms on a sample and resize it to `input_hw`.

    Boxes that were lost or that the cleaning rule refuses are not among those that come out, float32.
    """
    index = np.arange(len(sample.labels), dtype=np.float64)
    rows = _fractions(sample.boxes_xyxy.astype(np.float64), index, sample.image.shape[:2])
    mask = {} if sample.label_map is None else {"mask": sample.label_map}
    changed = transformed(compose, seed, image=sample.image, bboxes=rows, **mask)
    rows = changed["bboxes"]
    boxes, reasons = clean_boxes(_pixels(rows, input_hw).astype(np.float32), input_hw)
    usable = reasons <= Reason.CLIPPED
    labels = sample.labels[rows[usable, 4].astype(np.int64)].astype(np.int64)
    label_map = resize_labels(changed["mask"], input_hw) if mask else None
    return BoxedImage(resize_image(changed["image"], input_hw), boxes[usable], labels, label_map)


def least_of(input_hw: tuple[int, int], smallest: float) -> tuple[int, int]:
    """Return the size of an image whose smallest window, a fraction of each side, is not below `input_hw`."""
    height, width = (math.ceil(side / smallest) for side in input_hw)
    return height, width


def cropped(sample: BoxedImage, crop_xyxy: NDArray[np.int64]) -> BoxedImage:
    """Cut a window (4,) out of a sample; boxes whose center is outside go, the others are clipped."""
    left, top, right, bottom = crop_xyxy.tolist()
    keep, boxes = clip_to_crop(sample.boxes_xyxy.astype(np.float64), crop_xyxy)
    label_map = None if sample.label_map is None else sample.label_map[top:bottom, left:right]
    return BoxedImage(sample.image[top:bottom, left:right], boxes, sample.labels[keep], label_map)


def resized(sample: BoxedImage, input_hw: tuple[int, int]) -> BoxedImage:
    """Resize a sample to `input_hw`."""
    (height, width), (own_height, own_width) = input_hw, sample.image.shape[:2]
    scale = np.array([width / own_width, height / own_height] * 2)
    label_map = None if sample.label_map is None else resize_labels(sample.label_map, input_hw)
    image = resize_image(sample.image, input_hw)
    return BoxedImage(image, sample.boxes_xyxy * scale, sample.labels, label_map)


class DetectionTransform:
    """Augment, resize and clean one sample; picklable, and a pure function of its arguments and the seed.

    ssdlite: IoU crop and flip. ssd: color distortion, zoom-out, IoU crop and flip, in this order, as Caffe
    and torchvision's detection reference have it. none: nothing.
    """

    def __init__(self, *, augment: Literal["ssdlite", "ssd", "none"], input_hw: tuple[int, int]) -> None:
        self.input_hw = input_hw
        self.least_hw = least_of(input_hw, 1.0 if augment == "none" else CROP_SCALE[0])
        self._crops = augment == "ssdlite"
        flip = [] if augment == "none" else [A.HorizontalFlip(p=0.5)]
        before = [*photometric_distortion(), ZoomOut(p=0.5), SSDIoUCrop(p=1)] if augment == "ssd" else []
        self._compose = A.Compose([*before, *flip], is_check_shapes=False)

    def __call__(self, sample: BoxedImage, seed: int) -> BoxedImage:
        """Transform a sample, which is not changed, to `input_hw`.

        It comes out without boxes that the crop lost or the cleaning rule refuses.
        """
        check_sample(sample)
        rng = np.random.default_rng(seed)
        if self._crops:  # before anything is done to all pixels of a large image
            height, width = sample.image.shape[:2]
            crop = sample_crop(sample.boxes_xyxy.astype(np.float64), (height, width), rng)
            sample = resized(sample if crop is None else cropped(sample, crop), self.input_hw)
        return augmented(self._compose, sample, int(rng.integers(2**63)), input_hw=self.input_hw)
