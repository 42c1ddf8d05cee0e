"""A run's folder: made once, never overwritten, found again by its path."""

from __future__ import annotations

import errno
import logging
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dettoolkit.config import RecipeError
from dettoolkit.config.yaml12 import write_lines
from dettoolkit.formats import FORMATS
from dettoolkit.weights.description import read_checkpoint
from dettoolkit.weights.read import load_checkpoint

if sys.platform != "win32":  # which has no such lock: there one must not resume a run twice
    import fcntl

logger = logging.getLogger(__name__)

CONFIG = "config.yaml"
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


def require_writable(out: Path) -> None:
    """Try to make a folder in `out`, and leave nothing there.

    Raises:
        OSError: that is not possible.
    """
    try:
        there = next(each for each in (out, *out.absolute().parents) if each.exists())
        with tempfile.TemporaryDirectory(dir=there):
            pass
    except OSError as error:
        raise OSError(
            f"trainer.out={out}: no folder can be made there ({error.strerror}): set another trainer.out"
        ) from error


def new_evaluation_dir(base: Path) -> Path:
    """Make `<base>/evaluation`, or `evaluation_2` and so on where that exists."""
    return _new_dir(base / "evaluation", remedy="give one by --out")


def check_free(out: Path) -> None:
    """Refuse a destination that has something in it, before any work.

    Raises:
        FileExistsError: it has.
    """
    if is_first_process() and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(
            f"{out} is there already, and is not overwritten: name another folder with --out"
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
def locked(run: Path) -> Iterator[None]:
    """Let no other process train in a run's folder, and remove what a killed one left half written.

    The system takes the lock back when the process ends, however it ends; loaders' workers do not inherit it.

    Raises:
        BlockingIOError: another process trains there.
    """
    if not is_first_process():
        yield
        return
    with (run / ".lock").open("w") as file:
        if sys.platform != "win32":
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EAGAIN):
                    raise BlockingIOError(
                        f"another process is training in {run}: let it finish, or end it before resuming"
                    ) from None
                logger.warning("%s cannot be locked (%s): do not resume it twice at once", run, error)
        for left in (*run.glob(".*.part"), *run.glob("checkpoints/.*.part")):
            left.unlink()
        yield


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
    former = path.read_bytes()
    if former == text.encode():
        return
    number = 1
    while (kept := path.with_name(f"{path.stem}_{number}{path.suffix}")).exists():
        number += 1
    write_whole(kept, former)
    write_whole(path, text.encode())


def resumable_checkpoint(run: Path) -> tuple[Path, int]:
    """Find the checkpoint that a run is continued from, and its number of steps.

    It is last.ckpt. Where that is lost or damaged, a warning says so: it is put aside, and the newer of
    previous.ckpt and best.ckpt is taken.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: none can be read.
    """
    checkpoint_of(run, names=(LAST, PREVIOUS, BEST))
    steps, lost = dict[Path, int](), list[str]()
    for name in (LAST, PREVIOUS, BEST):
        path = run / "checkpoints" / f"{name}.ckpt"
        try:
            steps[path] = int(load_checkpoint(path)["global_step"])  # type: ignore[call-overload]
        except FileNotFoundError:
            lost.append(f"{path} is missing")
        except KeyError:
            lost.append(f"{path} is no checkpoint of a training")
        except ValueError as error:
            lost.append(str(error))
        if name == LAST and steps:
            return path, steps[path]
    if not steps:
        raise ValueError("no checkpoint of the run can be read:\n  " + "\n  ".join(lost))
    newest = max(steps, key=lambda path: steps[path])
    logger.warning("%s\n  Resuming from step %d, of %s", lost[0], steps[newest], newest)
    damaged = run / "checkpoints" / f"{LAST}.ckpt"
    if damaged.exists() and is_first_process():
        damaged.replace(damaged.with_name(f"{damaged.name}.damaged"))  # and not onto previous.ckpt
    return newest, steps[newest]


def how_to_resume(run: Path) -> str:
    """Describe from which step a run that has ended early can be continued, and by which command."""
    saved = run / "checkpoints" / f"{LAST}.ckpt"
    if not saved.is_file():
        return "no checkpoint was saved yet (trainer.checkpoint_every_steps saves more often)"
    step = load_checkpoint(saved).get("global_step")
    return f"to continue from step {step}, saved in {saved}: tools/train.py --resume {shlex.quote(str(run))}"


def checkpoint_of(run: Path, *, names: tuple[str, ...]) -> Path:
    """Find the checkpoint that a path means: the file itself, or the first of `names` in a run's folder.

    Raises:
        FileNotFoundError: there is none; the message lists the runs near by.
        ValueError: an exported file.
    """
    if run.is_file():
        if run.suffix.lower() in FORMATS:
            raise ValueError(
                f"{run} is an exported file, and a checkpoint is wanted: give the run that it was made from. "
                "What the file itself scores is measured by 'dettoolkit export RUN --metric'"
            )
        return run
    for name in names:
        path = run / "checkpoints" / f"{name}.ckpt"
        if path.is_file():
            return path
    near = sorted({path.parent.parent for path in run.glob("**/checkpoints/*.ckpt")}, reverse=True)[:5]
    if not near:
        near = sorted({path.parent.parent for path in Path("runs").glob("**/checkpoints/*.ckpt")})[-5:]
    listing = "; runs with checkpoints: " + ", ".join(map(str, near)) if near else ""
    wanted = " or ".join(f"checkpoints/{name}.ckpt" for name in names)
    raise FileNotFoundError(f"{run} is neither a checkpoint nor a run's folder with {wanted}{listing}")


@contextmanager
def stored_recipe(run: Path, *, trainer: Mapping[str, Any] = MappingProxyType({})) -> Iterator[Path]:
    """Write the recipe that a run's checkpoint carries to a file, so that overrides can be laid over it.

    `trainer` replaces settings of that section: those of the machine at hand. An error in the recipe names
    the run.
    """
    description, _ = read_checkpoint(checkpoint_of(run, names=("best", "last")))
    recipe = {**description["recipe"], "trainer": {**description["recipe"].get("trainer", {}), **trainer}}
    try:
        text = "".join(f"{line}\n" for line, _ in write_lines(recipe))
    except (TypeError, RecursionError) as error:
        raise ValueError(f"the recipe of {run} is none that was read from a file: {error}") from None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{description['name']}.yaml"
        path.write_text(text, encoding="utf-8")
        try:
            yield path
        except RecipeError as error:
            raise RecipeError(error.relocated(str(path), f"recipe of {run}")) from None
