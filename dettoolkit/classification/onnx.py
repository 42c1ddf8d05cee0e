"""From logits to the best classes, as ONNX nodes that a network ends with."""

from __future__ import annotations

import onnx_ir as ir

from dettoolkit.evaluation.top_k import TOP
from dettoolkit.formats.onnx.nodes import Nodes


def best_classes(
    g: Nodes, logits: ir.Value, num_classes: int
) -> list[tuple[ir.Value, list[int | str], ir.DataType]]:
    """Add Softmax and TopK; of equal scores the lower class comes first.

    Args:
        g: takes the nodes.
        logits: (N, K).
        num_classes: K.

    Returns:
        scores and labels, (N, T) each, with their shapes and types; see `spec.TaskSpec.onnx_answers`.
    """
    top = min(TOP, num_classes)
    scores, labels = g.several("TopK", g.op("Softmax", logits, axis=1), g.integers(top), outputs=2, axis=1)
    return [(scores, [top], ir.DataType.FLOAT), (labels, [top], ir.DataType.INT64)]
