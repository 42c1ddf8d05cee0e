"""Put a run together from its recipe, and what Lightning needs of it."""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import Trainer, seed_everything
from torch.distributed.constants import default_pg_timeout

from dettoolkit import build
from dettoolkit.build import Run
from dettoolkit.config import Recipe
from dettoolkit.run import Split
from dettoolkit.training.callbacks import RecordBadImages
from dettoolkit.training.data import killed_loader
from dettoolkit.training.memory import bytes_per_image, memory_of
from dettoolkit.training.module import TrainingModule
from dettoolkit.training.run_folder import how_to_resume, is_first_process, require_writable
from dettoolkit.training.schedules import check_length, epoch_steps
from dettoolkit.training.trainer import build_trainer

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
    run = build.training_run(name, recipe, pretrained=pretrained)
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
        description=build.describe(run),
        run_dir=run_dir,
    )


def recorder(run: Run) -> RecordBadImages:
    """Build the callback that counts and lists what is wrong with image files."""
    problems = (run.problems["train"].record, run.problems["val"].record)
    return RecordBadImages(bad_images=run.bad_images.record, problems=problems)


def write_problems(run: Run, run_dir: Path) -> None:
    """Write everything found wrong with the data to `<run>/data_report.json`."""
    problems: dict[str, Any] = {split: report.to_json() for split, report in run.problems.items()}
    problems["unreadable images"] = run.bad_images.lines
    (run_dir / "data_report.json").write_text(json.dumps(problems, indent=1))


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


@contextmanager
def shortage_told(run_dir: Path) -> Iterator[None]:
    """Describe in a sentence what the machine lacked, and how the run goes on.

    Raises:
        OSError: the disk is full.
        RuntimeError: a loader's process was killed.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(f"the disk is full ({error}). Make room; {how_to_resume(run_dir)}") from error
    except RuntimeError as error:
        if (killed := killed_loader(error)) is None:
            raise
        raise RuntimeError(f"{killed}; {how_to_resume(run_dir)}") from error
