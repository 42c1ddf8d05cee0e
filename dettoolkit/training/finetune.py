"""A short fine-tune: some steps from the weights of a network with other blocks, and a score."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from lightning.pytorch import Callback

from dettoolkit.config import Recipe
from dettoolkit.config.sections import Loggers
from dettoolkit.finite import NonFiniteError
from dettoolkit.training.callbacks import EndRun, NormAnew, RecordBadImages, SeedSteps
from dettoolkit.training.data import DataModule
from dettoolkit.training.module import NonFiniteLoss, TrainingModule, describe
from dettoolkit.training.prepare import prepare
from dettoolkit.training.trained import open_model
from dettoolkit.training.trainer import build_trainer, explained
from dettoolkit.weights.inherit import Criterion, inherit
from dettoolkit.weights.safe import write_safetensors

logger = logging.getLogger(__name__)

NEVER = 10**9  # epochs between validations: one at the end is enough


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A network to be trained for a while.

    Attributes:
        name: of the recipe.
        recipe: of the network; its data and losses are those of a training.
        start: checkpoint whose weights it starts from.
        by: which of that network's channels are kept.
        steps: optimizer steps; 0 scores the inherited weights.
        lr_factor: learning rate, relative to the recipe's.
        seed: of sample order and augmentation.
        out: the checkpoint to write, a .safetensors file.
    """

    name: str
    recipe: Recipe
    start: Path
    by: Criterion
    steps: int
    lr_factor: float
    seed: int
    out: Path


class Tried(NamedTuple):
    """The score of a trial, None where it diverged, and the score's name."""

    monitor: str
    score: float | None


def finetune(trial: Trial) -> Tried:
    """Train a trial's network, write it as a checkpoint and score it.

    The score is the one that decides which checkpoint of a training is the best. The same trial has the same
    score on the same machine, with as many threads.

    Raises:
        ValueError: the validation set has nothing to score, or other classes than the start.
    """
    recipe = shortened(trial)
    run = prepare(trial.name, recipe)
    monitor = run.monitor
    if monitor is None:
        raise ValueError(f"{run.scored_on} has nothing to score networks by: use a data.val with annotations")
    manifest, start = open_model(trial.start)
    if list(manifest.section.class_names) != list(run.classes.names):
        raise ValueError(f"{trial.start} has other classes than {run.data_at}: set data.root to its own data")
    inherit(run.task.network, start, by=trial.by)
    section = recipe.trainer
    callbacks: list[Callback] = [
        RecordBadImages(run),
        EndRun(max_steps=section.max_steps, max_epochs=None),
        SeedSteps(seed=section.seed),
    ]
    if section.norm_batches:
        callbacks.append(NormAnew(section.norm_batches))
    trainer = build_trainer(section, run_dir=None, callbacks=callbacks)
    module = TrainingModule(run, trial.out.parent, world_size=1)
    data = DataModule(run)
    try:
        with explained(trainer, lambda: "what is done is kept"):
            if trial.steps:
                trainer.fit(module, datamodule=data)
            else:
                trainer.validate(module, datamodule=data, verbose=False)
    except (NonFiniteLoss, NonFiniteError) as error:
        logger.warning("%s", error)
        return Tried(monitor, None)
    if module.score is None:
        raise RuntimeError("validation ended without a score")
    part = trial.out.with_name(f".{trial.out.name}.part")
    write_safetensors(part, run.task.network.state_dict(), describe(run))
    part.replace(trial.out)
    value = float(module.score.numbers[monitor])
    return Tried(monitor, value if math.isfinite(value) else None)


def shortened(trial: Trial) -> Recipe:
    """Return a trial's recipe: on one device, without logs and averages, for the trial's steps.

    The schedule begins without a warm-up and falls to zero.
    """
    recipe = trial.recipe
    trainer = recipe.trainer.model_copy(
        update={
            "max_epochs": None,
            "max_steps": max(1, trial.steps),
            "devices": 1,
            "num_nodes": 1,
            "strategy": "auto",
            "sync_batchnorm": False,
            "seed": trial.seed,
            "val_every_epochs": NEVER,
            "checkpoint_every_steps": None,
            "early_stopping": None,
            "ema": None,
            "loggers": Loggers.model_validate({"tensorboard": False}),
            "out": str(trial.out.parent),
            "extra": recipe.trainer.extra.model_copy(update={"enable_progress_bar": False}),
        }
    )
    schedule = recipe.optim.schedule.model_copy(
        update={"type": "cosine", "warmup_steps": 0, "final_factor": 0.0}
    )
    optim = recipe.optim.model_copy(update={"lr": recipe.optim.lr * trial.lr_factor, "schedule": schedule})
    return recipe.model_copy(update={"trainer": trainer, "optim": optim})
