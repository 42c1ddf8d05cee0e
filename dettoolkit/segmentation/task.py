"""Segmentation as a task: network, loss, predictions at the label files' size, Cityscapes' numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dettoolkit.datasets.label_classes import LabelClasses
from dettoolkit.evaluation.miou import SegmentationScores, evaluate_segmentation
from dettoolkit.evaluation.segmentation_counts import SegmentationCounts
from dettoolkit.preprocessing import normalize
from dettoolkit.segmentation.confusion import count_image
from dettoolkit.segmentation.model import Segmenter
from dettoolkit.segmentation.predict import InferenceOptions, predict_labels

Forward = Callable[[Tensor], Tensor]
Losses = Callable[[Tensor, Tensor], Tensor]
Sink = Callable[[int, NDArray[np.uint8]], None]


@dataclass(kw_only=True)
class SegmentationTask:
    """Train and score a segmenter on one data set.

    Attributes:
        network: the segmenter.
        loss_of: (logits (N, K, h, w), labels (N, H, W) with 255 ignored) -> loss.
        inference: how an image is answered in validation.
        classes: of the data set, in the network's order.
        categories: the category of each class, or None: then no figures of categories.
        sink: gets every prediction (image id, uint8 (H, W) labels) of a validation, or None.
    """

    network: Segmenter
    loss_of: Losses
    mean: Sequence[float]
    std: Sequence[float]
    inference: InferenceOptions
    classes: LabelClasses
    categories: Sequence[str] | None
    sink: Sink | None = None
    monitor: str = field(default="mIoU", init=False)

    def images(self, batch: Mapping[str, Any]) -> Tensor:
        """Normalize the batch's uint8 images to float32 (N, 3, H, W)."""
        return normalize(batch["images"], self.mean, self.std)

    def losses(self, outputs: Tensor, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the loss of logits (N, K, h, w) against the batch's labels."""
        return {"pixel": self.loss_of(outputs, batch["labels"])}

    def segment(self, forward: Forward, batch: Mapping[str, Any]) -> list[Tensor]:
        """Run the network on a batch and give each image's labels, uint8 (H, W) of its label file's size."""
        images = self.images(batch)
        sizes: list[tuple[int, int]] = [(int(h), int(w)) for h, w in batch["label_hw"].tolist()]
        if len(set(sizes)) == 1:
            return list(predict_labels(forward, images, out_hw=sizes[0], options=self.inference))
        return [
            predict_labels(forward, images[i : i + 1], out_hw=size, options=self.inference)[0]
            for i, size in enumerate(sizes)
        ]

    def predict(self, forward: Forward, batch: Mapping[str, Any]) -> SegmentationCounts:
        """Run the network on a batch and count, on its device, what was predicted on which label."""
        counts = [
            self._count(row, predicted, batch) for row, predicted in enumerate(self.segment(forward, batch))
        ]
        return SegmentationCounts.concatenate(counts, self.network.num_classes)

    def _count(self, row: int, predicted: Tensor, batch: Mapping[str, Any]) -> SegmentationCounts:
        height, width = predicted.shape
        image_id = int(batch["image_ids"][row])
        if self.sink is not None:
            self.sink(image_id, predicted.cpu().numpy())
        return count_image(
            predicted,
            batch["labels"][row, :height, :width],
            num_classes=self.network.num_classes,
            image_id=image_id,
            instances=batch["instances"][row, :height, :width] if "instances" in batch else None,
            label_ids=self.classes.label_ids,
            categories=self.categories,
        )

    def score(self, predictions: Sequence[SegmentationCounts]) -> SegmentationScores:
        """Score what was counted on the whole validation set, as Cityscapes' official script does."""
        return evaluate_segmentation(
            SegmentationCounts.concatenate(predictions, self.network.num_classes),
            class_names=self.classes.names,
            categories=self.categories,
            label_ids=self.classes.label_ids,
        )
