"""What tests of training share: a run that is killed, and what a run's folder holds."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from dettoolkit.training.module import TrainingModule

SPEED = {"images_per_second", "data_wait_share"}  # columns of metrics.csv that differ from run to run

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


def kill(monkeypatch: pytest.MonkeyPatch, at: int, hook: str, error: type[BaseException] = Killed) -> None:
    """Let training die in `hook` of the TrainingModule when `at` optimiser steps are done; once."""
    whole = getattr(TrainingModule, hook)

    def dying(self: TrainingModule, *args: Any) -> Any:
        if self.global_step == at:
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
            {key: value for key, value in row.items() if key not in SPEED} for row in csv.DictReader(file)
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


def assert_same_run(ours: Path, theirs: Path) -> None:
    """Compare what two runs logged and their last checkpoints, to the bit."""
    assert rows_of(ours) == rows_of(theirs)
    one, other = checkpoint(ours), checkpoint(theirs)
    for part in ("state_dict", "current_model_state"):
        assert one[part].keys() == other[part].keys()
        assert all(torch.equal(value, other[part][name]) for name, value in one[part].items())
    assert one["optimizer_states"][0]["param_groups"] == other["optimizer_states"][0]["param_groups"]
    assert one["epoch"] == other["epoch"]


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
