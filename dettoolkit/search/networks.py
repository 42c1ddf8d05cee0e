"""The networks of a space: what is chosen for each stage, as a table of rows."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dettoolkit.backbones.tables import Bneck, Table, make_divisible
from dettoolkit.config.space import CHOICES, Space, SpaceFile

Choice = bool | int | float | str


@dataclass(frozen=True, kw_only=True)
class StageOptions:
    """A stage of the recipe's network, and what may be chosen for it."""

    number: int  # counted from 1
    rows: tuple[Bneck, ...]  # the recipe's
    inputs: tuple[int, ...]  # input channels of each of them
    options: Mapping[str, tuple[Choice, ...]]  # by the names of `CHOICES`; empty: as in the recipe


class NetworkSpace:
    """All networks that a space says, around a recipe's own."""

    def __init__(self, table: Table, space: Space) -> None:
        self.table = table
        own = {stage.stage: stage for stage in space.stages}
        self.stages: list[StageOptions] = []
        for number, places in enumerate(_stages(table), start=1):
            chosen = own.get(number, space)
            self.stages.append(
                StageOptions(
                    number=number,
                    rows=tuple(table.rows[place] for place in places),
                    inputs=tuple(table.inputs[place] for place in places),
                    options={name: tuple(getattr(chosen, name) or getattr(space, name)) for name in CHOICES},
                )
            )

    @property
    def parameters(self) -> dict[str, tuple[Choice, ...]]:
        """Return everything that is chosen, such as stage2.kernel, with its options, two or more."""
        return {
            f"stage{stage.number}.{name}": options
            for stage in self.stages
            for name, options in stage.options.items()
            if len(options) > 1
        }

    def network(self, chosen: Mapping[str, Choice]) -> Table:
        """Return the table of the network of which this is chosen, for each of `parameters`."""
        rows: list[Bneck] = []
        before = self.table.stem_channels
        for stage in self.stages:
            single = {name: options[0] for name, options in stage.options.items() if options}
            picked = single | {
                name: chosen[f"stage{stage.number}.{name}"]
                for name, options in stage.options.items()
                if len(options) > 1
            }
            for row in _rows(stage, picked, before):
                rows.append(row)
                before = row.channels
        return replace(self.table, rows=tuple(rows))

    def random(self, chance: random.Random) -> dict[str, Choice]:
        """Draw a network."""
        return {name: chance.choice(options) for name, options in self.parameters.items()}

    def smallest(self) -> dict[str, Choice]:
        """Return the network with the smallest of everything: what a latency at least is."""
        return {
            name: options[0] if isinstance(options[0], str) else min(options)
            for name, options in self.parameters.items()
        }


def check_space(file: SpaceFile, table: Table) -> None:
    """Refuse a space with stages or blocks that the recipe's network cannot have, or with nothing to choose.

    Raises:
        RecipeError: with the lines of the space's file.
    """
    stages, space = _stages(table), file.space
    found: list[tuple[str, str]] = []
    numbers = [stage.stage for stage in space.stages]
    for place, stage in enumerate(space.stages):
        path = f"stages[{place}].stage"
        if stage.stage > len(stages):
            found.append((path, f"the recipe's network has {len(stages)} stages, got {stage.stage}"))
        elif numbers.index(stage.stage) != place:
            found.append((path, f"stage {stage.stage} is listed twice; keep one"))
    last_halving = table.taps[-1] - 1
    for number, places in enumerate(stages, start=1):
        where = f"stages[{numbers.index(number)}]." if number in numbers else ""
        own = space.stages[numbers.index(number)] if number in numbers else space
        if last_halving in places and True in (own.fused or space.fused):
            path = f"{where}fused" if own.fused else "fused"
            found.append(
                (
                    path,
                    f"stage {number} cannot be fused: heads read the expansion of its first row at stride "
                    f"16, where a fused block has none; give it its own: {{stage: {number}, fused: [false]}}",
                )
            )
        depths = own.depth or space.depth
        if depths and len(places) + min(depths) < 1:
            path = f"{where}depth" if own.depth else "depth"
            rows = f"{len(places)} row{'s' if len(places) > 1 else ''}"
            found.append((path, f"stage {number} has {rows}: {min(depths)} leaves none"))
    if not found and not NetworkSpace(table, space).parameters:
        found.append(("", "the space has one network only: list two options of something"))
    file.refuse(found)


def _stages(table: Table) -> list[list[int]]:
    """Return the 0-based rows of each stage: those of as many outputs, from one halving to the next."""
    stages: list[list[int]] = []
    for place, row in enumerate(table.rows):
        if place == 0 or row.stride == 2 or row.channels != table.rows[place - 1].channels:
            stages.append([])
        stages[-1].append(place)
    return stages


def _rows(stage: StageOptions, picked: Mapping[str, Any], before: int) -> Sequence[Bneck]:
    """Return a stage's rows; those beyond the recipe's are as its last one, at stride 1."""
    width, count = picked.get("width", 1.0), len(stage.rows) + picked.get("depth", 0)
    rows: list[Bneck] = []
    for place in range(count):
        last = min(place, len(stage.rows) - 1)
        row = stage.rows[last]
        factor = picked.get("expansion", row.expansion / stage.inputs[last])
        rows.append(
            replace(
                row,
                kernel=picked.get("kernel", row.kernel),
                expansion=make_divisible(before * factor),
                channels=make_divisible(row.channels * width) if "width" in picked else row.channels,
                squeeze=picked.get("squeeze_excite", row.squeeze),
                activation=picked.get("activation", row.activation),
                stride=row.stride if place < len(stage.rows) else 1,
                factor=None,
                fused=picked.get("fused", row.fused),
            )
        )
        before = rows[-1].channels
    return rows
