"""Put a run together from its recipe, and what Lightning needs of it."""

from __future__ import annotations

import logging
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning
import torch
import torchvision
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import Trainer, seed_everything
from torch.distributed.constants import default_pg_timeout

from dettoolkit.config import Recipe, recipe_to_dict
from dettoolkit.run import Run
from dettoolkit.tasks import spec_of
from dettoolkit.training.data import DataModule
from dettoolkit.training.memory import bytes_per_image, memory_of
from dettoolkit.training.module import TrainingModule
from dettoolkit.training.run_folder import is_first_process, require_writable
from dettoolkit.training.schedules import check_length, epoch_steps
from dettoolkit.training.trainer import build_trainer
from dettoolkit.weights.description import VERSION

logger = logging.getLogger(__name__)


def prepare(name: str, recipe: Recipe, *, pretrained: bool = True) -> Run:
    """Load the data and build the network of a training; anything wrong shows here, before any work.

    Without `pretrained` the weights that the recipe starts from are not needed: a checkpoint brings its own.
    """
    seed_everything(recipe.trainer.seed, workers=True, verbose=False)
    trainer = build_trainer(recipe.trainer, run_dir=None, callbacks=[])
    _expect_nodes(trainer)
    if pretrained and is_first_process():
        require_writable(Path(recipe.trainer.out))
    run = spec_of(recipe).training_run(name, recipe, pretrained=pretrained)
    _check_steps(run, trainer)
    _check_memory(run, trainer)
    run.read_annotations(("val",))  # those to train on are met at once, these after an epoch or ten
    if run.monitor is None:
        logger.warning("%s has nothing to score: the last checkpoint counts as the best", run.scored_on)
    return run


def _expect_nodes(trainer: Trainer) -> None:
    """Describe at once which other nodes the run will wait for, and how they are started.

    Raises:
        ValueError: nothing says where the first node is, so they would never meet.
    """
    if trainer.num_nodes == 1:
        return
    environment = trainer.strategy.cluster_environment  # type: ignore[attr-defined]
    how = (
        "start this command on every node, by torchrun or SLURM, or with MASTER_ADDR (the first node), "
        f"MASTER_PORT (such as 29500) and NODE_RANK (0 to {trainer.num_nodes - 1})"
    )
    known = "MASTER_ADDR" in os.environ and os.environ.get("MASTER_PORT", "").isdecimal()
    if isinstance(environment, LightningEnvironment) and not known:
        raise ValueError(
            f"trainer.num_nodes={trainer.num_nodes}, but nothing says where the first node is: {how}. This "
            "machine alone: trainer.num_nodes=1"
        )
    if os.environ.get("LOCAL_RANK", "0") == "0":
        logger.log(
            logging.INFO if is_first_process() else logging.ERROR,  # of other nodes only errors are shown
            "node %d of %d: training begins when all of them are at %s:%s, and waits for them up to %d "
            "minutes: %s",
            environment.node_rank(),
            trainer.num_nodes,
            environment.main_address,
            environment.main_port,
            default_pg_timeout.total_seconds() // 60,
            how,
        )


def _check_steps(run: Run, trainer: Trainer) -> None:
    """Refuse batches that the training set cannot fill, and a warm-up as long as the run.

    Raises:
        ValueError: naming the setting that does.
    """
    section, batch_size = run.recipe.trainer, run.recipe.data.batch_size
    share = -(-len(run.train) // trainer.world_size)
    if 2 <= share < batch_size:  # of fewer, the loader says more
        raise ValueError(
            f"data.batch_size is {batch_size}, but there are {len(run.train)} images to train on for "
            f"{trainer.world_size} process(es), and the learning rate is meant for whole batches: set "
            f"data.batch_size={share} or less"
        )
    epoch = epoch_steps(
        max(1, share // batch_size), limit=trainer.limit_train_batches, accumulate=section.accumulate
    )
    check_length(run.recipe.optim.schedule, section.max_steps or epoch * (section.max_epochs or 0))


def _check_memory(run: Run, trainer: Trainer) -> None:
    """Refuse a step that cannot fit, before any of it is allocated.

    Raises:
        ValueError: with the largest batch that might fit.
    """
    batch_size, (height, width) = run.recipe.data.batch_size, run.train.transform.input_hw
    device = trainer.strategy.root_device
    each = bytes_per_image(run.task.network, (height, width))
    each //= 1 if run.recipe.trainer.precision == "32-true" else 2
    memory = memory_of(device) // (1 if device.type == "cuda" else trainer.num_devices)
    if batch_size * each > memory:
        remedy = f"data.batch_size={memory // each} or less, or " if memory // each >= 2 else ""
        raise ValueError(
            f"a step on {batch_size} images of {height}x{width} keeps {batch_size * each / 1e9:.1f} GB, and "
            f"there are {memory / 1e9:.1f} GB for it ({device}): set {remedy}a smaller size of image"
        )


def summary(run: Run) -> str:
    """Return what the run is made of, with the figures that the paper's tables print."""
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
        description=describe(run),
        run_dir=run_dir,
    )


def describe(run: Run) -> dict[str, Any]:
    """Describe a run in plain data: what its checkpoints carry besides weights."""
    return {
        "version": VERSION,
        "name": run.name,
        "recipe": recipe_to_dict(run.recipe),
        "class_names": run.classes.names,
        "class_ids": run.classes.ids,
        "versions": {
            "dettoolkit": version("dettoolkit"),
            "torch": str(torch.__version__),
            "torchvision": str(torchvision.__version__),
            "lightning": str(lightning.__version__),
            "python": platform.python_version(),
        },
    }


def build_data_module(run: Run) -> DataModule:
    """Build the loaders of a run."""
    return DataModule(
        train=run.train,
        val=run.val,
        collate=run.collate,
        batch_size=run.recipe.data.batch_size,
        val_batch_size=run.val_batch_size,
        workers=run.recipe.data.workers,
        seed=run.recipe.trainer.seed,
    )
