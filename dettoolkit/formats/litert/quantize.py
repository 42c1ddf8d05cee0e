"""LiteRT files in 8 bits by ai-edge-quantizer, with the layers that cannot bear it in float32.

Weights are signed with a scale for each channel, activations signed with a scale and a zero for each tensor.
Ranges are chosen here, those of activations as for ONNX, those of weights so that biases are not cut off.
Hard-swish stays in float32, because XNNPACK has no 8-bit kernel for it and LiteRT's own is slow.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from dettoolkit.formats import requires
from dettoolkit.formats.float_layers import calibration_inputs, distance, for_ranking, layer_of
from dettoolkit.formats.graph import for_export
from dettoolkit.formats.ranges import LARGEST_BIAS, STEPS, VALUES, best_range
from dettoolkit.manifest import INPUT, Manifest
from dettoolkit.results import Image

if TYPE_CHECKING:
    from dettoolkit.spec import TaskSpec

OPERATORS = (
    "ADD",
    "AVERAGE_POOL_2D",
    "CONV_2D",
    "DEPTHWISE_CONV_2D",
    "FULLY_CONNECTED",
    "MEAN",
    "MUL",
    "PAD",
    "TRANSPOSE",
)
"""What XNNPACK computes in 8 bits and what costs time in float32; the rest only moves a few raw outputs."""

SMALLEST_FACTOR, LARGEST_FACTOR = 2.0**-30, 2.0**7
"""From steps of the products' sum to those of the output. Below 2^-32, or from 2^8 on, as that of an output
which is always 0, XNNPACK ends the process."""

Array = NDArray[np.float32]
Ranges = dict[str, dict[str, Array]]
"""By the tensor's name, "min" and "max": as the quantizer takes them."""


@dataclass(frozen=True, kw_only=True)
class Operator:
    """An operator of a file: its kind, its layer and its tensors, by their names."""

    kind: str
    layer: str
    inputs: tuple[str, ...]  # without constants
    output: str
    constants: dict[str, Array]  # of a layer's own: its weights and, if it has one, its bias


class Quantizer:
    """Write a LiteRT file in 8 bits; see `formats`."""

    def __init__(
        self, network: nn.Module, manifest: Manifest, path: Path, images: Sequence[Image], spec: TaskSpec
    ) -> None:
        del spec
        self.model = path.read_bytes()
        self.inputs = calibration_inputs(images, manifest)
        self.operators = list(_operators(self.model, network))
        self.weights: dict[str, int] = {}
        for each in self.operators:
            for values in list(each.constants.values())[:1]:
                self.weights[each.layer] = self.weights.get(each.layer, 0) + values.size
        self.ranges = _ranges(self.model, self.operators, self.inputs)
        _fit_weights(self.operators, self.ranges)

    def write(self, path: Path, float_layers: Sequence[str]) -> None:
        """Write the 8-bit file, without a manifest."""
        path.write_bytes(self._quantized(self.weights.keys() - set(float_layers)))

    def ranked(self) -> list[str]:
        """Order the layers by how far the network's outputs move when the layer alone is in 8 bits."""
        inputs = for_ranking(self.inputs)
        exact = _run(self.model, inputs)
        errors = {layer: distance(exact, _run(self._quantized({layer}), inputs)) for layer in self.weights}
        return sorted(self.weights, key=lambda layer: -errors[layer])

    def _quantized(self, layers: Collection[str]) -> bytes:
        """Return a file's bytes with some layers in 8 bits."""
        chosen = [each for each in self.operators if each.kind in OPERATORS and each.layer in layers]
        if not chosen:
            return self.model
        with _quietly():
            from ai_edge_quantizer import quantizer
            from ai_edge_quantizer.qtyping import TFLOperationName

            made = quantizer.Quantizer(bytearray(self.model))
            # Operators are known to it by the names of their outputs, each followed by a semicolon.
            names = "|".join(re.escape(each.output) for each in chosen)
            made.add_static_config(f"^(?:{names});$", TFLOperationName.ALL_SUPPORTED, 8, 8)
            for end in (TFLOperationName.INPUT, TFLOperationName.OUTPUT):  # stay float32
                made.update_quantization_recipe(".*", end, algorithm_key="no_quantize")
            result = made.quantize(self.ranges, enable_progress_bar=False, enable_progress_report=False)
        return bytes(result.quantized_model)


@contextmanager
def _quietly() -> Iterator[None]:
    """Import and run the quantizer without its progress bars, reports and warnings."""
    unseen, disabled = io.StringIO(), logging.root.manager.disable
    logging.disable(logging.INFO)  # it reports to the root's logger
    try:
        with requires("litert"), redirect_stdout(unseen), redirect_stderr(unseen), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _operators(model: bytes, network: nn.Module) -> Iterator[Operator]:
    """Yield a file's operators in their order, with the layers of the network that they were made of.

    A file names its operators by Python classes, which several layers share. But it has the network's
    weights, by which operators that have some are known; another one belongs to the layer of the last
    operator that it takes something from.
    """
    from ai_edge_litert.tools import flatbuffer_utils as files

    parsed = files.read_model_from_bytearray(bytearray(model))
    (graph,) = parsed.subgraphs
    data = [parsed.buffers[each.buffer].data for each in graph.tensors]
    names = [each.name.decode() for each in graph.tensors]
    layers = _layers_by_weights(for_export(network))
    made: dict[int, tuple[int, str]] = {}  # by output: the operator's place, and its layer
    for place, each in enumerate(graph.operators):
        inputs = [index for index in each.inputs if index >= 0]
        constants = [index for index in inputs if data[index] is not None]
        own = layers.get(data[constants[0]].tobytes()) if constants else None
        before = max((made[index] for index in inputs if index in made), default=(0, ""))[1]
        layer = own or before or next(iter(layers.values()))  # what is before the first weights
        made |= dict.fromkeys(each.outputs, (place, layer))
        yield Operator(
            kind=files.opcode_to_name(parsed, each.opcodeIndex) or "",
            layer=layer,
            inputs=tuple(names[index] for index in inputs if index not in constants),
            output=names[each.outputs[0]],
            constants={
                names[index]: np.frombuffer(data[index].tobytes(), np.float32).reshape(
                    graph.tensors[index].shape
                )
                for index in constants
                if own is not None
            },
        )


def _layers_by_weights(network: nn.Module) -> dict[bytes, str]:
    """Map each convolution's and linear map's weights, as they lie in a file, to the layer it belongs to."""
    found = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            depthwise = module.groups == module.in_channels > 1
            order = (1, 2, 3, 0) if depthwise else (0, 2, 3, 1)  # of output, input, row, column
            found[module.weight.permute(order).contiguous().numpy().tobytes()] = layer_of(name)
        elif isinstance(module, nn.Linear):
            found[module.weight.contiguous().numpy().tobytes()] = layer_of(name)
    return found


def _ranges(model: bytes, operators: Sequence[Operator], inputs: Sequence[Array]) -> Ranges:
    """Find the range of every activation over some inputs."""
    takers: dict[str, set[str]] = {}
    for each in operators:
        for name in each.inputs:
            takers.setdefault(name, set()).add(each.kind)
    names = takers.keys() | {each.output for each in operators}
    interpreter = _interpreter(model, keep=True)
    places = {each["name"]: each["index"] for each in interpreter.get_tensor_details()}
    met: dict[str, list[Array]] = {name: [] for name in sorted(names)}
    rng = np.random.default_rng(0)
    run = interpreter.get_signature_runner()
    for images in inputs:
        run(**{INPUT: images})
        for name, values in met.items():
            values.append(rng.choice(interpreter.get_tensor(places[name]).ravel(), VALUES))
    found = {}
    for name, parts in met.items():
        # Hard-swish makes 0 of everything below -3: no steps are spent on it.
        lowest = -3.0 if takers.get(name) == {"HARD_SWISH"} else -np.inf
        low, high = best_range(np.concatenate(parts).clip(lowest, None))
        found[name] = {"min": np.array([low]), "max": np.array([high if high > low else low + 1])}
    return found


def _fit_weights(operators: Sequence[Operator], ranges: Ranges) -> None:
    """Add ranges of channels' weights, in which their biases fit; widen those of outputs that are too narrow.

    A bias is counted in steps of the input's step times the weights'. Of a channel whose weights are nearly
    0, as weight decay leaves many, it would be cut off at 32 bits, and the quantizer does so in silence.
    """
    for each in operators:
        if not each.constants:
            continue
        (name, weights), *bias = each.constants.items()
        channel = weights.ndim - 1 if each.kind == "DEPTHWISE_CONV_2D" else 0
        others = tuple(axis for axis in range(weights.ndim) if axis != channel)
        taken, given = (_step(ranges[tensor]) for tensor in (each.inputs[0], each.output))
        steps = np.abs(weights).max(axis=others, keepdims=True) / 127
        if bias:
            steps = np.maximum(steps, np.abs(bias[0][1]).reshape(steps.shape) / (LARGEST_BIAS * taken))
        if (least := taken * float(steps.max()) / LARGEST_FACTOR) > given:
            low, high = (ranges[each.output][end] * np.float32(least / given) for end in ("min", "max"))
            ranges[each.output], given = {"min": low, "max": high}, least
        steps = np.maximum(steps, SMALLEST_FACTOR * given / taken)
        ranges[name] = {"min": (-127 * steps).astype(np.float32), "max": (127 * steps).astype(np.float32)}


def _step(limits: dict[str, Array]) -> float:
    return float((limits["max"] - limits["min"]).item()) / STEPS


def _interpreter(model: bytes, *, keep: bool = False) -> Any:
    """Open a model's bytes; `keep` lets all tensors be read after a run."""
    with _quietly():
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(model_content=model, experimental_preserve_all_tensors=keep)
        interpreter.allocate_tensors()
    return interpreter


def _run(model: bytes, inputs: Sequence[NDArray[np.float32]]) -> list[list[NDArray[Any]]]:
    """Return the outputs of each input."""
    run = _interpreter(model).get_signature_runner()
    return [[output for _, output in sorted(run(**{INPUT: images}).items())] for images in inputs]
