"""The layers of a recipe: its file, overlays and overrides, found, read and merged."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from dettoolkit.config.entries import Entry
from dettoolkit.config.errors import Origin, Problem, RecipeError, closest, did_you_mean, join_words, refusal
from dettoolkit.config.yaml12 import parse_yaml, scalar_value

_SUFFIXES = (".yaml", ".yml")
_OVERRIDE = re.compile(r"[A-Za-z_]\w*(\.\w+)*=")
_KEY = re.compile(r"\w[\w-]*(\.\w[\w-]*)*")


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


def find_overlay(name: str) -> Path:
    """Return the path of an overlay: a file, or a shipped one (``x.yaml`` or ``overlays/x.yaml``)."""
    return _find(name, shipped_folder() / "overlays", "overlay", Origin(0, 0, ""))


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
        raise refusal(origin, f"{kind} '{name}' is a folder; name a YAML file")
    near = did_you_mean(closest(stem, shipped))
    have = f"; shipped: {join_words(list(shipped), 'and')}" if shipped else ""
    text = f"{kind} '{name}' not found, neither as a file nor among the shipped {kind}s{near}{have}"
    raise refusal(origin, text)


def read_layers(recipe: str, extras: Sequence[str]) -> tuple[Path, list[Entry | None], list[Problem]]:
    """Load the recipe and what is merged over it.

    Returns the recipe's path, the layers in order (None for one that cannot be used) and every problem met.
    Raises RecipeError when there is no such recipe.
    """
    path = find_recipe(recipe)
    readers = [partial(_read_file, path, 0)]
    overrides = 0
    for number, text in enumerate(extras, start=1):
        if _OVERRIDE.match(text) or ("=" in text and not text.endswith(_SUFFIXES)):
            overrides += 1
            shown = text if len(text) <= 120 else f"{text[:117]}..."
            origin = Origin(number, 0, f"override {overrides} '{shown}'")
            readers.append(partial(_read_override, text, origin))
        else:
            readers.append(partial(_read_overlay, text, number))
    layers: list[Entry | None] = []
    problems: list[Problem] = []
    for read in readers:
        try:
            layers.append(read(problems))
        except RecipeError as error:
            layers.append(None)
            problems += error.problems
    return path, layers, problems


def _read_overlay(text: str, number: int, problems: list[Problem]) -> Entry:
    origin, folder = Origin(number, 0, ""), shipped_folder() / "overlays"
    if text.endswith(_SUFFIXES):
        return _read_file(_find(text, folder, "overlay", origin), number, problems)
    near = did_you_mean(closest(text, [file.name for file in folder.glob("*.yaml")]))
    raise refusal(origin, f"'{text}' is neither an overlay (a .yaml file) nor an override (key=value){near}")


def _read_file(path: Path, layer: int, problems: list[Problem]) -> Entry:
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
            merged[key] = merge(merged[key], entry) if key in merged else entry
        return Entry(merged, below.origin, guessed=below.guessed or above.guessed)
    switched = below.switched if below.value == above.value else above.origin.layer
    return Entry(above.value, above.origin, switched, above.guessed)
