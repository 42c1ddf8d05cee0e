"""Measuring blocks and whole networks in a runtime."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from dettoolkit.latency.clock import ROUNDS, Call, Timing, in_turns
from dettoolkit.latency.network_blocks import Block, Probe, with_lively_weights
from dettoolkit.latency.runtimes import Runtime

AT_ONCE = 24  # blocks that take turns; after each such group what is known can be saved

Tell = Callable[[str], None]


def say_nothing(_: str) -> None:
    """Tell nobody what is being done."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Whole networks' milliseconds, and the fraction of the time in which other programs had the core."""

    timings: tuple[Timing, ...]
    waited: float


def measure_blocks(
    wanted: Mapping[Block, nn.Module], runtime: Runtime, *, tell: Tell = say_nothing
) -> Iterator[dict[Block, Timing]]:
    """Measure blocks, given with a module of each; yield what is known after each group.

    A block's time is that of a network of it and little else, less that of the little else; see `Probe`.
    """
    ordered = sorted(wanted, key=lambda block: (block.in_hw, block.in_channels, block))
    for start in range(0, len(ordered), AT_ONCE):
        group = ordered[start : start + AT_ONCE]
        done = f"blocks {start + 1} to {start + len(group)} of {len(ordered)}"
        with tempfile.TemporaryDirectory() as folder, runtime.limited():
            yield _group({block: wanted[block] for block in group}, runtime, Path(folder), tell, done)


def _group(
    group: Mapping[Block, nn.Module], runtime: Runtime, folder: Path, tell: Tell, done: str
) -> dict[Block, Timing]:
    calls: list[Call] = []
    base_of: dict[tuple[tuple[int, int], int], int] = {}  # position in `calls`, by the inputs that it makes
    place_of: dict[Block, int] = {}

    def opened(block: Block, module: nn.Module | None) -> int:
        probe = with_lively_weights(Probe(block.in_channels, module))
        calls.append(runtime.open(probe, block.in_hw, folder / str(len(calls))))
        return len(calls) - 1

    for number, (block, module) in enumerate(group.items(), start=1):
        tell(f"{done}: converting {number} of {len(group)}")
        inputs = (block.in_hw, block.in_channels)
        if inputs not in base_of:
            base_of[inputs] = opened(block, None)
        place_of[block] = opened(block, module)
    own = in_turns(calls, threads=runtime.threads, tell=lambda part: tell(f"{done}: {part:.0%}")).own
    return {
        block: Timing.of(own[place] - own[base_of[(block.in_hw, block.in_channels)]])
        for block, place in place_of.items()
    }


def measure_networks(
    networks: Sequence[nn.Module],
    input_hw: tuple[int, int],
    runtime: Runtime,
    *,
    rounds: int = ROUNDS,
    tell: Tell = say_nothing,
) -> Measured:
    """Measure whole networks on an image (H, W), in turns: from normalized images to raw outputs."""
    calls: list[Call] = []
    with tempfile.TemporaryDirectory() as folder, runtime.limited():
        for number, network in enumerate(networks, start=1):
            tell(f"converting network {number} of {len(networks)}")
            calls.append(runtime.open(with_lively_weights(network), input_hw, Path(folder) / str(number)))
        turns = in_turns(
            calls, threads=runtime.threads, rounds=rounds, tell=lambda part: tell(f"networks: {part:.0%}")
        )
    return Measured(timings=tuple(Timing.of(values) for values in turns.own), waited=turns.waited)
