"""Pydantic's verdict on a recipe, said in plain words at the line where the value was written."""

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
from dettoolkit.config.entries import Entry
from dettoolkit.config.errors import (
    Origin,
    Problem,
    closest,
    did_you_mean,
    join_words,
    not_a_choice,
    show_got,
    show_value,
)
from dettoolkit.config.recipe import Recipe, recipe_kinds
from dettoolkit.config.schema import members, sections, type_names
from dettoolkit.config.sections import Section
from dettoolkit.config.yaml12 import scalar_value

_WANTED = {
    "int_type": "an integer",
    "int_parsing_size": "a smaller integer",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping (key: value lines)",
    "model_type": "a mapping (key: value lines)",
    "model_attributes_type": "a mapping (key: value lines)",
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
class _Place:
    """Where an error of pydantic's lies in the recipe."""

    path: str
    entry: Entry | None  # None where the value is missing
    above: Entry  # the entry that holds it, or should
    field: FieldInfo | None
    union: str  # path of the union of plain types that the value may be, '' outside one
    depth: int  # parts of the path below that union
    names: tuple[str, ...]  # the keys that the section around it has
    keys: tuple[str, ...]  # path of the innermost mapping's key


# what a layer that could not be read may have put right
_INCOMPLETE = frozenset({"missing", "union_tag_not_found", "value_error"})


def validate(
    root: Entry, unset: Mapping[str, Origin], *, complete: bool, kind: type[Recipe]
) -> tuple[Recipe | None, list[Problem]]:
    """Make a Recipe from a cleaned tree, or say everything that is wrong with it.

    `unset` tells which override or overlay took away a key that is now missing; when the tree is not
    `complete`, nothing is said about missing keys and contradictions. `kind` is the task's kind of recipe;
    `any_recipe()` where the task is not known: then little can be said of the data.
    """
    recipe, errors = _errors(root, kind)
    if kind not in recipe_kinds():
        known = ("model", "optim", "trainer")
        errors = [(p, d) for p, d in errors if d["loc"] == ("data",) or d["loc"][0] in known]
    if not complete:
        errors = [(place, detail) for place, detail in errors if detail["type"] not in _INCOMPLETE]
    problems: list[Problem] = []
    unions: dict[str, list[tuple[_Place, ErrorDetails]]] = {}
    for place, detail in errors:
        if place.entry is not None and place.entry.guessed:
            continue
        if place.union:
            unions.setdefault(place.union, []).append((place, detail))
        else:
            problems.append(_problem(place, detail, unset))
    for group in unions.values():
        problems += _union_problems(group, unset)
    if complete:
        problems += _hidden_contradictions(
            root, kind, [place for place, detail in errors if detail["type"] != "value_error"], unset
        )
    return recipe, problems


def _errors(root: Entry, kind: type[Recipe]) -> tuple[Recipe | None, list[tuple[_Place, ErrorDetails]]]:
    try:
        return kind.model_validate(root.plain()), []
    except ValidationError as error:
        details = error.errors(include_url=False)
        return None, [(_locate(root, kind, detail["loc"]), detail) for detail in details]


def _hidden_contradictions(
    root: Entry, kind: type[Recipe], wrong: list[_Place], unset: Mapping[str, Origin]
) -> list[Problem]:
    """Find contradictions that pydantic does not look for in a section as long as a value in it is wrong.

    They are looked for without the wrong values; one that names such a key waits until its value is right.
    """
    if not wrong:
        return []
    for place in wrong:
        if place.entry is not None and place.keys:
            root = _without(root, place.keys)
    names = {place.keys[-1] for place in wrong if place.keys}
    contradictions = [_problem(p, d, unset) for p, d in _errors(root, kind)[1] if d["type"] == "value_error"]
    return [c for c in contradictions if not names & set(re.findall(r"\w+", c.text))]


def _without(entry: Entry, keys: Sequence[str]) -> Entry:
    """Leave the value at this path out."""
    if not isinstance(entry.value, dict) or keys[0] not in entry.value:
        return entry
    rest = {key: child for key, child in entry.value.items() if key != keys[0]}
    if len(keys) > 1:
        rest[keys[0]] = _without(entry.value[keys[0]], keys[1:])
    return replace(entry, value=rest)


def _locate(root: Entry, kind: type[Recipe], loc: Sequence[int | str]) -> _Place:
    """Follow pydantic's location, which also names the member of a union that was tried."""
    annotation: Any = kind
    entry: Entry | None = root
    above, path, union, depth = root, "", "", 0
    field: FieldInfo | None = None
    names: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    for part in loc:
        options = [member for member in members(annotation) if member is not NoneType]
        if len(options) > 1:
            chosen = [
                o for o in options if inspect.isclass(o) and issubclass(o, Section) and part in type_names(o)
            ]
            annotation = chosen[0] if chosen else None
            union = union if chosen else path
            continue
        above, entry = entry or above, _child(entry, part)
        depth += bool(union)
        keys += (part,) if isinstance(part, str) else ()
        path = f"{path}[{part}]" if isinstance(part, int) else f"{path}.{part}" if path else part
        only = options[0] if options else None
        if inspect.isclass(only) and issubclass(only, Section):
            field, names = only.model_fields.get(str(part)), tuple(only.model_fields)
            annotation = field.annotation if field else None
        else:
            arguments = get_args(only)
            annotation = arguments[-1] if arguments and get_origin(only) in (list, dict) else None
    return _Place(path, entry, above, field, union, depth, names, keys)


def _child(entry: Entry | None, part: int | str) -> Entry | None:
    value = entry.value if entry is not None else None
    if isinstance(value, dict):
        return value.get(str(part))
    if isinstance(value, list) and isinstance(part, int) and part < len(value):
        return value[part]
    return None


def _problem(place: _Place, detail: ErrorDetails, unset: Mapping[str, Origin]) -> Problem:
    """Describe one error in plain words."""
    kind, context = detail["type"], detail.get("ctx", {})
    entry, path = place.entry or place.above, place.path
    origin = entry.origin
    if kind == "missing" and isinstance(detail["loc"][-1], int):  # a list that is too short for a tuple
        path = path.rpartition("[")[0]
        text = f"expected {_tuple_length(place.field)} values, got {_length(place.above)}"
    elif kind == "missing":
        origin = unset.get(path, origin)
        text = "cannot be unset: it has no default" if path in unset else f"missing{_purpose(place.field)}"
    elif kind == "union_tag_not_found":
        path = f"{path}.type" if isinstance(entry.value, dict) else path
        text = (
            f"missing; choose {join_words([repr(c) for c in _choices(place.field)])}"
            if path.endswith(".type")
            else _expected(detail, entry)
        )
    elif kind == "union_tag_invalid":
        chosen = _child(entry, "type") or entry
        origin, path = chosen.origin, f"{path}.type"
        text = not_a_choice(chosen.plain(), _choices(place.field))
    elif kind == "literal_error":
        text = not_a_choice(entry.plain(), _choices(place.field))
    elif kind == "value_error":
        text = str(context["error"])
        path = path or "recipe"
    elif kind == "extra_forbidden":
        text = f"unknown key{did_you_mean(closest(str(detail['loc'][-1]), place.names))}"
    else:
        text = _expected(detail, entry)
    return Problem(origin, path, text)


def _expected(detail: ErrorDetails, entry: Entry) -> str:
    """Return what was wanted and what came, for wrong types, bounds and lengths."""
    kind, context, value = detail["type"], detail.get("ctx", {}), entry.plain()
    if kind in _WANTED:
        return f"expected {_WANTED[kind]}, got {show_got(value)}{_hint(kind, value)}"
    if kind in _BOUNDS:
        word, key = _BOUNDS[kind]
        return f"must be {word} {_number(context[key])}, got {show_value(value)}"
    if kind == "string_pattern_mismatch":
        return f"expected {PATTERNS[context['pattern']]}, got {show_value(value)}"
    if kind in _LENGTHS:
        bound = context.get("min_length", context.get("max_length"))
        word = "" if context.get("field_type") == "Tuple" else _LENGTHS[kind]
        return f"expected {word}{bound} value{'s' if bound != 1 else ''}, got {_length(entry)}"
    message = detail["msg"]
    return f"{message[:1].lower()}{message[1:]}, got {show_got(value)}"


def _hint(kind: str, value: object) -> str:
    """Explain text that looks like another type."""
    if not isinstance(value, str):
        return ""
    if kind == "bool_type" and value.lower() in ("yes", "no", "on", "off", "y", "n"):
        return " (YAML 1.2 has only true and false)"
    if kind in ("int_type", "float_type", "bool_type") and not isinstance(scalar_value(value), str | None):
        return " (remove the quotes)"
    return ""


def _number(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _length(entry: Entry) -> int:
    return len(entry.value) if isinstance(entry.value, list | dict) else 1


def _tuple_length(field: FieldInfo | None) -> int:
    return len(get_args(members(field.annotation)[0])) if field else 0


def _purpose(field: FieldInfo | None) -> str:
    """Return what a missing key is for, by the schema's own words."""
    if field is None:
        return ""
    if field.description:
        return f"; it is needed: {field.description.rstrip('.')}"
    docs = [
        inspect.getdoc(s) or ""
        for s in members(field.annotation)
        if inspect.isclass(s) and issubclass(s, Section)
    ]
    return (
        f"; it is needed: {docs[0].splitlines()[0].rstrip('.')}"
        if len(docs) == 1 and docs[0]
        else "; it is needed"
    )


def _choices(field: FieldInfo | None) -> list[str | int]:
    """List the values of a Literal, or the types of the sections that a field may be."""
    options = members(field.annotation) if field else []
    literals = [value for option in options if get_origin(option) is Literal for value in get_args(option)]
    return literals or [
        name for each in sections(field.annotation if field else None) for name in type_names(each)
    ]


def _union_problems(group: list[tuple[_Place, ErrorDetails]], unset: Mapping[str, Origin]) -> list[Problem]:
    """Describe one thing where pydantic says why each member of a union of plain types does not fit."""
    deepest = max(place.depth for place, _ in group)
    if deepest > 0:  # a list was meant: only what is wrong inside it matters
        return [_problem(place, detail, unset) for place, detail in group if place.depth == deepest]
    bounds = [pair for pair in group if pair[1]["type"] in (*_BOUNDS, *_LENGTHS)]
    if bounds:  # the type is right
        return [_problem(*bounds[0], unset)]
    place, entry = group[0][0], group[0][0].entry or group[0][0].above
    wanted = [
        _WANTED.get(d["type"]) or str(d.get("ctx", {}).get("expected", "another value")) for _, d in group
    ]
    return [
        Problem(entry.origin, place.path, f"expected {join_words(wanted)}, got {show_got(entry.plain())}")
    ]
