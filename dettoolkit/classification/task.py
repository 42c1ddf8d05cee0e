"""Classification as a task: network, loss, the best classes of each image, top-1 and top-5."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from dettoolkit.classification.decode import best_classes
from dettoolkit.classification.losses import Mix
from dettoolkit.evaluation.top_k import (
    ClassificationArrays,
    ClassificationScores,
    evaluate_classification,
)
from dettoolkit.network import Network
from dettoolkit.preprocessing import normalize
from dettoolkit.run import Batch

Forward = Callable[[Tensor], Tensor]


@dataclass(kw_only=True)
class ClassificationTask:
    """Train and score a classifier on one data set; see `run.Task`.

    Attributes:
        network: the classifier.
        loss_of: (logits (N, K), labels (N,) or fractions of the classes (N, K)) -> loss.
        mix: mixes the images of a training batch, or None; see `losses.build_mix`.
        class_names: in the network's order.
    """

    network: Network
    loss_of: Callable[[Tensor, Tensor], Tensor]
    mix: Mix | None
    mean: Sequence[float]
    std: Sequence[float]
    class_names: Sequence[str]
    monitor: str = field(default="top-1", init=False)
    raw_outputs: ClassVar[tuple[str, ...]] = ("logits",)

    def training_inputs(self, batch: Batch) -> tuple[Tensor, Batch]:
        """Return normalized images and the batch; where images are mixed, its labels are fractions (N, K)."""
        images = self.images(batch)
        if self.mix is None:
            return images, batch
        images, fractions = self.mix(images, batch["class_labels"])
        return images, {**batch, "class_labels": fractions}

    def images(self, batch: Batch) -> Tensor:
        """Normalize the batch's uint8 images to float32 (N, 3, H, W)."""
        return normalize(batch["images"], self.mean, self.std)

    def losses(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return the loss of logits (N, K) against the batch's labels."""
        return {"class": self.loss_of(outputs, batch["class_labels"])}

    def predict(self, forward: Forward, batch: Batch) -> ClassificationArrays:
        """Run the network on a batch and return each image's best classes."""
        logits = forward(self.images(batch)).detach().float()
        scores, best = best_classes(logits)
        return ClassificationArrays(
            image_ids=batch["image_ids"].cpu().numpy(),
            labels=batch["class_labels"].cpu().numpy(),
            ranks=ranks_of(logits, batch["class_labels"]).cpu().numpy(),
            best=best.cpu().numpy(),
            scores=scores.double().cpu().numpy(),
        )

    def score(self, predictions: Sequence[ClassificationArrays]) -> ClassificationScores:
        """Count over the whole validation set."""
        everything = ClassificationArrays.concatenate(predictions)
        return evaluate_classification(everything, class_names=self.class_names)


def ranks_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Return how many classes come before the true one of each image, int64 (N,).

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
