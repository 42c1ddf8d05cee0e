"""Which operators of a PyTorch graph XNNPACK computes on 8-bit numbers, and how they are told to.

PT2E (torchao) rounds what annotated operators take and give, and ExecuTorch turns an operator between two
roundings into XNNPACK's 8-bit kernel. XNNPACK has such a kernel for hard-swish too, a table of 256 numbers,
but ExecuTorch's partitioner asks for it in float32 only: `HardSwish` asks for it in 8 bits. The gate of
squeeze-excite, a hard-sigmoid of few numbers, stays in float32.

Weights are signed and symmetric with a scale for each channel, activations asymmetric with one for each
tensor. Ranges are found once; then a file with other layers in float32 needs no images.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from executorch.backends.xnnpack.partition.config import ALL_PARTITIONER_CONFIGS
from executorch.backends.xnnpack.partition.config.generic_node_configs import HardswishConfig
from executorch.backends.xnnpack.partition.config.xnnpack_config import ConfigPrecisionType
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from torch import Tensor, fx
from torch.export import ExportedProgram
from torchao.quantization.pt2e import PerChannelMinMaxObserver
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import (
    FixedQParamsQuantizationSpec,
    QuantizationAnnotation,
    QuantizationSpec,
    Quantizer,
)

from dettoolkit.formats.float_layers import layer_of
from dettoolkit.formats.ranges import LARGEST_BIAS, STEPS, VALUES, Range, best_range

ATEN = torch.ops.aten
PRODUCTS = (ATEN.conv2d.default, ATEN.linear.default)
PAIRS = (ATEN.add.Tensor, ATEN.add_.Tensor, ATEN.mul.Tensor, ATEN.mul_.Tensor)
HARD_SWISH = (ATEN.hardswish.default, ATEN.hardswish_.default)
HARD_SIGMOID = (ATEN.hardsigmoid.default, ATEN.hardsigmoid_.default)
# What a convolution does along with its own work, so that nothing is rounded in between.
CLIPS = (ATEN.relu.default, ATEN.relu_.default, ATEN.hardtanh.default, ATEN.hardtanh_.default)
# These move numbers as they are: the rounding before and after has to be the same.
PASSING = (ATEN.pad.default, ATEN.constant_pad_nd.default)

ANNOTATION = "quantization_annotation"
SMALLEST_SCALE = 2.0**-20
"""Of weights; that of products of sums has to be above 2^-32."""


class HardSwish(HardswishConfig):  # type: ignore[misc]
    """Let XNNPACK compute hard-swish in 8 bits where it stands between two roundings."""

    def supported_precision_types(self) -> list[ConfigPrecisionType]:
        """Name what the kernel can do, of which ExecuTorch's own list has only float32."""
        return [ConfigPrecisionType.FP32, ConfigPrecisionType.STATIC_QUANT]


def partitioner() -> XnnpackPartitioner:
    """Return what gives operators to XNNPACK."""
    configs = [HardSwish if each is HardswishConfig else each for each in ALL_PARTITIONER_CONFIGS]
    return XnnpackPartitioner(configs=configs)


def can_be_8_bit(node: fx.Node) -> bool:
    """Return whether there is an 8-bit form of an operator."""
    if node.op != "call_function":
        return False
    args = _args(node)
    if node.target in PAIRS:  # of two activations
        return len(args) == 2 and not node.kwargs and all(map(_is_activation, args))
    if node.target is ATEN.mean.dim:  # over rows and columns
        return sorted(axis % 4 for axis in args[1]) == [2, 3] and args[2:] == (True,)
    return node.target in (*PRODUCTS, *HARD_SWISH)


def _args(node: fx.Node) -> tuple[Any, ...]:
    """Return what an operator takes, without types: they depend on the operator."""
    return node.args


def _is_activation(value: Any) -> bool:
    return isinstance(value, fx.Node) and value.op != "get_attr"


def layer_at(node: fx.Node) -> str:
    """Return the layer that an operator belongs to, by the path of its module."""
    path, _ = list(node.meta["nn_module_stack"].values())[-1]
    return layer_of(path)


def weights_of(module: fx.GraphModule) -> dict[str, int]:
    """Return the number of weights of each layer that can be in 8 bits."""
    found: dict[str, int] = {}
    for node in filter(can_be_8_bit, module.graph.nodes):
        size = module.get_parameter(_args(node)[1].target).numel() if node.target in PRODUCTS else 0
        found[layer_at(node)] = found.get(layer_at(node), 0) + size
    return found


def _inputs(node: fx.Node) -> list[fx.Node]:
    """Return the activations that an 8-bit operator takes."""
    taken = _args(node)[:1] if node.target in PRODUCTS else _args(node)
    return [each for each in taken if _is_activation(each)]


def _output(node: fx.Node) -> fx.Node:
    """Return the node whose output is that of an 8-bit operator: its own, or a Relu's right behind it."""
    after = list(node.users)
    if node.target in PRODUCTS and len(after) == 1 and after[0].target in CLIPS:
        return after[0]
    return node


def _origin(node: fx.Node) -> str:
    """Return the name of the node that computes what this one gives."""
    while node.target in PASSING:
        node = _args(node)[0]
    return node.name


def find_ranges(module: fx.GraphModule, inputs: Sequence[Tensor]) -> dict[str, Range]:
    """Find the range, with 0 in it, of every activation that 8-bit operators take or give, by its node."""
    operators = list(filter(can_be_8_bit, module.graph.nodes))
    around = [each for node in operators for each in (*_inputs(node), _output(node))]
    watched = _Watched(module, {_origin(each) for each in around})
    with torch.no_grad():
        for each in inputs:
            watched.run(each)
    bounds: dict[str, list[tuple[float, float]]] = {name: [] for name in watched.met}
    for node in module.graph.nodes:
        for each in node.all_input_nodes:
            bounds.setdefault(_origin(each), []).append(_saturation(node))
    found = {}
    for name, values in watched.met.items():
        lows, highs = zip(*bounds[name], strict=True)
        found[name] = best_range(np.concatenate(values).clip(min(lows), max(highs)))
    return found


def _saturation(node: fx.Node) -> tuple[float, float]:
    """Return between which inputs an operator's output still changes."""
    if node.target in HARD_SWISH:
        return -3.0, math.inf
    if node.target in HARD_SIGMOID:
        return -3.0, 3.0
    return -math.inf, math.inf


class _Watched(fx.Interpreter):
    """Run a network and keep some values of its named activations."""

    def __init__(self, module: fx.GraphModule, names: Collection[str]) -> None:
        super().__init__(module)
        self.rng = np.random.default_rng(0)
        self.met: dict[str, list[Any]] = {name: [] for name in names}

    def run_node(self, n: fx.Node) -> Any:
        """Compute a node, and draw from what it gives."""
        value = super().run_node(n)
        if n.name in self.met:
            self.met[n.name].append(self.rng.choice(value.numpy().ravel(), VALUES))
        return value


def in_8_bits(
    program: ExportedProgram, layers: Collection[str], ranges: Mapping[str, Range], example: Tensor
) -> fx.GraphModule:
    """Copy a network with some of its layers in 8 bits; `example` is any input of it."""
    module = prepare_pt2e(program.module(), _Annotator(set(layers), ranges))
    with torch.no_grad():
        module(example)  # or no scale of weights would be known
        quantized: fx.GraphModule = convert_pt2e(module)
    return quantized


class _Annotator(Quantizer):  # type: ignore[misc]
    """Tell PT2E the scales of what the 8-bit operators of some layers take and give."""

    def __init__(self, layers: set[str], ranges: Mapping[str, Range]) -> None:
        super().__init__()
        self.layers, self.ranges = layers, ranges

    def annotate(self, model: fx.GraphModule) -> fx.GraphModule:
        """Annotate the operators of a graph, in place."""
        for node in filter(can_be_8_bit, model.graph.nodes):
            if layer_at(node) in self.layers:
                taken = {each: self._activation(each) for each in _inputs(node)}
                if node.target in PRODUCTS:
                    taken[_args(node)[1]] = self._weight(model, node)
                last = _output(node)
                rounded = self._activation(last)
                node.meta[ANNOTATION] = QuantizationAnnotation(
                    input_qspec_map=taken, output_qspec=rounded if last is node else None, _annotated=True
                )
                if last is not node:
                    last.meta[ANNOTATION] = QuantizationAnnotation(output_qspec=rounded, _annotated=True)
        return model

    def validate(self, model: fx.GraphModule) -> None:
        """Accept every graph: the exported file is verified."""

    def _scale(self, node: fx.Node) -> tuple[float, int]:
        low, high = (float(each) for each in self.ranges[_origin(node)])
        scale = (high - low) / STEPS if high > low else 1.0
        return scale, max(-128, min(127, round(-128 - low / scale)))

    def _activation(self, node: fx.Node) -> FixedQParamsQuantizationSpec:
        scale, zero = self._scale(node)
        return FixedQParamsQuantizationSpec(
            dtype=torch.int8,
            scale=scale,
            zero_point=zero,
            quant_min=-128,
            quant_max=127,
            qscheme=torch.per_tensor_affine,
        )

    def _weight(self, model: fx.GraphModule, node: fx.Node) -> QuantizationSpec:
        smallest, (bias, *_) = SMALLEST_SCALE, (*_args(node)[2:], None)
        if isinstance(bias, fx.Node):  # it is in the steps of the products' sum, and has to fit
            largest = float(model.get_parameter(str(bias.target)).abs().max())
            scale, _ = self._scale(_args(node)[0])
            smallest = max(smallest, largest / (scale * LARGEST_BIAS))
        return QuantizationSpec(
            dtype=torch.int8,
            observer_or_fake_quant_ctr=PerChannelMinMaxObserver.with_args(eps=smallest),
            quant_min=-127,
            quant_max=127,
            qscheme=torch.per_channel_symmetric,
            ch_axis=0,
        )
