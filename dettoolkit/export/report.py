"""How far an exported file may be from PyTorch before it is refused, and what is told of it either way."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from dettoolkit.export.agreement import Matching, Parity
from dettoolkit.manifest import Manifest

# What each figure of a Parity is, and "metric": said as "<what> <value>, but at most <tolerance>".
MEANING = {
    "raw": "the largest error of a raw output, as a share of the output's largest value, is",
    "detections": "the share of detections without a partner is",
    "shown_detections": "the share of detections without a partner, of those that are shown to people, is",
    "pixels": "the share of pixels of another class is",
    "worst_class": "1 - IoU of the class that agrees least is",
    "metric": "the loss of {monitor} on the validation set is",
}


@dataclass(frozen=True, kw_only=True)
class Strictness:
    """What is demanded of a kind of file.

    Attributes:
        score: how far the scores of a detection may be apart; see `Matching`.
        iou: how much its boxes overlap at least.
        tolerances: the most of each figure, of those that are judged.
        both_ways: whether a better score than PyTorch's counts as an error too.
    """

    score: float
    iou: float
    tolerances: Mapping[str, float]
    both_ways: bool


# The same arithmetic in another order: raw outputs differ by 1e-6 to 1e-5, and all else follows. A layer with
# weights that are 2 % off makes 1e-3 or more.
EXACT = Strictness(
    score=0.002,
    iou=0.95,
    tolerances={
        "raw": 0.0001,
        "detections": 0.01,
        "shown_detections": 0.005,
        "pixels": 0.001,
        "worst_class": 0.01,
        "metric": 0.002,
    },
    both_ways=True,
)
# With resizing inside, values of the resized image differ from OpenCV's by up to 1 of 255.
RESIZED = Strictness(
    score=0.05,
    iou=0.85,
    tolerances={
        "raw": 0.05,
        "detections": 0.03,
        "shown_detections": 0.03,
        "pixels": 0.01,
        "worst_class": 0.1,
        "metric": 0.005,
    },
    both_ways=True,
)
# Each image's answer differs; what must hold is the score, or without labels that most stays the same.
QUANTIZED = Strictness(
    score=0.2,
    iou=0.5,
    tolerances={
        "detections": 0.25,
        "shown_detections": 0.1,
        "pixels": 0.05,
        "worst_class": 0.5,
        "metric": 0.01,
    },
    both_ways=False,
)


class GateError(RuntimeError):
    """An exported file that does not do what the model does; the message is what was measured."""


def strictness(manifest: Manifest) -> Strictness:
    """Return what is demanded of a file that is described by a manifest."""
    export = manifest.export
    if export is None:
        raise ValueError("only an exported file is judged: give its manifest")
    if export.precision == "int8":
        return QUANTIZED
    return RESIZED if export.preprocessing else EXACT


def tolerances_of(manifest: Manifest, own: Mapping[str, float]) -> dict[str, float]:
    """Return the tolerances for a file, with some of a person's own.

    Raises:
        ValueError: an unknown name, or a value that is no share.
    """
    for name, value in own.items():
        if name not in MEANING:
            near = get_close_matches(name, MEANING, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"there is no tolerance '{name}', only {', '.join(MEANING)}{hint}")
        if not 0 <= value <= 1:
            raise ValueError(f"the tolerance {name}={value} must be between 0 and 1")
    return {**strictness(manifest).tolerances, **own}


def matching_of(manifest: Manifest) -> Matching | None:
    """Return when two detections are the same one; None of a segmenter."""
    facts, level = manifest.detection, strictness(manifest)
    if facts is None:
        return None
    return Matching(
        score=level.score,
        iou=level.iou,
        threshold=facts.score_threshold,
        shown=facts.threshold,
        most=facts.max_detections,
    )


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was measured of an exported file.

    Attributes:
        manifest: the file's.
        parity: how far its answers are from PyTorch's.
        tolerances: the most of each figure.
        monitor: name of the score.
        scores: of PyTorch and of the file, on the validation set; None where they were not wanted.
        milliseconds: median time from an image in memory to its final answer, of PyTorch and of the file.
        sizes: bytes of the file, and of the checkpoint's weights.
        notes: what a reader must know about the file.
    """

    manifest: Manifest
    parity: Parity
    tolerances: Mapping[str, float]
    monitor: str
    scores: tuple[float, float] | None = None
    milliseconds: tuple[float, float] | None = None
    sizes: tuple[int, int] | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def figures(self) -> dict[str, float]:
        """Return all errors by name."""
        figures = dict(self.parity.figures)
        if self.scores is not None:
            loss = self.scores[0] - self.scores[1]
            figures["metric"] = abs(loss) if strictness(self.manifest).both_ways else loss
        return figures

    @property
    def judged(self) -> dict[str, float]:
        """Return the tolerances that count: an int8 file's score, where there is one, stands for all else."""
        export = self.manifest.export
        if self.scores is not None and export is not None and export.precision == "int8":
            return {"metric": self.tolerances["metric"]}
        return {name: most for name, most in self.tolerances.items() if name in self.figures}

    @property
    def failures(self) -> list[str]:
        """Describe in sentences what is wrong; none when the file may be written."""
        found = [f"the comparison proves nothing: {doubt}" for doubt in self.parity.doubts]
        figures, judged = self.figures, self.judged
        for name in _required(self.manifest) - figures.keys():
            found.append(f"the comparison proves nothing: '{name}' could not be measured")
        if self.scores is not None and not self.scores[0] > 0:
            found.append(
                f"the comparison proves nothing: PyTorch's own {self.monitor} is {self.scores[0]:.3f}, of "
                "which nothing can be lost"
            )
        for name, most in judged.items():
            if not figures[name] <= most:  # so that NaN fails
                what = MEANING[name].format(monitor=self.monitor)
                found.append(f"{what} {figures[name]:.4g}, but at most {most:g} is tolerated ({name})")
        return found

    def summary(self) -> str:
        """Return the figures that count in one line."""
        figures = ", ".join(f"{_words(name)} {self.figures[name]:.3g}" for name in self.judged)
        return f"{figures}: {'too far from PyTorch' if self.failures else 'good'}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        named = ("pytorch", "exported")
        pair = {
            "scores": self.scores,
            "milliseconds": self.milliseconds,
        }
        return {
            **self.parity.to_dict(),
            "tolerances": self.judged,
            "monitor": self.monitor,
            **{
                name: {
                    who: value if math.isfinite(value) else None
                    for who, value in zip(named, values, strict=True)
                }
                for name, values in pair.items()
                if values is not None
            },
            **({} if self.sizes is None else {"bytes": self.sizes[0], "weights_bytes": self.sizes[1]}),
            "float_layers": [] if self.manifest.export is None else list(self.manifest.export.float_layers),
            "notes": list(self.notes),
            "failures": self.failures,
        }

    def table(self) -> str:
        """Write it as aligned text, without a final newline."""
        judged, rows = self.judged, []
        for name, value in self.figures.items():
            limit = f"at most {judged[name]:g}" if name in judged else "not judged"
            rows.append(
                (name.replace("_", " "), f"{value:.2e}" if abs(value) < 1e-3 else f"{value:.4f}", limit)
            )
        if self.scores is not None:
            rows.append((self.monitor, f"{self.scores[1]:.4f}", f"PyTorch {self.scores[0]:.4f}"))
        if self.milliseconds is not None:
            ours, theirs = self.milliseconds
            rows.append(("time per image", f"{theirs:.1f} ms", f"PyTorch {ours:.1f} ms"))
        if self.sizes is not None:
            rows.append(("size", f"{self.sizes[0] / 1e6:.2f} MB", f"weights {self.sizes[1] / 1e6:.2f} MB"))
        widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
        lines = [f"{name:<{widths[0]}}  {value:>{widths[1]}}  {rest}" for name, value, rest in rows]
        details = ", ".join(f"{_words(name)} {_short(value)}" for name, value in self.parity.details.items())
        first = f"compared with PyTorch on {self.parity.images} images"
        export = self.manifest.export
        layers = ", ".join(export.float_layers) if export is not None else ""
        left = [f"layers left in float32: {layers}"] if layers else []
        return "\n".join([first, *lines, *([details] if details else []), *left, *self.notes])


def _required(manifest: Manifest) -> set[str]:
    """Return the names of the figures without which nothing is proven."""
    answers = {"detections"} if manifest.task == "detection" else {"pixels", "worst_class"}
    final = manifest.export is not None and manifest.export.postprocessing
    return answers if final else {"raw", *answers}


def _words(name: str) -> str:
    return name.replace("_", " ")


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
