"""How an adaptation is made: what a command line says, kept in its folder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from dettoolkit.weights.inherit import Criterion

FILE = "settings.json"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How an adaptation is made.

    Attributes:
        model: the trained network: a run's folder or a checkpoint.
        extras: overlays and overrides over its recipe.
        target_ms: milliseconds to reach; None takes `target_fraction` of the start's.
        target_fraction: see `target_ms`.
        runtime: in which networks are measured.
        threads: of that runtime.
        reduction: fraction of the start's latency that the first step saves; each later one `decay` times
            that of the one before.
        decay: see `reduction`.
        steps: optimizer steps of a proposal's short fine-tune.
        lr_factor: learning rate of short fine-tunes, relative to the recipe's.
        final_steps: optimizer steps of the training at the end; None takes the recipe's length, 0 leaves it
            out.
        from_scratch: that training starts from random weights.
        divisor: channel counts are multiples of it.
        by: which channels are kept.
        seed: of the fine-tunes.
    """

    model: str
    extras: tuple[str, ...]
    target_ms: float | None
    target_fraction: float | None
    runtime: str
    threads: int
    reduction: float
    decay: float
    steps: int
    lr_factor: float
    final_steps: int | None
    from_scratch: bool
    divisor: int
    by: Criterion
    seed: int

    def __post_init__(self) -> None:
        if (self.target_ms is None) == (self.target_fraction is None):
            raise ValueError("set a target: either --target-ms, or --target-fraction of the start's latency")
        for name, value, low, high in (
            ("--target-ms", self.target_ms, 0, 1e6),
            ("--target-fraction", self.target_fraction, 0, 1),
            ("--reduction", self.reduction, 0, 1),
            ("--lr-factor", self.lr_factor, 0, 100),
        ):
            if value is not None and not low < value < high:
                raise ValueError(f"{name} must be above {low} and below {high:g}, got {value:g}")
        if not 0.5 <= self.decay <= 1:
            raise ValueError(f"--decay must be 0.5 to 1, got {self.decay:g}")
        for name, count in (
            ("--steps", self.steps),
            ("--divisor", self.divisor),
            ("--threads", self.threads),
        ):
            if not 1 <= count <= 10**6:
                raise ValueError(f"{name} must be 1 to 1,000,000, got {count}")
        if self.final_steps is not None and not 0 <= self.final_steps <= 10**9:
            raise ValueError(f"--final-steps must be 0 or more, got {self.final_steps}")

    def target(self, start: float) -> float:
        """Return the milliseconds to reach, from those of the start."""
        return self.target_ms if self.target_ms is not None else (self.target_fraction or 0) * start

    def write(self, folder: Path) -> None:
        """Keep it in an adaptation's folder."""
        (folder / FILE).write_text(json.dumps(asdict(self), indent=1))


def read_settings(folder: Path) -> Settings:
    """Read the settings of an adaptation's folder.

    Raises:
        FileNotFoundError: it is no such folder.
        ValueError: the file is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is not the folder of an adaptation: it has no {FILE}")
    try:
        values = json.loads(path.read_text())
        return Settings(**{**values, "extras": tuple(values["extras"])})
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}): begin anew without --resume") from None
