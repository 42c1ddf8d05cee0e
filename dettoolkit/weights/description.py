"""What a checkpoint says of itself: checked before anything is made of it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypedDict

import msgspec
from msgspec import Meta
from torch import Tensor

from dettoolkit.weights.read import load_checkpoint
from dettoolkit.weights.translate import StateDict
from dettoolkit.wording import listing

logger = logging.getLogger(__name__)

VERSION = 2
"""Of the description below and of the weights' names; a checkpoint of another one is refused."""


class _Stored(TypedDict, total=False):
    trainer: dict[str, Any]


class Description(TypedDict):
    """What every checkpoint of ours says of itself; `training.prepare.describe` writes it."""

    version: int
    name: Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^/\\\x00]*$")]  # it names a file
    recipe: _Stored
    class_names: Annotated[list[str], Meta(min_length=1)]
    class_ids: list[int]
    versions: dict[str, str]


def read_checkpoint(path: Path) -> tuple[dict[str, Any], StateDict]:
    """Read a checkpoint of ours: its description, and its network's state dict.

    Raises:
        ValueError: a file that does not describe itself, such as a bare state dict, or does so wrongly.
    """
    content = load_checkpoint(path)
    description, state = _description(content, path), content.get("state_dict")
    if description is None or not isinstance(state, dict):
        raise ValueError(
            f"{path} holds no dettoolkit run: its recipe and class names are missing. A bare state dict can "
            "start a training (model.weights=...), and is evaluated by a recipe: see docs/guide.md"
        )
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ValueError(
                f"{path} holds no weights of a run: {name!r} is a {type(value).__name__}, not a tensor"
            )
    return description, {name.removeprefix("network."): value for name, value in state.items()}


def description_of(weights: Path) -> dict[str, Any] | None:
    """Return what a file of weights says of itself; None where it is none of ours, or no file.

    Raises:
        ValueError: it says so wrongly, or in another version.
    """
    return _description(load_checkpoint(weights), weights) if weights.is_file() else None


def warn_of_other_classes(weights: str, names: Sequence[str]) -> None:
    """Warn when a checkpoint of ours was trained on as many classes, but others, taken for these now."""
    description = description_of(Path(weights))
    theirs = list(description["class_names"]) if description is not None else list(names)
    if len(theirs) == len(names) and theirs != list(names):
        logger.warning(
            "%s was trained on the classes %s; its class layers are used for %s, in this order",
            weights,
            listing(theirs),
            listing(names),
        )


def _description(content: Mapping[str, object], path: Path) -> dict[str, Any] | None:
    description = content.get("dettoolkit")
    if not isinstance(description, dict):
        return None
    version = description.get("version", 1)
    if type(version) is int and version != VERSION:
        raise ValueError(
            f"{path} was written by {'an earlier' if version < VERSION else 'a later'} version of dettoolkit "
            f"(checkpoint version {version}, this one reads {VERSION}): train it again, or use that version"
        )
    try:
        checked = msgspec.convert(description, Description)
        names, ids = len(checked["class_names"]), len(checked["class_ids"])
        if names != ids:
            raise ValueError(f"there are {names} class names and {ids} class ids")
    except (ValueError, TypeError, IndexError, RecursionError) as error:  # a tensor answers as a list does
        raise ValueError(
            f"{path} describes itself as no checkpoint of dettoolkit does ({error}): it is damaged or was "
            "changed; give another one"
        ) from None
    return description
