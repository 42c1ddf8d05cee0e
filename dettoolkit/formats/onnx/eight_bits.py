"""An ONNX network with some of its operators on 8-bit numbers, in forms that ONNX Runtime has kernels for.

Each operator is put between DequantizeLinear and QuantizeLinear, which the runtime fuses with it: weights
are signed with a scale for each channel, activations unsigned with a scale for each tensor. With signed
activations a file takes 3.6 times as long on x86. There are no 8-bit kernels for hard-swish and
hard-sigmoid, and to compute them in float32 costs much of what 8-bit convolutions save. But rounding cuts off
what is out of range, so that

    hard_sigmoid(x) = clip(x + 3, 0, 6) / 6

is one addition, whose 255 steps from 0 to 6 are read as steps of 1/255, and hard_swish(x) = x hard_sigmoid(x)
one multiplication more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from dettoolkit.formats.ranges import LARGEST_BIAS, STEPS, Range

OPERATORS = (
    "Add",
    "AveragePool",
    "Clip",
    "Conv",
    "HardSigmoid",
    "HardSwish",
    "Mul",
    "ReduceMean",
    "Relu",
)
"""What can be in 8 bits, where `can_be_8_bit` says so."""


def constants_of(proto: onnx.ModelProto) -> dict[str, TensorProto]:
    """Return a model's constant tensors by name."""
    return {each.name: each for each in proto.graph.initializer}


def can_be_8_bit(node: NodeProto, constants: Mapping[str, TensorProto]) -> bool:
    """Return whether there is an 8-bit form of an operator."""
    if node.op_type in ("Add", "Mul"):  # of two activations
        return not any(name in constants for name in node.input)
    if node.op_type == "ReduceMean":  # over rows and columns
        axes = numpy_helper.to_array(constants[node.input[1]]) if node.input[1:] else np.zeros(0)
        kept = all(each.i for each in node.attribute if each.name == "keepdims")
        return kept and sorted(axes.tolist()) in ([-2, -1], [2, 3])
    return node.op_type in OPERATORS


def in_8_bits(model: bytes, nodes: Collection[str], ranges: Mapping[str, Range]) -> bytes:
    """Rewrite a model with some nodes on 8-bit numbers; `ranges` has the range of each tensor around them."""
    return _Rewriting(onnx.load_from_string(model), set(nodes), ranges).done()


class _Rewriting:
    """A model while its operators are rewritten, in their order.

    A tensor that an 8-bit operator gives is rounded for all that take it, and keeps its name. One that comes
    from elsewhere is rounded for 8-bit operators only.
    """

    def __init__(self, proto: onnx.ModelProto, chosen: set[str], ranges: Mapping[str, Range]) -> None:
        self.proto, self.ranges, self.constants = proto, ranges, constants_of(proto)
        self.taken = {
            node.name
            for node in proto.graph.node
            if node.name in chosen and can_be_8_bit(node, self.constants)
        }
        self.clipped = self._clipped()
        self.rounded: dict[str, str] = {}
        self.nodes: list[NodeProto] = []
        self.added: list[TensorProto] = []

    def done(self) -> bytes:
        """Rewrite all, and return the model's bytes."""
        graph = self.proto.graph
        dropped = set(self.clipped.values())
        for node in graph.node:
            if node.name not in self.taken:
                self.nodes.append(node)
            elif node.output[0] not in dropped:
                self._rewrite(node)
        used = {name for node in self.nodes for name in node.input}
        constants = [each for each in (*graph.initializer, *self.added) if each.name in used]
        nodes = [NodeProto.FromString(each.SerializeToString()) for each in self.nodes]
        kept = [TensorProto.FromString(each.SerializeToString()) for each in constants]
        for field, items in ((graph.node, nodes), (graph.initializer, kept), (graph.value_info, [])):
            del field[:]
            field.extend(items)
        content: bytes = self.proto.SerializeToString()
        return content

    def _clipped(self) -> dict[str, str]:
        """Map a convolution's output to that of the Relu or Clip behind it, which rounding does along."""
        uses = Counter(name for node in self.proto.graph.node for name in node.input)
        uses.update(each.name for each in self.proto.graph.output)
        convolved = {
            node.output[0]
            for node in self.proto.graph.node
            if node.name in self.taken and node.op_type == "Conv"
        }
        return {
            node.input[0]: node.output[0]
            for node in self.proto.graph.node
            if node.name in self.taken
            and node.op_type in ("Relu", "Clip")
            and node.input[0] in convolved
            and uses[node.input[0]] == 1
        }

    def _rewrite(self, node: NodeProto) -> None:
        """Append the 8-bit form of an operator."""
        output = self.clipped.get(node.output[0], node.output[0])
        first = self._rounded(node.input[0])
        if node.op_type == "Conv":
            self._op(node, [first, *self._weights(node)], output)
        elif node.op_type == "ReduceMean":
            self.nodes.append(
                helper.make_node("GlobalAveragePool", [first], [f"{output}/exact"], name=node.name)
            )
            self._round(output, f"{output}/exact", output)
        elif node.op_type == "HardSigmoid":
            given = {each.name: each.f for each in node.attribute}
            self._gate(node, first, given.get("alpha", 0.2), given.get("beta", 0.5), output)
        elif node.op_type == "HardSwish":
            gate = f"{output}/gate"
            self._gate(node, first, 1 / 6, 1 / 2, gate)
            self.nodes.append(helper.make_node("Mul", [first, gate], [f"{output}/exact"], name=node.name))
            self._round(output, f"{output}/exact", output)
        else:
            others = [name if name in self.constants else self._rounded(name) for name in node.input[1:]]
            self._op(node, [first, *others], output)

    def _op(self, node: NodeProto, inputs: list[str], output: str) -> None:
        """Append an operator as it is, with other inputs, and round its output."""
        same = NodeProto()
        same.CopyFrom(node)
        del same.input[:]
        same.input.extend(inputs)
        same.output[0] = f"{output}/exact"
        self.nodes.append(same)
        self._round(output, same.output[0], output)

    def _gate(self, node: NodeProto, x: str, alpha: float, beta: float, output: str) -> None:
        """Append clip(alpha x + beta, 0, 1): x + beta/alpha from 0 to 1/alpha, read as from 0 to 1."""
        shift = self._constant(f"{node.name}/shift", np.uint8(STEPS))
        scale = self._constant(f"{node.name}/shift/scale", np.float32(beta / alpha / STEPS))
        self.nodes.append(
            helper.make_node(
                "DequantizeLinear", [shift, scale], [f"{shift}/read"], name=f"{shift}/DequantizeLinear"
            )
        )
        moved = f"{output}/shifted"
        self.nodes.append(helper.make_node("Add", [x, f"{shift}/read"], [moved], name=f"{node.name}/shifted"))
        self._steps(moved, (0.0, 1 / alpha), output, read_as=alpha)

    def _rounded(self, name: str) -> str:
        """Return the rounded form of a tensor."""
        if name not in self.rounded:
            self._round(name, name, f"{name}/rounded")
        return self.rounded[name]

    def _round(self, name: str, source: str, output: str) -> None:
        """Append the rounding of `source`, which has the range of the tensor `name`."""
        low, high = self.ranges[name]
        self._steps(source, (float(low), float(high)), output)
        self.rounded[name] = output

    def _steps(self, source: str, limits: tuple[float, float], output: str, *, read_as: float = 1.0) -> None:
        low, high = limits
        step = (high - low) / STEPS if high > low else 1.0
        scale = self._constant(f"{output}/scale", np.float32(step))
        read = scale if read_as == 1 else self._constant(f"{output}/read_scale", np.float32(step * read_as))
        zero = self._constant(f"{output}/zero", np.uint8(np.clip(np.rint(-low / step), 0, STEPS)))
        bits = f"{output}/bits"
        for kind, inputs, made in (
            ("QuantizeLinear", [source, scale, zero], bits),
            ("DequantizeLinear", [bits, read, zero], output),
        ):
            self.nodes.append(helper.make_node(kind, inputs, [made], name=f"{output}/{kind}"))

    def _weights(self, node: NodeProto) -> list[str]:
        """Append a convolution's weight and its bias, if any, which is in the steps of the products' sum."""
        weight, *rest = (numpy_helper.to_array(self.constants[name]) for name in node.input[1:])
        low, high = self.ranges[node.input[0]]
        input_step = float(high - low) / STEPS or 1.0
        steps = np.abs(weight).reshape(len(weight), -1).max(axis=1).astype(np.float64) / 127
        if rest:  # a channel of nearly no weights cannot have steps in which its bias does not fit
            steps = np.maximum(steps, np.abs(rest[0]) / (input_step * LARGEST_BIAS))
        steps[steps == 0] = 1.0
        scale = steps.astype(np.float32)
        by_channel = scale.reshape(-1, *[1] * (weight.ndim - 1))
        made = [self._dequantized(f"{node.name}/weight", np.rint(weight / by_channel).astype(np.int8), scale)]
        if rest:
            bias_scale = (scale * np.float32(input_step)).astype(np.float32)
            bias = np.rint(rest[0] / bias_scale.astype(np.float64)).astype(np.int32)
            made.append(self._dequantized(f"{node.name}/bias", bias, bias_scale))
        return made

    def _dequantized(self, name: str, values: NDArray[np.int8 | np.int32], scale: NDArray[np.float32]) -> str:
        """Append a constant with a scale for each channel, and return the name of its float32 form."""
        inputs = [self._constant(name, values), self._constant(f"{name}/scale", scale)]
        self.nodes.append(
            helper.make_node(
                "DequantizeLinear", inputs, [f"{name}/read"], name=f"{name}/DequantizeLinear", axis=0
            )
        )
        return f"{name}/read"

    def _constant(self, name: str, value: NDArray[np.generic] | np.generic) -> str:
        self.added.append(numpy_helper.from_array(np.asarray(value), name))
        return name
