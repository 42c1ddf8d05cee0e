"""From raw outputs to final answers, as ONNX nodes that a network ends with.

N: images, A: default boxes, S: class slots (K classes and background), D: detections of an image, padded,
R: default boxes that are looked at, M: boxes that survive NMS in the whole batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from dettoolkit.detection.anchors import default_boxes
from dettoolkit.detection.box_coding import CENTER_SCALE, MAX_LOG_SIZE, SIZE_SCALE, center_wh
from dettoolkit.detection.postprocess import logit
from dettoolkit.detection.spec import DetectionSection
from dettoolkit.formats.onnx.nodes import Nodes
from dettoolkit.manifest import Manifest, SizeHW

# Softmax of a class is at most the sigmoid of its logit less the background's; the two are rounded apart.
MARGIN = 1e-3


def onnx_answers(
    g: Nodes, raw: Sequence[ir.Value], manifest: Manifest, image_hw: tuple[ir.Value, ir.Value] | None
) -> list[tuple[ir.Value, list[int | str], ir.DataType]]:
    """Add the nodes of `TaskSpec.onnx_answers`; boxes are in pixels of what was put in."""
    if manifest.input_hw is None:
        raise ValueError("a detector's manifest needs input_hw, the size that its default boxes belong to")
    facts, (height, width) = manifest.section, manifest.input_hw
    boxes, scores, labels, counts = detections(g, *raw, facts=facts, input_hw=(height, width))
    if image_hw is not None:
        sides = g.cast(g.op("Concat", *image_hw[::-1], *image_hw[::-1], axis=0), ir.DataType.FLOAT)
        own = g.constant(np.asarray([width, height, width, height], np.float32))
        boxes = g.op("Mul", boxes, g.op("Div", sides, own))
    most = facts.max_detections
    return [
        (boxes, [most, 4], ir.DataType.FLOAT),
        (scores, [most], ir.DataType.FLOAT),
        (labels, [most], ir.DataType.INT64),
        (counts, [], ir.DataType.INT64),
    ]


def detections(
    g: Nodes, class_logits: ir.Value, box_deltas: ir.Value, *, facts: DetectionSection, input_hw: SizeHW
) -> tuple[ir.Value, ir.Value, ir.Value, ir.Value]:
    """Turn a detector's raw outputs into detections; the same as `detection.postprocess.postprocess`.

    What no class of no image scores above the threshold is left out before anything is computed of it.

    Class logits are (N, A, S), box deltas (N, A, 4). Returned are boxes_xyxy (N, D, 4) pixels of the input,
    scores (N, D), labels (N, D), -1 for padding, and counts (N,).
    """
    rows = _rows(g, class_logits, facts)
    ranks, lowest = _ranks(g, g.op("Gather", class_logits, rows, axis=1), facts)  # (N, R, K)
    deltas = g.op("Gather", box_deltas, rows, axis=1)
    # A sum is NaN where a part is: a default box with a NaN is left out.
    parts = (g.op("ReduceSum", each, g.integers(2), keepdims=1) for each in (ranks, deltas))
    broken = g.op("IsNaN", g.op("Add", *parts))
    ranks = g.op("Where", broken, g.number(-math.inf), ranks)
    boxes = _boxes(g, deltas, rows, facts=facts, input_hw=input_hw)
    ranks = topk_per_class(g, g.op("Transpose", ranks, perm=[0, 2, 1]), lowest, facts)  # (N, K, R)
    kept = g.op(  # (M, 3): image, class, row
        "NonMaxSuppression",
        boxes,
        ranks,
        g.integers(facts.max_detections),
        g.constant(np.asarray([facts.nms_iou], np.float32)),
        lowest,
    )
    return _best(g, kept, boxes, ranks, facts)


def _rows(g: Nodes, class_logits: ir.Value, facts: DetectionSection) -> ir.Value:
    """List the default boxes that have a class above the threshold in any of the images: int64 (R,)."""
    peaks = g.op("ReduceMax", _foreground(g, class_logits, facts), g.integers(2), keepdims=0)  # (N, A)
    threshold = logit(facts.score_threshold)
    if facts.activation == "softmax":
        background = g.op("Gather", class_logits, g.integer(0), axis=2)
        peaks = g.op("Sub", peaks, background)
        threshold -= MARGIN
    above = g.op("Greater", peaks, g.number(threshold))
    anywhere = g.op("ReduceMax", g.cast(above, ir.DataType.UINT8), g.integers(0), keepdims=0)
    return g.op("Reshape", g.op("NonZero", anywhere), g.integers(-1))


def _foreground(g: Nodes, slots: ir.Value, facts: DetectionSection) -> ir.Value:
    """Leave the background, if there is one, out of (N, any, S)."""
    if not facts.background:
        return slots
    return g.op("Slice", slots, g.integers(1), g.integers(np.iinfo(np.int64).max), g.integers(2))


def _ranks(g: Nodes, class_logits: ir.Value, facts: DetectionSection) -> tuple[ir.Value, ir.Value]:
    """Return numbers (N, R, K) that rise with the score, and the threshold (1,) that they must be above."""
    if facts.activation == "softmax":
        scores = _foreground(g, g.op("Softmax", class_logits, axis=2), facts)
        return scores, g.constant(np.asarray([facts.score_threshold], np.float32))
    # The sigmoid itself is left to the few that become detections.
    lowest = np.asarray([logit(facts.score_threshold)], np.float32)
    return _foreground(g, class_logits, facts), g.constant(lowest)


def _boxes(
    g: Nodes, deltas: ir.Value, rows: ir.Value, *, facts: DetectionSection, input_hw: SizeHW
) -> ir.Value:
    """Decode and clip, as `box_coding.CODERS` and `box_coding.clip_to` do: (N, R, 4)."""
    center, size = center_wh(default_boxes(facts.levels, input_hw=input_hw))
    size_of, center_of = (g.op("Gather", g.constant(each.numpy()), rows, axis=0) for each in (size, center))
    first, last = g.several("Split", deltas, outputs=2, axis=2, num_outputs=2)
    if facts.coder == "distances":
        before, after = (g.op("Mul", g.op("Max", each, g.number(0.0)), size_of) for each in (first, last))
        middle = center_of
    else:
        moved = g.op("Mul", g.op("Div", first, g.number(CENTER_SCALE)), size_of)
        middle = g.op("Add", moved, center_of)
        grown = g.op("Min", g.op("Div", last, g.number(SIZE_SCALE)), g.number(MAX_LOG_SIZE))
        before = after = g.op("Mul", g.op("Mul", g.op("Exp", grown), size_of), g.number(0.5))
    boxes = g.op("Concat", g.op("Sub", middle, before), g.op("Add", middle, after), axis=2)
    height, width = input_hw
    upper = g.constant(np.asarray([width, height, width, height], np.float32))
    return g.op("Min", g.op("Max", boxes, g.number(0.0)), upper)


def topk_per_class(g: Nodes, ranks: ir.Value, lowest: ir.Value, facts: DetectionSection) -> ir.Value:
    """Leave the best `candidates_per_class` of each row of (N, K, R) and make the others -inf."""
    limit = g.integers(facts.candidates_per_class)
    above = g.cast(g.op("Greater", ranks, lowest), ir.DataType.FLOAT)
    counts = g.op("ReduceSum", above, g.integers(2), keepdims=0)
    most = g.cast(g.op("ReduceMax", counts, keepdims=0), ir.DataType.INT64)
    too_many = g.op("Greater", most, g.integer(facts.candidates_per_class))

    cut = Nodes(f"{g.scope}/cut")
    best, index = cut.several("TopK", ranks, limit, outputs=2, axis=2)
    nothing = cut.op("Expand", g.number(-math.inf), cut.op("Shape", ranks))
    cut.op("ScatterElements", nothing, index, best, axis=2)
    whole = Nodes(f"{g.scope}/whole")
    whole.op("Identity", ranks)
    return g.op("If", too_many, then_branch=cut.subgraph(), else_branch=whole.subgraph())


def _best(
    g: Nodes, kept: ir.Value, boxes: ir.Value, ranks: ir.Value, facts: DetectionSection
) -> tuple[ir.Value, ir.Value, ir.Value, ir.Value]:
    """Take the best D of each image, padded."""
    most = facts.max_detections
    images = g.size(ranks, 0)
    number = g.op("Range", g.integer(0), g.op("Squeeze", images), g.integer(1))
    own = g.op("Equal", g.op("Unsqueeze", number, g.integers(1)), g.op("Gather", kept, g.integer(0), axis=1))
    table = g.op("Where", own, g.op("GatherND", ranks, kept), g.number(-math.inf))  # (N, M)
    nothing = g.op("Expand", g.number(-math.inf), g.op("Concat", images, g.integers(most), axis=0))
    rank, index = g.several(
        "TopK", g.op("Concat", table, nothing, axis=1), g.integers(most), outputs=2, axis=1
    )
    real = g.op("Greater", rank, g.number(-math.inf))
    # Padding is the last entry: class -1, and the last row's box, which is 0.
    index = g.op("Where", real, index, g.integer(-1))
    entries = g.op("Concat", kept, g.constant(np.asarray([[0, -1, -1]], np.int64)), axis=0)
    cells = g.op("Gather", entries, index, axis=0)  # (N, D, 3)
    blank = g.op("Expand", g.number(0.0), g.op("Concat", images, g.integers(1, 4), axis=0))
    image, label, row = g.several("Split", cells, outputs=3, axis=2, num_outputs=3)
    place = g.op("Concat", image, row, axis=2)
    found = g.op("GatherND", g.op("Concat", boxes, blank, axis=1), place)
    labels = g.op("Squeeze", label, g.integers(2))
    scores = g.op("Sigmoid", rank) if facts.activation == "sigmoid" else rank
    scores = g.op("Where", real, scores, g.number(0.0))
    counts = g.op("ReduceSum", g.cast(real, ir.DataType.INT64), g.integers(1), keepdims=0)
    return found, scores, labels, counts
