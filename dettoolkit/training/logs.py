"""Loggers of a run: a CSV file that resuming appends to, TensorBoard, and those that a recipe asks for."""

from __future__ import annotations

import csv
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities import rank_zero_only

from dettoolkit.config.recipe import Loggers


def is_first_process() -> bool:
    """Say whether this process is the one that prints and writes."""
    return getattr(rank_zero_only, "rank", 0) == 0


class _AppendingWriter(ExperimentWriter):
    """Lightning's writer, which would delete the metrics of the run that is resumed."""

    def _check_log_dir_exists(self) -> None:
        path = Path(self.metrics_file_path)
        if path.is_file():
            with path.open(newline="") as file:
                self.metrics_keys = next(csv.reader(file), [])


class AppendingCSVLogger(CSVLogger):
    """Write `<run>/metrics.csv`, continuing the file that is there."""

    @property
    def experiment(self) -> ExperimentWriter:
        """The writer, made at first use on the first process."""
        if self._experiment is None and is_first_process():
            self._experiment = _AppendingWriter(log_dir=self.log_dir)
        return self._experiment  # type: ignore[return-value]


def build_loggers(run_dir: Path, loggers: Loggers) -> list[Logger]:
    """Build the CSV logger and those the recipe names, all writing under the run's folder.

    Raises:
        ModuleNotFoundError: the recipe names a logger whose package is not installed.
    """
    built: list[Logger] = [AppendingCSVLogger(run_dir, name="", version="", flush_logs_every_n_steps=1)]
    if loggers.tensorboard:
        built.append(TensorBoardLogger(run_dir, name="", version="tensorboard"))
    if loggers.wandb is not None:
        from lightning.pytorch.loggers import WandbLogger

        _require("wandb")
        built.append(WandbLogger(project=loggers.wandb, save_dir=run_dir, name=run_dir.name))
    if loggers.mlflow is not None:
        from lightning.pytorch.loggers import MLFlowLogger

        _require("mlflow")
        built.append(MLFlowLogger(experiment_name=loggers.mlflow, save_dir=str(run_dir / "mlflow")))
    return built


def _require(package: str) -> None:
    from importlib.util import find_spec

    if find_spec(package) is None:
        raise ModuleNotFoundError(
            f"trainer.loggers.{package} is set, but {package} is not installed: "
            f"pip install 'dettoolkit[{package}]', or set trainer.loggers.{package}=null"
        )
