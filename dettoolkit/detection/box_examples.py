"""Annotations as examples of what the doctor finds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dettoolkit.datasets.coco_annotations import CocoAnnotations
from dettoolkit.datasets.data_report import NO_ID
from dettoolkit.doctor.findings import Example

Floats = NDArray[np.float64]


def example_of(annotations: CocoAnnotations, index: int, text: str) -> Example:
    """Return an annotation as an example of a finding."""
    row = int(np.searchsorted(annotations.offsets, index, side="right")) - 1
    id_ = int(annotations.annotation_ids[index])
    left, top, right, bottom = corners(annotations, np.array([index]))[0].tolist()
    return example_of_image(
        annotations, row, text, None if id_ == NO_ID else id_, ((left, top, right, bottom),)
    )


def example_of_image(
    annotations: CocoAnnotations,
    row: int,
    text: str,
    annotation_id: int | None = None,
    boxes_xyxy: tuple[tuple[float, float, float, float], ...] = (),
) -> Example:
    """Return an image, by its place, as an example of a finding."""
    height, width = annotations.image_hw[row].tolist()
    return Example(
        file=str(annotations.image_path(row)),
        image_id=int(annotations.image_ids[row]),
        annotation_id=annotation_id,
        text=text,
        boxes_xyxy=boxes_xyxy,
        hw=(height, width) if height and width else None,
    )


def corners(annotations: CocoAnnotations, indices: NDArray[np.int64]) -> Floats:
    """Return the boxes (n, 4) of some annotations as xyxy."""
    boxes = annotations.boxes_xywh[indices]  # a copy
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def size_of(annotations: CocoAnnotations, index: int) -> str:
    """Write the bbox of an annotation and the size of its image."""
    row = int(np.searchsorted(annotations.offsets, index, side="right")) - 1
    x, y, width, height = annotations.boxes_xywh[index].tolist()
    rows, columns = annotations.image_hw[row].tolist()
    name = annotations.class_names[annotations.labels[index]]
    box = f"[{x:.10g}, {y:.10g}, {width:.10g}, {height:.10g}]"
    return f"{name}, bbox {box} in {columns} x {rows} (width x height)"
