"""From files and the command line to a checked recipe, and back to YAML."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from types import MappingProxyType
from typing import Any

from dettoolkit.config.entries import Entry, below, entry_from
from dettoolkit.config.errors import Origin, Problem, RecipeError
from dettoolkit.config.layers import merge, read_layers
from dettoolkit.config.messages import validate
from dettoolkit.config.recipe import Recipe, any_recipe
from dettoolkit.config.schema import KeyCheck
from dettoolkit.config.yaml12 import write_lines


@dataclass(frozen=True)
class ResolvedRecipe:
    """A checked recipe and where each of its values came from.

    ``name`` is the stem of the recipe's file; ``provenance`` maps every dotted key that holds a value to
    ``file:line``, ``override N 'text'`` or ``default``.
    """

    name: str
    recipe: Recipe
    provenance: Mapping[str, str]

    def to_yaml(self) -> str:
        """Write the complete recipe, defaults included, as YAML that `load_recipe` reads back as equal."""
        return "".join(f"{line}\n" for line, _ in write_lines(recipe_to_dict(self.recipe)))

    def with_provenance(self) -> str:
        """Write `to_yaml` with the origin of each value as an aligned comment."""
        lines = list(write_lines(recipe_to_dict(self.recipe)))
        width = max(len(line) for line, key in lines if key)
        commented = (f"{line:<{width}}  # {self.provenance[key]}" if key else line for line, key in lines)
        return "".join(f"{line}\n" for line in commented)


def load_recipe(recipe: str, extras: Sequence[str] = ()) -> ResolvedRecipe:
    """Load a recipe and merge overlays and overrides over it.

    Args:
        recipe: a file, or the name of a shipped recipe with or without ``.yaml``.
        extras: overlays (``small.yaml``) and overrides (``optim.lr=1e-3``, the value in YAML) in the order in
            which they apply: later wins, mappings merge deeply, lists are replaced whole, and null
            in a later layer gives a key its default back unless the schema has null there.

    Raises:
        RecipeError: with every mistake at once, as ``file:line: key.path: what is wrong``.

    Example:
        >>> resolved = load_recipe("ssdlite_mnv3_large", ["optim.lr=0.2"])
        >>> resolved.name, resolved.recipe.model.input_hw, resolved.recipe.optim.lr
        ('ssdlite_mnv3_large', (320, 320), 0.2)
    """
    path, layers, problems = read_layers(recipe, extras)
    if layers[0] is None:
        raise RecipeError(problems)
    root = reduce(merge, (layer for layer in layers if layer is not None))
    result, unset = _resolve(root, problems, complete=None not in layers)
    return ResolvedRecipe(path.stem, result, MappingProxyType(_provenance(result, root, unset)))


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """Return the complete recipe as dictionaries, lists and scalars only, as checkpoints hold it."""
    return recipe.model_dump(mode="json")


def recipe_from_dict(values: Mapping[str, Any], *, source: str = "recipe") -> Recipe:
    """Build a recipe from dictionaries; `source` names it in the errors.

    Raises:
        RecipeError: with every mistake at once, as ``source: key.path: what is wrong``.
    """
    problems: list[Problem] = []
    root = entry_from(values, Origin(0, 0, source), "", problems)
    return _resolve(root, problems, complete=True)[0]


def json_schema() -> str:
    """Return the JSON Schema of recipes, for editors."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **any_recipe().model_json_schema()}
    return json.dumps(schema, indent=2) + "\n"


def _resolve(root: Entry, problems: Sequence[Problem], *, complete: bool) -> tuple[Recipe, dict[str, Origin]]:
    """Build a recipe from merged layers; without all of them, report only what is wrong in any case."""
    keys = KeyCheck()
    cleaned = keys.clean(root)
    result, found = validate(cleaned, keys.unset, complete=complete, kind=keys.recipe)
    found = [*problems, *keys.problems, *found]
    if found or result is None:
        raise RecipeError(found)
    return result, keys.unset


def _provenance(recipe: Recipe, root: Entry, unset: Mapping[str, Origin]) -> dict[str, str]:
    """Return the text of the origin of every dotted key that holds a value."""
    nulls = {key: f"default (unset by {origin.text})" for key, origin in unset.items()}
    origins = dict(_origins(root, "")) | nulls

    def origin_of(key: str) -> str:
        sections_around = (key[:dot] for dot, letter in enumerate(key) if letter == ".")
        return origins.get(key) or next((nulls[s] for s in sections_around if s in nulls), "default")

    return {key: origin_of(key) for _, key in write_lines(recipe_to_dict(recipe)) if key}


def _origins(entry: Entry, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(entry.value, dict) and entry.value:
        for key, child in entry.value.items():
            yield from _origins(child, below(path, key))
    else:
        yield path, entry.origin.text
