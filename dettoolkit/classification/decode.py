"""From logits to the best classes of an image.

N: images, K: classes, T = min(TOP, K).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from dettoolkit.classification.result import ClassificationResult
from dettoolkit.evaluation.top_k import TOP
from dettoolkit.manifest import Manifest
from dettoolkit.results import Image, Result


def best_classes(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scores (N, T), by softmax, and labels int64 (N, T) of the best classes, the best first.

    Of equal logits the lower class comes first.

    Args:
        logits: float (N, K).
    """
    labels = logits.sort(dim=1, descending=True, stable=True).indices[:, :TOP]
    return logits.softmax(dim=1).gather(1, labels), labels


class BestClasses(nn.Module):
    """`best_classes` as a module that torch.export traces, of a file's raw outputs."""

    def forward(self, outputs: Tensor | Sequence[Tensor], image_hw: Any) -> tuple[Tensor, Tensor]:
        """Map logits (N, K), alone or in a tuple, to scores and labels (N, T)."""
        del image_hw
        return best_classes(outputs if isinstance(outputs, Tensor) else outputs[0])


class ClassificationDecoder:
    """Turn images into ClassificationResults; see `spec.Decoder`.

    Args:
        manifest: of the classifier.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.class_names, self.class_ids = manifest.class_names, manifest.section.class_ids
        self.final = manifest.final

    def __call__(
        self, forward: Any, inputs: Tensor, images: Sequence[Image], *, min_score: float
    ) -> list[Result]:
        """Return the result of each image; the best classes are given whatever their scores."""
        del min_score
        outputs = forward(inputs)
        scores, labels = outputs if self.final else best_classes(outputs[0].float())
        rows = zip(images, scores.cpu().float().numpy(), labels.cpu().long().numpy(), strict=True)
        return [
            ClassificationResult(
                path=None,
                image=image,
                class_names=self.class_names,
                class_ids=self.class_ids,
                labels=own_labels,
                scores=own_scores,
            )
            for image, own_scores, own_labels in rows
        ]
