"""What was found in an image: objects with boxes, scores and classes.

D: objects, H, W: the image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from dettoolkit.drawing.boxes import draw_boxes
from dettoolkit.results import Image, Result, listed, supervision_detections


class DetectedObject(NamedTuple):
    """One detection, in plain Python types."""

    name: str
    score: float
    box_xyxy: tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class DetectionResult(Result):
    """The objects found in an image, the surest first. Its length is their number; it yields DetectedObjects.

    Attributes:
        boxes_xyxy: float32 (D, 4) pixels: left, top, right, bottom.
        scores: float32 (D,).
        labels: int64 (D,) 0-based classes.

    Example:
        >>> result = DetectionResult(
        ...     path=None,
        ...     image=np.zeros((40, 60, 3), np.uint8),
        ...     class_names=("cat", "dog"),
        ...     class_ids=(17, 18),
        ...     boxes_xyxy=np.array([[10, 5, 30, 25]], np.float32),
        ...     scores=np.array([0.5], np.float32),
        ...     labels=np.array([1]),
        ... )
        >>> result
        <DetectionResult 60 x 40 pixels: 1 dog>
        >>> result.to_coco(image_id=3)
        [{'image_id': 3, 'category_id': 18, 'bbox': [10.0, 5.0, 20.0, 20.0], 'score': 0.5}]
    """

    boxes_xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    task = "detection"

    def __len__(self) -> int:
        """Count the objects."""
        return len(self.scores)

    def __iter__(self) -> Iterator[DetectedObject]:
        """Yield the objects, the surest first."""
        rows = zip(self.names, self.scores.tolist(), self.boxes_xyxy.tolist(), strict=True)
        return (DetectedObject(name, score, tuple(box)) for name, score, box in rows)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the class of each object."""
        return tuple(self.class_names[label] for label in self.labels)

    def tally(self) -> Counter[str]:
        """Return the number of objects of each class."""
        return Counter(self.names)

    def summary(self) -> str:
        """Return what was found, in a few words."""
        return listed([f"{count} {name}" for name, count in self.tally().most_common()])

    def plot(self) -> NDArray[np.uint8]:
        """Draw boxes, names and scores on the image: uint8 (H, W, 3) RGB, of its size."""
        return draw_boxes(
            self.image, self.boxes_xyxy, self.labels, class_names=self.class_names, scores=self.scores
        )

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the pixels as data that can be written as JSON."""
        objects = [
            {
                "name": found.name,
                "label": label,
                "class_id": self.class_ids[label],
                "score": found.score,
                "box_xyxy": list(found.box_xyxy),
            }
            for found, label in zip(self, self.labels.tolist(), strict=True)
        ]
        return {**self._facts(), "objects": objects}

    def only(self, labels: Sequence[int]) -> Self:
        """Return the result with the objects of these classes only."""
        keep = np.isin(self.labels, labels)
        return replace(
            self, boxes_xyxy=self.boxes_xyxy[keep], scores=self.scores[keep], labels=self.labels[keep]
        )

    def crops(self) -> Iterator[tuple[str, Image]]:
        """Yield class name and pixels (h, w, 3) of each object, the surest first; empty ones too."""
        for found in self:
            left, top, right, bottom = (max(0, round(side)) for side in found.box_xyxy)
            yield found.name, self.image[top:bottom, left:right]

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """List the objects as COCO's results have them: left, top, width, height and the data's own ids."""
        boxes = self.boxes_xyxy.astype(np.float64)  # before the subtraction, as evaluation does it
        boxes[:, 2:] -= boxes[:, :2]
        rows = zip(self.labels.tolist(), boxes.tolist(), self.scores.tolist(), strict=True)
        return [
            {"image_id": image_id, "category_id": self.class_ids[label], "bbox": box, "score": score}
            for label, box, score in rows
        ]

    def to_supervision(self) -> Any:
        """Return `supervision.Detections`: xyxy, confidence, class_id (the label) and data["class_name"].

        Raises:
            ModuleNotFoundError: the package supervision is not installed.
        """
        return supervision_detections(self.labels, self.names, boxes_xyxy=self.boxes_xyxy, scores=self.scores)
