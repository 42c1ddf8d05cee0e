"""Segmentation as a task: network, loss, predictions at the label files' size, Cityscapes' numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dettoolkit.datasets.label_classes import LabelClasses
from dettoolkit.evaluation.cityscapes import SegmentationResult, evaluate_segmentation
from dettoolkit.evaluation.segmentation_counts import SegmentationCounts, category_numbers, mean_iou
from dettoolkit.preprocessing import normalise
from dettoolkit.segmentation.confusion import confusion_matrix, instance_counts
from dettoolkit.segmentation.inference import InferenceOptions, predict_labels
from dettoolkit.segmentation.model import Segmenter

Forward = Callable[[Tensor], Tensor]
Losses = Callable[[Tensor, Tensor], Tensor]
Sink = Callable[[int, NDArray[np.uint8]], None]

LABEL_IDS = 1 << 16  # values that a label file of 16 bits can have


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
        """Normalise the batch's uint8 images to float32 (N, 3, H, W)."""
        return normalise(batch["images"], self.mean, self.std)

    def losses(self, outputs: Tensor, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Give the loss of logits (N, K, h, w) against the batch's labels."""
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
        labels = batch["labels"][row, :height, :width]
        matrix = confusion_matrix(predicted, labels, self.network.num_classes).cpu().numpy()
        instances = batch["instances"][row, :height, :width] if "instances" in batch else None
        present = instances is not None and int(instances[0, 0]) >= 0
        rows = np.zeros((0, 5), np.int64)
        if present and instances is not None:
            found = instance_counts(
                predicted,
                instances,
                label_of_id=self._label_of_id(predicted),
                category_of=self._category_of(predicted),
            )
            rows = np.insert(found.cpu().numpy(), 0, image_id, axis=1)
        return SegmentationCounts(
            matrix=matrix,
            image_ids=np.array([image_id], np.int64),
            image_scores=np.array([mean_iou(matrix)]),
            instances=rows,
            without_instances=int(not present),
        )

    def _label_of_id(self, like: Tensor) -> Tensor:
        """Map the label ids of instance files to labels, -1 where there is no class."""
        table = torch.full((LABEL_IDS,), -1, dtype=torch.int64, device=like.device)
        ids = torch.tensor(self.classes.label_ids, device=like.device)
        table[ids] = torch.arange(len(self.classes), device=like.device)
        return table

    def _category_of(self, like: Tensor) -> Tensor:
        numbers = category_numbers(self.categories, len(self.classes))
        return torch.from_numpy(np.asarray(numbers)).to(like.device)

    def score(self, predictions: Sequence[SegmentationCounts]) -> SegmentationResult:
        """Score what was counted on the whole validation set, as Cityscapes' official script does."""
        return evaluate_segmentation(
            SegmentationCounts.concatenate(predictions, self.network.num_classes),
            class_names=self.classes.names,
            categories=self.categories,
            label_ids=self.classes.label_ids,
        )
