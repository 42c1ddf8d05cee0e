"""What is not in the sum of the blocks: a correction, fitted to whole networks, and how good it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Self

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

Array = NDArray[np.float64]
Finite = Annotated[float, Meta(ge=-1e7, le=1e7)]

PRIOR = 0.1  # weight of "the sum is right" beside one network: keeps a fit to few networks sane
FOLDS = 5


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How predictions of whole networks agree with measurements."""

    error: Finite  # median of |predicted / measured - 1|
    worst: Finite
    rank_correlation: Finite  # Spearman's
    networks: int

    @classmethod
    def of(cls, predicted: Sequence[float] | Array, measured: Sequence[float] | Array) -> Self:
        """Compare predictions with measurements of the same networks."""
        off = np.abs(np.asarray(predicted) / np.asarray(measured) - 1)
        return cls(
            error=float(np.median(off)),
            worst=float(off.max()),
            rank_correlation=rank_correlation(predicted, measured),
            networks=len(off),
        )

    def __str__(self) -> str:
        return (
            f"error {self.error:.1%} (median; worst {self.worst:.1%}), "
            f"rank correlation {self.rank_correlation:.3f} on {self.networks} networks"
        )


@dataclass(frozen=True, kw_only=True)
class Correction:
    """Milliseconds of a network: `slope` times the sum of its blocks, `per_block` each, and a `constant`."""

    slope: Finite = 1.0
    per_block: Finite = 0.0
    constant: Finite = 0.0
    agreement: Agreement | None = None  # on networks that the fit has not seen; None for no correction

    def __call__(self, total: float, count: int) -> float:
        """Return the milliseconds of a network of `count` blocks that sum up to `total`."""
        return self.slope * total + self.per_block * count + self.constant

    @classmethod
    def fit(cls, totals: Sequence[float], counts: Sequence[int], measured: Sequence[float]) -> Self:
        """Fit to measured networks, relative errors being alike; the agreement is by cross-validation."""
        sums, numbers, times = (np.asarray(each, np.float64) for each in (totals, counts, measured))
        unseen = np.zeros(len(times))
        folds = np.arange(len(times)) % min(FOLDS, len(times))
        for fold in np.unique(folds):
            inside = folds != fold
            found = _solve(sums[inside], numbers[inside], times[inside])
            unseen[~inside] = _terms(sums[~inside], numbers[~inside]) @ found
        slope, per_block, constant = _solve(sums, numbers, times).tolist()
        agreement = Agreement.of(unseen, times)
        return cls(slope=slope, per_block=per_block, constant=constant, agreement=agreement)


def _terms(sums: Array, numbers: Array) -> Array:
    return np.stack([sums, numbers, np.ones_like(sums)], axis=1)


def _solve(sums: Array, numbers: Array, times: Array) -> Array:
    """Return slope, milliseconds per block and constant, by least squares of relative errors.

    Pulled weakly towards (1, 0, 0), in units of the average network.
    """
    terms = _terms(sums, numbers) / times[:, None]
    units = np.diag(np.array([1.0, numbers.mean() / times.mean(), 1 / times.mean()])) * np.sqrt(PRIOR)
    wanted = np.concatenate([np.ones(len(times)), np.sqrt(PRIOR) * np.array([1.0, 0.0, 0.0])])
    result: Array = np.linalg.lstsq(np.concatenate([terms, units]), wanted, rcond=None)[0]
    return result


def rank_correlation(one: Sequence[float] | Array, other: Sequence[float] | Array) -> float:
    """Return Spearman's rank correlation; equal values share their rank. 0 where all are equal."""
    first, second = (_ranks(np.asarray(values, np.float64)) for values in (one, other))
    spread = float(first.std() * second.std())
    return float(((first - first.mean()) * (second - second.mean())).mean() / spread) if spread > 0 else 0.0


def _ranks(values: Array) -> Array:
    below = (values[:, None] > values[None]).sum(axis=1)
    equal = (values[:, None] == values[None]).sum(axis=1)
    ranks: Array = below + (equal - 1) / 2
    return ranks
