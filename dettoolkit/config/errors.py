"""What is wrong with a recipe, in plain words and with its place: the one exception and its lines."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, order=True)
class Origin:
    """Where a value was written; origins sort in the order in which the values are laid over each other.

    ``layer`` is 0 for the recipe and counts the overlays and overrides after it; ``line`` is 1-based, 0 for
    an override; ``text`` is what people read: ``configs/a.yaml:12`` or ``override 2 'optim.lr=1'``.
    """

    layer: int
    line: int
    text: str


@dataclass(frozen=True, order=True)
class Problem:
    """One mistake: its place, the dotted key (empty for a whole file) and what is wrong."""

    origin: Origin
    path: str
    text: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.origin.text, self.path, self.text) if part)


class RecipeError(ValueError):
    """Every mistake of a recipe, its overlays and its overrides; ``str()`` has one line for each."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(set(problems)))
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def relocated(self, file: str, name: str) -> list[Problem]:
        """Return the problems with the lines of `file` told as being in `name`."""
        pattern = re.compile(rf"^{re.escape(file)}(:\d+)?")
        return [
            replace(problem, origin=replace(problem.origin, text=pattern.sub(name, problem.origin.text)))
            for problem in self.problems
        ]


def join_words(words: Sequence[str], last: str = "or") -> str:
    """Join as prose: ``a, b or c``."""
    return f" {last} ".join(part for part in (", ".join(words[:-1]), words[-1]) if part) if words else ""


def did_you_mean(names: Sequence[str]) -> str:
    """Return the end of a message that proposes these names; nothing when there are none."""
    return f"; did you mean {join_words([repr(name) for name in names])}?" if names else ""


def closest(word: str, names: Iterable[str]) -> list[str]:
    """Find the names that ``word`` may be a misspelling of.

    All names one edit away (a letter missing, surplus or replaced, or two swapped); otherwise the only
    one that begins with it, or the most similar one, if any resembles it.
    """
    names = [name for name in dict.fromkeys(names) if name != word]
    near = [name for name in names if edit_distance(word.lower(), name.lower()) <= 1]
    begun = [name for name in names if len(word) >= 3 and name.startswith(word)]
    return near or (begun if len(begun) == 1 else difflib.get_close_matches(word, names, n=1, cutoff=0.6))


def edit_distance(one: str, two: str) -> int:
    """Count the edits between two words; swapping neighbors is one (optimal string alignment distance)."""
    before: list[int] = []
    row = list(range(len(two) + 1))
    for i, a in enumerate(one, start=1):
        before, previous, row = row, before, [i]
        for j, b in enumerate(two, start=1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a != b))
            if i > 1 and j > 1 and a == two[j - 2] and one[i - 2] == b:
                cost = min(cost, previous[j - 2] + 1)
            row.append(cost)
    return row[-1]


def not_a_choice(value: object, choices: Sequence[str | int]) -> str:
    """Describe that a value is none of the choices, and which one it resembles."""
    near = (
        closest(value, [name for name in choices if isinstance(name, str)]) if isinstance(value, str) else []
    )
    wanted = join_words([show_value(choice) for choice in choices])
    return f"expected {wanted}, got {show_got(value)}{did_you_mean(near)}"


def show_got(value: object) -> str:
    """Show what came instead of what was wanted."""
    if isinstance(value, list):
        return f"the list {show_value(value)}"
    return "nothing (null)" if value is None else show_value(value)


def show_value(value: object) -> str:
    """Show a value in a message as it is written in YAML, shortened."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, str):
        text = f"'{value}'"
    else:
        text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
