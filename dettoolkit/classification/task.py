"""Classification as a task: network, loss, the best classes of each image, top-1 and top-5.

N: images, K: classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2

from dettoolkit.classification.decode import best_classes
from dettoolkit.evaluation.top_k import ClassificationArrays, ClassificationScores, evaluate_classification
from dettoolkit.run import Batch, Task

Mix = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(kw_only=True)
class ClassificationTask(Task):
    """Train and score a classifier on one data set; see `run.Task`."""

    label_smoothing: float  # fraction of the target that is spread over all classes
    mix: Mix | None  # mixes the images of a training batch; see `build_mix`
    class_names: Sequence[str]  # in the network's order
    monitor = "top-1"
    raw_outputs = ("logits",)

    def training_inputs(self, batch: Batch) -> tuple[Tensor, Batch]:
        """Return normalized images and the batch; where images are mixed, its labels are fractions (N, K)."""
        images = self.images(batch)
        if self.mix is None:
            return images, batch
        images, fractions = self.mix(images, batch["class_labels"])
        return images, {**batch, "class_labels": fractions}

    def losses(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return the mean cross-entropy of logits (N, K)."""
        labels = batch["class_labels"]
        return {"class": F.cross_entropy(outputs.float(), labels, label_smoothing=self.label_smoothing)}

    def predict(self, forward: Callable[[Tensor], Tensor], batch: Batch) -> ClassificationArrays:
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


def build_mix(*, num_classes: int, mixup: float, cutmix: float) -> Mix | None:
    """Build what mixes images with others of their batch; None where nothing is asked for.

    It maps normalized images (N, 3, H, W) and labels (N,) to mixed images and class fractions (N, K). Each is
    mixed with its neighbor in the batch, by a fraction that torch's generators draw from Beta(alpha, alpha)
    for the whole batch. `mixup` (arXiv 1710.09412) and `cutmix` (1905.04899) are alphas, 0 for none; with
    both, each batch takes one.
    """
    ways = [
        way(alpha=alpha, num_classes=num_classes)
        for way, alpha in ((v2.MixUp, mixup), (v2.CutMix, cutmix))
        if alpha
    ]
    return v2.RandomChoice(ways) if len(ways) > 1 else next(iter(ways), None)


def ranks_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Return how many classes come before the true one of each image, int64 (N,), for logits (N, K).

    Of equal logits the lower class comes first. An image with a logit that is not a number has its true class
    last: nothing is known of it.
    """
    own = logits.gather(1, labels.unsqueeze(1))  # (N, 1)
    lower = torch.arange(logits.shape[1], device=logits.device) < labels.unsqueeze(1)  # (N, K)
    ahead = (logits > own) | ((logits == own) & lower)
    return ahead.sum(dim=1).masked_fill(logits.isnan().any(dim=1), logits.shape[1] - 1)
