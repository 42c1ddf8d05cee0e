"""Put a run together from its recipe, and what Lightning needs of it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer, seed_everything

from dettoolkit import build
from dettoolkit.build import Run
from dettoolkit.builders.run import Split
from dettoolkit.config import Recipe
from dettoolkit.training.callbacks import RecordBadImages
from dettoolkit.training.module import TrainingModule
from dettoolkit.training.trainer import build_trainer

logger = logging.getLogger(__name__)


def prepare(name: str, recipe: Recipe, *, pretrained: bool = True) -> Run:
    """Load the data and build the network of a training; anything wrong shows here, before any work.

    Without `pretrained` the weights that the recipe starts from are not needed: a checkpoint brings its own.
    """
    seed_everything(recipe.trainer.seed, workers=True, verbose=False)
    build_trainer(recipe.trainer, run_dir=None, callbacks=[])
    run = build.training_run(name, recipe, pretrained=pretrained)
    run.read_annotations(("val",))  # those to train on are met at once, these after an epoch or ten
    if run.monitor is None:
        logger.warning("%s has nothing to score: the last checkpoint counts as the best", run.scored_on)
    return run


def summary(run: Run) -> str:
    """Say what the run is made of, with the figures that the paper's tables print."""
    first, *rest = run.network_lines()
    lines = [
        f"recipe    {run.name}",
        f"network   {first}",
        *(f"          {line}" for line in rest),
        f"data      {len(run.train)} images to train on, {len(run.val)} to validate on, "
        f"{run.recipe.data.root}",
    ]
    return "\n".join(lines)


def lightning_module(run: Run, trainer: Trainer, run_dir: Path) -> TrainingModule:
    """Build what Lightning trains and validates."""
    recipe = run.recipe
    return TrainingModule(
        task=run.task,
        optim=recipe.optim,
        images_per_step=recipe.data.batch_size * trainer.world_size * recipe.trainer.accumulate,
        max_steps=recipe.trainer.max_steps,
        channels_last=recipe.trainer.channels_last,
        description=build.describe(run),
        run_dir=run_dir,
    )


def recorder(run: Run) -> RecordBadImages:
    """Build the callback that counts and lists what is wrong with image files."""
    problems = (run.problems["train"].record, run.problems["val"].record)
    return RecordBadImages(bad_images=run.bad_images.record, problems=problems)


def write_problems(run: Run, run_dir: Path) -> None:
    """Write everything found wrong with the data to `<run>/data_problems.json`."""
    problems: dict[str, Any] = {split: report.to_json() for split, report in run.problems.items()}
    problems["unreadable images"] = run.bad_images.lines
    (run_dir / "data_problems.json").write_text(json.dumps(problems, indent=1))


def count_problems(run: Run) -> dict[Split, int]:
    """Count what is known to be wrong with the data of each split; at first, what was told at loading."""
    return {split: sum(report.counts.values()) for split, report in run.problems.items()}


def tell_problems(run: Run, told: Mapping[Split, int]) -> None:
    """Warn of what reading the images has shown: which were skipped, and problems beyond those told."""
    if run.bad_images.lines:
        listing = "\n  ".join(run.bad_images.lines)
        logger.warning(
            "%d images could not be read and were skipped:\n  %s", len(run.bad_images.lines), listing
        )
    reports = run.problems
    for split, count in count_problems(run).items():
        of_its_own = split == "val" or reports[split] is not reports["val"]  # an evaluation has one for both
        if count > told[split] and of_its_own:
            logger.warning("%s", reports[split].summary())
