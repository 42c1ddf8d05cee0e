"""Lightning's Trainer, built from the recipe's trainer section, and what can end it before its time."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.trainer.states import TrainerFn
from torch.distributed.constants import default_pg_timeout

from dettoolkit.config import sections
from dettoolkit.training.callbacks import EMA, EndRun, LogSpeed, LogSteps, NormAnew, ProgressBar, SeedSteps
from dettoolkit.training.checkpoints import Checkpoint, WholeCheckpoints
from dettoolkit.training.logs import MetricsFile
from dettoolkit.training.memory import keep_freed_memory
from dettoolkit.training.run_folder import BEST, LAST, Interrupted, is_first_process

logger = logging.getLogger(__name__)


def build_trainer(
    section: sections.Trainer, *, run_dir: Path | None, callbacks: Sequence[Callback], steps_done: int = 0
) -> Trainer:
    """Build the Trainer; without a run's folder it writes nothing. A resumed run has made `steps_done`."""
    for package, wanted in (("wandb", section.loggers.wandb), ("mlflow", section.loggers.mlflow)):
        if wanted is not None and find_spec(package) is None:
            raise ModuleNotFoundError(
                f"trainer.loggers.{package} is set, but {package} is not installed: "
                f"pip install 'dettoolkit[{package}]', or set trainer.loggers.{package}=null"
            )
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
            logger=_build_loggers(section.loggers, run_dir, steps_done) if run_dir else False,
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
        if trainer.num_devices > (limit := max(8, os.cpu_count() or 1)):
            raise ValueError(
                f"trainer.devices={trainer.num_devices} on the CPU starts {trainer.num_devices} processes, "
                f"but this machine has {os.cpu_count()} cores: set trainer.devices to at most {limit}"
            )
        keep_freed_memory()
    return trainer


def _build_loggers(loggers: sections.Loggers, run_dir: Path, steps_done: int) -> list[Logger]:
    """Build the CSV logger and those the recipe names, all writing under the run's folder.

    What an interrupted run logged after its checkpoint at step `steps_done` is left out, not shown twice.
    """
    built: list[Logger] = [MetricsFile(run_dir, steps_done=steps_done)]
    if loggers.tensorboard:
        built.append(
            TensorBoardLogger(run_dir, name="", version="tensorboard", purge_step=steps_done or None)
        )
    if loggers.wandb is not None:
        built.append(WandbLogger(project=loggers.wandb, save_dir=run_dir, name=run_dir.name))
    if loggers.mlflow is not None:
        built.append(MLFlowLogger(experiment_name=loggers.mlflow, save_dir=str(run_dir / "mlflow")))
    return built


def build_callbacks(section: sections.Trainer, run_dir: Path, *, monitor: str | None) -> list[Callback]:
    """Build a training's callbacks; `monitor` says which checkpoint is the best, None takes the newest."""
    speed = LogSpeed()
    callbacks: list[Callback] = [
        # The score that decides is the last validation's, so both save after it.
        Checkpoint(run_dir, BEST, monitor=monitor),
        Checkpoint(run_dir, LAST, every_n_epochs=1, save_on_train_epoch_end=True),
        EndRun(max_steps=section.max_steps, max_epochs=section.max_epochs),
        LogSteps(every=section.log_every_steps),
        speed,
        SeedSteps(seed=section.seed),
    ]
    if section.extra.enable_progress_bar is not False:
        callbacks.append(ProgressBar(speed))
    if section.ema is not None:
        callbacks.append(EMA(decay=section.ema.decay, warmup_steps=section.ema.warmup_steps))
    if section.norm_batches:
        callbacks.append(NormAnew(section.norm_batches))
    if (stopping := section.early_stopping) is not None:
        if monitor is None:
            raise ValueError(
                "trainer.early_stopping waits for a better score, but the validation set has nothing to "
                "score: set trainer.early_stopping=null, or use a data.val with objects or labeled pixels"
            )
        callbacks.append(
            EarlyStopping(monitor, mode="max", patience=stopping.patience, min_delta=stopping.min_delta)
        )
    if section.checkpoint_every_steps is not None:
        callbacks.append(Checkpoint(run_dir, LAST, every_n_train_steps=section.checkpoint_every_steps))
    return callbacks


def expect_nodes(trainer: Trainer) -> None:
    """Describe at once which other nodes the run will wait for, and how they are started."""
    if trainer.num_nodes == 1:
        return
    environment = trainer.strategy.cluster_environment  # type: ignore[attr-defined]
    how = (
        "start this command on every node, with torchrun or SLURM, or with MASTER_ADDR (the first node), "
        f"MASTER_PORT (such as 29500) and NODE_RANK (0 to {trainer.num_nodes - 1})"
    )
    known = "MASTER_ADDR" in os.environ and os.environ.get("MASTER_PORT", "").isdecimal()
    if isinstance(environment, LightningEnvironment) and not known:
        raise ValueError(
            f"trainer.num_nodes={trainer.num_nodes}, but the address of the first node is unknown: {how}. "
            "To use only this machine: trainer.num_nodes=1"
        )
    if os.environ.get("LOCAL_RANK", "0") == "0":
        logger.log(
            logging.INFO if is_first_process() else logging.ERROR,  # of other nodes only errors are shown
            "node %d of %d: waiting up to %d minutes for all nodes to connect to %s:%s: %s",
            environment.node_rank(),
            trainer.num_nodes,
            default_pg_timeout.total_seconds() // 60,
            environment.main_address,
            environment.main_port,
            how,
        )


@contextmanager
def explained(trainer: Trainer, remedy: Callable[[], str]) -> Iterator[None]:
    """Explain what ended the Trainer, and how to go on: Ctrl-C (Interrupted), or a process killed."""
    try:
        yield
    except SystemExit as error:  # what Lightning makes of Ctrl-C, and of a scheduler's SIGTERM
        scoring = trainer.state.fn == TrainerFn.VALIDATING
        when = "while scoring" if scoring else f"after {trainer.global_step} steps"
        raise Interrupted(f"interrupted {when}; {remedy()}") from error
    except RuntimeError as error:
        if (cause := _killed_loader(error) or lost_process(error, trainer)) is None:
            raise
        raise RuntimeError(f"{cause}; {remedy()}") from error


def _killed_loader(error: RuntimeError) -> str | None:
    text = str(error)
    if re.match(r"DataLoader worker \(pid.*\) (is killed|exited unexpectedly)", text) is None:
        return None
    return (
        f"a data loader process was killed ({text.splitlines()[0].rstrip('. ')}): memory or shared memory "
        "(/dev/shm) may have run out. Use fewer data.workers or a smaller data.batch_size"
    )


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
