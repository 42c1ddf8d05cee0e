"""A space of networks to search: what may be chosen for each stage of a recipe's network."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, Field

from dettoolkit.config.errors import Entry, Problem, RecipeError, show_value
from dettoolkit.config.files import read_mapping
from dettoolkit.config.messages import validate_section
from dettoolkit.config.schema import KeyCheck
from dettoolkit.config.sections import Section

T = TypeVar("T")


def _once(values: list[T]) -> list[T]:
    """Refuse a value that is listed twice, which random search would choose twice as often."""
    twice = next((value for number, value in enumerate(values) if value in values[:number]), None)
    if twice is not None:
        raise ValueError(f"{show_value(twice)} is listed twice; keep one")
    return values


Factor = Annotated[float, Field(ge=1, le=16)]
Width = Annotated[float, Field(ge=0.1, le=4)]
Depth = Annotated[int, Field(ge=-16, le=16)]
Options = Annotated[list[T], Field(max_length=16), AfterValidator(_once)]


class Choices(Section):
    """What the rows of a stage may be; what is not listed stays as in the recipe."""

    kernel: Options[Literal[3, 5, 7]] = Field([])
    """Kernels."""
    expansion: Options[Factor] = Field([])
    """Channels inside a block, over those of its input."""
    width: Options[Width] = Field([])
    """Output channels of the stage, over those in the recipe."""
    depth: Options[Depth] = Field([])
    """Rows more than in the recipe, or fewer."""
    squeeze_excite: Options[bool] = Field([])
    """Whether there is squeeze-and-excite."""
    activation: Options[Literal["relu", "relu6", "hardswish"]] = Field([])
    """Activations."""
    fused: Options[bool] = Field([])
    """Whether one plain convolution expands and filters (MobileDets, arXiv 2004.14525)."""


class Stage(Choices):
    """A stage with choices of its own: rows in a row that have as many output channels."""

    stage: int = Field(ge=1, le=100, description="Number of the stage, counted from 1.")


class Space(Choices):
    """Choices for all stages, and for some that differ."""

    stages: Annotated[list[Stage], Field(max_length=100)] = Field([])
    """Stages with choices of their own; what these do not list is that of all stages."""


CHOICES = tuple(Choices.model_fields)


@dataclass(frozen=True)
class SpaceFile:
    """A space, and where its values were written."""

    space: Space
    root: Entry

    def refuse(self, found: Iterable[tuple[str, str]]) -> None:
        """Raise what is wrong, pairs of a dotted key and a sentence, with the lines; nothing for no pair."""
        problems = [Problem(self._entry(path).origin, path, text) for path, text in found]
        if problems:
            raise RecipeError(problems)

    def _entry(self, path: str) -> Entry:
        """Return the entry of a key such as stages[0].fused, or the innermost one around it."""
        entry = self.root
        for part in re.findall(r"\w+", path):
            value = entry.value
            if isinstance(value, dict) and part in value:
                entry = value[part]
            elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
                entry = value[int(part)]
            else:
                break
        return entry


def load_space(path: Path) -> SpaceFile:
    """Load the file of a space: YAML 1.2, as strict as a recipe.

    Raises:
        RecipeError: with every mistake at once, as ``file:line: key.path: what is wrong``.
    """
    problems: list[Problem] = []
    root, keys = read_mapping(path, 0, problems), KeyCheck()
    cleaned = keys.clean_as(root, Space)
    space, found = validate_section(cleaned, keys)
    if problems := [*problems, *keys.problems, *found]:
        raise RecipeError(problems)
    if not isinstance(space, Space):
        raise RuntimeError("a space without problems was not built")
    return SpaceFile(space, cleaned)
