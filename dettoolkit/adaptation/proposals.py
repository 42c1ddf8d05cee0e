"""The proposals of a step: for each space of channels, the network that is narrower there and fast enough.

NetAdapt (arXiv 1804.03230, section 3.2) as MobileNetV3 uses it (arXiv 1905.02244, section 4.2): a proposal
shrinks one expansion, or all outputs that share a residual. The last convolution is a space too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from dettoolkit.backbones.tables import Table

Predict = Callable[[Table], float]
"""The milliseconds of the network of a table."""


@dataclass(frozen=True)
class Space:
    """Channels that belong together.

    `kind` expansion: those inside row `number`. outputs: of the group (`Table.groups`) `number`. last: of the
    last convolution.
    """

    kind: str
    number: int = 0

    def name(self, table: Table) -> str:
        """Return what it is called, for people."""
        if self.kind == "expansion":
            return f"expansion of row {self.number}"
        if self.kind == "last":
            return "last convolution"
        rows = [at for at, group in enumerate(table.groups) if group == self.number and at > 0]
        named = f"row {rows[0]}" if len(rows) == 1 else f"rows {rows[0]} to {rows[-1]}" if rows else ""
        if self.number > 0:
            return f"outputs of {named}"
        return f"outputs of the stem and {named}" if named else "outputs of the stem"

    def channels(self, table: Table) -> int:
        """Count the channels."""
        if self.kind == "expansion":
            return table.rows[self.number - 1].expansion
        return table.inputs[self.number] if self.kind == "outputs" else table.last_channels or 0


@dataclass(frozen=True)
class Proposal:
    """A narrower network: what was cut to how many channels, and the milliseconds predicted."""

    space: Space
    channels: int
    table: Table
    milliseconds: float


def spaces(table: Table) -> list[Space]:
    """Return all spaces of a network.

    A row without an expanding convolution has no expansion of its own: it follows the outputs it reads.
    """
    inside = [
        Space("expansion", number)
        for number, (row, inputs) in enumerate(zip(table.rows, table.inputs, strict=False), start=1)
        if row.fused or row.expansion != inputs
    ]
    outputs = [Space("outputs", number) for number in sorted(set(table.groups))]
    return [*inside, *outputs, *([Space("last")] if table.last_channels is not None else [])]


def with_channels(table: Table, space: Space, channels: int) -> Table | None:
    """Return the table with another count in one space; None where that makes it a network of another form.

    It does where an expanding convolution or a sum with the input would come or go.
    """
    if space.kind == "last":
        return replace(table, last_channels=channels)
    inputs = [
        channels if space.kind == "outputs" and group == space.number else count
        for group, count in zip(table.groups, table.inputs, strict=True)
    ]
    rows = []
    for number, row in enumerate(table.rows, start=1):
        expands = row.fused or row.expansion != table.inputs[number - 1]
        expansion = row.expansion if expands else inputs[number - 1]
        if space.kind == "expansion" and number == space.number:
            expansion = channels
        rows.append(replace(row, expansion=expansion, channels=inputs[number], factor=None))
    changed = replace(table, stem_channels=inputs[0], rows=tuple(rows))
    return changed if changed.groups == table.groups and spaces(changed) == spaces(table) else None


def widths(channels: int, divisor: int) -> range:
    """Return the smaller channel counts of a space, largest first: multiples of `divisor`."""
    return range((channels - 1) // divisor * divisor, 0, -divisor)


def propose(table: Table, predict: Predict, *, at_most: float, divisor: int) -> list[Proposal]:
    """Return for each space the widest network of at most so many milliseconds, where there is one."""
    found = (_narrowed(table, space, predict, at_most, divisor) for space in spaces(table))
    return [proposal for proposal in found if proposal is not None]


def _narrowed(table: Table, space: Space, predict: Predict, at_most: float, divisor: int) -> Proposal | None:
    """Halve the range of widths until the widest one that is fast enough is found."""
    made = ((count, with_channels(table, space, count)) for count in widths(space.channels(table), divisor))
    options = [(count, changed) for count, changed in made if changed is not None]
    low, high, found = 0, len(options), None
    while low < high:
        middle = (low + high) // 2
        count, changed = options[middle]
        milliseconds = predict(changed)
        if milliseconds <= at_most:
            found, high = Proposal(space, count, changed, milliseconds), middle
        else:
            low = middle + 1
    return found


def smallest(table: Table, divisor: int) -> Table:
    """Return the network with every space as narrow as it can be."""
    for space in spaces(table):
        for count in reversed(widths(space.channels(table), divisor)):
            changed = with_channels(table, space, count)
            if changed is not None:
                table = changed
                break
    return table


def cuts(start: Table, end: Table) -> Iterator[tuple[str, int, int]]:
    """Yield each space of the start with its channels at the start and at the end."""
    for space in spaces(start):
        yield space.name(start), space.channels(start), space.channels(end)
