"""Segmentation as a task: network, loss, predictions at the label files' size, Cityscapes' numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dettoolkit.datasets.label_classes import LabelClasses
from dettoolkit.evaluation.miou import SegmentationScores, evaluate_segmentation
from dettoolkit.evaluation.segmentation_counts import SegmentationCounts
from dettoolkit.network import Features
from dettoolkit.run import Batch, Task
from dettoolkit.segmentation.confusion import count_image
from dettoolkit.segmentation.losses import Loss
from dettoolkit.segmentation.predict import Forward, predict_labels
from dettoolkit.segmentation.spec import SegmentationSection

AUXILIARY = "head"
"""Among the auxiliary parts, the head that learns the labels too."""


@dataclass(kw_only=True)
class SegmentationTask(Task):
    """Train and score a segmenter on one data set; see `run.Task`."""

    loss_of: Loss
    region_losses: Mapping[str, Loss]  # added to it, by name
    auxiliary_weight: float  # of the auxiliary head's loss
    inference: SegmentationSection  # how the network is run in validation
    classes: LabelClasses  # of the data set, in the network's order
    categories: Sequence[str] | None  # of each class, or None: then no figures of categories
    sink: Callable[[int, NDArray[np.uint8]], None] | None = None
    """Gets every prediction (image id, labels (H, W)) of a validation."""
    monitor = "mIoU"
    raw_outputs = ("logits",)

    def losses(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return the losses of logits (N, K, h, w) against the batch's label maps."""
        labels = batch["label_map"]
        regions = {name: loss_of(outputs, labels) for name, loss_of in self.region_losses.items()}
        return {"pixel": self.loss_of(outputs, labels), **regions}

    def auxiliary_losses(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        """Return the weighted sum of the auxiliary head's losses, if there is one; they are the network's."""
        if AUXILIARY not in self.auxiliary:
            return {}
        head: Any = self.auxiliary[AUXILIARY]
        logits = head(*(features[name] for name in head.features))
        loss = torch.stack(list(self.losses(logits, batch).values())).sum()
        return {"auxiliary": self.auxiliary_weight * loss}

    def segment(self, forward: Forward, batch: Batch) -> list[Tensor]:
        """Run the network on a batch; return each image's labels, uint8 (H, W) of its label file's size."""
        sizes = [(int(height), int(width)) for height, width in batch["label_map_hw"].tolist()]
        return predict_labels(forward, self.images(batch), sizes_hw=sizes, options=self.inference)

    def predict(self, forward: Forward, batch: Batch) -> SegmentationCounts:
        """Run the network on a batch and count, on its device, what was predicted on which label."""
        counts = []
        for row, predicted in enumerate(self.segment(forward, batch)):
            image_id = int(batch["image_ids"][row])
            if self.sink is not None:
                self.sink(image_id, predicted.cpu().numpy())
            inside = (row, *map(slice, predicted.shape))  # maps are padded
            instances = batch["instances"][inside] if "instances" in batch else None
            counts.append(self.count(image_id, predicted, batch["label_map"][inside], instances))
        return SegmentationCounts.concatenate(counts, len(self.classes))

    def count(
        self, image_id: int, predicted: Tensor, labels: Tensor, instances: Tensor | None
    ) -> SegmentationCounts:
        """Count an image's predicted labels (H, W) against its label map and instances; see `count_image`."""
        return count_image(
            predicted,
            labels,
            num_classes=len(self.classes),
            image_id=image_id,
            instances=instances,
            label_ids=self.classes.label_ids,
            categories=self.categories,
        )

    def score(self, predictions: Sequence[SegmentationCounts]) -> SegmentationScores:
        """Score what was counted on the whole validation set, as Cityscapes' official script does."""
        return evaluate_segmentation(
            SegmentationCounts.concatenate(predictions, len(self.classes)),
            class_names=self.classes.names,
            categories=self.categories,
            label_ids=self.classes.label_ids,
        )
