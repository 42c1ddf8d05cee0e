"""Predictions in the types of other libraries.

D: detections, R: masks, H, W: the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray


def run_lengths(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Code a mask (H, W) as COCO's files have it: its size and the lengths of its runs, as text."""
    from pycocotools import mask as coder

    coded = coder.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(mask.shape), "counts": coded["counts"].decode("ascii")}


def supervision_boxes(
    boxes_xyxy: NDArray[np.float32],
    scores: NDArray[np.float32],
    labels: NDArray[np.int64],
    names: Sequence[str],
) -> Any:
    """Make `supervision.Detections` of boxes (D, 4) with their scores, labels and names (D,).

    Raises:
        ModuleNotFoundError: the package supervision is not installed.
    """
    return _supervision().Detections(
        xyxy=boxes_xyxy, confidence=scores, class_id=labels, data={"class_name": np.array(names, dtype=str)}
    )


def supervision_masks(masks: NDArray[np.bool_], labels: NDArray[np.int64], names: Sequence[str]) -> Any:
    """Make `supervision.Detections` of masks (R, H, W), none of them empty, with labels and names (R,).

    Raises:
        ModuleNotFoundError: the package supervision is not installed.
    """
    return _supervision().Detections(
        xyxy=np.array([_bounds(mask) for mask in masks], np.float32).reshape(-1, 4),
        mask=masks,
        class_id=labels,
        data={"class_name": np.array(names, dtype=str)},
    )


def _bounds(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Return left, top, right, bottom of what is True in a mask (H, W)."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _supervision() -> Any:
    try:
        return import_module("supervision")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"this needs the Python package '{error.name}', which is not installed: pip install supervision",
            name=error.name,
        ) from None
