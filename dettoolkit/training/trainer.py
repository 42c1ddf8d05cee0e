"""Lightning's Trainer, built from the recipe's trainer section."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from dettoolkit.config import sections
from dettoolkit.training.callbacks import EMA, EndRun, LogSpeed, ProgressBar, SeedSteps
from dettoolkit.training.logs import build_loggers, require_loggers
from dettoolkit.training.memory import keep_freed_memory

BEST = "best"
LAST = "last"


class Checkpoint(ModelCheckpoint):
    """Keep the newest file of a name, or the best. Lightning's own forgets the best score of a moved run."""

    def __init__(self, run_dir: Path, name: str, **when: Any) -> None:
        super().__init__(
            run_dir / "checkpoints",
            filename=name,
            mode="max",
            save_top_k=1,
            enable_version_counter=False,
            **when,
        )

    @property
    def state_key(self) -> str:
        """Tell the states of a run's Checkpoints apart, by what they write and how often."""
        return self._generate_state_key(name=self.filename, every_n_train_steps=self._every_n_train_steps)

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """Save, but not in front of a validation: Lightning would leave it out when resuming from there."""
        if not trainer.is_last_batch and not trainer.should_stop:
            super().on_train_batch_end(trainer, *args)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state of the run's former folder as one of this folder."""
        folder = Path(self.dirpath or "")
        moved = {
            key: str(folder / Path(value).name) if key.endswith("_path") and value else value
            for key, value in state_dict.items()
        }
        best = {str(folder / Path(path).name): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**moved, "dirpath": self.dirpath, "best_k_models": best})


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
        LogSpeed(),
        SeedSteps(seed=section.seed),
    ]
    if section.extra.get("enable_progress_bar", True):
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
                "score: set trainer.early_stopping=null, or give data.val objects or labelled pixels"
            )
        callbacks.append(
            EarlyStopping(monitor, mode="max", patience=stopping.patience, min_delta=stopping.min_delta)
        )
    return callbacks


def progress_bar() -> ProgressBar:
    """Build the bar; where nobody watches a terminal it writes a line now and then."""
    return ProgressBar(refresh_rate=1 if sys.stderr.isatty() else 20)


def build_trainer(
    section: sections.Trainer, *, run_dir: Path | None, callbacks: Sequence[Callback], steps_done: int = 0
) -> Trainer:
    """Build the Trainer; without a run's folder it writes nothing (evaluation).

    Args:
        section: the recipe's.
        run_dir: the run's folder.
        callbacks: all of them.
        steps_done: optimiser steps before those of this Trainer, when a run is resumed.

    Raises:
        ValueError: a strategy whose processes cannot hand their score back, or what Lightning refuses.
        ModuleNotFoundError: a logger's package is not installed.
    """
    if any(word in section.strategy for word in ("spawn", "fork", "notebook")):
        raise ValueError(
            f"trainer.strategy={section.strategy}: its processes do not return the score; use 'ddp', which "
            "starts a process per device from the command line"
        )
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
            **section.extra,
        )
    except (MisconfigurationException, ValueError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"Lightning refuses the recipe's trainer section (accelerator {section.accelerator}, devices "
            f"{section.devices}, strategy {section.strategy}, precision {section.precision}, extra "
            f"{section.extra}): {error}"
        ) from error
    if isinstance(trainer.accelerator, CPUAccelerator):
        keep_freed_memory()
    return trainer


def lost_process(error: RuntimeError, trainer: Trainer) -> str | None:
    """Say which of a run's processes the others have lost; None for any other error."""
    text = str(error)
    if trainer.world_size == 1 or not re.search("gloo/transport|ncclRemoteError", text):
        return None
    other = f"process {1 - trainer.global_rank}" if trainer.world_size == 2 else "another process"
    address = re.search(r"\[([\da-fA-F.:]+)\]:\d+", text)
    return (
        f"process {trainer.global_rank} of {trainer.world_size} has lost the connection to {other}"
        f"{f' on {address[1]}' if address else ''}: it was killed, or ended by an error that it told itself, "
        "or its machine or the network is down"
    )
