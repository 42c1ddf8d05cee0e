"""How far an exported file may be from PyTorch before it is refused."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches

from dettoolkit.manifest import Manifest
from dettoolkit.spec import ErrorKind, Strictness, TaskSpec

RAW, METRIC = "raw", "metric"
COMMON = {
    # The same arithmetic in another order: raw outputs differ by 1e-6 to 1e-5, and all else follows. A layer
    # with weights that are 2 % off makes 1e-3 or more. With resizing inside, values of the resized image
    # differ from OpenCV's by up to 1 of 255. In 8 bits each image's result differs; what must hold is the
    # score.
    RAW: ErrorKind(
        meaning="the largest error of a raw output, as a fraction of the output's largest value, is",
        max={"exact": 0.0001, "resized": 0.05},
    ),
    METRIC: ErrorKind(
        meaning="the loss of {monitor} on the validation set is",
        max={"exact": 0.002, "resized": 0.005, "quantized": 0.01},
        required=False,
    ),
}
"""Errors that every task has, beside its own."""


def strictness(manifest: Manifest) -> Strictness:
    """Return how strictly a file that a manifest describes is judged."""
    if manifest.export is None:
        raise ValueError("only an exported file is judged: give its manifest")
    if manifest.export.precision == "int8":
        return "quantized"
    return "resized" if manifest.export.preprocessing else "exact"


def error_kinds(spec: TaskSpec) -> dict[str, ErrorKind]:
    """Return the errors by which a task's files are judged, by name."""
    return {RAW: COMMON[RAW], **spec.errors, METRIC: COMMON[METRIC]}


def required(spec: TaskSpec, manifest: Manifest) -> set[str]:
    """Return the names of the errors without which nothing is proven."""
    names = {name for name, kind in error_kinds(spec).items() if kind.required}
    return names - {RAW} if manifest.final else names  # a file of final outputs gives no raw ones


def tolerances_of(spec: TaskSpec, manifest: Manifest, own: Mapping[str, float]) -> dict[str, float]:
    """Return the tolerances for a file, with some of a person's own.

    Raises:
        ValueError: an unknown name, or a value that is not between 0 and 1.
    """
    kinds, level = error_kinds(spec), strictness(manifest)
    for name, value in own.items():
        if name not in kinds:
            near = get_close_matches(name, kinds, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"there is no tolerance '{name}', only {', '.join(kinds)}{hint}")
        if not 0 <= value <= 1:
            raise ValueError(f"the tolerance {name}={value} must be between 0 and 1")
    return {**{name: kind.max[level] for name, kind in kinds.items() if level in kind.max}, **own}
