"""Lightning's Trainer, built from the recipe's trainer section."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from dettoolkit.config import recipe
from dettoolkit.training.callbacks import EMA, LogSpeed, ProgressBar, StopAtStep
from dettoolkit.training.logs import build_loggers
from dettoolkit.training.memory import keep_freed_memory

BEST = "best"
LAST = "last"


def build_callbacks(section: recipe.Trainer, *, run_dir: Path, monitor: str) -> list[Callback]:
    """Build checkpoints, progress bar, average and early stopping for a training run."""
    checkpoints = run_dir / "checkpoints"
    callbacks: list[Callback] = [
        # The score that decides is the last validation's, so both save after it.
        ModelCheckpoint(
            checkpoints,
            filename=BEST,
            monitor=monitor,
            mode="max",
            save_top_k=1,
            enable_version_counter=False,
        ),
        ModelCheckpoint(
            checkpoints,
            filename=LAST,
            monitor=None,
            save_top_k=1,
            every_n_epochs=1,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        ),
        LogSpeed(),
        progress_bar(),
    ]
    if section.checkpoint_every_steps is not None:
        callbacks.append(
            ModelCheckpoint(
                checkpoints,
                filename=LAST,
                monitor=None,
                save_top_k=1,
                every_n_train_steps=section.checkpoint_every_steps,
                enable_version_counter=False,
            )
        )
    if section.max_steps is not None:
        callbacks.append(StopAtStep(section.max_steps))
    if section.ema is not None:
        callbacks.append(EMA(decay=section.ema.decay, warmup_steps=section.ema.warmup_steps))
    if section.early_stopping is not None:
        stopping = section.early_stopping
        callbacks.append(
            EarlyStopping(monitor, mode="max", patience=stopping.patience, min_delta=stopping.min_delta)
        )
    return callbacks


def progress_bar() -> ProgressBar:
    """Build the bar; where nobody watches a terminal it writes a line now and then."""
    return ProgressBar(refresh_rate=1 if sys.stderr.isatty() else 20)


def build_trainer(section: recipe.Trainer, *, run_dir: Path | None, callbacks: Sequence[Callback]) -> Trainer:
    """Build the Trainer; without a run's folder it writes nothing (evaluation).

    Raises:
        ValueError: a strategy whose processes cannot hand their score back.
    """
    if any(word in section.strategy for word in ("spawn", "fork", "notebook")):
        raise ValueError(
            f"trainer.strategy={section.strategy}: its processes do not return the score; use 'ddp', which "
            "starts a process per device from the command line"
        )
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
        logger=build_loggers(run_dir, section.loggers) if run_dir is not None else False,
        default_root_dir=run_dir,
        enable_checkpointing=run_dir is not None,
        enable_model_summary=False,
        num_sanity_val_steps=0,  # a score of a few images would count as the best
        use_distributed_sampler=False,  # the data module's samplers know their share
        **section.extra,
    )
    if isinstance(trainer.accelerator, CPUAccelerator):
        keep_freed_memory()
    return trainer
