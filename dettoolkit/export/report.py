"""What was measured of an exported file, how far it may be from PyTorch, and how both are printed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from dettoolkit.formats import facts
from dettoolkit.manifest import Manifest
from dettoolkit.spec import Comparison, ErrorKind, Strictness, TaskSpec
from dettoolkit.tasks import spec_for

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
    if facts(manifest).precision == "int8":
        return "quantized"
    return "resized" if manifest.takes_images else "exact"


def error_kinds(spec: TaskSpec) -> dict[str, ErrorKind]:
    """Return the errors by which a task's files are judged, by name."""
    return {RAW: COMMON[RAW], **spec.errors, METRIC: COMMON[METRIC]}


def tolerances_of(spec: TaskSpec, manifest: Manifest, own: Mapping[str, float]) -> dict[str, float]:
    """Return the tolerances for a file, with some of a person's own, whose names and values are checked."""
    kinds, level = error_kinds(spec), strictness(manifest)
    for name, value in own.items():
        if name not in kinds:
            near = get_close_matches(name, kinds, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"there is no tolerance '{name}', only {', '.join(kinds)}{hint}")
        if not 0 <= value <= 1:
            raise ValueError(f"the tolerance {name}={value} must be between 0 and 1")
    return {**{name: kind.max[level] for name, kind in kinds.items() if level in kind.max}, **own}


class GateError(RuntimeError):
    """An exported file that does not do what the model does; the message is what was measured."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was measured of an exported file."""

    manifest: Manifest
    images: int  # number of images that it was compared on
    comparison: Comparison
    tolerances: Mapping[str, float]  # the largest value of each error
    monitor: str  # name of the score
    scores: tuple[float, float] | None  # of PyTorch and of the file, on the validation set; None: not wanted
    milliseconds: tuple[float, float]  # of both, from an image in memory to its result: the median
    sizes: tuple[int, int]  # bytes of the file, and of the checkpoint's weights
    size_scores: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # by name, as `scores`
    float32: tuple[float, int] | None = None  # of an int8 file: milliseconds and bytes of it in float32
    notes: tuple[str, ...] = ()  # what a reader must know about the file

    @property
    def speed(self) -> float | None:
        """Return an int8 file's time as a fraction of its float32 file's."""
        return None if self.float32 is None else self.milliseconds[1] / self.float32[0]

    @property
    def remarks(self) -> tuple[str, ...]:
        """Return what a reader must know about the file: what was known before, and what was found."""
        slow = "the int8 file is not faster than its float32 file here: it is offered for its size only"
        return (*self.notes, slow) if self.speed is not None and self.speed >= 1 else self.notes

    @property
    def errors(self) -> dict[str, float]:
        """Return all errors by name."""
        errors = dict(self.comparison.errors)
        if self.scores is not None:
            loss = self.scores[0] - self.scores[1]
            # In 8 bits a better score is no error; otherwise it shows that results differ.
            errors[METRIC] = loss if strictness(self.manifest) == "quantized" else abs(loss)
        return errors

    @property
    def judged(self) -> dict[str, float]:
        """Return the tolerances that count: an int8 file's score, where there is one, stands for all else."""
        if self.scores is not None and strictness(self.manifest) == "quantized":
            return {METRIC: self.tolerances[METRIC]}
        return {name: limit for name, limit in self.tolerances.items() if name in self.errors}

    @property
    def failures(self) -> list[str]:
        """Describe in sentences what is wrong; none when the file may be written."""
        kinds, errors = error_kinds(spec_for(self.manifest)), self.errors
        doubts = list(self.comparison.doubts)
        for name, kind in kinds.items():
            # A file of final outputs gives no raw ones.
            if kind.required and name not in errors and not (name == RAW and self.manifest.final):
                doubts.append(f"'{name}' could not be measured")
        if self.scores is not None and not self.scores[0] > 0:
            doubts.append(f"PyTorch's own {self.monitor} is {self.scores[0]:.3f}, which cannot get worse")
        found = [f"the comparison proves nothing: {doubt}" for doubt in doubts]
        for name, limit in self.judged.items():
            if not errors[name] <= limit:  # so that NaN fails
                what = kinds[name].meaning.format(monitor=self.monitor)
                found.append(f"{what} {errors[name]:.4g}, more than the tolerance {limit:g} ({name})")
        return found

    def summary(self) -> str:
        """Return the errors that count in one line."""
        errors = ", ".join(f"{_words(name)} {self.errors[name]:.3g}" for name in self.judged)
        return f"{errors}: {'too far from PyTorch' if self.failures else 'good'}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; None stands for what is not a finite number."""
        plain = {
            "images": self.images,
            "errors": {name: _finite(value) for name, value in self.comparison.errors.items()},
            "details": {name: _finite(value) for name, value in self.comparison.details.items()},
            "doubts": list(self.comparison.doubts),
            "tolerances": self.judged,
            "monitor": self.monitor,
            "milliseconds": _sides(self.milliseconds),
            "bytes": self.sizes[0],
            "weights_bytes": self.sizes[1],
            "float_layers": list(facts(self.manifest).float_layers),
            "notes": list(self.remarks),
            "failures": self.failures,
        }
        if self.scores is not None:
            plain["scores"] = _sides(self.scores)
        if self.size_scores:
            plain["size_scores"] = {name: _sides(pair) for name, pair in self.size_scores.items()}
        if self.float32 is not None:
            plain["float32"] = {"milliseconds": self.float32[0], "bytes": self.float32[1]}
        return plain

    def table(self) -> str:
        """Write it as aligned text, without a final newline."""
        judged, rows = self.judged, []
        for name, value in self.errors.items():
            limit = f"at most {judged[name]:g}" if name in judged else "not judged"
            rows.append((_words(name), f"{value:.2e}" if abs(value) < 1e-3 else f"{value:.4f}", limit))
        scores = {} if self.scores is None else {self.monitor: self.scores, **self.size_scores}
        rows += [(name, f"{theirs:.4f}", f"PyTorch {ours:.4f}") for name, (ours, theirs) in scores.items()]
        (ours, theirs), (size, weights) = self.milliseconds, self.sizes
        times, sizes = f"PyTorch {ours:.1f} ms", f"weights {weights / 1e6:.2f} MB"
        if self.float32 is not None:
            times += f", float32 file {self.float32[0]:.1f} ms, ratio {self.speed:.2f}"
            sizes += f", float32 file {self.float32[1] / 1e6:.2f} MB"
        rows.append(("time per image", f"{theirs:.1f} ms", times))
        rows.append(("size", f"{size / 1e6:.2f} MB", sizes))
        widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
        lines = [f"{name:<{widths[0]}}  {value:>{widths[1]}}  {rest}" for name, value, rest in rows]
        if details := self.comparison.details:
            shown = {k: f"{v:.3g}" if isinstance(v, float) else v for k, v in details.items()}
            lines.append(", ".join(f"{_words(name)} {value}" for name, value in shown.items()))
        if layers := facts(self.manifest).float_layers:
            lines.append(f"layers left in float32: {', '.join(layers)}")
        return "\n".join([f"compared with PyTorch on {self.images} images", *lines, *self.remarks])


def _sides(pair: tuple[float, float]) -> dict[str, float | None]:
    return {"pytorch": _finite(pair[0]), "exported": _finite(pair[1])}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _words(name: str) -> str:
    return name.replace("_", " ")
