"""The layers of a recipe: its file, overlays and overrides, found, read and laid over each other."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from dettoolkit.config.entries import Entry
from dettoolkit.config.errors import Origin, Problem, RecipeError, closest, did_you_mean, join_words
from dettoolkit.config.yaml12 import parse_yaml, scalar_value

_SUFFIXES = (".yaml", ".yml")
_OVERRIDE = re.compile(r"[A-Za-z_]\w*(\.\w+)*=")


def shipped_folder() -> Path:
    """Return the folder of the shipped recipes: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def find_recipe(name: str) -> Path:
    """Find a recipe: a file of that path, or a shipped recipe by its name, with or without ``.yaml``.

    Raises RecipeError with close matches and the list of what is shipped.
    """
    return _find(name, shipped_folder(), "recipe", Origin(0, 0, ""))


def find_overlay(name: str) -> Path:
    """Find an overlay: a file of that path, or a shipped one (``x.yaml`` or ``overlays/x.yaml``)."""
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
        raise RecipeError([Problem(origin, "", f"{kind} '{name}' is a folder; name a YAML file")])
    near = did_you_mean(closest(stem, shipped))
    have = f"; shipped: {join_words(list(shipped), 'and')}" if shipped else ""
    text = f"{kind} '{name}' not found, neither as a file nor among the shipped {kind}s{near}{have}"
    raise RecipeError([Problem(origin, "", text)])


def read_layers(recipe: str, extras: Sequence[str]) -> tuple[Path, list[Entry | None], list[Problem]]:
    """Read the recipe and what is laid over it.

    Gives the recipe's path, the layers in order (None for one that cannot be used) and every problem met.
    Raises RecipeError when there is no such recipe.
    """
    path = find_recipe(recipe)
    base, problems = _read_file(path, 0)
    layers = [base]
    overrides = 0
    for number, text in enumerate(extras, start=1):
        is_override = _OVERRIDE.match(text) or ("=" in text and not text.endswith(_SUFFIXES))
        overrides += bool(is_override)
        if is_override:
            shown = text if len(text) <= 120 else f"{text[:117]}..."
            entry, found = _read_override(text, Origin(number, 0, f"override {overrides} '{shown}'"))
        else:
            entry, found = _read_overlay(text, number)
        layers.append(entry)
        problems += found
    return path, layers, problems


def _read_overlay(text: str, number: int) -> tuple[Entry | None, list[Problem]]:
    origin = Origin(number, 0, "")
    if not text.endswith(_SUFFIXES):
        near = did_you_mean(closest(text, [f.name for f in (shipped_folder() / "overlays").glob("*.yaml")]))
        problem = f"'{text}' is neither an overlay (a .yaml file) nor an override (key=value){near}"
        return None, [Problem(origin, "", problem)]
    try:
        path = _find(text, shipped_folder() / "overlays", "overlay", origin)
    except RecipeError as error:
        return None, list(error.problems)
    return _read_file(path, number)


def _read_file(path: Path, layer: int) -> tuple[Entry | None, list[Problem]]:
    """Read a recipe or an overlay; its top must be a mapping."""
    name = _short(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        return None, [Problem(Origin(layer, 0, name), "", f"cannot be read: {error.strerror or error}")]
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        problem = f"not UTF-8 (byte 0x{error.object[error.start]:02x}); save the file as UTF-8"
        return None, [Problem(Origin(layer, line, f"{name}:{line}"), "", problem)]
    entry, problems = parse_yaml(text, lambda line: Origin(layer, line, f"{name}:{line}"))
    if entry is not None and isinstance(entry.value, dict):
        return entry, problems
    if entry is None and not problems:
        problems = [
            Problem(
                Origin(layer, 1, f"{name}:1"),
                "",
                "the file is empty; a recipe is a mapping (key: value lines)",
            )
        ]
    elif entry is not None and not entry.guessed:
        kind = "a list" if isinstance(entry.value, list) else "a single value"
        problems.append(
            Problem(entry.origin, "", f"expected a mapping (key: value lines) at the top, got {kind}")
        )
    return None, problems


def _short(path: Path) -> str:
    """Return the name of a file as people know it: relative to the working directory when it is below it."""
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        return os.path.relpath(path)
    return str(path)


def _read_override(text: str, origin: Origin) -> tuple[Entry | None, list[Problem]]:
    """Read ``a.b.c=value``, the value being YAML, as the mapping it stands for."""
    key, _, written = text.partition("=")
    keys = key.split(".")
    if not all(re.fullmatch(r"\w[\w-]*", part) for part in keys):
        return None, [Problem(origin, "", f"'{key}' is not a dotted key such as optim.lr")]
    if not written.strip():
        problem = "no value; write null to unset the key, or '\"\"' for empty text"
        return None, [Problem(origin, key, problem)]
    value, problems = parse_yaml(written, lambda _line: origin)
    if value is None and not problems and scalar_value(written.strip()) is not None:
        return None, [Problem(origin, key, "no value: in YAML a # starts a comment; quote the value")]
    if problems and value is None:
        return None, [Problem(origin, key, f"{problem.text} (quote the value?)") for problem in problems]
    entry = value or Entry(None, origin)
    for part in reversed(keys):
        entry = Entry({part: entry}, origin)
    return entry, [Problem(origin, ".".join(filter(None, (key, p.path))), p.text) for p in problems]


def merge(below: Entry, above: Entry) -> Entry:
    """Lay one entry over another: mappings merge deeply, everything else is replaced whole."""
    if isinstance(below.value, dict) and isinstance(above.value, dict):
        merged = dict(below.value)
        for key, entry in above.value.items():
            merged[key] = merge(merged[key], entry) if key in merged else entry
        return Entry(merged, below.origin, guessed=below.guessed or above.guessed)
    switched = below.switched if below.value == above.value else above.origin.layer
    return Entry(above.value, above.origin, switched, above.guessed)
