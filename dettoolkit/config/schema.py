"""The recipe's keys, checked against the schema before pydantic sees any value.

Pydantic could refuse unknown keys too, but here they are met while it is known which layer they come from and
which variant of a section (a loss, a model) is meant. A misspelled key is taken for the one it resembles, so
the checks that follow see what lies below it and no key is called missing that is only misspelled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from dettoolkit.config.entries import Entry, below, entry_from
from dettoolkit.config.errors import (
    Origin,
    Problem,
    closest,
    did_you_mean,
    join_words,
    not_a_choice,
    one_edit,
)
from dettoolkit.config.recipe import Recipe, any_recipe, recipe_kinds
from dettoolkit.config.sections import Section, Trainer, TrainerExtra
from dettoolkit.config.trainer_arguments import OWNED

Sections = Sequence[type[Section]]


def members(annotation: Any) -> list[Any]:
    """Return what a type allows: the members of a union, without their metadata."""
    if get_origin(annotation) is Annotated:
        return members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [member for part in get_args(annotation) for member in members(part)]
    return [annotation]


def sections(annotation: Any) -> list[type[Section]]:
    """Return the sections that a type allows."""
    return [
        member for member in members(annotation) if isinstance(member, type) and issubclass(member, Section)
    ]


def type_names(*classes: type[Section]) -> list[str]:
    """Return the values of `type` that choose one of these sections; those without such a key have none."""
    fields = [section.model_fields["type"] for section in classes if "type" in section.model_fields]
    kinds = [field.annotation for field in fields if get_origin(field.annotation) is Literal]
    return [name for kind in kinds for name in get_args(kind)]


@cache
def key_paths(recipe: type[Recipe]) -> dict[str, list[str]]:
    """Return every key of a schema with the dotted paths at which it exists."""
    paths: dict[str, list[str]] = {}

    def walk(section: type[Section], above: str) -> None:
        for name, field in section.model_fields.items():
            here = f"{above}{name}"
            if here not in paths.setdefault(name, []):
                paths[name].append(here)
            for nested in sections(field.annotation):
                walk(nested, f"{here}.")

    walk(recipe, "")
    return paths


class KeyCheck:
    """Walk a merged recipe along the schema.

    ``problems`` holds the unknown keys; ``unset`` the dotted keys that a later layer set to null where the
    schema has no null, so that their default applies, with the origin of the null; ``recipe`` the task's kind
    of recipe, which the model's type decides: `any_recipe()` where that says nothing.
    """

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.unset: dict[str, Origin] = {}
        self.recipe: type[Recipe] = any_recipe()

    def clean(self, root: Entry) -> Entry:
        """Return the recipe without unknown keys, leftovers of another variant and keys that are unset."""
        kinds = recipe_kinds()
        tag = None
        if isinstance(root.value, dict) and "model" in root.value:
            model = root.value["model"]
            if isinstance(model.value, dict):
                classes = sections(any_recipe().model_fields["model"].annotation)
                entries = self._right_type(model.value, "model", classes)
                root = replace(root, value={**root.value, "model": replace(model, value=entries)})
                tag = entries.get(_type_key(entries, classes))
        chosen = [kind for kind in kinds if tag and tag.value in _model_types(kind)]
        if not chosen or tag is None:
            return self._section(root, "", kinds, [], None)
        self.recipe = chosen[0]
        others = [kind for kind in kinds if kind not in chosen]
        return self._section(root, "", chosen, others, tag.switched)

    def _section(
        self, entry: Entry, path: str, classes: Sections, others: Sections, switched: int | None
    ) -> Entry:
        """Clean one mapping.

        ``classes`` are the sections it may be, ``others`` those it is not because of a `type` here or above,
        ``switched`` the layer that chose that type, when an earlier one had chosen another.
        """
        if not isinstance(entry.value, dict):
            return entry  # pydantic says what was wanted
        entries = self._right_type(entry.value, path, classes)
        tag = entries.get(_type_key(entries, classes))
        chosen = [c for c in classes if tag and tag.value in type_names(c)] or classes
        if len(chosen) < len(classes):
            others = [*others, *(c for c in classes if c not in chosen)]
            switched = tag.switched if tag and tag.switched is not None else switched
        cleaned: dict[str, Entry] = {}
        for key, child in self._known(entries, path, chosen, others, switched).items():
            here, fields = below(path, key), _fields(chosen, key)
            null = child.value is None and not child.guessed
            if null and child.origin.layer > 0 and not any(map(_allows_null, fields)):
                self.unset[here] = child.origin
                continue
            if nested := _nested(chosen, key):
                rest = [section for section in _nested(others, key) if section not in nested]
                child = _with_default(self._section(child, here, nested, rest, switched), fields)
            cleaned[key] = child
        return replace(entry, value=cleaned)

    def _right_type(self, mapping: dict[str, Entry], path: str, classes: Sections) -> dict[str, Entry]:
        """Return the mapping with a misspelled type put right and reported, so that its keys are checked."""
        key, names = _type_key(mapping, classes), type_names(*classes)
        value = mapping[key].value if key in mapping else None
        near = closest(value, names) if isinstance(value, str) and value not in names else []
        if len(near) != 1:
            return mapping
        self.problems.append(Problem(mapping[key].origin, f"{path}.type", not_a_choice(value, names)))
        return {**mapping, key: replace(mapping[key], value=near[0])}

    def _known(
        self, mapping: dict[str, Entry], path: str, chosen: Sections, others: Sections, switched: int | None
    ) -> dict[str, Entry]:
        """Return the keys that the chosen sections have; report the rest, with misspelled ones put right."""
        known: dict[str, Entry] = {}
        for key, child in mapping.items():
            if _fields(chosen, key):
                known[key] = child
                continue
            if switched is not None and _fields(others, key) and _latest(child) < switched:
                continue  # it belongs to the variant that an earlier layer had chosen
            near, text = _explain(key, path, chosen, others)
            self.problems.append(Problem(child.origin, below(path, key), text))
            if len(near) == 1 and near[0] not in mapping and near[0] not in known and child.value is not None:
                known[near[0]] = replace(child, guessed=child.guessed or not one_edit(key, near[0]))
        return known


def _model_types(recipe: type[Recipe]) -> list[str]:
    return type_names(*sections(recipe.model_fields["model"].annotation))


def _fields(classes: Sections, key: str) -> list[FieldInfo]:
    return [section.model_fields[key] for section in classes if key in section.model_fields]


def _nested(classes: Sections, key: str) -> list[type[Section]]:
    return [section for field in _fields(classes, key) for section in sections(field.annotation)]


def _allows_null(field: FieldInfo) -> bool:
    return any(member in (NoneType, None, Any) for member in members(field.annotation))


def _with_default(entry: Entry, fields: list[FieldInfo]) -> Entry:
    """Return a section completed from the schema's default for it, where that is of this section's own."""
    default = fields[0].default
    if not isinstance(default, Section) or not isinstance(entry.value, dict):
        return entry
    values = default.model_dump(mode="json")
    whole = {key: entry_from(value, entry.origin, key, []) for key, value in values.items()}
    return replace(entry, value=whole | entry.value)


def _latest(entry: Entry) -> int:
    """Return the last layer that set anything in this entry."""
    children = entry.value.values() if isinstance(entry.value, dict) else ()
    return max([entry.origin.layer, *map(_latest, children)])


def _type_key(mapping: dict[str, Entry], classes: Sections) -> str:
    """Return the key that chooses among several sections: `type`, also misspelled; '' when there is none."""
    if len(classes) < 2 or "type" in mapping:
        return "type" if len(classes) > 1 else ""
    return next((key for key in mapping if not _fields(classes, key) and one_edit(key, "type")), "")


def _explain(key: str, path: str, chosen: Sections, others: Sections) -> tuple[list[str], str]:
    """Return the keys that an unknown one may stand for, and what to say about it."""
    if TrainerExtra in chosen and key in OWNED:
        return [], f"not to be set here: {OWNED[key]}"
    having = [section for section in others if key in section.model_fields]
    owners, mine = type_names(*having), type_names(*chosen)
    if having and (not owners or set(owners) & set(mine)):
        return [], "not a key with this model.type; with another it is"
    if owners and mine:
        types, own = (join_words([repr(name) for name in names]) for names in (owners, mine))
        return [], f"a key of type {types}, not of {own}"
    names = list(dict.fromkeys(name for section in chosen for name in section.model_fields))
    near = closest(key, names)
    if not (near and one_edit(key, near[0])) and (elsewhere := _elsewhere(key, chosen)):
        return [], f"unknown key here{did_you_mean(elsewhere)}"
    if near:
        return near, f"unknown key{did_you_mean(near)}"
    return [], f"unknown key; {path or 'the recipe'} has {join_words(names, 'and')}"


def _elsewhere(key: str, chosen: Sections) -> list[str]:
    """Return the paths of the key in other sections, or of what the Trainer calls by this name."""
    if Trainer in chosen and key in OWNED:
        return [word for word in OWNED[key].split() if word.startswith("trainer.")]
    paths = key_paths(any_recipe()).get(key, [])
    return paths if len(paths) <= 2 else []
