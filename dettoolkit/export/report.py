"""What was measured of an exported file, whether it may be written, and how both are printed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dettoolkit.export.tolerances import METRIC, error_kinds, required, strictness
from dettoolkit.manifest import Manifest
from dettoolkit.spec import Comparison
from dettoolkit.tasks import spec_for


class GateError(RuntimeError):
    """An exported file that does not do what the model does; the message is what was measured."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was measured of an exported file.

    Attributes:
        manifest: the file's.
        images: number of images that it was compared on.
        comparison: how far its outputs and results are from PyTorch's.
        tolerances: the largest value of each error.
        monitor: name of the score.
        scores: of PyTorch and of the file, on the validation set; None where they were not wanted.
        milliseconds: median time from an image in memory to its result, of PyTorch and of the file.
        sizes: bytes of the file, and of the checkpoint's weights.
        notes: what a reader must know about the file.
    """

    manifest: Manifest
    images: int
    comparison: Comparison
    tolerances: Mapping[str, float]
    monitor: str
    scores: tuple[float, float] | None = None
    milliseconds: tuple[float, float] | None = None
    sizes: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()

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
        return {name: most for name, most in self.tolerances.items() if name in self.errors}

    @property
    def failures(self) -> list[str]:
        """Describe in sentences what is wrong; none when the file may be written."""
        spec, errors = spec_for(self.manifest), self.errors
        doubts = list(self.comparison.doubts)
        doubts += [
            f"'{name}' could not be measured" for name in required(spec, self.manifest) - errors.keys()
        ]
        if self.scores is not None and not self.scores[0] > 0:
            doubts.append(
                f"PyTorch's own {self.monitor} is {self.scores[0]:.3f}, of which nothing can be lost"
            )
        found = [f"the comparison proves nothing: {doubt}" for doubt in doubts]
        for name, most in self.judged.items():
            if not errors[name] <= most:  # so that NaN fails
                what = error_kinds(spec)[name].meaning.format(monitor=self.monitor)
                found.append(f"{what} {errors[name]:.4g}, but at most {most:g} is tolerated ({name})")
        return found

    def summary(self) -> str:
        """Return the errors that count in one line."""
        errors = ", ".join(f"{_words(name)} {self.errors[name]:.3g}" for name in self.judged)
        return f"{errors}: {'too far from PyTorch' if self.failures else 'good'}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; None stands for what is not a finite number."""
        pairs = {"scores": self.scores, "milliseconds": self.milliseconds}
        return {
            "images": self.images,
            "errors": {name: _finite(value) for name, value in self.comparison.errors.items()},
            "details": {name: _finite(value) for name, value in self.comparison.details.items()},
            "doubts": list(self.comparison.doubts),
            "tolerances": self.judged,
            "monitor": self.monitor,
            **{
                name: {"pytorch": _finite(pair[0]), "exported": _finite(pair[1])}
                for name, pair in pairs.items()
                if pair is not None
            },
            **({} if self.sizes is None else {"bytes": self.sizes[0], "weights_bytes": self.sizes[1]}),
            "float_layers": [] if self.manifest.export is None else list(self.manifest.export.float_layers),
            "notes": list(self.notes),
            "failures": self.failures,
        }

    def table(self) -> str:
        """Write it as aligned text, without a final newline."""
        judged, rows = self.judged, []
        for name, value in self.errors.items():
            limit = f"at most {judged[name]:g}" if name in judged else "not judged"
            rows.append((_words(name), f"{value:.2e}" if abs(value) < 1e-3 else f"{value:.4f}", limit))
        if self.scores is not None:
            rows.append((self.monitor, f"{self.scores[1]:.4f}", f"PyTorch {self.scores[0]:.4f}"))
        if self.milliseconds is not None:
            ours, theirs = self.milliseconds
            rows.append(("time per image", f"{theirs:.1f} ms", f"PyTorch {ours:.1f} ms"))
        if self.sizes is not None:
            rows.append(("size", f"{self.sizes[0] / 1e6:.2f} MB", f"weights {self.sizes[1] / 1e6:.2f} MB"))
        widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
        lines = [f"{name:<{widths[0]}}  {value:>{widths[1]}}  {rest}" for name, value, rest in rows]
        if details := self.comparison.details:
            lines.append(", ".join(f"{_words(name)} {_short(value)}" for name, value in details.items()))
        if self.manifest.export is not None and self.manifest.export.float_layers:
            lines.append(f"layers left in float32: {', '.join(self.manifest.export.float_layers)}")
        return "\n".join([f"compared with PyTorch on {self.images} images", *lines, *self.notes])


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _words(name: str) -> str:
    return name.replace("_", " ")


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
