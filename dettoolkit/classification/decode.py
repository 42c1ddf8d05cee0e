"""From logits to the best classes of an image, in PyTorch and as ONNX nodes that a network ends with.

N: images, K: classes, T = min(TOP, K). Of equal scores the lower class comes first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dettoolkit.classification.result import ClassificationResult
from dettoolkit.evaluation.top_k import TOP
from dettoolkit.manifest import Manifest
from dettoolkit.results import Image, Result
from dettoolkit.spec import Decoder


def best_classes(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return scores (N, T), by softmax of logits (N, K), and int64 labels (N, T), the best first."""
    labels = logits.sort(dim=1, descending=True, stable=True).indices[:, :TOP]
    return logits.softmax(dim=1).gather(1, labels), labels


class BestClasses(nn.Module):
    """`best_classes` as a module that torch.export traces, of a file's raw outputs."""

    def __init__(self, manifest: Manifest) -> None:  # noqa: ARG002
        super().__init__()

    def forward(self, outputs: Tensor | Sequence[Tensor], image_hw: Any) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Map logits (N, K), alone or in a tuple, to scores and labels (N, T)."""
        return best_classes(outputs if isinstance(outputs, Tensor) else outputs[0])


def onnx_answers(
    graph: Any,
    raw: Sequence[Any],
    manifest: Manifest,
    image_hw: tuple[Any, Any] | None,  # noqa: ARG001
) -> list[tuple[Any, list[int | str], Any]]:
    """Add Softmax and TopK; see `TaskSpec.onnx_answers`."""
    from onnx_ir import DataType

    top = min(TOP, len(manifest.class_names))
    scores = graph.op("Softmax", raw[0], axis=1)
    scores, labels = graph.several("TopK", scores, graph.integers(top), outputs=2, axis=1)
    return [(scores, [top], DataType.FLOAT), (labels, [top], DataType.INT64)]


def decoder(manifest: Manifest, device: torch.device) -> Decoder:  # noqa: ARG001
    """Return what turns outputs into ClassificationResults: the best classes, whatever their scores."""

    def decode(forward: Any, inputs: Tensor, images: Sequence[Image], *, min_score: float) -> list[Result]:
        del min_score
        outputs = forward(inputs)
        scores, labels = outputs if manifest.final else best_classes(outputs[0].float())
        rows = zip(images, scores.cpu().float().numpy(), labels.cpu().long().numpy(), strict=True)
        return [
            ClassificationResult(
                path=None,
                image=image,
                class_names=manifest.class_names,
                class_ids=manifest.section.class_ids,
                labels=own_labels,
                scores=own_scores,
            )
            for image, own_scores, own_labels in rows
        ]

    return decode
