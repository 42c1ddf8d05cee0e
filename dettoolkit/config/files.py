"""From files and the command line to a checked recipe, and back to YAML.

A recipe's layers are its file, overlays and overrides; they are found, read, merged and checked.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dettoolkit.config.errors import (
    Entry,
    Origin,
    Problem,
    RecipeError,
    below,
    closest,
    did_you_mean,
    refusal,
)
from dettoolkit.config.messages import validate
from dettoolkit.config.recipe import Recipe, any_recipe
from dettoolkit.config.schema import KeyCheck
from dettoolkit.config.yaml12 import parse_yaml, scalar_value, write_lines

_SUFFIXES = (".yaml", ".yml")
_OVERRIDE = re.compile(r"[A-Za-z_]\w*(\.\w+)*=")
_KEY = re.compile(r"\w[\w-]*(\.\w[\w-]*)*")


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
    path = find_recipe(recipe)
    problems: list[Problem] = []
    layers: list[Entry] = []
    overrides = 0
    for number, text in enumerate((recipe, *extras)):
        try:
            if number == 0:
                layers.append(read_mapping(path, 0, problems))
            elif _OVERRIDE.match(text) or ("=" in text and not text.endswith(_SUFFIXES)):
                overrides += 1
                shown = text if len(text) <= 120 else f"{text[:117]}..."
                origin = Origin(number, 0, f"override {overrides} '{shown}'")
                layers.append(_read_override(text, origin, problems))
            else:
                layers.append(read_mapping(_find_overlay(text, number), number, problems))
        except RecipeError as error:
            problems += error.problems
    if not layers or layers[0].origin.layer > 0:  # without the recipe itself, nothing can be said of the rest
        raise RecipeError(problems)
    root = reduce(merge, layers)
    result, unset = resolve(root, problems, complete=len(layers) == 1 + len(extras))
    return ResolvedRecipe(path.stem, result, MappingProxyType(_provenance(result, root, unset)))


def resolve(root: Entry, problems: Sequence[Problem], *, complete: bool) -> tuple[Recipe, dict[str, Origin]]:
    """Build a recipe from merged layers; without all of them, report only what is wrong in any case.

    The origins are those of the nulls that gave a key its default back.
    """
    keys = KeyCheck()
    cleaned = keys.clean(root)
    result, found = validate(cleaned, keys, complete=complete)
    found = [*problems, *keys.problems, *found]
    if found or result is None:
        raise RecipeError(found)
    return result, keys.unset


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """Return the complete recipe as dictionaries, lists and scalars only, as checkpoints hold it."""
    return recipe.model_dump(mode="json")


def json_schema() -> str:
    """Return the JSON Schema of recipes, for editors."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **any_recipe().model_json_schema()}
    return json.dumps(schema, indent=2) + "\n"


def shipped_folder() -> Path:
    """Return the folder of the shipped recipes: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def find_recipe(name: str) -> Path:
    """Return the path of a recipe: a file, or a shipped recipe by its name, with or without ``.yaml``.

    Raises RecipeError with close matches and the list of what is shipped.
    """
    return _find(name, shipped_folder(), "recipe", Origin(0, 0, ""))


def _find_overlay(text: str, number: int) -> Path:
    origin, folder = Origin(number, 0, ""), shipped_folder() / "overlays"
    if text.endswith(_SUFFIXES):
        return _find(text, folder, "overlay", origin)
    near = did_you_mean(closest(text, [file.name for file in folder.glob("*.yaml")]))
    raise refusal(origin, f"'{text}' is neither an overlay (a .yaml file) nor an override (key=value){near}")


def _find(name: str, folder: Path, kind: str, origin: Origin) -> Path:
    path = Path(name)
    if path.is_file():
        return path
    shipped = {file.stem: file for file in sorted(folder.glob("*.yaml"))}
    stem = path.stem if path.suffix in _SUFFIXES else path.name
    # folders are accepted where they say what is meant anyway: configs/x.yaml works outside a checkout too
    if stem in shipped and all(part in ("configs", "overlays", ".") for part in path.parent.parts):
        return shipped[stem]
    if path.is_dir():
        raise refusal(origin, f"{kind} '{name}' is a folder; specify a YAML file")
    near = did_you_mean(closest(stem, shipped))
    have = f"; shipped: {', '.join(shipped)}" if shipped else ""
    text = f"{kind} '{name}' not found, neither as a file nor among the shipped {kind}s{near}{have}"
    raise refusal(origin, text)


def read_mapping(path: Path, layer: int, problems: list[Problem]) -> Entry:
    """Load a recipe or an overlay; its top must be a mapping."""
    # the file's name as people know it
    name = os.path.relpath(path) if path.is_absolute() and path.is_relative_to(Path.cwd()) else str(path)

    def origin_at(line: int) -> Origin:
        return Origin(layer, line, f"{name}:{line}")

    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise refusal(Origin(layer, 0, name), f"cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        problem = f"not UTF-8 (byte 0x{error.object[error.start]:02x}); save the file as UTF-8"
        raise refusal(origin_at(line), problem) from None
    entry = parse_yaml(text, origin_at, "", problems)
    if isinstance(entry.value, dict):
        return entry
    if entry.value is None and not entry.guessed:
        raise refusal(origin_at(1), "the file is empty; a recipe is a mapping (key: value lines)")
    kind = "a list" if isinstance(entry.value, list) else "a single value"
    raise refusal(entry.origin, f"expected a mapping (key: value lines) at the top, got {kind}")


def _read_override(text: str, origin: Origin, problems: list[Problem]) -> Entry:
    """Load ``a.b.c=value``, the value being YAML, as the mapping it stands for."""
    key, _, written = text.partition("=")
    if not _KEY.fullmatch(key):
        raise refusal(origin, f"'{key}' is not a dotted key such as optim.lr")
    if not written.strip():
        raise refusal(origin, "no value; write null to unset the key, or '\"\"' for empty text", key)
    try:
        entry = parse_yaml(written, lambda _line: origin, key, problems)
    except RecipeError as error:
        raise RecipeError(replace(p, text=f"{p.text} (quote the value?)") for p in error.problems) from None
    if entry.value is None and not entry.guessed and scalar_value(written.strip()) is not None:
        raise refusal(origin, "no value: in YAML a # starts a comment; quote the value", key)
    for part in reversed(key.split(".")):
        entry = Entry({part: entry}, origin)
    return entry


def merge(below: Entry, above: Entry) -> Entry:
    """Return one entry merged over another: mappings merge deeply, everything else is replaced whole."""
    if isinstance(below.value, dict) and isinstance(above.value, dict):
        merged = dict(below.value)
        for key, entry in above.value.items():
            if key in merged:
                merged[key] = merge(merged[key], entry)
            else:  # a type that was the default so far is switched like any other
                switched = entry.origin.layer if key == "type" and merged else entry.switched
                merged[key] = replace(entry, switched=switched)
        return Entry(merged, below.origin, guessed=below.guessed or above.guessed)
    switched = below.switched if below.value == above.value else above.origin.layer
    return Entry(above.value, above.origin, switched, above.guessed)


def _provenance(recipe: Recipe, root: Entry, unset: Mapping[str, Origin]) -> dict[str, str]:
    """Return the text of the origin of every dotted key that holds a value."""
    nulls = {key: f"default (unset by {origin.text})" for key, origin in unset.items()}
    origins = dict(_origins(root, "")) | nulls
    origins |= {f"{key}.type": text for key, text in origins.items()}  # of a name that stands for a section

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
