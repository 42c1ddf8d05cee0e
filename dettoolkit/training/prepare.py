"""Put a training together from its recipe: whatever can be refused is refused here, before any work."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

from lightning.pytorch import seed_everything

from dettoolkit.config import Recipe
from dettoolkit.run import Run
from dettoolkit.tasks import spec_of
from dettoolkit.training.memory import check_memory
from dettoolkit.training.optimizers import count_steps
from dettoolkit.training.run_folder import is_first_process
from dettoolkit.training.teaching import attach_teacher
from dettoolkit.training.trainer import build_trainer, expect_nodes
from dettoolkit.weights.read import warn_of_other_classes

logger = logging.getLogger(__name__)


def prepare(name: str, recipe: Recipe, *, pretrained: bool = True) -> Run:
    """Load the data and build the network of a training; a resumed one's is not `pretrained`."""
    section = recipe.trainer
    seed_everything(section.seed, workers=True, verbose=False)
    if pretrained and is_first_process():
        _require_writable(Path(section.out))
    trainer = build_trainer(section, run_dir=None, callbacks=[])
    expect_nodes(trainer)
    run = spec_of(recipe).training_run(name, recipe, pretrained=pretrained)
    if pretrained and recipe.model.weights is not None:
        warn_of_other_classes(recipe.model.weights, run.classes.names)
    attach_teacher(run)
    epoch_steps, steps = count_steps(recipe, len(run.train), trainer)
    run.train.epochs = -(-steps // epoch_steps)  # some augmentation ends before the last ones
    check_memory(
        run.task.network,
        run.train.transform.input_hw,
        batch_size=recipe.data.batch_size * run.images_per_sample,
        value_bytes=4 if section.precision == "32-true" else 2,
        trainer=trainer,
    )
    run.read_annotations(("val",))  # those to train on are met at once, these after an epoch or ten
    if run.monitor is None:
        logger.warning("%s has no objects or labels: the last checkpoint is used as the best", run.scored_on)
    return run


def _require_writable(out: Path) -> None:
    """Try to make a folder in `out`, and leave nothing there."""
    try:
        there = next(each for each in (out, *out.absolute().parents) if each.exists())
        with tempfile.TemporaryDirectory(dir=there):
            pass
    except OSError as error:
        raise OSError(
            f"trainer.out={out}: cannot create a folder there ({error.strerror}): set another trainer.out"
        ) from error


def summary(run: Run) -> str:
    """Return what the run is made of, with the figures that the paper's tables print."""
    first, *rest = run.network_lines()
    lines = [
        f"recipe    {run.name}",
        f"network   {first}",
        *(f"          {line}" for line in rest),
        f"data      {run.trained_on()}, {len(run.val)} validation images, {run.data_at}",
    ]
    if (teacher := run.task.teacher) is not None:
        lines.append(f"teacher   {teacher.manifest.name}, {teacher.description['teacher']}")
    return "\n".join(lines)
