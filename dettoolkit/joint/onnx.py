"""From both heads' raw outputs to final answers, as ONNX nodes that a network ends with."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from dettoolkit.formats.onnx.nodes import Nodes
from dettoolkit.joint.decode import split_outputs
from dettoolkit.joint.single_tasks import part
from dettoolkit.joint.spec import BOXES, MAPS
from dettoolkit.manifest import Manifest


def onnx_answers(
    graph: Nodes, raw: Sequence[ir.Value], manifest: Manifest, image_hw: tuple[ir.Value, ir.Value] | None
) -> list[tuple[ir.Value, list[int | str], ir.DataType]]:
    """Add the nodes of both heads; see `TaskSpec.onnx_answers`."""
    return [
        answer
        for spec, own in zip((BOXES, MAPS), split_outputs(raw, final=False), strict=True)
        for answer in spec.onnx_answers(graph, own, part(manifest, spec.name), image_hw)
    ]
