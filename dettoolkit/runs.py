"""A run's folder: made once, never overwritten, found again by its path."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from dettoolkit.backbones.pretrained import load_checkpoint
from dettoolkit.config.yaml12 import write_lines

RUN_DIR = "DETTOOLKIT_RUN_DIR"
"""Environment variable by which the processes that Lightning starts learn the first one's folder."""

CONFIG = "config.yaml"


def new_run_dir(out: Path, name: str) -> Path:
    """Make `<out>/<name>/<time>`; a number is added where that exists."""
    inherited = os.environ.get(RUN_DIR)
    if inherited and os.environ.get("LOCAL_RANK", "0") != "0":
        return Path(inherited)
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    for number in range(1, 1000):
        run_dir = out / name / (stamp if number == 1 else f"{stamp}_{number}")
        try:
            run_dir.mkdir(parents=True)
        except FileExistsError:
            continue
        os.environ[RUN_DIR] = str(run_dir)
        return run_dir
    raise FileExistsError(f"no free folder for a run at {out / name / stamp}: set trainer.out to another one")


def checkpoint_of(run: Path, *, names: tuple[str, ...]) -> Path:
    """Find the checkpoint that a path means: the file itself, or the first of `names` in a run's folder.

    Raises:
        FileNotFoundError: there is none; the message lists the runs near by.
    """
    if run.is_file():
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


def read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a checkpoint of ours: its description (recipe, class names, versions) and its state dict.

    Raises:
        ValueError: a file that does not describe itself, such as a bare state dict.
    """
    content = load_checkpoint(path)
    description, state = content.get("dettoolkit"), content.get("state_dict")
    if not isinstance(description, dict) or not isinstance(state, dict):
        raise ValueError(
            f"{path} holds no dettoolkit run: its recipe and class names are missing. A bare state dict can "
            "start a training (model.weights=...), and is evaluated by a recipe: see docs/guide.md"
        )
    return description, state


@contextmanager
def stored_recipe(run: Path) -> Iterator[Path]:
    """Write the recipe that a run's checkpoint carries to a file, so that overrides can be laid over it."""
    description, _ = read_checkpoint(checkpoint_of(run, names=("best", "last")))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{description['name']}.yaml"
        path.write_text("".join(f"{line}\n" for line, _ in write_lines(description["recipe"])))
        yield path
