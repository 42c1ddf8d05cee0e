"""Values of a recipe that know where they were written, and what is wrong with them, in plain words."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, order=True)
class Origin:
    """Where a value was written; origins sort in the order in which the values are merged.

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
        row = re.search(r"\[(\d+)\]\.", self.path)  # of a list of mappings; people count from 1
        text = f"{self.text} (row {int(row[1]) + 1})" if row else self.text
        return ": ".join(part for part in (self.origin.text, self.path, text) if part)


class RecipeError(ValueError):
    """Every mistake of a recipe, its overlays and its overrides; ``str()`` has one line for each."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(set(problems)))
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def relocated(self, file: str, name: str) -> list[Problem]:
        """Return the problems with `name` in place of `file` and its line."""
        pattern = re.compile(rf"^{re.escape(file)}(:\d+)?")
        return [
            replace(problem, origin=replace(problem.origin, text=pattern.sub(name, problem.origin.text)))
            for problem in self.problems
        ]


def refusal(origin: Origin, text: str, path: str = "") -> RecipeError:
    """Return the error of one mistake."""
    return RecipeError([Problem(origin, path, text)])


Scalar = str | int | float | bool | None


@dataclass(frozen=True)
class Entry:
    """A value and where it was written (in a mapping: where its key was).

    ``switched`` is the layer that changed the value, when a later layer did; ``guessed`` marks a value about
    which a problem is reported already, so that checks of its type would only add noise.
    """

    value: Scalar | list[Entry] | dict[str, Entry]
    origin: Origin
    switched: int | None = None
    guessed: bool = False

    def plain(self) -> object:
        """Return the bare value: dictionaries, lists and scalars."""
        if isinstance(self.value, dict):
            return {key: entry.plain() for key, entry in self.value.items()}
        if isinstance(self.value, list):
            return [entry.plain() for entry in self.value]
        return self.value


def below(path: str, key: str) -> str:
    """Return the dotted path of a key in the mapping at `path`."""
    return f"{path}.{key}" if path else key


def join_words(words: Sequence[str], last: str = "or") -> str:
    """Return the words as prose: ``a, b or c``."""
    return f" {last} ".join(part for part in (", ".join(words[:-1]), words[-1]) if part) if words else ""


def did_you_mean(names: Sequence[str]) -> str:
    """Return the end of a message that proposes these names; empty when there are none."""
    return f"; did you mean {join_words([repr(name) for name in names])}?" if names else ""


def closest(word: str, names: Iterable[str]) -> list[str]:
    """Return the names that ``word`` may be a misspelling of.

    All names one edit away; otherwise the only one that begins with it or that ends it, or the most similar
    one, if any resembles it.
    """
    names = [name for name in dict.fromkeys(names) if name != word]
    near = [name for name in names if one_edit(word.lower(), name.lower())]
    long = [name for name in names if (len(word) >= 3 and name.startswith(word)) or word.endswith(f"_{name}")]
    return near or (long if len(long) == 1 else difflib.get_close_matches(word, names, n=1, cutoff=0.6))


def one_edit(one: str, two: str) -> bool:
    """Return whether at most one letter is missing, extra or replaced, or two neighbors are swapped."""
    while one and one[:1] == two[:1]:
        one, two = one[1:], two[1:]
    swapped = one[:2] == two[:2][::-1] and one[2:] == two[2:]
    return swapped or one[1:] == two[1:] or one[1:] == two or one == two[1:]


def not_a_choice(value: object, choices: Sequence[str | int]) -> str:
    """Return the message that a value is none of the choices, and which one it resembles."""
    names = [name for name in choices if isinstance(name, str)]
    near = closest(value, names) if isinstance(value, str) else []
    wanted = join_words([show_value(choice) for choice in choices])
    return f"expected {wanted}, got {show_value(value)}{did_you_mean(near)}"


def show_value(value: object) -> str:
    """Return a value as it is written in YAML, shortened to fit a message."""
    if value is None or isinstance(value, dict):
        return "nothing (null)" if value is None else "a mapping"
    text = f"'{value}'" if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    kind = "the list " if isinstance(value, list) else ""
    return kind + (text if len(text) <= 60 else f"{text[:57]}...")
