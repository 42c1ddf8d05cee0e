"""Lightning's Trainer, built from the recipe's trainer section."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.callbacks import EarlyStopping

from dettoolkit.config import sections
from dettoolkit.training.callbacks import EMA, EndRun, LogSpeed, LogSteps, ProgressBar, SeedSteps
from dettoolkit.training.checkpoints import Checkpoint, WholeCheckpoints
from dettoolkit.training.logs import build_loggers, require_loggers
from dettoolkit.training.memory import keep_freed_memory
from dettoolkit.training.run_folder import BEST, LAST


def build_callbacks(section: sections.Trainer, *, run_dir: Path, monitor: str | None) -> list[Callback]:
    """Build checkpoints, progress bar, average and early stopping for a training run.

    Args:
        section: the recipe's.
        run_dir: the run's folder.
        monitor: the score that says which checkpoint is the best; None where nothing can be scored: then the
            newest is.

    Raises:
        ValueError: early stopping without a score.
    """
    callbacks: list[Callback] = [
        # The score that decides is the last validation's, so both save after it.
        Checkpoint(run_dir, BEST, monitor=monitor),
        Checkpoint(run_dir, LAST, every_n_epochs=1, save_on_train_epoch_end=True),
        EndRun(max_steps=section.max_steps, max_epochs=section.max_epochs),
        LogSteps(every=section.log_every_steps),
        LogSpeed(),
        SeedSteps(seed=section.seed),
    ]
    if section.extra.enable_progress_bar is not False:
        callbacks.append(progress_bar())
    if section.checkpoint_every_steps is not None:
        callbacks.append(Checkpoint(run_dir, LAST, every_n_train_steps=section.checkpoint_every_steps))
    if section.ema is not None:
        callbacks.append(EMA(decay=section.ema.decay, warmup_steps=section.ema.warmup_steps))
    if section.early_stopping is not None:
        stopping = section.early_stopping
        if monitor is None:
            raise ValueError(
                "trainer.early_stopping waits for a better score, but the validation set has nothing to "
                "score: set trainer.early_stopping=null, or give data.val objects or labeled pixels"
            )
        callbacks.append(
            EarlyStopping(monitor, mode="max", patience=stopping.patience, min_delta=stopping.min_delta)
        )
    return callbacks


def progress_bar() -> ProgressBar:
    """Build the bar; without a terminal it writes a line now and then."""
    return ProgressBar(refresh_rate=1 if sys.stderr.isatty() else 20)


def build_trainer(
    section: sections.Trainer, *, run_dir: Path | None, callbacks: Sequence[Callback], steps_done: int = 0
) -> Trainer:
    """Build the Trainer; without a run's folder it writes nothing (evaluation).

    Args:
        section: the recipe's.
        run_dir: the run's folder.
        callbacks: all of them.
        steps_done: optimizer steps before those of this Trainer, when a run is resumed.

    Raises:
        ValueError: what Lightning refuses, or more processes than a CPU can run.
        ModuleNotFoundError: a logger's package is not installed.
    """
    require_loggers(section.loggers)
    try:
        trainer = Trainer(
            accelerator=section.accelerator,
            devices=section.devices,
            num_nodes=section.num_nodes,
            strategy=section.strategy,
            precision=section.precision,
            max_epochs=section.max_epochs if section.max_epochs is not None else -1,
            accumulate_grad_batches=section.accumulate,
            gradient_clip_val=section.gradient_clip,
            sync_batchnorm=section.sync_batchnorm,
            check_val_every_n_epoch=section.val_every_epochs,
            log_every_n_steps=section.log_every_steps,
            callbacks=list(callbacks),
            logger=build_loggers(run_dir, section.loggers, steps_done=steps_done) if run_dir else False,
            default_root_dir=run_dir,
            enable_checkpointing=run_dir is not None,
            enable_model_summary=False,
            num_sanity_val_steps=0,  # a score of a few images would count as the best
            use_distributed_sampler=False,  # the data module's samplers know their share
            plugins=[WholeCheckpoints()],
            **section.extra.model_dump(),
        )
    except (MisconfigurationException, ValueError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"Lightning refuses the recipe's trainer section (accelerator {section.accelerator}, devices "
            f"{section.devices}, strategy {section.strategy}, precision {section.precision}, extra "
            f"{section.extra.model_dump()}): {error}"
        ) from error
    if isinstance(trainer.accelerator, CPUAccelerator):
        if trainer.num_devices > (most := max(8, os.cpu_count() or 1)):
            raise ValueError(
                f"trainer.devices={trainer.num_devices} on the CPU is as many processes, and this machine "
                f"has {os.cpu_count()} cores: set trainer.devices to {most} at most"
            )
        keep_freed_memory()
    return trainer


def lost_process(error: RuntimeError, trainer: Trainer) -> str | None:
    """Return which of a run's processes the others have lost; None for any other error."""
    text = str(error)
    if trainer.world_size == 1 or not re.search("gloo/transport|ncclRemoteError", text):
        return None
    other = f"process {1 - trainer.global_rank}" if trainer.world_size == 2 else "another process"
    address = re.search(r"\[([\da-fA-F.:]+)\]:\d+", text)
    return (
        f"process {trainer.global_rank} of {trainer.world_size} has lost the connection to {other}"
        f"{f' on {address[1]}' if address else ''}: it was killed, or ended by an error that it printed, "
        "or its machine or the network is down"
    )
