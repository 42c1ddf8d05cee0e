"""What was found in an image: objects, and the class of each pixel.

H, W: the image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dettoolkit.detection.result import DetectionResult
from dettoolkit.drawing.boxes_over_masks import draw_boxes_over_segments
from dettoolkit.results import Image, Result
from dettoolkit.segmentation.result import SegmentationResult


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class JointResult(Result):
    """The objects and the class of each pixel of an image.

    Its own class names and ids are those of both parts, the objects' first, each name with its part before
    it. The parts have the names of the data.

    Attributes:
        detection: the objects.
        segmentation: the label map.

    Example:
        >>> image = np.zeros((2, 4, 3), np.uint8)
        >>> shared = {"path": None, "image": image}
        >>> result = JointResult(
        ...     **shared,
        ...     class_names=("detection/car", "segmentation/road", "segmentation/sky"),
        ...     class_ids=(3, 7, 23),
        ...     detection=DetectionResult(
        ...         **shared,
        ...         class_names=("car",),
        ...         class_ids=(3,),
        ...         boxes_xyxy=np.array([[0, 1, 2, 2]], np.float32),
        ...         scores=np.array([0.5], np.float32),
        ...         labels=np.array([0]),
        ...     ),
        ...     segmentation=SegmentationResult(
        ...         **shared,
        ...         class_names=("road", "sky"),
        ...         class_ids=(7, 23),
        ...         labels=np.array([[1, 1, 1, 1], [0, 0, 0, 0]], np.uint8),
        ...         colors=None,
        ...     ),
        ... )
        >>> result
        <JointResult 4 x 2 pixels: 1 car; road 50.0%, sky 50.0%>
        >>> result.detection.names, result.segmentation.fractions["sky"]
        (('car',), 0.5)
    """

    detection: DetectionResult
    segmentation: SegmentationResult
    task = "joint"

    def __post_init__(self) -> None:
        """Give both parts the image and its file, also where another was set by `dataclasses.replace`."""
        for name in ("detection", "segmentation"):
            own = getattr(self, name)
            if own.path != self.path or own.image is not self.image:
                object.__setattr__(self, name, replace(own, path=self.path, image=self.image))

    def tally(self) -> dict[str, float]:
        """Return the number of objects (int), and the fraction of pixels, of each class that occurs."""
        parts: tuple[Result, ...] = (self.detection, self.segmentation)
        return {f"{part.task}/{name}": amount for part in parts for name, amount in part.tally().items()}

    def summary(self) -> str:
        """Return what was found, in a few words."""
        return f"{self.detection.summary()}; {self.segmentation.summary()}"

    def plot(self) -> NDArray[np.uint8]:
        """Draw boxes over the classes' colors, with the names of both: uint8 (H, W, 3) RGB, of its size."""
        found, classes = self.detection, self.segmentation
        return draw_boxes_over_segments(
            self.image,
            classes.labels,
            segment_names=classes.class_names,
            colors=classes.colors,
            boxes_xyxy=found.boxes_xyxy,
            labels=found.labels,
            scores=found.scores,
            class_names=found.class_names,
        )

    def only(self, labels: Sequence[int]) -> Self:
        """Return the result with the objects of these classes only; the label map stays whole.

        Raises:
            ValueError: a label is of a class of the label map, which has no objects.
        """
        objects = len(self.detection.class_names)
        if others := [label for label in labels if not 0 <= label < objects]:
            names = ", ".join(self.class_names[:objects])
            raise ValueError(f"labels {others} are not of objects: select classes from {names}")
        return replace(self, detection=self.detection.only(labels))

    def crops(self) -> Iterator[tuple[str, Image]]:
        """Yield class name and pixels (h, w, 3) of each object, the surest first; empty ones too."""
        return self.detection.crops()

    def to_dict(self) -> dict[str, Any]:
        """Return the objects, and the classes that occur with their pixels, as JSON data without pixels."""
        objects, classes = self.detection.to_dict(), self.segmentation.to_dict()
        return {**objects, **classes, **self._facts()}

    def record(self, *, masks: bool) -> dict[str, Any]:
        """Return height, width and what was found as JSON data; with `masks`, each class has its `rle`."""
        return {**self.detection.record(masks=masks), **self.segmentation.record(masks=masks)}

    def to_png(self, path: str | Path, *, ids: bool = True) -> Path:
        """Write the label map as a gray PNG; see `SegmentationResult.to_png`."""
        return self.segmentation.to_png(path, ids=ids)

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """List the objects' boxes, and then a mask for each class that occurs, as COCO's results have them.

        COCO's tools read one kind from a file: `bbox` or `segmentation` says which an entry is. Ids of both
        kinds are the data's own, and may be equal.
        """
        return [*self.detection.to_coco(image_id), *self.segmentation.to_coco(image_id)]

    def to_supervision(self) -> Any:
        """Return `supervision.Detections` of the objects; `segmentation.to_supervision()` has the classes.

        Raises:
            ModuleNotFoundError: the package supervision is not installed.
        """
        return self.detection.to_supervision()
