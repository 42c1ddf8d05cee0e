"""Values that know where they were written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dettoolkit.config.errors import Origin, Problem

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


def entry_from(value: object, origin: Origin, path: str, problems: list[Problem]) -> Entry:
    """Build entries from plain values; a value of another type is a problem."""
    if isinstance(value, Mapping):
        items = {str(k): entry_from(v, origin, below(path, str(k)), problems) for k, v in value.items()}
        return Entry(items, origin)
    if isinstance(value, list | tuple):
        return Entry([entry_from(v, origin, f"{path}[{i}]", problems) for i, v in enumerate(value)], origin)
    huge = isinstance(value, int) and value.bit_length() > 4000  # Python writes none of over 4300 digits
    if value is None or (isinstance(value, str | int | float | bool) and not huge):
        return Entry(value, origin)
    kind = "number of thousands of digits" if huge else type(value).__name__
    text = f"expected text, a number, true, false, null, a list or a mapping, got a {kind}"
    problems.append(Problem(origin, path, text))
    return Entry(None, origin, guessed=True)
