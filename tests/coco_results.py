"""COCO's results, as tests write them, packed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dettoolkit.evaluation.arrays import DetectionArrays


def detections_of(results: Sequence[Mapping[str, Any]]) -> DetectionArrays:
    """Pack the list of a COCO results json."""
    return DetectionArrays(
        image_ids=np.array([result["image_id"] for result in results], np.int64),
        category_ids=np.array([result["category_id"] for result in results], np.int64),
        boxes_xywh=np.array([result["bbox"] for result in results], np.float64).reshape(-1, 4),
        scores=np.array([result["score"] for result in results], np.float64),
    )
