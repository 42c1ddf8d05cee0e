"""Put a run together from its recipe: data, classes, network, task, and what Lightning trains."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lightning.pytorch import Trainer, seed_everything

from dettoolkit import build
from dettoolkit.complexity import count_conv_madds, count_parameters
from dettoolkit.config import Recipe
from dettoolkit.datasets.coco import BadImages, CocoDetection
from dettoolkit.detection.task import DetectionTask
from dettoolkit.training.callbacks import RecordBadImages
from dettoolkit.training.module import TrainingModule
from dettoolkit.training.trainer import build_trainer

logger = logging.getLogger(__name__)


@dataclass
class Run:
    """Everything a command works with.

    Attributes:
        name: the recipe's.
        recipe: the run.
        classes: of the network, as its training data has them; checkpoints carry them.
        scored_classes: the same, with the category ids of the validation file.
        task: what is trained and scored.
        train: training set; of an evaluation, the validation set.
        val: validation set.
        bad_images: those that could not be read, counted over all processes.
    """

    name: str
    recipe: Recipe
    classes: build.Classes
    scored_classes: build.Classes
    task: DetectionTask
    train: CocoDetection
    val: CocoDetection
    bad_images: BadImages

    @property
    def monitor(self) -> str | None:
        """Give the name of the score that says which checkpoint is best; None when nothing can be scored."""
        return None if np.all(self.val.annotations.iscrowd) else self.task.monitor


def prepare(name: str, recipe: Recipe, *, pretrained: bool = True) -> Run:
    """Load the data and build the network of a training; anything wrong shows here, before any work.

    Without `pretrained` the weights that the recipe starts from are not needed: a checkpoint brings its own.
    """
    seed_everything(recipe.trainer.seed, workers=True, verbose=False)
    build_trainer(recipe.trainer, run_dir=None, callbacks=[])
    build.prepare_data(recipe.data)
    train_annotations = build.load_annotations(recipe.data, "train")
    val_annotations = build.load_annotations(recipe.data, "val")
    classes = build.classes_of(train_annotations)
    scored = build.match_classes(classes, val_annotations, whose=str(train_annotations.path))
    detector = build.build_detector(recipe.model, num_classes=len(classes.names), pretrained=pretrained)
    task = build.build_task(recipe, detector, classes=scored, ground_truth=val_annotations.evaluation_dict())
    run = Run(
        name,
        recipe,
        classes,
        scored,
        task,
        build.build_dataset(recipe, train_annotations, split="train"),
        build.build_dataset(recipe, val_annotations, split="val"),
        BadImages(recipe.data.max_bad_images),
    )
    if run.monitor is None:
        logger.warning(
            "%s has no objects: there is no score, and the last checkpoint counts as the best",
            val_annotations.path,
        )
    return run


def summary(run: Run) -> str:
    """Say what the run is made of, with the figures that the paper's tables print."""
    recipe, network = run.recipe, run.task.network
    height, width = recipe.model.input_hw
    lines = [
        f"recipe    {run.name}",
        f"network   ssdlite on {recipe.model.backbone.type}, {len(run.classes.names)} classes, "
        f"{len(network.anchors_xyxy)} default boxes at {height}x{width}",
        f"          {count_parameters(network, norm_affine=False) / 1e6:.2f}M parameters without BN "
        f"({count_parameters(network, norm_affine=True) / 1e6:.2f}M with), "
        f"{count_conv_madds(network, (height, width)) / 1e9:.2f}B multiply-adds",
        f"data      {len(run.train)} images to train on, {len(run.val)} to validate on, {recipe.data.root}",
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
        description=build.describe(run.name, recipe, run.classes),
        run_dir=run_dir,
    )


def recorder(run: Run) -> RecordBadImages:
    """Build the callback that counts and lists what is wrong with image files."""
    problems = (run.train.annotations.problems.record, run.val.annotations.problems.record)
    return RecordBadImages(bad_images=run.bad_images.record, problems=problems)


def write_problems(run: Run, run_dir: Path) -> None:
    """Write everything found wrong with the data to `<run>/data_problems.json`."""
    problems = {
        "train": run.train.annotations.problems.to_json(),
        "val": run.val.annotations.problems.to_json(),
        "unreadable images": run.bad_images.lines,
    }
    (run_dir / "data_problems.json").write_text(json.dumps(problems, indent=1))
