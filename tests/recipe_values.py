"""Recipes of plain values, as tests change them; a user's recipe is a file."""

from collections.abc import Mapping
from typing import Any

from dettoolkit.config import Recipe
from dettoolkit.config.errors import Entry, Origin
from dettoolkit.config.files import resolve


def recipe_from_dict(values: Mapping[str, Any]) -> Recipe:
    return resolve(entry_from(values), [], complete=True)[0]


def entry_from(value: Any) -> Entry:
    origin = Origin(0, 0, "recipe")
    if isinstance(value, Mapping):
        return Entry({key: entry_from(each) for key, each in value.items()}, origin)
    return Entry([entry_from(each) for each in value] if isinstance(value, list) else value, origin)
