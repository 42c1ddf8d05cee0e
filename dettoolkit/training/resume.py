"""Continue a run: from which checkpoint, and what may change."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dettoolkit.config import Recipe, load_recipe, recipe_to_dict
from dettoolkit.training.run_folder import (
    BEST,
    LAST,
    PREVIOUS,
    checkpoint_of,
    is_first_process,
    locked,
    stored_recipe,
)
from dettoolkit.weights.read import load_checkpoint

logger = logging.getLogger(__name__)

# Where and how long a run trains may change; what it trains, on what and by which rule may not, or the
# figures of its log would come from two different runs. The product of batch_size, devices and accumulate
# must stay (training/module.py sees to it), so that they can be dealt out anew on another machine.
CHANGEABLE = (
    "trainer.",
    "evaluation.",
    "distill.teacher",  # may be somewhere else; its weights are compared
    "data.root",
    "data.workers",
    "data.batch_size",
    "data.eval_batch_size",
    "data.on_bad_image",
    "data.max_bad_images",
)
FIXED = ("trainer.seed", "trainer.precision", "trainer.ema", "trainer.gradient_clip")
LENGTHS = ("trainer.max_epochs", "trainer.max_steps")
ORDER = (LAST, PREVIOUS, BEST)


@contextmanager
def resumed(run_dir: Path, recipe: Recipe) -> Iterator[tuple[Path, int]]:
    """Hold a run's folder, if `recipe` may continue the run; give its checkpoint and the steps done."""
    checkpoint_of(run_dir, names=ORDER)
    with locked(run_dir):
        last, steps_done = resumable_checkpoint(run_dir)
        with stored_recipe(last) as config:
            before = load_recipe(str(config)).recipe
        changes = changed_keys(before, recipe)
        check_changes(changes)
        if is_first_process():
            for line in describe_changes(changes, recipe):
                logger.info("%s", line)
        yield last, steps_done


def resumable_checkpoint(run_dir: Path) -> tuple[Path, int]:
    """Find the checkpoint that a run is continued from, and its number of steps.

    It is last.ckpt. Where that is lost or damaged, a warning says so: it is put aside, and the newer of
    previous.ckpt and best.ckpt is taken.
    """
    steps, lost = dict[Path, int](), list[str]()
    for name in ORDER:
        path = run_dir / "checkpoints" / f"{name}.ckpt"
        try:
            steps[path] = int(load_checkpoint(path)["global_step"])  # type: ignore[call-overload]
        except FileNotFoundError:
            lost.append(f"{path} is missing")
        except KeyError:
            lost.append(f"{path} is not a training checkpoint")
        except ValueError as error:
            lost.append(str(error))
        if name == LAST and steps:
            return path, steps[path]
    if not steps:
        raise ValueError("no checkpoint of the run can be read:\n  " + "\n  ".join(lost))
    newest = max(steps, key=lambda path: steps[path])
    logger.warning("%s\n  Resuming from step %d, of %s", lost[0], steps[newest], newest)
    damaged = run_dir / "checkpoints" / f"{LAST}.ckpt"
    if damaged.exists() and is_first_process():
        damaged.replace(damaged.with_name(f"{damaged.name}.damaged"))  # and not onto previous.ckpt
    return newest, steps[newest]


def changed_keys(before: Recipe, after: Recipe) -> dict[str, tuple[Any, Any]]:
    """Map each dotted key whose value differs to both values."""
    first, second = _flat(recipe_to_dict(before)), _flat(recipe_to_dict(after))
    both = {key: (first.get(key), second.get(key)) for key in first | second}
    return {key: (old, new) for key, (old, new) in both.items() if old != new}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        nested = isinstance(value, Mapping) and value
        flat |= _flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat


def check_changes(changes: Mapping[str, tuple[Any, Any]]) -> None:
    """Refuse changes that would make another run of it, from the command line or in an edited config.yaml."""
    clashes = [
        f"  {key}: {before!r} in the checkpoint, {after!r} requested"
        for key, (before, after) in changes.items()
        if key.startswith(FIXED) or not key.startswith(CHANGEABLE)
    ]
    if clashes:
        raise ValueError(
            "these settings cannot change during a run:\n"
            + "\n".join(clashes)
            + "\n  restore the checkpoint's values, on the command line or in the run's config.yaml, "
            "or start a new run from the checkpoint's weights (model.weights=...)\n  what may change: "
            + ", ".join(f"{key}*" if key.endswith(".") else key for key in CHANGEABLE)
            + f"; but not {', '.join(FIXED)}"
        )


def describe_changes(changes: Mapping[str, tuple[Any, Any]], recipe: Recipe) -> list[str]:
    """Describe in a line each what is different from now on, and what that means for the learning rate."""
    lines = [
        f"changed for the rest of the run: {key}: {before!r} -> {after!r}"
        for key, (before, after) in changes.items()
    ]
    shape = recipe.optim.schedule.type
    if shape not in ("constant", "exponential") and any(key in changes for key in LENGTHS):
        lines.append(
            f"from now on the learning rate follows the {shape} schedule of the new length, and jumps to its "
            "value at the current step"
        )
    return lines
