"""ONNX files in 8 bits, with the layers that cannot bear it in float32.

The ranges of activations are found on real images. Weights have a scale for each channel: one for a whole
weight tensor would about double the loss, because the channels of MobileNetV3's depthwise convolutions differ
by orders of magnitude.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx.utils
from numpy.typing import NDArray
from torch import nn

from dettoolkit.formats.float_layers import AROUND, calibration_inputs, distance, for_ranking, layer_of
from dettoolkit.formats.onnx.calibrate import Feed, find_ranges
from dettoolkit.formats.onnx.eight_bits import can_be_8_bit, constants_of, in_8_bits
from dettoolkit.formats.onnx.open import open_session
from dettoolkit.manifest import INPUT, Manifest
from dettoolkit.results import Image

if TYPE_CHECKING:
    from dettoolkit.spec import TaskSpec


class Quantizer:
    """Write an ONNX file in 8 bits; see `formats`."""

    def __init__(
        self, network: nn.Module, manifest: Manifest, path: Path, images: Sequence[Image], spec: TaskSpec
    ) -> None:
        del network
        self.model = path.read_bytes()
        # Without what comes after the network's raw outputs.
        extracted = onnx.utils.Extractor(onnx.load_from_string(self.model)).extract_model(
            [INPUT], list(spec.raw_outputs)
        )
        self.network: bytes = extracted.SerializeToString()
        self.feeds: list[Feed] = [{INPUT: each} for each in calibration_inputs(images, manifest)]
        constants = constants_of(extracted)
        nodes = [
            node
            for node in extracted.graph.node
            if can_be_8_bit(node, constants) and not node.name.startswith(AROUND)
        ]
        self.nodes = [node.name for node in nodes]
        self.weights = dict.fromkeys((layer_of(name) for name in self.nodes), 0)
        for node in nodes:
            sizes = [math.prod(constants[name].dims) for name in node.input if name in constants]
            self.weights[layer_of(node.name)] += sum(sizes)
        self.ranges = find_ranges(self.network, self.feeds, self.nodes)

    def write(self, path: Path, float_layers: Sequence[str]) -> None:
        """Write the 8-bit file, without a manifest."""
        path.write_bytes(self._quantized(self.model, self.weights.keys() - set(float_layers)))

    def ranked(self) -> list[str]:
        """Order the layers by how far the network's outputs move when the layer alone is in 8 bits."""
        feeds = for_ranking(self.feeds)
        exact = _run(self.network, feeds)
        errors = {
            layer: distance(exact, _run(self._quantized(self.network, {layer}), feeds))
            for layer in self.weights
        }
        return sorted(self.weights, key=lambda layer: -errors[layer])

    def _quantized(self, model: bytes, layers: set[str]) -> bytes:
        return in_8_bits(model, [name for name in self.nodes if layer_of(name) in layers], self.ranges)


def _run(model: bytes, feeds: Sequence[Feed]) -> list[list[NDArray[Any]]]:
    """Return the outputs of each input."""
    session = open_session(model)
    return [session.run(None, feed) for feed in feeds]
