"""Clocks: several engines in turns, so that other load on the machine affects all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

ROUNDS = 7  # turns of each engine; its time is the median over them
BURST = 0.03  # seconds of a turn at least
RUNS, WARM_UP = 6, 2  # runs of a turn at least, after some that are not counted: caches hold others' data
LEAST_DISTURBED = 25  # percentile of the runs of a turn that counts: load of others only ever adds

Call = Callable[[], Any]
Milliseconds = Annotated[float, Meta(ge=0, le=1e7)]


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Milliseconds over the rounds: the median, and the quartiles as the spread."""

    median: Milliseconds
    low: Milliseconds
    high: Milliseconds

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Self:
        """Summarize one value per round; a difference of two clocks that came out below 0 counts as 0."""
        low, median, high = np.maximum(np.percentile(values, (25, 50, 75)), 0.0).tolist()
        return cls(median=median, low=low, high=high)


@dataclass(frozen=True, kw_only=True)
class Turns:
    """Milliseconds of each engine in each round (engines, rounds): `own` and `wall`; see `in_turns`."""

    own: NDArray[np.float64]
    wall: NDArray[np.float64]

    @property
    def waited(self) -> float:
        """Return the fraction of the wall clock's time in which other programs had the core."""
        return float(max(0.0, 1 - self.own.sum() / self.wall.sum()))


def in_turns(
    calls: Sequence[Call],
    *,
    threads: int,
    rounds: int = ROUNDS,
    tell: Callable[[float], None] = lambda _: None,
) -> Turns:
    """Time calls, each for a short burst in every round; a round's value is the burst's lower quartile.

    The time is the wall clock's. Of one thread it is the processor's: waiting for a core that other programs
    have is not counted, and on an idle machine both are the same. `tell` is called with the fraction done.
    """
    own, wall = (np.zeros((len(calls), rounds)) for _ in range(2))
    for turn in range(rounds):
        for number, call in enumerate(calls):
            tell((turn * len(calls) + number) / (rounds * len(calls)))
            wall[number, turn], cpu = _burst(call)
            own[number, turn] = cpu if threads == 1 else wall[number, turn]
    tell(1.0)
    return Turns(own=own, wall=wall)


def _burst(call: Call) -> tuple[float, float]:
    """Run a call for a while; return milliseconds by the wall and by the process's clock."""
    for _ in range(WARM_UP):
        call()
    walls: list[float] = []
    processor: list[float] = []
    began = time.perf_counter()
    while len(walls) < RUNS or time.perf_counter() - began < BURST:
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        processor.append(1e3 * (time.process_time() - cpu))
        walls.append(1e3 * (time.perf_counter() - wall))
    wall, cpu = (float(np.percentile(each, LEAST_DISTURBED)) for each in (walls, processor))
    return wall, cpu
