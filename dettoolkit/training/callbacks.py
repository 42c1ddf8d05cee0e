"""Lightning callbacks: average of the weights, progress bar, records of unreadable images."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar, WeightAveraging
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.optim.swa_utils import update_bn

from dettoolkit.run import Run
from dettoolkit.teacher import Stopwatch, Teacher
from dettoolkit.wording import SLOW_DATA, slow_data

logger = logging.getLogger(__name__)


class EMA(WeightAveraging):
    """Lightning's averaging with an exponential decay that warms up.

    The weight of the past after n steps is decay * (1 - exp(-n / warmup_steps)), so that an average over a
    short run is not stuck at its random start.
    """

    def __init__(self, *, decay: float, warmup_steps: int) -> None:
        super().__init__(use_buffers=True, multi_avg_fn=self._average)
        self.decay = decay
        self.warmup_steps = warmup_steps

    def _average(self, averaged: Sequence[Tensor], current: Sequence[Tensor], _count: Any) -> None:
        if not averaged[0].is_floating_point():  # BN's counters
            torch._foreach_copy_(list(averaged), list(current))
            return
        step = self._latest_update_step + 1
        ramp = 1 - math.exp(-step / self.warmup_steps) if self.warmup_steps else 1.0
        torch._foreach_lerp_(list(averaged), list(current), 1 - self.decay * ramp)


class NormAnew(Callback):
    """Compute batch normalization's statistics anew before a validation of a training.

    They become the means over `batches` batches in training, for the weights that are validated and saved
    ("precise" statistics: arXiv 2105.07576, section 3). Batches depend on seed and epoch only, so that all
    processes compute the same, and a resumed run as one that nothing interrupted. Comes after EMA.
    """

    def __init__(self, batches: int) -> None:
        self.batches = batches

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replace the statistics of the weights that are to be validated."""
        if trainer.state.fn != TrainerFn.FITTING:  # they are those of a checkpoint
            return
        loader = trainer.datamodule.some_batches(self.batches)  # type: ignore[attr-defined]
        task, device = pl_module.task, pl_module.device
        passes = (
            images
            for batch in loader
            for images, _ in task.passes(task.images(batch), batch)  # type: ignore[union-attr, operator]
            if len(images) > 1  # too few for batch normalization
        )
        update_bn(passes, pl_module.network, device=device)  # type: ignore[arg-type]


class LogSpeed(Callback):
    """Log images per second, and the fractions of time spent waiting for data or a teacher, once an epoch."""

    def __init__(self) -> None:
        self._teacher = Stopwatch()  # of no teacher: it never runs
        self._images = 0
        self._waited = 0.0
        self._told = False
        self._started = self._last_end = time.perf_counter()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clocks."""
        teacher: Teacher | None = pl_module.task.teacher  # type: ignore[union-attr, assignment]
        if teacher is not None:
            self._teacher = teacher.clock
        self._teacher.reset()
        self._images, self._waited = 0, 0.0
        self._started = self._last_end = time.perf_counter()

    on_train_start = on_train_epoch_start  # of a run that is resumed in mid-epoch

    def on_train_batch_start(self, *_: Any) -> None:
        """Add the time since the last step ended: the loader's."""
        self._waited += time.perf_counter() - self._last_end

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        """Count the batch."""
        self._images += len(batch["images"]) * trainer.world_size
        self._last_end = time.perf_counter()

    def waited_fraction(self) -> float:
        """Return the fraction of the epoch's time so far that the steps waited for images."""
        return self._waited / max(self._last_end - self._started, 1e-9)

    def images_per_second(self) -> float:
        """Return the speed of the epoch so far, over all processes; 0 before its first batch."""
        return self._images / max(self._last_end - self._started, 1e-9)

    def teacher(self) -> tuple[float, float] | None:
        """Return a teacher's milliseconds per batch and its fraction of the epoch's time so far."""
        if not self._teacher.blocks:
            return None
        seconds = self._teacher.seconds
        return 1000 * seconds / self._teacher.blocks, seconds / max(self._last_end - self._started, 1e-9)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the epoch's figures; say once, on the first process, what to do if images come slowly."""
        pl_module.log("images_per_second", self.images_per_second())
        pl_module.log("data_wait_fraction", self.waited_fraction())
        starts = trainer.current_epoch == 0  # the loader, which takes a while
        if self.waited_fraction() > SLOW_DATA and not (starts or self._told) and trainer.is_global_zero:
            self._told = True
            logger.warning("epoch %d: %s", trainer.current_epoch + 1, slow_data(self.waited_fraction()))
        if (teacher := self.teacher()) is not None:
            pl_module.log_dict(dict(zip(("teacher_ms", "teacher_fraction"), teacher, strict=True)))


class ProgressBar(TQDMProgressBar):
    """Show loss, learning rate, the last score and `speed`; without a terminal write a line now and then."""

    def __init__(self, speed: LogSpeed | None = None) -> None:
        super().__init__(refresh_rate=1 if sys.stderr.isatty() else 20)
        self.speed = speed

    def init_train_tqdm(self) -> Tqdm:
        """Write to stderr, so that stdout holds results alone."""
        return self._bar(self.train_description, position=0, leave=True)

    def init_validation_tqdm(self) -> Tqdm:
        """Write below the training's bar, if there is one."""
        below = self.trainer.state.fn != "validate"
        return self._bar(self.validation_description, position=int(below), leave=not below)

    def _bar(self, description: str, *, position: int, leave: bool) -> Tqdm:
        return Tqdm(
            desc=description,
            position=position,
            disable=self.is_disabled,
            leave=leave,
            dynamic_ncols=True,
            file=sys.stderr,
            smoothing=0,
            bar_format=self.BAR_FORMAT,
        )

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Add the speed, drop Lightning's version number."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        shown = {key: f"{value:.3g}" if isinstance(value, float) else value for key, value in metrics.items()}
        if self.speed is not None and (images := self.speed.images_per_second()):
            shown["images/s"] = f"{images:.1f}"
            shown["waits for images"] = f"{self.speed.waited_fraction():.0%}"
            if (teacher := self.speed.teacher()) is not None:
                shown["teacher"] = f"{teacher[0]:.0f} ms ({teacher[1]:.0%})"
        return shown


class RecordBadImages(Callback):
    """Hand to a run what the loaders' workers found wrong with images; too many unreadable ones end it."""

    def __init__(self, run: Run) -> None:
        reports = (run.bad_images, run.problems["train"], run.problems["val"])
        self.records: list[Callable[[Any], None]] = [report.record for report in reports]
        self._new: tuple[list[Any], ...] = ([], [], [])  # met here, and not known to the other processes yet

    def on_train_batch_start(self, trainer: Trainer, module: Any, batch: Any, *_: Any) -> None:
        """Record a training batch."""
        self._take(batch["bad_images"], batch["problems"], [])

    def on_validation_batch_start(self, trainer: Trainer, module: Any, batch: Any, *_: Any) -> None:
        """Record a validation batch."""
        self._take(batch["bad_images"], [], batch["problems"])

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather what each process has met, so that all count and list the same."""
        if trainer.world_size > 1:
            gathered: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(gathered, self._new)
            self._new = ([], [], [])
            for own in gathered:
                self._record(*own)

    def _take(self, *items: list[Any]) -> None:
        for new, met in zip(self._new, items, strict=True):
            new.extend(met)
        self._record(*items)

    def _record(self, *items: list[Any]) -> None:
        for record, met in zip(self.records, items, strict=True):
            record(met)


class EndRun(Callback):
    """End training after a number of optimizer steps, and validate at the end, whenever that is.

    Lightning's own max_steps miscounts epochs when a run is resumed from an epoch's end; max_epochs does not.
    Neither validates the last weights unless val_every_epochs happens to divide the run.
    """

    def __init__(self, *, max_steps: int | None, max_epochs: int | None) -> None:
        self.max_steps = max_steps
        self.max_epochs = max_epochs

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look where a resumed run stands: Lightning starts no epoch that it only continues."""
        self._stop_when_done(trainer)
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the last epoch with a validation."""
        if self.max_epochs is not None and trainer.current_epoch + 1 >= self.max_epochs:
            trainer.check_val_every_n_epoch = 1

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Stop after the last step; validation and checkpoints follow."""
        self._stop_when_done(trainer)

    def _stop_when_done(self, trainer: Trainer) -> None:
        if self.max_steps is not None and trainer.global_step >= self.max_steps:
            trainer.should_stop = True
            trainer.check_val_every_n_epoch = 1


def has_stepped(trainer: Trainer, batch_idx: int) -> bool:
    """Return whether the optimizer has made a step after this batch, and is not accumulating gradients."""
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0 or trainer.is_last_batch


class LogSteps(Callback):
    """Log the module's `numbers` of each `every`-th step, before a checkpoint says that the step is done.

    Lightning logs after that: a run killed in between would go on without the row.
    """

    def __init__(self, *, every: int) -> None:
        self.every = every

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Hand the numbers to the loggers."""
        due = trainer.global_step % self.every == 0 or trainer.should_stop
        if due and has_stepped(trainer, batch_idx) and trainer.is_global_zero:
            numbers: dict[str, Any] = pl_module.numbers  # type: ignore[assignment]
            row = {name: float(value) for name, value in numbers.items()} | {"epoch": trainer.current_epoch}
            for logger in trainer.loggers:
                logger.log_metrics(row, trainer.global_step - 1)
                logger.save()


class SeedSteps(Callback):
    """Draw what a step draws on the device (dropout, mixup) from seed, epoch, batch and process only.

    A resumed run then continues as one that nothing interrupted: checkpoints hold no state of generators.
    """

    def __init__(self, *, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        """Seed torch's generators, the device's too."""
        place = (self.seed, trainer.current_epoch, batch_idx, trainer.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0] >> 1))
