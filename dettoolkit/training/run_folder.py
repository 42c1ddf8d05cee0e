"""A run's folder: made once, never overwritten, found again by its path."""

from __future__ import annotations

import errno
import json
import logging
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, TextIO

from dettoolkit.config import RecipeError
from dettoolkit.config.yaml12 import write_lines
from dettoolkit.formats import FORMATS
from dettoolkit.hub import local
from dettoolkit.run import Run
from dettoolkit.weights.read import load_checkpoint, read_checkpoint
from dettoolkit.weights.safe import MODEL

if sys.platform != "win32":  # which has no such lock: there one must not resume a run twice
    import fcntl

logger = logging.getLogger(__name__)

CONFIG, TEACHER = "config.yaml", "teacher.json"
# Names of checkpoints: of the best score, the newest, and the one before that.
BEST, LAST, PREVIOUS = "best", "last", "previous"

# Where launchers tell a process its number: torchrun, Lightning (NODE_RANK is the user's there), SLURM.
RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")


class Interrupted(KeyboardInterrupt):
    """The user, or a scheduler, ended a run; the message says how to continue."""


def is_first_process() -> bool:
    """Return whether this process is the one that prints and writes, before Lightning knows."""
    return all(os.environ.get(name, "0") in ("", "0") for name in RANKS)


def new_run_dir(out: Path, name: str) -> Path:
    """Make `<out>/<name>/<time>`; a number is added where that exists."""
    return _new_dir(out / name / datetime.now().strftime("%Y-%m-%d_%H-%M-%S"), remedy="set trainer.out")


def new_evaluation_dir(base: Path) -> Path:
    """Make `<base>/evaluation`, or `evaluation_2` and so on where that exists."""
    return _new_dir(base / "evaluation", remedy="set one with --out")


def check_free(out: Path) -> None:
    """Refuse a destination that has something in it, by a FileExistsError, before any work."""
    if is_first_process() and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(
            f"{out} already exists and is not overwritten: choose another folder with --out"
        )


def _new_dir(wanted: Path, *, remedy: str) -> Path:
    """Make a new folder; processes other than the first make none and learn its name later."""
    if not is_first_process():
        return wanted
    for number in range(1, 10_000):
        folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}_{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise FileExistsError(f"{wanted} and 9999 numbered ones exist already: remove some, or {remedy}")


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Let no other process train in a run's folder, and remove what a killed one left half written.

    The system takes the lock back when the process ends, however it ends; loaders' workers do not inherit it.
    """
    with ExitStack() as held:
        if is_first_process():
            _lock(held.enter_context((run_dir / ".lock").open("w")), run_dir)
            for left in (*run_dir.glob(".*.part"), *run_dir.glob("checkpoints/.*.part")):
                left.unlink()
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise OSError(f"the disk is full ({error}). Free some space; {how_to_resume(run_dir)}") from error


def _lock(file: TextIO, run_dir: Path) -> None:
    if sys.platform == "win32":
        return
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise BlockingIOError(
                f"another process is training in {run_dir}: wait for it, or stop it before resuming"
            ) from None
        logger.warning("%s cannot be locked (%s): make sure that only one process resumes it", run_dir, error)


@contextmanager
def started(run: Run, config_yaml: str) -> Iterator[Path]:
    """Make and hold the folder of a new run, with its recipe, data report and a picture of a batch."""
    run_dir = new_run_dir(Path(run.recipe.trainer.out), run.name)
    with locked(run_dir):
        if is_first_process():
            write_whole(run_dir / CONFIG, config_yaml.encode())
            write_problems(run, run_dir)
            if run.task.teacher is not None:
                (run_dir / TEACHER).write_text(json.dumps(run.task.teacher.description, indent=1))
            run.draw_training_batch(run_dir / "figures")
        yield run_dir


def write_problems(run: Run, run_dir: Path) -> None:
    """Write everything found wrong with the data to `<run>/data_report.json`."""
    problems: dict[str, Any] = {split: report.to_json() for split, report in run.problems.items()}
    problems["unreadable images"] = run.bad_images.lines
    (run_dir / "data_report.json").write_text(json.dumps(problems, indent=1))


def write_whole(path: Path, content: bytes | memoryview, *, keep: Path | None = None) -> None:
    """Write a file beside its place, and move it there when it is on the disk; `keep` gets the former one."""
    part = path.with_name(f".{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:  # such as a full disk, which needs the room
        part.unlink(missing_ok=True)
        raise
    if keep is not None and path.exists():
        path.replace(keep)
    part.replace(path)
    if sys.platform != "win32":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def keep_config(path: Path, text: str) -> None:
    """Write a run's recipe as it is from now on; a different former one stays beside it as config_1.yaml …"""
    if not is_first_process():
        return
    former = path.read_bytes()
    if former == text.encode():
        return
    number = 1
    while (kept := path.with_name(f"{path.stem}_{number}{path.suffix}")).exists():
        number += 1
    write_whole(kept, former)
    write_whole(path, text.encode())


def how_to_resume(run: Path) -> str:
    """Describe from which step a run that has ended early can be continued, and by which command."""
    saved = run / "checkpoints" / f"{LAST}.ckpt"
    if not saved.is_file():
        return "no checkpoint was saved yet (trainer.checkpoint_every_steps saves more often)"
    step = load_checkpoint(saved).get("global_step")
    return f"to continue from step {step}, saved in {saved}: tools/train.py --resume {shlex.quote(str(run))}"


def checkpoint_of(run: Path, *, names: tuple[str, ...]) -> Path:
    """Find the checkpoint that a path means: the file itself, or one in a folder or on Hugging Face's hub.

    In a run's folder that is the first of `names`, in a published one `model.safetensors`.

    Raises:
        FileNotFoundError: there is none; the message lists the runs near by.
        ValueError: an exported file.
    """
    run = local(run)
    if run.is_file():
        if run.suffix.lower() in FORMATS:
            raise ValueError(
                f"{run} is an exported file, but a checkpoint is required: use the run it was exported from. "
                "To score the file itself: 'dettoolkit export RUN --metric'"
            )
        return run
    for name in names:
        path = run / "checkpoints" / f"{name}.ckpt"
        if path.is_file():
            return path
    if (run / MODEL).is_file():
        return run / MODEL
    here, others = (
        sorted({path.parent.parent for path in folder.glob("**/checkpoints/*.ckpt")})[-5:]
        for folder in (run, Path("runs"))
    )
    near = here[::-1] or others
    listing = "; runs with checkpoints: " + ", ".join(map(str, near)) if near else ""
    wanted = " or ".join(f"checkpoints/{name}.ckpt" for name in names)
    raise FileNotFoundError(f"{run} is neither a checkpoint nor a run folder with {wanted}{listing}")


@contextmanager
def stored_recipe(run: Path, *, trainer: Mapping[str, Any] = MappingProxyType({})) -> Iterator[Path]:
    """Write the recipe that a run's checkpoint carries to a file, so that overrides can be laid over it.

    `trainer` replaces settings of that section: those of the machine at hand. An error in the recipe names
    the run.
    """
    description, _ = read_checkpoint(checkpoint_of(run, names=(BEST, LAST)))
    recipe = {**description["recipe"], "trainer": {**description["recipe"].get("trainer", {}), **trainer}}
    try:
        text = "".join(f"{line}\n" for line, _ in write_lines(recipe))
    except (TypeError, RecursionError) as error:
        raise ValueError(f"{run} has an invalid recipe: {error}") from None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{description['name']}.yaml"
        path.write_text(text, encoding="utf-8")
        try:
            yield path
        except RecipeError as error:
            raise RecipeError(error.relocated(str(path), f"recipe of {run}")) from None
