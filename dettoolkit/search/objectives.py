"""What a search maximizes: accuracy and latency in one number, or both."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["mnasnet", "absolute", "pareto"]
KINDS = get_args(Kind)
EXPONENTS = (-0.07, -0.07)  # MnasNet, arXiv 1807.11626, section 3.1: soft; (0, -1) is its hard constraint
WEIGHT = -0.07  # TuNAS, arXiv 2008.06120, section 3.2, whose beta is below 0
FIRST = 4  # trials of which none is pruned


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A number to maximize, or two.

    mnasnet: score x (milliseconds / target) ^ w, where w is the first of the exponents for a network that is
    fast enough and the second for one that is not. absolute: score + weight x |milliseconds / target - 1|.
    pareto: score, and milliseconds, which are minimized.
    """

    kind: Kind
    target_ms: float
    exponents: tuple[float, float] = EXPONENTS
    weight: float = WEIGHT

    @property
    def directions(self) -> list[Literal["minimize", "maximize"]]:
        """Return the directions in Optuna's words."""
        return ["maximize", "minimize"] if self.kind == "pareto" else ["maximize"]

    def values(self, score: float, milliseconds: float) -> tuple[float, ...]:
        """Return the number, or score and milliseconds, of a network."""
        if self.kind == "pareto":
            return score, milliseconds
        return (self.reward(score, milliseconds),)

    def reward(self, score: float, milliseconds: float) -> float:
        """Return one number by which networks are ranked; that of pareto is MnasNet's."""
        ratio = milliseconds / self.target_ms
        if self.kind == "absolute":
            return score + self.weight * abs(ratio - 1)
        return float(score * ratio ** self.exponents[ratio > 1])

    def is_bad(self, early: tuple[float, float], others: Sequence[tuple[float, float]]) -> bool:
        """Return whether a trial is given up early, by the scores and milliseconds at that time.

        It is if its reward is below the median of the trials before; for pareto, if `FIRST` of them are
        better in both. The first trials never are.
        """
        if len(others) < FIRST:
            return False
        score, milliseconds = early
        if self.kind == "pareto":
            better = [each for each in others if each[0] > score and each[1] <= milliseconds]
            return len(better) >= FIRST
        return self.reward(score, milliseconds) < statistics.median(self.reward(*each) for each in others)
