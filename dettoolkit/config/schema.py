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

from dettoolkit.config.errors import (
    Entry,
    Origin,
    Problem,
    below,
    closest,
    did_you_mean,
    join_words,
    not_a_choice,
    one_edit,
)
from dettoolkit.config.recipe import Recipe, any_recipe, recipe_kinds
from dettoolkit.config.sections import Section, Trainer, TrainerExtra

Sections = Sequence[type[Section]]

# Arguments of Lightning's Trainer that the recipe sets, or dettoolkit itself, and what to do instead.
_ALIKE = "accelerator devices max_epochs max_steps num_nodes precision strategy sync_batchnorm"
OWNED = {name: f"set trainer.{name}" for name in _ALIKE.split()} | {
    "accumulate_grad_batches": "set trainer.accumulate",
    "barebones": "dettoolkit always logs and saves; omit it",
    "callbacks": "dettoolkit adds its own callbacks; set trainer.ema or trainer.early_stopping",
    "check_val_every_n_epoch": "set trainer.val_every_epochs",
    "default_root_dir": "set trainer.out",
    "enable_checkpointing": "dettoolkit always saves; set trainer.checkpoint_every_steps",
    "enable_model_summary": "dettoolkit prints its own; omit it",
    "fast_dev_run": "use --check, or set trainer.max_steps to a few",
    "gradient_clip_val": "set trainer.gradient_clip",
    "limit_predict_batches": "dettoolkit predicts without a Trainer; omit it",
    "limit_test_batches": "dettoolkit scores by validating; omit it",
    "limit_val_batches": "a score on some images would not be comparable; set data.val to a smaller set",
    "log_every_n_steps": "set trainer.log_every_steps",
    "logger": "set trainer.loggers",
    "min_epochs": "set trainer.early_stopping.patience",
    "min_steps": "set trainer.early_stopping.patience",
    "model_registry": "checkpoints stay in the run folder; omit it",
    "num_sanity_val_steps": "a score on a few images would count as the best; use --check instead",
    "overfit_batches": "add the overlay overfit.yaml to the command",
    "plugins": "dettoolkit has its own; omit it",
    "reload_dataloaders_every_n_epochs": "the data do not change during a run; omit it",
    "use_distributed_sampler": "dettoolkit has its own samplers; omit it",
    "val_check_interval": "set trainer.val_every_epochs",
}


def members(annotation: Any) -> list[Any]:
    """Return what a type allows: the members of a union, without their metadata."""
    if get_origin(annotation) is Annotated:
        return members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [member for part in get_args(annotation) for member in members(part)]
    return [annotation]


def sections(annotation: Any) -> list[type[Section]]:
    """Return the sections that a type allows."""
    return [each for each in members(annotation) if isinstance(each, type) and issubclass(each, Section)]


def type_names(*classes: type[Section]) -> list[str]:
    """Return the values of `type` that choose one of these sections; those without such a key have none."""
    kinds = [field.annotation for field in _fields(classes, "type")]
    return [name for kind in kinds if get_origin(kind) is Literal for name in get_args(kind)]


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
    """Walk a merged recipe along the schema."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []  # unknown keys
        self.unset: dict[str, Origin] = {}  # keys to which a later null gave their default back
        self.fields: dict[str, FieldInfo] = {}  # by dotted key, of the sections that are there
        self.recipe: type[Section] = any_recipe()  # the task's, once the model's type has told it

    def clean(self, root: Entry) -> Entry:
        """Return the recipe without unknown keys, leftovers of another variant and keys that are unset."""
        kinds, tag = recipe_kinds(), None
        if isinstance(root.value, dict) and "model" in root.value:
            models = sections(self.recipe.model_fields["model"].annotation)
            model, tag = self._typed(root.value["model"], "model", models)
            root = replace(root, value={**root.value, "model": model})
        chosen = [kind for kind in kinds if tag and tag.value in type_names(*_nested([kind], "model"))]
        self.recipe = chosen[0] if chosen else self.recipe
        self.fields |= self.recipe.model_fields
        others = [kind for kind in kinds if chosen and kind not in chosen]
        return self._section(root, "", chosen or kinds, others, tag.switched if chosen and tag else None)

    def clean_as(self, root: Entry, section: type[Section]) -> Entry:
        """Return a tree that is to become a section of its own, not a recipe, without unknown keys."""
        self.recipe = section
        self.fields |= section.model_fields
        return self._section(root, "", [section], (), None)

    def _section(
        self, entry: Entry, path: str, classes: Sections, others: Sections, switched: int | None
    ) -> Entry:
        """Clean one mapping.

        ``classes`` are the sections it may be, ``others`` those it is not because of a `type` here or above,
        ``switched`` the layer that chose that type, when an earlier one had chosen another.
        """
        entry, tag = self._typed(entry, path, classes)
        if not isinstance(entry.value, dict):
            return entry  # pydantic says what was wanted
        chosen = [each for each in classes if tag and tag.value in type_names(each)] or classes
        if len(chosen) < len(classes):
            others = [*others, *(each for each in classes if each not in chosen)]
            switched = tag.switched if tag and tag.switched is not None else switched
        for section in chosen:
            for name, field in section.model_fields.items():
                self.fields.setdefault(below(path, name), field)
        cleaned: dict[str, Entry] = {}
        for key, child in self._known(entry.value, path, chosen, others, switched).items():
            here, fields = below(path, key), _fields(chosen, key)
            null = child.value is None and not child.guessed and child.origin.layer > 0
            if null and not any(NoneType in members(field.annotation) for field in fields):
                self.unset[here] = child.origin
                continue
            if nested := _nested(chosen, key):
                rest = [section for section in _nested(others, key) if section not in nested]
                child = _with_default(self._section(child, here, nested, rest, switched), fields)
            elif isinstance(child.value, list) and (nested := _items(fields)):
                items = [
                    self._section(item, f"{here}[{i}]", nested, (), None)
                    for i, item in enumerate(child.value)
                ]
                child = replace(child, value=items)
            cleaned[key] = child
        return replace(entry, value=cleaned)

    def _typed(self, entry: Entry, path: str, classes: Sections) -> tuple[Entry, Entry | None]:
        """Return a mapping and its `type`, if that chooses among sections; a misspelled one is put right."""
        mapping = entry.value
        if len(classes) < 2 or not isinstance(mapping, dict):
            return entry, None
        similar = (key for key in mapping if not _fields(classes, key) and one_edit(key, "type"))
        key = "type" if "type" in mapping else next(similar, "")
        if key not in mapping:
            return entry, None
        tag, names = mapping[key], type_names(*classes)
        near = closest(tag.value, names) if isinstance(tag.value, str) and tag.value not in names else []
        if len(near) == 1:
            self.problems.append(Problem(tag.origin, f"{path}.type", not_a_choice(tag.value, names)))
            tag = replace(tag, value=near[0])
        return replace(entry, value={**mapping, key: tag}), tag

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


def _fields(classes: Sections, key: str) -> list[FieldInfo]:
    return [section.model_fields[key] for section in classes if key in section.model_fields]


def _nested(classes: Sections, key: str) -> list[type[Section]]:
    return [section for field in _fields(classes, key) for section in sections(field.annotation)]


def _items(fields: Sequence[FieldInfo]) -> list[type[Section]]:
    """Return the sections that the items of a list may be."""
    lists = [each for field in fields for each in members(field.annotation) if get_origin(each) is list]
    return [section for each in lists for section in sections(get_args(each)[0])]


def _with_default(entry: Entry, fields: Sequence[FieldInfo]) -> Entry:
    """Return a section completed from the schema's default for it, where that is of this section's own."""
    default = fields[0].default
    if not isinstance(default, Section) or not isinstance(entry.value, dict):
        return entry
    if "type" in entry.value and entry.value["type"].value != getattr(default, "type", None):
        return entry
    whole = {key: Entry(value, entry.origin) for key, value in default.model_dump(mode="json").items()}
    return replace(entry, value=whole | entry.value)


def _latest(entry: Entry) -> int:
    """Return the last layer that set anything in this entry."""
    children = entry.value.values() if isinstance(entry.value, dict) else ()
    return max([entry.origin.layer, *map(_latest, children)])


def _explain(key: str, path: str, chosen: Sections, others: Sections) -> tuple[list[str], str]:
    """Return the keys that an unknown one may stand for, and what to say about it."""
    if TrainerExtra in chosen and key in OWNED:
        return [], f"cannot be set here: {OWNED[key]}"
    having = [section for section in others if key in section.model_fields]
    owners, mine = type_names(*having), type_names(*chosen)
    if owners and mine and not set(owners) & set(mine):
        types, own = (join_words([repr(name) for name in names]) for names in (owners, mine))
        return [], f"a key of type {types}, not of {own}"
    if having:
        return [], "not a key of this model.type, but of another one"
    names = list(dict.fromkeys(name for section in chosen for name in section.model_fields))
    near = closest(key, names)
    if not (near and one_edit(key, near[0])):
        if Trainer in chosen and key in OWNED:
            elsewhere = [word for word in OWNED[key].split() if word.startswith("trainer.")]
        else:
            elsewhere = key_paths(any_recipe()).get(key, [])
        if 0 < len(elsewhere) <= 2:
            return [], f"unknown key here{did_you_mean(elsewhere)}"
    if near:
        return near, f"unknown key{did_you_mean(near)}"
    return [], f"unknown key; {path or 'the recipe'} has {join_words(names, 'and')}"
