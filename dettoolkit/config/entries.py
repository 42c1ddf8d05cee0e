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


def entry_from(value: object, origin: Origin, path: str, problems: list[Problem]) -> Entry:
    """Turn plain values into entries; anything else is a problem."""
    if isinstance(value, Mapping):
        above = f"{path}." if path else ""
        return Entry(
            {str(k): entry_from(v, origin, f"{above}{k}", problems) for k, v in value.items()}, origin
        )
    if isinstance(value, list | tuple):
        items = [entry_from(item, origin, f"{path}[{i}]", problems) for i, item in enumerate(value)]
        return Entry(items, origin)
    huge = isinstance(value, int) and value.bit_length() > 4000  # Python writes none of over 4300 digits
    if value is None or (isinstance(value, str | int | float | bool) and not huge):
        return Entry(value, origin)
    kind = "number of thousands of digits" if huge else type(value).__name__
    text = f"expected text, a number, true, false, null, a list or a mapping, got a {kind}"
    problems.append(Problem(origin, path, text))
    return Entry(None, origin, guessed=True)
