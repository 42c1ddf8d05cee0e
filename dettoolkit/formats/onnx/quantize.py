"""ONNX files in 8 bits, with the layers that cannot bear it in float32.

The ranges of activations are found on real images. Weights have a scale for each channel: one for a whole
weight tensor would about double the loss, because the channels of MobileNetV3's depthwise convolutions differ
by orders of magnitude.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import onnx.utils
from numpy.typing import NDArray

from dettoolkit.formats import facts
from dettoolkit.formats.onnx.calibrate import Feed, find_ranges
from dettoolkit.formats.onnx.eight_bits import can_be_8_bit, constants_of, in_8_bits
from dettoolkit.formats.onnx.open import open_session
from dettoolkit.manifest import INPUT, Manifest
from dettoolkit.preprocessing import network_input
from dettoolkit.results import Image

CALIBRATION_IMAGES = 64

AROUND = ("preprocess", "postprocess")
"""Names of nodes begin so where they do not belong to the network: they stay as they are."""

RANKING_IMAGES = 4


class Quantizer:
    """Write an ONNX model in 8 bits, again and again, with some of its layers in float32.

    Made of the float32 file's bytes and manifest, the names of the network's raw outputs, and images, uint8
    (H, W, 3) RGB, on which the ranges of activations are found.
    """

    def __init__(
        self, model: bytes, manifest: Manifest, images: Sequence[Image], *, outputs: Sequence[str]
    ) -> None:
        self.model = model
        # Without what comes after the network's raw outputs.
        extracted = onnx.utils.Extractor(onnx.load_from_string(model)).extract_model([INPUT], list(outputs))
        self.network: bytes = extracted.SerializeToString()
        batch = facts(manifest).batch or 1
        inputs = (network_input(image, manifest).repeat_interleave(batch, dim=0) for image in images)
        self.feeds: list[Feed] = [{INPUT: each.numpy()} for each in inputs]
        graph = extracted.graph
        constants = constants_of(extracted)
        nodes = [
            node for node in graph.node if can_be_8_bit(node, constants) and not node.name.startswith(AROUND)
        ]
        self.nodes = [node.name for node in nodes]
        self.layers = list(dict.fromkeys(layer_of(name) for name in self.nodes))
        sizes = {each.name: math.prod(each.dims) for each in graph.initializer}
        self.weights = dict.fromkeys(self.layers, 0)
        for node in nodes:
            self.weights[layer_of(node.name)] += sum(sizes.get(name, 0) for name in node.input)
        self.ranges = find_ranges(self.network, self.feeds, self.nodes)

    def fewest(self, passes: Callable[[list[str]], bool]) -> list[str]:
        """Find how few layers have to stay in float32, those that err most first.

        Their number is doubled until the file passes, and then halved in between. With more than half of the
        weights in float32 a file is no 8-bit file: the search ends there. `passes` writes the file with some
        layers in float32, and says whether it is good enough. Returned are the layers of the last file that
        passed, or, where none did, of the last one tried.
        """
        if passes([]):
            return []
        ranked = self._half(self.ranked())
        failed, count = 0, min(1, len(ranked))
        while not passes(ranked[:count]):
            if count == len(ranked):
                return ranked
            failed, count = count, min(2 * count, len(ranked))
        while count - failed > 1:
            middle = (failed + count) // 2
            if passes(ranked[:middle]):
                count = middle
            else:
                failed = middle
        return ranked[:count]

    def _half(self, ranked: Sequence[str]) -> list[str]:
        """Return the first layers, as many as have half of the weights."""
        chosen, left = [], sum(self.weights.values()) / 2
        for layer in ranked:
            left -= self.weights[layer]
            if left < 0:
                break
            chosen.append(layer)
        return chosen

    def write(self, path: Path, float_layers: Sequence[str]) -> None:
        """Write the 8-bit file, without a manifest."""
        path.write_bytes(self._quantized(self.model, set(self.layers) - set(float_layers)))

    def ranked(self) -> list[str]:
        """Order the layers by how far the network's outputs move when the layer alone is in 8 bits."""
        feeds = self.feeds[:: -(-len(self.feeds) // RANKING_IMAGES)]
        exact = _run(self.network, feeds)
        errors = {
            layer: _distance(exact, _run(self._quantized(self.network, {layer}), feeds))
            for layer in self.layers
        }
        return sorted(self.layers, key=lambda layer: -errors[layer])

    def _quantized(self, model: bytes, layers: set[str]) -> bytes:
        return in_8_bits(model, [name for name in self.nodes if layer_of(name) in layers], self.ranges)


def layer_of(node: str) -> str:
    """Return the layer that a node belongs to: a block of the backbone, its stem, a predictor.

    Its operators go together, since what is between two of them would have to be rounded anyway.
    """
    numbered = re.match(r"[\w.]*?(blocks|extras|predictors)\.\d+", node)
    depth = 3 if node.startswith("heads.") else 2  # behind heads stands the head's name
    return numbered.group() if numbered is not None else ".".join(re.split(r"[./]", node)[:depth])


def _run(model: bytes, feeds: Sequence[Feed]) -> list[list[NDArray[Any]]]:
    """Return the outputs of each input."""
    session = open_session(model)
    return [session.run(None, feed) for feed in feeds]


def _distance(exact: Sequence[Sequence[NDArray[Any]]], other: Sequence[Sequence[NDArray[Any]]]) -> float:
    """Average, over outputs and inputs, the error's root mean square as a fraction of the values' spread."""
    pairs = zip(chain.from_iterable(exact), chain.from_iterable(other), strict=True)
    tiny = np.finfo(np.float32).tiny
    return float(
        np.mean([np.sqrt(np.square(theirs - ours).mean()) / (ours.std() + tiny) for ours, theirs in pairs])
    )
