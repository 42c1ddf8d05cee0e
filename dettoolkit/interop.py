"""Predictions in the types of other libraries.

D: detections or masks, H, W: the image.
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


def supervision_detections(
    labels: NDArray[np.int64],
    names: Sequence[str],
    boxes_xyxy: NDArray[np.float32] | None = None,
    scores: NDArray[np.float32] | None = None,
    masks: NDArray[np.bool_] | None = None,
) -> Any:
    """Make `supervision.Detections` of boxes (D, 4) or of masks (D, H, W), none of them empty.

    Raises:
        ModuleNotFoundError: the package supervision is not installed.
    """
    try:
        supervision = import_module("supervision")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"this needs the Python package '{error.name}', which is not installed: pip install supervision",
            name=error.name,
        ) from None
    if masks is not None:
        boxes_xyxy = np.array([_bounds(mask) for mask in masks], np.float32).reshape(-1, 4)
    data = {"class_name": np.array(names, dtype=str)}
    return supervision.Detections(xyxy=boxes_xyxy, mask=masks, confidence=scores, class_id=labels, data=data)


def _bounds(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Return left, top, right, bottom of what is True in a mask (H, W)."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
