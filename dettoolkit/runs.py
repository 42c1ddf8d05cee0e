"""A run's folder: made once, never overwritten, found again by its path."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, TypedDict

import msgspec
from msgspec import Meta
from torch import Tensor

from dettoolkit.backbones.pretrained import load_checkpoint
from dettoolkit.config import RecipeError
from dettoolkit.config.yaml12 import write_lines
from dettoolkit.engines import FORMATS

CONFIG = "config.yaml"


class _Stored(TypedDict, total=False):
    trainer: dict[str, Any]


class Description(TypedDict):
    """What every checkpoint of ours says of itself, and what is relied on; see `builders.run.describe`."""

    name: Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^/\\\x00]*$")]  # it names a file
    recipe: _Stored
    class_names: Annotated[list[str], Meta(min_length=1)]
    category_ids: list[int]
    versions: dict[str, str]


# Where launchers tell a process its number: torchrun, Lightning (NODE_RANK is the user's there), SLURM.
RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")


class Interrupted(KeyboardInterrupt):
    """The user, or a scheduler, ended a run; the message says how to go on."""


def is_first_process() -> bool:
    """Say whether this process is the one that prints and writes, before Lightning knows."""
    return all(os.environ.get(name, "0") in ("", "0") for name in RANKS)


def new_run_dir(out: Path, name: str) -> Path:
    """Make `<out>/<name>/<time>`; a number is added where that exists."""
    return _new_dir(out / name / datetime.now().strftime("%Y-%m-%d_%H-%M-%S"), remedy="set trainer.out")


def new_evaluation_dir(base: Path) -> Path:
    """Make `<base>/evaluation`, or `evaluation_2` and so on where that exists."""
    return _new_dir(base / "evaluation", remedy="give one by --out")


def check_free(out: Path) -> None:
    """Refuse a destination that has something in it, before any work.

    Raises:
        FileExistsError: it has.
    """
    if is_first_process() and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(
            f"{out} is there already, and is not overwritten: name another folder with --out"
        )


def _new_dir(wanted: Path, *, remedy: str) -> Path:
    """Make a folder of its own; processes other than the first make none and are told of it later."""
    if not is_first_process():
        return wanted
    for number in range(1, 10_000):
        folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}_{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise FileExistsError(f"{wanted} and 9999 numbered ones exist already: remove some, or {remedy}")


def checkpoint_of(run: Path, *, names: tuple[str, ...]) -> Path:
    """Find the checkpoint that a path means: the file itself, or the first of `names` in a run's folder.

    Raises:
        FileNotFoundError: there is none; the message lists the runs near by.
        ValueError: an exported file.
    """
    if run.is_file():
        if run.suffix.lower() in FORMATS:
            raise ValueError(
                f"{run} is an exported file, and a checkpoint is wanted: give the run that it was made from. "
                "What the file itself scores is measured by 'dettoolkit export RUN --metric'"
            )
        return run
    for name in names:
        path = run / "checkpoints" / f"{name}.ckpt"
        if path.is_file():
            return path
    near = sorted({path.parent.parent for path in run.glob("**/checkpoints/*.ckpt")}, reverse=True)[:5]
    if not near:
        near = sorted({path.parent.parent for path in Path("runs").glob("**/checkpoints/*.ckpt")})[-5:]
    listing = "; runs with checkpoints: " + ", ".join(map(str, near)) if near else ""
    wanted = " or ".join(f"checkpoints/{name}.ckpt" for name in names)
    raise FileNotFoundError(f"{run} is neither a checkpoint nor a run's folder with {wanted}{listing}")


def read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a checkpoint of ours: its description (recipe, class names, versions) and its state dict.

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
    return description, state


def description_of(weights: Path) -> dict[str, Any] | None:
    """Give what a file of weights says of itself; None where it is none of ours, or no file.

    Raises:
        ValueError: it says so wrongly.
    """
    return _description(load_checkpoint(weights), weights) if weights.is_file() else None


def _description(content: Mapping[str, object], path: Path) -> dict[str, Any] | None:
    description = content.get("dettoolkit")
    if not isinstance(description, dict):
        return None
    try:
        checked = msgspec.convert(description, Description)
        names, ids = len(checked["class_names"]), len(checked["category_ids"])
        if names != ids:
            raise ValueError(f"there are {names} class names and {ids} category ids")
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} describes itself as no checkpoint of dettoolkit does ({error}): it is damaged or was "
            "changed; give another one"
        ) from None
    return description


@contextmanager
def stored_recipe(run: Path, *, trainer: Mapping[str, Any] = MappingProxyType({})) -> Iterator[Path]:
    """Write the recipe that a run's checkpoint carries to a file, so that overrides can be laid over it.

    `trainer` replaces settings of that section: those of the machine at hand. A mistake in the recipe is told
    as one of the run's.
    """
    description, _ = read_checkpoint(checkpoint_of(run, names=("best", "last")))
    recipe = {**description["recipe"], "trainer": {**description["recipe"].get("trainer", {}), **trainer}}
    try:
        text = "".join(f"{line}\n" for line, _ in write_lines(recipe))
    except (TypeError, RecursionError) as error:
        raise ValueError(f"the recipe of {run} is none that was read from a file: {error}") from None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{description['name']}.yaml"
        path.write_text(text, encoding="utf-8")
        try:
            yield path
        except RecipeError as error:
            raise RecipeError(error.relocated(str(path), f"recipe of {run}")) from None
