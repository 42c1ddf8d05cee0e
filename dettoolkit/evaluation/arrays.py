"""Detections and ground truth of COCO evaluation as packed arrays, checked once.

Letters of the shapes: n detections, g ground-truth annotations, I images, K categories.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class DetectionArrays:
    """Hold the detections of a data set, checked: right shapes, finite, widths and heights not negative."""

    image_ids: IntArray  # (n,), the annotation file's image ids, in any order
    category_ids: IntArray  # (n,), the annotation file's category ids (not 0-based labels)
    boxes_xywh: FloatArray  # (n, 4), left, top, width, height in pixels of the original image
    scores: FloatArray  # (n,)

    def __post_init__(self) -> None:
        count = len(self.scores)
        wanted = {"image_ids": (count,), "category_ids": (count,), "boxes_xywh": (count, 4)}
        check_shapes("detections", self, {**wanted, "scores": (count,)})
        self._refuse(~np.isfinite(self.scores), "a score that is not finite")
        self._refuse(~np.isfinite(self.boxes_xywh.sum(axis=1)), "a box that is not finite")
        self._refuse(self.boxes_xywh[:, 2:].min(axis=1, initial=0) < 0, "a box of negative width or height")

    def _refuse(self, wrong: BoolArray, what: str) -> None:
        if not wrong.any():
            return
        first = int(np.flatnonzero(wrong)[0])
        raise ValueError(
            f"detections: {int(wrong.sum())} of {len(wrong)} have {what}, first number {first} in image "
            f"{self.image_ids[first]}: box x, y, width, height {self.boxes_xywh[first].tolist()}, score "
            f"{self.scores[first]}; evaluation expects finite scores and boxes as x, y, width, height: check "
            "that the model's output is finite and its boxes were converted from corners"
        )

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def empty(cls) -> Self:
        """Make a set without detections."""
        ids = np.zeros(0, np.int64)
        return cls(image_ids=ids, category_ids=ids, boxes_xywh=np.zeros((0, 4)), scores=np.zeros(0))

    @classmethod
    def concatenate(cls, parts: Sequence[DetectionArrays]) -> Self:
        """Join sets in the order given; no parts make an empty set."""
        return cls(**join_columns(parts, cls.__slots__)) if parts else cls.empty()

    def to_results(self) -> list[dict[str, Any]]:
        """List the detections as a COCO results json has them."""
        columns = (self.image_ids, self.category_ids, self.boxes_xywh, self.scores)
        return [
            {"image_id": image, "category_id": category, "bbox": box, "score": score}
            for image, category, box, score in zip(*(each.tolist() for each in columns), strict=True)
        ]


@dataclass(frozen=True, slots=True, eq=False)
class GroundTruthArrays:
    """Hold what evaluation uses of a COCO annotation dict; ids are replaced by positions.

    The file's annotation ids are not kept: pycocotools takes id 0 for "unmatched" and a repeated id for
    one object, so evaluation numbers the annotations itself.
    """

    image_ids: IntArray  # (I,), the file's image ids, rising
    category_ids: IntArray  # (K,), the file's category ids, rising
    names: list[str]  # K category names
    images: IntArray  # (g,), positions in image_ids
    categories: IntArray  # (g,), positions in category_ids
    boxes_xywh: FloatArray  # (g, 4), pixels, as in the file
    areas: FloatArray  # (g,), the file's area (of the segment, in COCO); width x height where it has none
    crowds: BoolArray  # (g,), True for a region that is ignored and may be matched many times

    @classmethod
    def from_coco(cls, ground_truth: Mapping[str, Any]) -> Self:
        """Pack a COCO dict, which is left as it is.

        Left out, as pycocotools leaves them out: annotations of an image or category that is not listed. Left
        out too: annotations whose box is missing or not finite. Missing annotations, area, iscrowd and ids
        are filled in.
        """
        for key in ("images", "categories"):
            if key not in ground_truth:
                raise ValueError(
                    f"ground truth: no '{key}', got the keys {sorted(map(str, ground_truth))}; expected a "
                    "dict as in COCO's instances_*.json"
                )
        image_ids = np.unique(np.array([image["id"] for image in ground_truth["images"]], np.int64))
        names = {
            int(entry["id"]): str(entry.get("name", entry["id"])) for entry in ground_truth["categories"]
        }
        category_ids = np.array(sorted(names), np.int64)
        known_images = set(image_ids.tolist())
        kept = [
            each
            for each in ground_truth.get("annotations") or []
            if each["image_id"] in known_images and each["category_id"] in names and _is_box(each.get("bbox"))
        ]
        boxes = np.array([each["bbox"] for each in kept], np.float64).reshape(-1, 4)
        areas = np.array([each.get("area") for each in kept], np.float64)  # None becomes NaN
        return cls(
            image_ids=image_ids,
            category_ids=category_ids,
            names=[names[identity] for identity in category_ids.tolist()],
            images=np.searchsorted(image_ids, np.array([each["image_id"] for each in kept], np.int64)),
            categories=np.searchsorted(
                category_ids, np.array([each["category_id"] for each in kept], np.int64)
            ),
            boxes_xywh=boxes,
            areas=np.where(np.isfinite(areas), areas, boxes[:, 2] * boxes[:, 3]),
            crowds=np.array([bool(each.get("iscrowd", 0)) for each in kept], np.bool_),
        )


def image_positions(truth: GroundTruthArrays, detections: DetectionArrays) -> IntArray:
    """Find the position of each detection's image in `truth.image_ids`, int64 (n,)."""
    unknown = np.setdiff1d(detections.image_ids, truth.image_ids)
    if len(unknown):
        raise ValueError(
            f"detections of {len(unknown)} images that the ground truth does not list, image ids "
            f"{', '.join(map(str, unknown[:5]))}{', …' if len(unknown) > 5 else ''}; expected ids among its "
            f"{len(truth.image_ids)} images: evaluate with the annotation file the detections were made for"
        )
    return np.searchsorted(truth.image_ids, detections.image_ids)


def _is_box(box: object) -> bool:
    if not isinstance(box, (list, tuple)) or len(box) != 4:
        return False
    return all(isinstance(side, (int, float)) and math.isfinite(side) for side in box)


def check_shapes(what: str, arrays: object, wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse arrays of other shapes than wanted, by a ValueError."""
    for name, shape in wanted.items():
        if (got := getattr(arrays, name).shape) != shape:
            raise ValueError(f"{what}: {name} has the shape {got}, expected {shape}")


def check_each_once(what: str, image_ids: IntArray) -> None:
    """Refuse an image that is there more than once, by a ValueError."""
    ids, times = np.unique(image_ids, return_counts=True)
    if len(ids) < len(image_ids):
        raise ValueError(
            f"{what}: image {ids[times > 1][0]} was scored {times.max()} times, expected each image once: "
            "give each process its own images"
        )


def join_columns(parts: Sequence[object], names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Join the arrays of the same name of some parts, at least one, in their order."""
    return {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}


def mean_defined(values: Iterable[float]) -> float:
    """Average what is not NaN; NaN where there is nothing."""
    defined = [value for value in values if not math.isnan(value)]
    return math.fsum(defined) / len(defined) if defined else math.nan


def ratio(part: float, whole: float) -> float:
    """Return part / whole; NaN of nothing."""
    return part / whole if whole else math.nan
