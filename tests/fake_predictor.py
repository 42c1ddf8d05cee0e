"""A predictor whose answers follow from the pixels, at no cost, and figures for it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np

from dettoolkit.classification.result import ClassificationResult
from dettoolkit.detection.result import DetectionResult
from dettoolkit.segmentation.result import SegmentationResult

NAMES, IDS = ("box", "bar", "none"), (3, 7, 300)


class FakePredictor:
    """Find 0 to 3 objects, as the first pixel's red says; or give each half of an image a class."""

    def __init__(self, task="detection", fail_after=None):
        self.task, self.class_names = task, NAMES
        self.manifest = SimpleNamespace(task=task, class_names=NAMES, export=None)
        self.fail_after = fail_after  # images until it is broken off
        self.batches = []  # sizes of what came

    def predict_batch(self, images, *, threshold=None):
        self.batches.append(len(images))
        return [self._result(image, threshold or 0.0) for image in images]

    def _result(self, image, threshold):
        if self.fail_after is not None:
            self.fail_after -= 1
            if self.fail_after < 0:
                raise KeyboardInterrupt
        facts = {"path": None, "image": image, "class_names": NAMES, "class_ids": IDS}
        height, width = image.shape[:2]
        count = int(image[0, 0, 0]) // 64
        if self.task == "segmentation":
            labels = np.zeros((height, width), np.uint8)
            labels[:, width // 2 :] = 1 + count % 2
            return SegmentationResult(**facts, colors=None, labels=labels)
        if self.task == "classification":
            order, scores = np.roll(np.arange(3), count), np.array([0.5, 0.375, 0.125], np.float32)
            return ClassificationResult(**facts, labels=order, scores=scores)
        corner = np.arange(count, dtype=np.float32)[:, None] + np.array([[1.25, 2, 9, 12]], np.float32)
        scores = np.linspace(0.9, 0.3, count, dtype=np.float32)
        keep = scores >= threshold
        labels = (np.arange(count) % 2)[keep]
        return DetectionResult(**facts, boxes_xyxy=corner[keep], scores=scores[keep], labels=labels)


def write_images(folder: Path, names, hw=(20, 24)) -> Path:
    """Write images of one color each, whose red says the number modulo 4."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = np.full((*hw, 3), (number * 7 % 256, number * 3 % 256, number % 4 * 64 + 20), np.uint8)  # BGR
        assert cv2.imwrite(str(path), image)
    return folder


def write_video(path: Path, frames: int, hw=(32, 48), fps=10.0) -> Path:
    """Write an MP4 whose frames grow brighter."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, hw[::-1])
    assert writer.isOpened()
    for number in range(frames):
        writer.write(np.full((*hw, 3), 10 * number % 256, np.uint8))
    writer.release()
    return path
