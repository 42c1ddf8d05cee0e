"""Kill trainings at random moments, resume them, and compare them with unbroken ones, to the bit.

    python tests/faults/trainings.py --rounds 20 --seed 0

Each round draws a task, how many batches a step accumulates, EMA or none, how often a checkpoint is
written, and one kill or two. A kill is SIGKILL to all processes of a `dettoolkit train`, a drawn
moment after a drawn step is logged, often in the middle of a checkpoint or a validation. Compared are
last.ckpt and best.ckpt (weights, averaged weights, optimizer, schedule, counters), the rows of metrics.csv
and the score. Exit status 1 if a round differs.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported; forked processes cannot share its threads
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import conftest
from training_runs import differences, the_run

from dettoolkit import cli
from dettoolkit.training import commands  # noqa: F401  it brings the libraries

TASKS = {
    "detection": (conftest.TINY_RECIPE, conftest.Tiny, 14),
    "segmentation": (conftest.TINY_SEGMENTATION_RECIPE, conftest.TinySegmentation, 14),
    "classification": (conftest.TINY_CLASSIFICATION_RECIPE, conftest.TinyClassification, 5),  # of each class
}
BATCHES, EPOCHS = 7, 3  # 7 batches: for 2 to 4 that are accumulated, an epoch's last step has fewer
PATIENCE = 600.0  # seconds until a training that does not get to its kill counts as hung


class Plan(NamedTuple):
    """What a round trains."""

    task: str
    accumulate: int
    ema: bool
    every: int  # steps between checkpoints
    workers: int
    kills: int

    @property
    def steps(self) -> int:
        """Count the optimizer steps of the run."""
        return EPOCHS * -(-BATCHES // self.accumulate)

    def overrides(self, data: Path, out: Path) -> list[str]:
        """Return the command line's part of the recipe."""
        ema = "{decay: 0.9, warmup_steps: 3}" if self.ema else "null"
        return [
            f"data={{root: {data}, batch_size: 2, workers: {self.workers}}}",
            f"trainer={{out: {out}, max_epochs: {EPOCHS}, accumulate: {self.accumulate}, ema: {ema}}}",
            f"trainer.checkpoint_every_steps={self.every}",
            "evaluation.figures=0",
        ]


def start(arguments: list[str], log: Path) -> int:
    """Start `dettoolkit train` as a group of processes of its own, and return its id.

    It is forked from this process, which has imported the libraries: that takes longer than such a training.
    """
    if process := os.fork():
        return process
    status = 1
    try:
        os.setsid()
        descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        status = cli.train(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def ended(process: int) -> bool:
    """Return whether a training has come to its end; any but a good one is an error."""
    found, status = os.waitpid(process, os.WNOHANG)
    if found and status:
        raise RuntimeError(f"a training ended with status {os.waitstatus_to_exitcode(status)}")
    return found != 0


def kill(process: int, out: Path, *, at: float, pause: float) -> bool:
    """Kill a training `pause` seconds after step `at` is logged; False if it was faster."""
    end = time.monotonic() + PATIENCE
    while last_step(out) < at:
        if ended(process):
            return False
        if time.monotonic() > end:
            os.killpg(process, signal.SIGKILL)
            raise RuntimeError("a training hangs")
        time.sleep(0.002)
    time.sleep(pause)
    if ended(process):
        return False
    os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return True


def finish(arguments: list[str], out: Path, log: Path) -> None:
    """Let a training run to its end."""
    kill(start(arguments, log), out, at=math.inf, pause=0)


def last_step(out: Path) -> int:
    """Read the last step that metrics.csv has, -1 for none."""
    try:
        with next(out.glob("tiny/*/metrics.csv")).open(newline="") as file:
            return max((int(row["step"]) for row in csv.DictReader(file) if row.get("step")), default=-1)
    except (StopIteration, OSError, ValueError):  # not there yet, or read while it is written
        return -1


def break_and_resume(
    plan: Plan, draw: random.Random, folder: Path, arguments: list[str], kills: list[str]
) -> Path:
    """Kill a training as often as planned, resume it, and return its folder; `kills` gets where that was."""
    out, log = folder / "out", folder / "log.txt"
    for _ in range(plan.kills):
        at, pause = draw.randint(last_step(out), plan.steps - 1), draw.uniform(0, 0.4)
        if kill(start(resuming(out, arguments), log), out, at=at, pause=pause):
            kills.append(f"{at}+{pause:.2f}s")
    finish(resuming(out, arguments), out, log)
    return the_run(out)


def resuming(out: Path, arguments: list[str]) -> list[str]:
    """Return the arguments that resume the run in `out`, or begin it where there is no checkpoint yet."""
    if any(out.glob("tiny/*/checkpoints/*.ckpt")):
        return ["--resume", str(the_run(out))]
    shutil.rmtree(out, ignore_errors=True)
    return arguments


def rounds(count: int, seed: int, kills: int | None, folder: Path) -> int:
    """Run the rounds, print a line for each, and count those that are equal."""
    whole: dict[Plan, Path] = {}
    same = 0
    for task, (recipe, data, images) in TASKS.items():
        (folder / task).mkdir()
        (folder / task / "tiny.yaml").write_text(recipe)
        data.write(folder / task / "data", train=images)
    print(
        f"{'round':>5}  {'task':<15}{'accumulate':<12}{'EMA':<5}{'every':<7}{'kills at':<28}result",
        flush=True,
    )
    for number in range(count):
        draw = random.Random(f"{seed} {number}")
        plan = Plan(
            draw.choice(list(TASKS)),
            draw.randint(1, 4),
            draw.random() < 0.5,
            draw.randint(1, 2),
            draw.randint(0, 1),
            kills or draw.randint(1, 2),
        )
        own = folder / str(number)
        own.mkdir()
        recipe, data = str(folder / plan.task / "tiny.yaml"), folder / plan.task / "data"
        if plan not in whole:
            out = folder / f"whole{len(whole)}"
            finish([recipe, *plan.overrides(data, out)], out, own / "whole.txt")
            whole[plan] = the_run(out)
        killed: list[str] = []
        try:
            run = break_and_resume(plan, draw, own, [recipe, *plan.overrides(data, own / "out")], killed)
            found = differences(run, whole[plan]) + [path.name for path in run.rglob("*.part")]
        except RuntimeError as error:
            found = [f"{error}: {(own / 'log.txt').read_text().strip().splitlines()[-1]}"]
        same += not found
        ema = "yes" if plan.ema else "no"
        line = f"{number + 1:>5}  {plan.task:<15}{plan.accumulate:<12}{ema:<5}{plan.every:<7}"
        print(f"{line}{', '.join(killed):<28}{'; '.join(found) or 'equal'}", flush=True)
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
    parser.add_argument("--kills", type=int, help="of each training; drawn, one or two, if not given")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.keep or temporary)
        folder.mkdir(parents=True, exist_ok=not options.keep)
        same = rounds(options.rounds, options.seed, options.kills, folder)
    return int(same < options.rounds)


if __name__ == "__main__":
    sys.exit(main())
