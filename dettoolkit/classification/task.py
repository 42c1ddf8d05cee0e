"""Classification as a task: network, loss, the best classes of each image, top-1 and top-5."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dettoolkit.classification.losses import Mix
from dettoolkit.classification.model import Classifier
from dettoolkit.evaluation.top_k import (
    TOP,
    ClassificationArrays,
    ClassificationScores,
    evaluate_classification,
)
from dettoolkit.preprocessing import normalize

Forward = Callable[[Tensor], Tensor]
MIXED = "mixed_labels"
"""Key of a batch whose images were mixed: the fractions of the classes (N, K)."""


@dataclass(kw_only=True)
class ClassificationTask:
    """Train and score a classifier on one data set.

    Attributes:
        network: the classifier.
        loss_of: (logits (N, K), labels (N,) or fractions of the classes (N, K)) -> loss.
        mix: mixes the images of a training batch, or None; see `losses.build_mix`.
        class_names: in the network's order.
    """

    network: Classifier
    loss_of: Callable[[Tensor, Tensor], Tensor]
    mix: Mix | None
    mean: Sequence[float]
    std: Sequence[float]
    class_names: Sequence[str]
    monitor: str = field(default="top-1", init=False)

    def images(self, batch: MutableMapping[str, Any]) -> Tensor:
        """Normalize the batch's uint8 images to float32 (N, 3, H, W).

        While the network trains they are mixed, if the recipe says so; the batch then tells `losses` of what.
        """
        images = normalize(batch["images"], self.mean, self.std)
        if self.mix is not None and self.network.training:
            images, batch[MIXED] = self.mix(images, batch["labels"])
        return images

    def losses(self, outputs: Tensor, batch: MutableMapping[str, Any]) -> dict[str, Tensor]:
        """Return the loss of logits (N, K) against the batch's labels."""
        return {"class": self.loss_of(outputs, batch.get(MIXED, batch["labels"]))}

    def predict(self, forward: Forward, batch: MutableMapping[str, Any]) -> ClassificationArrays:
        """Run the network on a batch and give each image's best classes."""
        logits = forward(self.images(batch)).detach().float()
        ranks = ranks_of(logits, batch["labels"])
        best = logits.sort(dim=1, descending=True, stable=True).indices[:, :TOP]
        scores = logits.softmax(dim=1).gather(1, best)
        return ClassificationArrays(
            image_ids=batch["image_ids"].cpu().numpy(),
            labels=batch["labels"].cpu().numpy(),
            ranks=ranks.cpu().numpy(),
            best=best.cpu().numpy(),
            scores=scores.double().cpu().numpy(),
        )

    def score(self, predictions: Sequence[ClassificationArrays]) -> ClassificationScores:
        """Count over the whole validation set."""
        everything = ClassificationArrays.concatenate(predictions)
        return evaluate_classification(everything, class_names=self.class_names)


def ranks_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the place of each true class among all, 0 for the first, int64 (N,).

    Of equal logits the lower class comes first. An image with a logit that is not a number has its true class
    last: nothing is known of it.

    Args:
        logits: (N, K).
        labels: int64 (N,).
    """
    own = logits.gather(1, labels.unsqueeze(1))  # (N, 1)
    lower = torch.arange(logits.shape[1], device=logits.device) < labels.unsqueeze(1)  # (N, K)
    ahead = (logits > own) | ((logits == own) & lower)
    return ahead.sum(dim=1).masked_fill(logits.isnan().any(dim=1), logits.shape[1] - 1)
