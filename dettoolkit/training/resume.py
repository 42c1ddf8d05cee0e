"""What may change when a run is continued."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dettoolkit.config import Recipe, recipe_to_dict

# Where and how long a run trains may change; what it trains, on what and by which rule may not, or the
# figures of its log would come from two different runs. The product of batch_size, devices and accumulate
# must stay (training/module.py sees to it), so that they can be dealt out anew on another machine.
CHANGEABLE = (
    "trainer.",
    "evaluation.",
    "data.root",
    "data.workers",
    "data.batch_size",
    "data.eval_batch_size",
    "data.on_bad_image",
    "data.max_bad_images",
)
FIXED = ("trainer.seed", "trainer.precision", "trainer.ema", "trainer.gradient_clip")
LENGTHS = ("trainer.max_epochs", "trainer.max_steps")


def changed_keys(before: Recipe, after: Recipe) -> dict[str, tuple[Any, Any]]:
    """Map each dotted key whose value differs to both values."""
    first, second = _flat(recipe_to_dict(before)), _flat(recipe_to_dict(after))
    return {
        key: (first.get(key), second.get(key))
        for key in {**first, **second}
        if first.get(key) != second.get(key)
    }


def check_changes(changes: Mapping[str, tuple[Any, Any]]) -> None:
    """Refuse changes that would make another run of it, from the command line or in an edited config.yaml.

    Raises:
        ValueError: naming each such key with both values.
    """
    clashes = [
        f"  {key}: {before!r} in the checkpoint, {after!r} asked for"
        for key, (before, after) in changes.items()
        if key.startswith(FIXED) or not key.startswith(CHANGEABLE)
    ]
    if clashes:
        raise ValueError(
            "these settings cannot change in mid-run:\n"
            + "\n".join(clashes)
            + "\n  give them the checkpoint's values again, on the command line or in the run's config.yaml, "
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
            f"the learning rate follows the {shape} curve of the new length from here on: it jumps to that "
            "curve's value at the present step"
        )
    return lines


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
