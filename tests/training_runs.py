"""What tests of training share: a run that is killed, and what a run's folder holds."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from dettoolkit.training.module import TrainingModule

SPEED = {"images_per_second", "data_wait_fraction"}  # columns of metrics.csv that differ from run to run
TEACHER_SPEED = {"teacher_ms", "teacher_fraction"}  # as well, of a run with a teacher

DRIVER = """\
import sys
from pathlib import Path
from dettoolkit.cli import evaluate, train
recipe, data, out, *options = sys.argv[1:]
two = ["trainer.devices=2", "trainer.strategy=ddp", "data.batch_size=2"]
status = train([recipe, f"data.root={data}", f"trainer.out={out}", "data.on_bad_image=skip", *two])
(run,) = Path(out, "tiny").iterdir()
for more in [[], options] if options else [[]]:
    status = status or evaluate([str(run), *two, *more])
sys.exit(status)
"""


class Killed(Exception):
    """The power went."""


def kill(
    monkeypatch: pytest.MonkeyPatch, at: int, hook: str, error: type[BaseException] = Killed, *, call: int = 1
) -> None:
    """Let training die in `hook` of the TrainingModule, in its nth `call` when `at` steps are done; once."""
    whole = getattr(TrainingModule, hook)
    calls = 0

    def dying(self: TrainingModule, *args: Any) -> Any:
        nonlocal calls
        calls += self.global_step == at
        if calls == call:
            monkeypatch.setattr(TrainingModule, hook, whole)
            raise error
        return whole(self, *args)

    monkeypatch.setattr(TrainingModule, hook, dying)


def explode(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the first step make all weights infinite, by a learning rate that no recipe may have."""
    monkeypatch.setattr("dettoolkit.training.module.scaled_rate", lambda *_: 1e30)


def rows_of(run: Path) -> list[dict[str, str]]:
    """Read metrics.csv without the columns that differ from run to run."""
    with (run / "metrics.csv").open(newline="") as file:
        rows = [
            {key: value for key, value in row.items() if key not in SPEED | TEACHER_SPEED}
            for row in csv.DictReader(file)
        ]
    return [
        row
        for row in rows
        if set(row) - {"epoch", "step"} and any(v for k, v in row.items() if k not in {"epoch", "step"})
    ]


def column(run: Path, name: str) -> dict[int, float]:
    """Map steps to the values of a column."""
    return {int(row["step"]): float(row[name]) for row in rows_of(run) if row.get(name)}


def checkpoint(run: Path, name: str = "last") -> dict[str, Any]:
    """Read a checkpoint of a run's folder."""
    content: dict[str, Any] = torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)
    return content


def the_run(out: Path) -> Path:
    """Return the only run's folder."""
    (run,) = (out / "tiny").iterdir()
    return run


def differences(ours: Path, theirs: Path) -> list[str]:
    """Name what differs, in a bit, between what two runs logged, their checkpoints and their scores."""
    found = [] if rows_of(ours) == rows_of(theirs) else ["metrics.csv"]
    for name in ("last", "best"):
        one, other = checkpoint(ours, name), checkpoint(theirs, name)
        # Callbacks know paths, loops count a resume otherwise, and the recipe says what a run may change.
        parts = (one.keys() | other.keys()) - {"callbacks", "loops", "dettoolkit"}
        found += [
            f"{name}.ckpt: {part}" for part in sorted(parts) if not equal(one.get(part), other.get(part))
        ]
    scores = [json.loads((run / "evaluation.json").read_text())["numbers"] for run in (ours, theirs)]
    return found + ["evaluation.json"] * (scores[0] != scores[1])


def equal(one: Any, other: Any) -> bool:
    """Compare nested contents of checkpoints to the bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def on_two_processes(recipe: Path, data: Path, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Train, skipping unreadable images, and evaluate, and once more with `options` if there are any."""
    script = out.parent / "driver.py"
    script.write_text(DRIVER)
    return subprocess.run(
        [sys.executable, str(script), str(recipe), str(data), str(out), *options],
        capture_output=True,
        text=True,
        cwd=out.parent,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def comparable(report: dict[str, Any]) -> dict[str, Any]:
    """Return what two evaluations of the same weights have in common: all but how and when each was made."""
    drawn = {
        name: [{key: each[key] for key in each if key != "picture"} for each in report[name]]
        for name in ("worst_images", "mistakes")
        if name in report
    }
    return {**report, **drawn, "what": "", "about": {}}
