"""Pydantic's errors about a recipe, in plain words and at the line where the value was written."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from dettoolkit.config.errors import (
    Entry,
    Problem,
    below,
    closest,
    did_you_mean,
    join_words,
    not_a_choice,
    show_value,
)
from dettoolkit.config.recipe import Recipe, recipe_kinds
from dettoolkit.config.schema import KeyCheck, members, sections, type_names
from dettoolkit.config.sections import PATTERNS, Section
from dettoolkit.config.yaml12 import scalar_value

_WANTED = {
    "int_type": "an integer",
    "int_parsing_size": "a smaller integer",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    **dict.fromkeys(("list_type", "tuple_type"), "a list"),
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "a mapping (key: value lines)"),
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
    detail: ErrorDetails
    path: str
    keys: tuple[str, ...]  # path of the innermost mapping's key
    entry: Entry  # where the value is missing: what should hold it
    field: FieldInfo | None
    union: str  # path of the union of plain types that the value may be, '' outside one
    depth: int  # parts of the path below that union


def validate(root: Entry, keys: KeyCheck, *, complete: bool) -> tuple[Recipe | None, list[Problem]]:
    """Build a Recipe from a tree that `keys` has cleaned, or return everything that is wrong with it.

    When the tree is not `complete`, missing keys and contradictions are not reported. Where the task is not
    known, few mistakes in the data can be.
    """
    section, errors = _validate(root, keys, root.plain())
    recipe = section if isinstance(section, Recipe) else None
    if keys.recipe not in recipe_kinds():
        known = ("model", "optim", "trainer")
        errors = [error for error in errors if error.path == "data" or error.keys[0] in known]
    if not complete:  # a layer that could not be read may have put these right
        put_right = ("missing", "union_tag_not_found", "value_error")
        errors = [error for error in errors if error.kind not in put_right]
    problems = _told(errors, keys)
    wrong = [error for error in errors if error.kind != "value_error"]
    if complete and wrong:
        problems += _hidden_contradictions(root, keys, wrong)
    return recipe, problems


def validate_section(root: Entry, keys: KeyCheck) -> tuple[Section | None, list[Problem]]:
    """Build the section for which `keys` has cleaned a tree, or return everything that is wrong with it."""
    section, errors = _validate(root, keys, root.plain())
    return section, _told(errors, keys)


def _told(errors: Sequence[_Error], keys: KeyCheck) -> list[Problem]:
    """Return errors in plain words, but those of values about which a problem is reported already."""
    told = [error for error in errors if error.kind == "missing" or not error.entry.guessed]
    problems = [_problem(error, keys) for error in told if not error.union]
    for union in dict.fromkeys(error.union for error in told if error.union):
        problems += _union_problems([error for error in told if error.union == union], keys)
    return problems


def _validate(root: Entry, keys: KeyCheck, values: object) -> tuple[Section | None, list[_Error]]:
    try:
        return keys.recipe.model_validate(values), []
    except ValidationError as error:
        return None, [_locate(root, keys, detail) for detail in error.errors(include_url=False)]


def _hidden_contradictions(root: Entry, keys: KeyCheck, wrong: Sequence[_Error]) -> list[Problem]:
    """Return the contradictions that pydantic does not look for where a value of the section is wrong.

    They are looked for without the wrong values; one that names such a key waits until its value is right.
    """
    values = root.plain()
    for error in wrong:
        section: Any = values
        for key in error.keys[:-1]:
            section = section.get(key) if isinstance(section, dict) else None
        if isinstance(section, dict):
            section.pop(error.keys[-1], None)
    names = {error.keys[-1] for error in wrong}
    found = [_problem(each, keys) for each in _validate(root, keys, values)[1] if each.kind == "value_error"]
    return [problem for problem in found if not names & set(re.findall(r"\w+", problem.text))]


def _locate(root: Entry, check: KeyCheck, detail: ErrorDetails) -> _Error:
    """Return an error with its place; pydantic's location also names the member of a union that was tried."""
    kind, entry, path, union, depth = detail["type"], root, "", "", 0
    keys: tuple[str, ...] = ()
    for number, part in enumerate(detail["loc"], start=1):
        child, tag = _child(entry, part), _child(entry, "type")
        if child is None and not (kind == "missing" and number == len(detail["loc"])):
            union = union if tag is not None and tag.value == part else path
            continue
        entry = child or entry
        depth += bool(union)
        path = f"{path}[{part}]" if isinstance(part, int) else below(path, part)
        keys += (part,) if isinstance(part, str) else ()
    field = check.fields.get(path.rpartition("[")[0] if path.endswith("]") else path)
    return _Error(kind, detail, path, keys, entry, field, union, depth)


def _child(entry: Entry, part: int | str) -> Entry | None:
    value = entry.value
    if isinstance(value, dict):
        return value.get(str(part))
    return value[part] if isinstance(value, list) and isinstance(part, int) and part < len(value) else None


def _problem(error: _Error, keys: KeyCheck) -> Problem:
    """Return one error in plain words."""
    entry, path, field = error.entry, error.path, error.field
    origin, value = entry.origin, entry.plain()
    match error.kind:
        case "missing" if path.endswith("]"):  # a list that is too short for a tuple
            path = path.rpartition("[")[0]
            wanted = len(get_args(members(keys.fields[path].annotation)[0]))
            text = f"expected {wanted} values, got {_length(entry)}"
        case "missing" if path in keys.unset:
            origin, text = keys.unset[path], "cannot be unset: it has no default"
        case "missing":
            text = f"missing; required{_purpose(field)}"
        case "union_tag_not_found" if isinstance(value, dict):
            path = f"{path}.type"
            text = f"missing; choose {join_words([repr(choice) for choice in _choices(field)])}"
        case "union_tag_invalid":
            chosen = _child(entry, "type") or entry
            origin, path, text = chosen.origin, f"{path}.type", not_a_choice(chosen.plain(), _choices(field))
        case "literal_error":
            text = not_a_choice(value, _choices(field))
        case "value_error":
            path, text = path or "recipe", str(error.detail["ctx"]["error"])
        case _:
            text = _expected(error)
    return Problem(origin, path, text)


def _expected(error: _Error) -> str:
    """Return what was wanted and what came, for wrong types, bounds and lengths."""
    kind, context, value = error.kind, error.detail.get("ctx", {}), error.entry.plain()
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
    message = error.detail["msg"]
    return f"{message[:1].lower()}{message[1:]}, got {show_value(value)}"


def _hint(kind: str, value: object) -> str:
    """Return the explanation of text that looks like another type."""
    if not isinstance(value, str):
        return ""
    if kind == "bool_type" and value.lower() in ("yes", "no", "on", "off", "y", "n"):
        return " (YAML 1.2 has only true and false)"
    quoted = kind in ("int_type", "float_type", "bool_type") and not isinstance(
        scalar_value(value), str | None
    )
    return " (remove the quotes)" if quoted else ""


def _length(entry: Entry) -> int:
    return len(entry.value) if isinstance(entry.value, list | dict) else 1


def _purpose(field: FieldInfo | None) -> str:
    """Return what a missing key is for, in the schema's own words."""
    kinds = sections(field.annotation) if field else []
    words = field.description if field else None
    if not words and len(kinds) == 1:
        words = (inspect.getdoc(kinds[0]) or "").partition("\n")[0]
    return f": {' '.join(words.split()).rstrip('.')}" if words else ""


def _choices(field: FieldInfo | None) -> Sequence[str | int]:
    """Return the values of a Literal, of a list's items too, or the types of the sections a field may be."""
    options = members(field.annotation) if field else []
    options += [item for each in options if get_origin(each) is list for item in members(get_args(each)[0])]
    literals = [value for option in options if get_origin(option) is Literal for value in get_args(option)]
    return literals or type_names(*sections(field and field.annotation))


def _union_problems(group: Sequence[_Error], keys: KeyCheck) -> list[Problem]:
    """Return one problem where pydantic says why each member of a union of plain types does not fit."""
    deepest = max(error.depth for error in group)
    if deepest > 0 or len(group) == 1:  # a list was meant: only what is wrong inside it matters
        return [_problem(error, keys) for error in group if error.depth == deepest]
    for error in group:
        if error.kind in (*_BOUNDS, *_LENGTHS):  # the type is right
            return [_problem(error, keys)]
    wanted = [
        _WANTED.get(e.kind) or str(e.detail.get("ctx", {}).get("expected", "another value")) for e in group
    ]
    value, names = (
        group[0].entry.plain(),
        [each for each in _choices(group[0].field) if isinstance(each, str)],
    )
    near = closest(value, names) if isinstance(value, str) else []
    text = f"expected {join_words(wanted)}, got {show_value(value)}{did_you_mean(near)}"
    return [Problem(group[0].entry.origin, group[0].path, text)]
