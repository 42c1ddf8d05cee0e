"""The table of blocks to milliseconds, in a file that says where they were measured."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from dettoolkit.latency.clock import Timing
from dettoolkit.latency.correction import Correction
from dettoolkit.latency.interpolate import Interpolation
from dettoolkit.latency.network_blocks import Block
from dettoolkit.latency.runtimes import Runtime
from dettoolkit.machine import processor

LAYOUT = 1  # of the file; another one is refused
MAX_BYTES = 64 << 20
Text = Annotated[str, Meta(min_length=1, max_length=500)]


class TableError(ValueError):
    """A table that cannot be used here; the message says what to do."""


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Where milliseconds were measured."""

    processor: Text
    runtime: Text
    version: Text
    threads: Annotated[int, Meta(ge=1, le=4096)]

    def __str__(self) -> str:
        plural = "" if self.threads == 1 else "s"
        return f"{self.runtime} {self.version}, {self.threads} thread{plural}, {self.processor}"


def here(runtime: Runtime) -> Conditions:
    """Return the conditions of a runtime on this machine."""
    return Conditions(
        processor=processor(), runtime=runtime.name, version=runtime.version, threads=runtime.threads
    )


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A measured block."""

    block: Block
    milliseconds: Timing


@dataclass(frozen=True, kw_only=True)
class _File:
    latency_table: int
    measured_on: Conditions
    blocks: tuple[Entry, ...]
    corrections: dict[str, Correction] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A network's milliseconds from the table."""

    milliseconds: float  # corrected
    total: float  # the sum of the blocks
    blocks: tuple[tuple[Block, float], ...]
    interpolated: tuple[Block, ...]  # which of them are not in the table


class LatencyTable:
    """Measured blocks of one machine, runtime and number of threads."""

    def __init__(
        self,
        conditions: Conditions,
        entries: Iterable[Entry] = (),
        corrections: dict[str, Correction] | None = None,
    ) -> None:
        self.conditions = conditions
        self.times = {entry.block: entry.milliseconds for entry in entries}
        self.corrections = dict(corrections or {})

    @cached_property
    def _interpolation(self) -> Interpolation:
        return Interpolation({block: timing.median for block, timing in self.times.items()})

    @property
    def interpolation_error(self) -> float:
        """Return how far blocks are off that are estimated from the others, weighted by time."""
        return self._interpolation.error

    def add(self, times: dict[Block, Timing]) -> None:
        """Add measured blocks, in place of those that are there."""
        self.times |= times
        self.__dict__.pop("_interpolation", None)

    def predict(
        self, blocks: Sequence[Block], correction: Correction | None = None, *, factor: float = 1.0
    ) -> Prediction:
        """Sum up a network's blocks; those that are not in the table are interpolated.

        The correction belongs to a kind of networks, and None adds nothing; its result times the factor is
        the prediction.
        """
        found = [
            (
                block,
                self.times[block].median if block in self.times else self._interpolation.milliseconds(block),
            )
            for block in blocks
        ]
        total = sum(milliseconds for _, milliseconds in found)
        return Prediction(
            milliseconds=factor * (correction or Correction())(total, len(found)),
            total=total,
            blocks=tuple(found),
            interpolated=tuple(block for block in blocks if block not in self.times),
        )

    def save(self, path: Path) -> None:
        """Write the file, and keep what another process has added to it in the meantime."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            theirs = load_table(path)
            if theirs.conditions == self.conditions:
                self.times = theirs.times | self.times
                self.corrections = theirs.corrections | self.corrections
        entries = [Entry(block=block, milliseconds=self.times[block]) for block in sorted(self.times)]
        file = _File(
            latency_table=LAYOUT,
            measured_on=self.conditions,
            blocks=tuple(entries),
            corrections=self.corrections,
        )
        text = msgspec.json.format(msgspec.json.encode(file), indent=1)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as draft:
            draft.write(text + b"\n")
        os.replace(draft.name, path)


def load_table(path: Path) -> LatencyTable:
    """Read a table of any machine.

    Raises:
        TableError: the file is no table, or of another layout.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES} bytes")
        file = msgspec.json.decode(path.read_bytes(), type=_File)
    except ValueError as error:
        raise TableError(
            f"{path} is not a table of latencies that dettoolkit can read ({error}): remove it, and the "
            "blocks are measured again"
        ) from None
    if file.latency_table != LAYOUT:
        raise TableError(
            f"{path} has the layout version {file.latency_table}, and this version of dettoolkit reads "
            f"{LAYOUT}: remove it, and the blocks are measured again"
        )
    return LatencyTable(file.measured_on, file.blocks, file.corrections)


def table_for(runtime: Runtime, path: Path, *, reuse: bool = False) -> tuple[LatencyTable, str | None]:
    """Return the table at a path, empty if there is none, and a warning if it is of other conditions.

    Raises:
        TableError: it is of another machine, runtime, version or number of threads, and not to be reused.
    """
    version = _version_or_none(runtime) if reuse and path.is_file() else runtime.version
    wanted = Conditions(processor=processor(), runtime=runtime.name, version=version, threads=runtime.threads)
    table = load_table(path) if path.is_file() else LatencyTable(wanted)
    names = ("processor", "runtime", "version", "threads")
    other = [name for name in names if getattr(table.conditions, name) != getattr(wanted, name)]
    if not other:
        return table, None
    differs = "; ".join(
        f"{name} '{getattr(table.conditions, name)}', here '{getattr(wanted, name)}'" for name in other
    )
    if reuse:
        return table, f"{path} was measured under other conditions ({differs}): its milliseconds are those"
    raise TableError(
        f"{path} was measured under other conditions ({differs}): omit --table to measure here, or use "
        "its milliseconds with --reuse-table"
    )


def _version_or_none(runtime: Runtime) -> str:
    """Return the runtime's version; a table that is reused needs no runtime."""
    try:
        return runtime.version
    except ModuleNotFoundError:
        return "none"


def default_path(conditions: Conditions) -> Path:
    """Return where a table is kept: a file for each of its conditions in the user's cache folder."""
    root = os.environ.get("XDG_CACHE_HOME")  # the XDG convention
    cache = (Path(root) if root else Path.home() / ".cache") / "dettoolkit" / "latency"
    words = f"{conditions.processor}-{conditions.runtime}-{conditions.version}-{conditions.threads}"
    return cache / f"{re.sub(r'[^A-Za-z0-9.]+', '_', words)}.json"
