"""ONNX nodes written as calls, to be put around a network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

Attribute = int | float | str | Sequence[int] | ir.Graph


class Nodes:
    """A list of nodes that grows, in an order in which they can run; `scope` begins the names of all."""

    def __init__(self, scope: str) -> None:
        self.scope = scope
        self.nodes: list[ir.Node] = []
        self.constants: list[ir.Value] = []

    def op(self, kind: str, *inputs: ir.Value | None, **attributes: Attribute) -> ir.Value:
        """Append an operator with one output and give that."""
        return self.several(kind, *inputs, outputs=1, **attributes)[0]

    def several(
        self, kind: str, *inputs: ir.Value | None, outputs: int, **attributes: Attribute
    ) -> Sequence[ir.Value]:
        """Append an operator with several outputs and give them."""
        name = f"{self.scope}/{kind}_{len(self.nodes)}"
        node = ir.node(kind, inputs, attributes=attributes, num_outputs=outputs, name=name)
        for number, output in enumerate(node.outputs):
            output.name = f"{name}:{number}"
        self.nodes.append(node)
        return node.outputs

    def constant(self, value: np.ndarray) -> ir.Value:
        """Add an array to the file and give it."""
        name = f"{self.scope}/constant_{len(self.constants)}"
        tensor = ir.tensor(value.copy(), name=name)
        constant = ir.Value(
            name=name, shape=ir.Shape(value.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
        )
        self.constants.append(constant)
        return constant

    def integers(self, *values: int) -> ir.Value:
        """Return a constant int64 list."""
        return self.constant(np.asarray(values, np.int64))

    def integer(self, value: int) -> ir.Value:
        """Return a constant int64 scalar."""
        return self.constant(np.asarray(value, np.int64))

    def number(self, value: float) -> ir.Value:
        """Return a constant float32 scalar."""
        return self.constant(np.asarray(value, np.float32))

    def cast(self, value: ir.Value, kind: ir.DataType) -> ir.Value:
        """Convert to another type."""
        return self.op("Cast", value, to=int(kind))

    def size(self, value: ir.Value, axis: int) -> ir.Value:
        """Return a dimension, int64 (1,)."""
        return self.op("Shape", value, start=axis, end=axis + 1)

    def subgraph(self) -> ir.Graph:
        """Return the nodes as a graph without inputs whose output is that of the last one."""
        return ir.Graph(
            (), [self.nodes[-1].outputs[0]], nodes=self.nodes, initializers=self.constants, name=self.scope
        )
