"""Milliseconds of blocks that no one has measured, from those of similar ones.

A sum of costs (`Block.costs`) with weights that fit the measured blocks says what a block should take. The
factors by which the measured ones differ from it vary little between similar blocks: a new block's factor is
that of a Gaussian process over the measured ones.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from dettoolkit.latency.network_blocks import VECTOR, Block

Array = NDArray[np.float64]

LEAST = 0.002  # milliseconds; what is below cannot be told from nothing
NOISE, NOISE_MS = 0.02, 0.005  # of a measurement: a fraction of it, and milliseconds
# How far blocks may differ and still say something of each other: 1 is twice as many channels.
REACHES = (0.5, 1.0, 2.0, 4.0)
OTHER_KIND = 2.0  # how far a block of another kind, activation, kernel, or with squeeze-and-excite, is
STEPS = 300  # of the fit, which then has converged


class Interpolation:
    """Estimate blocks from measured ones, of which there must be one at least."""

    def __init__(self, measured: Mapping[Block, float]) -> None:
        if not measured:
            raise ValueError("the table of latencies is empty: measure some blocks first")
        self.blocks = list(measured)
        times = np.maximum(np.array(list(measured.values())), LEAST)
        costs = np.array([block.costs for block in self.blocks])
        # Errors count relatively, but for the smallest blocks: nothing is right for these and all others.
        self.weights = _nonnegative(costs, times, scale=times + times.mean() / 4)
        self.noise = np.square(NOISE) + np.square(NOISE_MS / times)  # variances of the logarithms
        self.places = np.array([_place(block) for block in self.blocks])
        factors = np.log(times / self._expected(costs))
        self.mean = float(np.average(factors, weights=1 / self.noise))
        self.variance = float(np.average((factors - self.mean) ** 2, weights=1 / self.noise)) + NOISE**2
        errors = {reach: self._left_out(factors, reach) for reach in REACHES}
        off = {reach: np.abs(np.expm1(error)) for reach, error in errors.items()}
        self.reach = min(off, key=lambda reach: float(off[reach] @ times))
        self.error = float(off[self.reach] @ times / times.sum())
        """Relative error of a measured block that is estimated from the others, weighted by milliseconds."""
        self.solved = np.linalg.solve(self._covariance(self.reach), factors - self.mean)

    def milliseconds(self, block: Block) -> float:
        """Estimate a block's time."""
        expected = float(self._expected(np.array([block.costs]))[0])
        near = self._similar(np.array([_place(block)]), self.places, self.reach)
        return expected * float(np.exp(self.mean + (near @ self.solved)[0]))

    def _expected(self, costs: Array) -> Array:
        return np.maximum(costs @ self.weights, LEAST)

    def _similar(self, these: Array, those: Array, reach: float) -> Array:
        """Return the covariances (these, those) of factors: a Gaussian of the distance."""
        distance = np.square(these[:, None] - those[None]).sum(-1)
        similar: Array = self.variance * np.exp(-0.5 * distance / reach**2)
        return similar

    def _covariance(self, reach: float) -> Array:
        similar = self._similar(self.places, self.places, reach)
        result: Array = similar + np.diag(self.noise)
        return result

    def _left_out(self, factors: Array, reach: float) -> Array:
        """Return how far each factor's logarithm is from its estimate by the others.

        In closed form: Rasmussen and Williams, Gaussian Processes for Machine Learning, equation 5.12.
        """
        if len(factors) == 1:
            return np.zeros(1)
        inverse = np.linalg.inv(self._covariance(reach))
        result: Array = (inverse @ (factors - self.mean)) / np.diag(inverse)
        return result


def _place(block: Block) -> list[float]:
    """Return where a block lies; see `REACHES` for the unit."""
    sizes = (*block.in_hw, block.in_channels, block.out_channels, block.expansion or block.in_channels)
    kinds = {
        "kind": ("bottleneck", "fused", "convolution", "depthwise"),
        "activation": ("none", "relu", "relu6", "hardswish"),
    }
    switches = [float(getattr(block, key) == name) for key, names in kinds.items() for name in names]
    switches += [float(block.fills_vectors), float(block.out_channels % VECTOR == 0)]
    switches += [float(block.squeezed > 0), float(block.adds_input), float(block.same_padding)]
    switches += [block.kernel / 2, float(block.stride), np.log2(block.dilation)]
    return [*np.log2(np.maximum(sizes, 1)).tolist(), *(OTHER_KIND * value for value in switches)]


def _nonnegative(costs: Array, times: Array, *, scale: Array) -> Array:
    """Return the weights, none below 0, for which weighted costs (blocks, kinds) come closest to the times.

    Errors count in units of the scale. By coordinate descent, on columns of one size.
    """
    size = np.maximum(np.linalg.norm(costs / scale[:, None], axis=0), 1e-12)
    columns = costs / scale[:, None] / size
    square, wanted = columns.T @ columns, columns.T @ (times / scale)
    weights = np.zeros(len(size))
    for _ in range(STEPS):
        for number in range(len(weights)):
            left = wanted[number] - square[number] @ weights + square[number, number] * weights[number]
            weights[number] = max(left, 0.0) / max(square[number, number], 1e-12)
    result: Array = weights / size
    return result
