"""Which layers of an 8-bit file stay in float32: as few as let it pass, those first that err most."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dettoolkit.formats import facts
from dettoolkit.manifest import Manifest
from dettoolkit.preprocessing import network_input
from dettoolkit.results import Image

CALIBRATION_IMAGES = 64
RANKING_IMAGES = 4

AROUND = ("preprocess", "postprocess")
"""Names of operators begin so where they do not belong to the network: they stay as they are."""

Outputs = Sequence[Sequence[NDArray[Any]]]
"""Of each input, all outputs."""


class Quantizer(Protocol):
    """Write a network in 8 bits, again and again, with some of its layers in float32."""

    weights: Mapping[str, int]
    """The number of weights of each layer that can be in 8 bits."""

    def ranked(self) -> list[str]:
        """Order the layers by how far the network's outputs move when the layer alone is in 8 bits."""


def fewest(quantizer: Quantizer, passes: Callable[[list[str]], bool]) -> list[str]:
    """Find how few layers have to stay in float32, those that err most first.

    Their number is doubled until the file passes, and then halved in between. With more than half of the
    weights in float32 a file is no 8-bit file: the search ends there. `passes` writes the file with some
    layers in float32, and says whether it is good enough. Returned are the layers of the last file that
    passed, or, where none did, of the last one tried.
    """
    if passes([]):
        return []
    ranked = _half(quantizer.ranked(), quantizer.weights)
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


def _half(ranked: Sequence[str], weights: Mapping[str, int]) -> list[str]:
    """Return the first layers, as many as have half of the weights."""
    chosen, left = [], sum(weights.values()) / 2
    for layer in ranked:
        left -= weights[layer]
        if left < 0:
            break
        chosen.append(layer)
    return chosen


def layer_of(name: str) -> str:
    """Return the layer that an operator belongs to, by its name: a block of the backbone, a predictor.

    Its operators go together, since what is between two of them would have to be rounded anyway.
    """
    numbered = re.match(r"[\w.]*?(blocks|extras|predictors)\.\d+", name)
    depth = 3 if name.startswith("heads.") else 2  # behind heads stands the head's name
    return numbered.group() if numbered is not None else ".".join(re.split(r"[./]", name)[:depth])


def calibration_inputs(images: Sequence[Image], manifest: Manifest) -> list[NDArray[np.float32]]:
    """Make of images, uint8 (H, W, 3) RGB, inputs of the network, float32 (N, 3, h, w), N of each image."""
    batch = facts(manifest).batch or 1
    inputs = (network_input(image, manifest).repeat_interleave(batch, dim=0) for image in images)
    return [each.numpy() for each in inputs]


def for_ranking(inputs: Sequence[Any]) -> Sequence[Any]:
    """Take a few inputs, spread evenly, on which layers are ranked."""
    return inputs[:: -(-len(inputs) // RANKING_IMAGES)]


def distance(exact: Outputs, other: Outputs) -> float:
    """Average, over outputs and inputs, the error's root mean square as a fraction of the values' spread."""
    pairs = zip(chain.from_iterable(exact), chain.from_iterable(other), strict=True)
    tiny = np.finfo(np.float32).tiny
    return float(
        np.mean([np.sqrt(np.square(theirs - ours).mean()) / (ours.std() + tiny) for ours, theirs in pairs])
    )
