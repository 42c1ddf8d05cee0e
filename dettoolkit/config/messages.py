"""Pydantic's errors about a recipe, in plain words and at the line where the value was written."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from dettoolkit.config.bounds import PATTERNS
from dettoolkit.config.entries import Entry, below
from dettoolkit.config.errors import (
    Origin,
    Problem,
    closest,
    did_you_mean,
    join_words,
    not_a_choice,
    show_value,
)
from dettoolkit.config.recipe import Recipe, recipe_kinds
from dettoolkit.config.schema import members, sections, type_names
from dettoolkit.config.yaml12 import scalar_value

_MAPPING = "a mapping (key: value lines)"
_WANTED = {
    "int_type": "an integer",
    "int_parsing_size": "a smaller integer",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": _MAPPING,
    "model_type": _MAPPING,
    "model_attributes_type": _MAPPING,
    "finite_number": "a finite number",
}
_BOUNDS = {
    "greater_than": ("above", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("below", "lt"),
    "less_than_equal": ("at most", "le"),
}
_LENGTHS = {"too_short": "at least ", "too_long": "at most "}


@dataclass(frozen=True)
class _Error:
    """One of pydantic's errors, and where it lies in the recipe."""

    kind: str
    context: Mapping[str, Any]
    message: str
    path: str
    keys: tuple[str, ...]  # path of the innermost mapping's key
    entry: Entry  # where the value is missing: what should hold it
    missing: bool
    field: FieldInfo | None
    names: Sequence[str]  # the keys that the section around it has
    union: str  # path of the union of plain types that the value may be, '' outside one
    depth: int  # parts of the path below that union


def validate(
    root: Entry, unset: Mapping[str, Origin], *, complete: bool, kind: type[Recipe]
) -> tuple[Recipe | None, list[Problem]]:
    """Build a Recipe from a cleaned tree, or return everything that is wrong with it.

    `unset` tells which override or overlay took away a key that is now missing; when the tree is not
    `complete`, missing keys and contradictions are not reported. `kind` is the task's kind of recipe;
    `any_recipe()` where the task is not known: then few mistakes in the data can be.
    """
    recipe, errors = _validate(root, kind)
    if kind not in recipe_kinds():
        known = ("model", "optim", "trainer")
        errors = [error for error in errors if error.path == "data" or error.keys[0] in known]
    if not complete:  # a layer that could not be read may have put these right
        put_right = ("missing", "union_tag_not_found", "value_error")
        errors = [error for error in errors if error.kind not in put_right]
    told = [error for error in errors if error.missing or not error.entry.guessed]
    problems = [_problem(error, unset) for error in told if not error.union]
    for union in dict.fromkeys(error.union for error in told if error.union):
        problems += _union_problems([error for error in told if error.union == union], unset)
    wrong = [error for error in errors if error.kind != "value_error"]
    if complete and wrong:
        problems += _hidden_contradictions(root, kind, wrong, unset)
    return recipe, problems


def _validate(root: Entry, kind: type[Recipe]) -> tuple[Recipe | None, list[_Error]]:
    try:
        return kind.model_validate(root.plain()), []
    except ValidationError as error:
        return None, [_locate(root, kind, detail) for detail in error.errors(include_url=False)]


def _hidden_contradictions(
    root: Entry, kind: type[Recipe], wrong: Sequence[_Error], unset: Mapping[str, Origin]
) -> list[Problem]:
    """Return the contradictions that pydantic does not look for where a value of the section is wrong.

    They are looked for without the wrong values; one that names such a key waits until its value is right.
    """
    for error in wrong:
        root = _without(root, error.keys)
    names = {error.keys[-1] for error in wrong if error.keys}
    contradictions = [_problem(e, unset) for e in _validate(root, kind)[1] if e.kind == "value_error"]
    return [each for each in contradictions if not names & set(re.findall(r"\w+", each.text))]


def _without(entry: Entry, keys: Sequence[str]) -> Entry:
    """Return the entry without the value at this path."""
    if not keys or not isinstance(entry.value, dict) or keys[0] not in entry.value:
        return entry
    rest = {key: child for key, child in entry.value.items() if key != keys[0]}
    if len(keys) > 1:
        rest[keys[0]] = _without(entry.value[keys[0]], keys[1:])
    return replace(entry, value=rest)


def _locate(root: Entry, kind: type[Recipe], detail: ErrorDetails) -> _Error:
    """Return an error with its place; pydantic's location also names the member of a union that was tried."""
    annotation: Any = kind
    entry: Entry | None = root
    holder, path, union, depth = root, "", "", 0
    keys: tuple[str, ...] = ()
    fields: Mapping[str, FieldInfo] = {}
    for part in detail["loc"]:
        options = [member for member in members(annotation) if member is not NoneType]
        if len(options) > 1:
            chosen = [section for section in sections(annotation) if part in type_names(section)]
            annotation = chosen[0] if chosen else None
            union = union if chosen else path
            continue
        holder, entry = entry or holder, _child(entry, part)
        depth += bool(union)
        path = f"{path}[{part}]" if isinstance(part, int) else below(path, part)
        keys += (part,) if isinstance(part, str) else ()
        if nested := sections(annotation):
            fields = nested[0].model_fields
            annotation = fields[str(part)].annotation if part in fields else None
        else:
            only = options[0] if options else None
            annotation = get_args(only)[-1] if get_origin(only) in (list, dict) else None
    field = fields.get(keys[-1]) if keys else None
    error = (detail["type"], detail.get("ctx", {}), detail["msg"])
    return _Error(*error, path, keys, entry or holder, entry is None, field, list(fields), union, depth)


def _child(entry: Entry | None, part: int | str) -> Entry | None:
    value = entry.value if entry is not None else None
    if isinstance(value, dict):
        return value.get(str(part))
    return value[part] if isinstance(value, list) and isinstance(part, int) and part < len(value) else None


def _problem(error: _Error, unset: Mapping[str, Origin]) -> Problem:
    """Return one error in plain words."""
    kind, entry, path, field = error.kind, error.entry, error.path, error.field
    origin, value = entry.origin, entry.plain()
    if kind == "missing" and path.endswith("]"):  # a list that is too short for a tuple
        wanted = len(get_args(members(field.annotation)[0])) if field else 0
        path, text = path.rpartition("[")[0], f"expected {wanted} values, got {_length(entry)}"
    elif kind == "missing":
        origin = unset.get(path, origin)
        text = "cannot be unset: it has no default" if path in unset else f"missing{_purpose(field)}"
    elif kind == "union_tag_not_found" and isinstance(value, dict):
        path = f"{path}.type"
        text = f"missing; choose {join_words([repr(choice) for choice in _choices(field)])}"
    elif kind == "union_tag_invalid":
        chosen = _child(entry, "type") or entry
        origin, path, text = chosen.origin, f"{path}.type", not_a_choice(chosen.plain(), _choices(field))
    elif kind == "literal_error":
        text = not_a_choice(value, _choices(field))
    elif kind == "value_error":
        path, text = path or "recipe", str(error.context["error"])
    elif kind == "extra_forbidden":
        text = f"unknown key{did_you_mean(closest(error.keys[-1], error.names))}"
    else:
        text = _expected(error)
    return Problem(origin, path, text)


def _expected(error: _Error) -> str:
    """Return what was wanted and what came, for wrong types, bounds and lengths."""
    kind, context, value = error.kind, error.context, error.entry.plain()
    if kind in _WANTED:
        return f"expected {_WANTED[kind]}, got {show_value(value)}{_hint(kind, value)}"
    if kind in _BOUNDS:
        word, key = _BOUNDS[kind]
        bound = f"{context[key]:g}" if isinstance(context[key], float) else context[key]
        return f"must be {word} {bound}, got {show_value(value)}"
    if kind == "string_pattern_mismatch":
        return f"expected {PATTERNS[context['pattern']]}, got {show_value(value)}"
    if kind in _LENGTHS:
        bound = context.get("min_length", context.get("max_length"))
        word = "" if context.get("field_type") == "Tuple" else _LENGTHS[kind]
        return f"expected {word}{bound} value{'s' if bound != 1 else ''}, got {_length(error.entry)}"
    return f"{error.message[:1].lower()}{error.message[1:]}, got {show_value(value)}"


def _hint(kind: str, value: object) -> str:
    """Return the explanation of text that looks like another type."""
    if not isinstance(value, str):
        return ""
    if kind == "bool_type" and value.lower() in ("yes", "no", "on", "off", "y", "n"):
        return " (YAML 1.2 has only true and false)"
    scalar = kind in ("int_type", "float_type", "bool_type")
    return " (remove the quotes)" if scalar and not isinstance(scalar_value(value), str | None) else ""


def _length(entry: Entry) -> int:
    return len(entry.value) if isinstance(entry.value, list | dict) else 1


def _purpose(field: FieldInfo | None) -> str:
    """Return what a missing key is for, in the schema's own words."""
    if field is None:
        return ""
    kinds = sections(field.annotation)
    words = field.description or (inspect.getdoc(kinds[0]) if len(kinds) == 1 else None)
    return f"; it is needed: {words.splitlines()[0].rstrip('.')}" if words else "; it is needed"


def _choices(field: FieldInfo | None) -> Sequence[str | int]:
    """Return the values of a Literal, or the types of the sections that a field may be."""
    options = members(field.annotation) if field else []
    literals = [value for option in options if get_origin(option) is Literal for value in get_args(option)]
    return literals or [name for option in options for name in type_names(*sections(option))]


def _union_problems(group: Sequence[_Error], unset: Mapping[str, Origin]) -> list[Problem]:
    """Return one problem where pydantic says why each member of a union of plain types does not fit."""
    deepest = max(error.depth for error in group)
    if deepest > 0:  # a list was meant: only what is wrong inside it matters
        return [_problem(error, unset) for error in group if error.depth == deepest]
    for error in group:
        if error.kind in (*_BOUNDS, *_LENGTHS):  # the type is right
            return [_problem(error, unset)]
    wanted = [_WANTED.get(e.kind) or str(e.context.get("expected", "another value")) for e in group]
    text = f"expected {join_words(wanted)}, got {show_value(group[0].entry.plain())}"
    return [Problem(group[0].entry.origin, group[0].path, text)]
