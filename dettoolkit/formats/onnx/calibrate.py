"""Which values an ONNX network's activations take on real images, and the range of them that 8 bits hold.

What the next operator cuts off anyway gets no steps: hard-swish makes 0 of everything below -3.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx.numpy_helper
from numpy.typing import NDArray

from dettoolkit.formats.onnx.open import open_session
from dettoolkit.formats.ranges import VALUES, Range, best_range

Feed = Mapping[str, NDArray[Any]]


def find_ranges(model: bytes, feeds: Iterable[Feed], nodes: Iterable[str]) -> dict[str, Range]:
    """Find the range, with 0 in it, of every activation that named nodes take or give, over some inputs."""
    proto = onnx.load_from_string(model)
    names = _activations(proto, set(nodes))
    del proto.graph.output[:]
    proto.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names
    )
    bounds = {name: _bounds(proto, name) for name in names}
    session = open_session(proto.SerializeToString())
    met: dict[str, list[NDArray[np.float32]]] = {name: [] for name in names}
    rng = np.random.default_rng(0)
    for feed in feeds:
        for name, values in zip(names, session.run(None, feed), strict=True):
            met[name].append(rng.choice(values.ravel(), VALUES))
    return {name: best_range(np.concatenate(values).clip(*bounds[name])) for name, values in met.items()}


def _bounds(proto: onnx.ModelProto, name: str) -> tuple[float, float]:
    """Return between which values a tensor matters to the operators that take it."""
    found = [_saturation(proto, node) for node in proto.graph.node if name in node.input]
    lows, highs = zip(*found, strict=True) if found else ((-np.inf,), (np.inf,))
    return min(lows), max(highs)


def _saturation(proto: onnx.ModelProto, node: onnx.NodeProto) -> tuple[float, float]:
    """Return between which inputs an operator's output still changes."""
    if node.op_type == "HardSwish":
        return -3.0, np.inf
    if node.op_type == "Relu":
        return 0.0, np.inf
    if node.op_type == "HardSigmoid":  # max(0, min(1, alpha x + beta))
        given = {each.name: each.f for each in node.attribute}
        alpha, beta = given.get("alpha", 0.2), given.get("beta", 0.5)
        return -beta / alpha, (1 - beta) / alpha
    if node.op_type == "Clip":
        constants = {each.name: each for each in proto.graph.initializer}
        limits = [constants.get(each) for each in (*node.input[1:], "", "")[:2]]
        low, high = (None if each is None else float(onnx.numpy_helper.to_array(each)) for each in limits)
        return -np.inf if low is None else low, np.inf if high is None else high
    return -np.inf, np.inf


def _activations(proto: onnx.ModelProto, nodes: set[str]) -> list[str]:
    """Return the names of the tensors that nodes take or give and that are no constants."""
    constants = {each.name for each in proto.graph.initializer}
    constants |= {each.output[0] for each in proto.graph.node if each.op_type == "Constant"}
    chosen = [node for node in proto.graph.node if node.name in nodes]
    names = {name for node in chosen for name in (*node.input, *node.output)}
    return sorted(names - constants - {""})
