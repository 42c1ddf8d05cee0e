"""Kill trainings at random moments, resume them, and compare them with unbroken ones, to the bit.

    python tests/faults/trainings.py --rounds 20 --seed 0

Each round draws a task, how many batches a step accumulates, EMA or none, how often a checkpoint is
written, and one kill or two. A kill is SIGKILL to all processes of a real `dettoolkit train`, a drawn
moment after a drawn step is logged, often in the middle of a checkpoint or a validation. Compared are
last.ckpt and best.ckpt (weights, averaged weights, optimizer, schedule, counters), the rows of metrics.csv
and the score. Exit status 1 if a round differs.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import conftest
from training_runs import differences, the_run

TASKS = {
    "detection": (conftest.TINY_RECIPE, conftest.Tiny, 14),
    "segmentation": (conftest.TINY_SEGMENTATION_RECIPE, conftest.TinySegmentation, 14),
    "classification": (conftest.TINY_CLASSIFICATION_RECIPE, conftest.TinyClassification, 5),  # of each class
}
BATCHES, EPOCHS = 7, 3  # 7 batches: for 2 to 4 that are accumulated, an epoch's last step has fewer
TRAIN = [sys.executable, "-c", "import sys; from dettoolkit.cli import train; sys.exit(train(sys.argv[1:]))"]
PATIENCE = 600.0  # seconds until a training that does not get to its kill counts as hung


class Plan(NamedTuple):
    """What a round trains."""

    task: str
    accumulate: int
    ema: bool
    every: int  # steps between checkpoints
    workers: int

    @property
    def steps(self) -> int:
        """Count the optimizer steps of the run."""
        return EPOCHS * -(-BATCHES // self.accumulate)

    def overrides(self, data: Path, out: Path) -> list[str]:
        """Give the command line's part of the recipe."""
        ema = "{decay: 0.9, warmup_steps: 3}" if self.ema else "null"
        return [
            f"data={{root: {data}, batch_size: 2, workers: {self.workers}}}",
            f"trainer={{out: {out}, max_epochs: {EPOCHS}, accumulate: {self.accumulate}, ema: {ema}}}",
            f"trainer.checkpoint_every_steps={self.every}",
            "evaluation.pictures=0",
        ]


def start(arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a training as a group of processes of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "NO_ALBUMENTATIONS_UPDATE": "1"}
    with log.open("ab") as file:
        return subprocess.Popen(
            [*TRAIN, *arguments], stdout=file, stderr=file, env=environment, start_new_session=True
        )


def finish(arguments: list[str], log: Path) -> None:
    """Let a training run to its end."""
    if status := start(arguments, log).wait(PATIENCE):
        raise RuntimeError(f"a training ended with status {status}:\n{log.read_text()[-3000:]}")


def kill(arguments: list[str], out: Path, log: Path, *, at: int, pause: float) -> bool:
    """Start a training and kill it `pause` seconds after step `at` is logged; False if it was faster."""
    process = start(arguments, log)
    end = time.monotonic() + PATIENCE
    while process.poll() is None and last_step(out) < at:
        if time.monotonic() > end:
            os.killpg(process.pid, signal.SIGKILL)
            raise RuntimeError(f"a training hangs before step {at}:\n{log.read_text()[-3000:]}")
        time.sleep(0.002)
    time.sleep(pause)
    killed = process.poll() is None
    if killed:
        os.killpg(process.pid, signal.SIGKILL)
    elif process.returncode:
        raise RuntimeError(f"a training ended with status {process.returncode}:\n{log.read_text()[-3000:]}")
    process.wait()
    return killed


def last_step(out: Path) -> int:
    """Read the last step that metrics.csv has, -1 for none."""
    try:
        with next(out.glob("tiny/*/metrics.csv")).open(newline="") as file:
            return max((int(row["step"]) for row in csv.DictReader(file) if row.get("step")), default=-1)
    except (StopIteration, OSError, ValueError):  # not there yet, or read while it is written
        return -1


def break_and_resume(plan: Plan, draw: random.Random, folder: Path, arguments: list[str]) -> tuple[Path, str]:
    """Kill a training once or twice, resume it, and return its folder and where it was killed."""
    out, log = folder / "out", folder / "log.txt"
    kills = []
    for at in sorted(draw.sample(range(plan.steps - 1), draw.choice((1, 2)))):
        pause = draw.uniform(0, 0.4)
        if kill(resuming(out, arguments), out, log, at=at, pause=pause):
            kills.append(f"{at}+{pause:.2f}s")
    finish(resuming(out, arguments), log)
    return the_run(out), ", ".join(kills)


def resuming(out: Path, arguments: list[str]) -> list[str]:
    """Give the arguments that resume the run in `out`, or begin it where there is no checkpoint yet."""
    if any(out.glob("tiny/*/checkpoints/*.ckpt")):
        return ["--resume", str(the_run(out))]
    shutil.rmtree(out, ignore_errors=True)
    return arguments


def rounds(count: int, seed: int, folder: Path) -> int:
    """Run the rounds, print a line for each, and count those that are equal."""
    draw = random.Random(seed)
    whole: dict[Plan, Path] = {}
    same = 0
    for task, (recipe, data, images) in TASKS.items():
        (folder / task).mkdir()
        (folder / task / "tiny.yaml").write_text(recipe)
        data.write(folder / task / "data", train=images)
    print(f"{'round':>5}  {'task':<15}{'accumulate':<12}{'EMA':<5}{'every':<7}{'kills at':<28}result")
    for number in range(count):
        plan = Plan(
            draw.choice(list(TASKS)),
            draw.randint(1, 4),
            draw.random() < 0.5,
            draw.randint(1, 2),
            draw.randint(0, 1),
        )
        own = folder / str(number)
        own.mkdir()
        recipe, data = str(folder / plan.task / "tiny.yaml"), folder / plan.task / "data"
        if plan not in whole:
            out = folder / f"whole{len(whole)}"
            finish([recipe, *plan.overrides(data, out)], own / "whole.txt")
            whole[plan] = the_run(out)
        run, kills = break_and_resume(plan, draw, own, [recipe, *plan.overrides(data, own / "out")])
        found = differences(run, whole[plan]) + [path.name for path in run.rglob("*.part")]
        same += not found
        ema = "yes" if plan.ema else "no"
        line = f"{number + 1:>5}  {plan.task:<15}{plan.accumulate:<12}{ema:<5}{plan.every:<7}{kills:<28}"
        print(line + ("; ".join(found) or "equal"), flush=True)
    print(f"{same} of {count} equal")
    return same


def main() -> int:
    """Read the command line and run the rounds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20, help="how many trainings are broken (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn (%(default)s)")
    parser.add_argument("--keep", metavar="DIR", help="keep the runs in this new folder")
    options = parser.parse_args()
    if options.keep:
        Path(options.keep).mkdir(parents=True)
        return int(rounds(options.rounds, options.seed, Path(options.keep)) < options.rounds)
    with tempfile.TemporaryDirectory() as folder:
        return int(rounds(options.rounds, options.seed, Path(folder)) < options.rounds)


if __name__ == "__main__":
    sys.exit(main())
