"""Loggers of a run: a CSV file that resuming appends to, TensorBoard, and those that a recipe asks for."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from dettoolkit.config.sections import Loggers
from dettoolkit.training.run_folder import is_first_process, write_whole


class _AppendingWriter(ExperimentWriter):
    """Lightning's writer, which would delete the metrics of a resumed run, and lose them in a kill."""

    def __init__(self, *, log_dir: str, steps_done: int) -> None:
        self.steps_done: int | None = steps_done
        super().__init__(log_dir=log_dir)

    def save(self) -> None:
        """Append what was logged; before the first of it, drop what a resumed run does again.

        Not before: a resume that is refused must not change the file.
        """
        path = Path(self.metrics_file_path)
        if self.metrics and self.steps_done is not None and path.is_file():
            self.metrics_keys = drop_rows(path, steps_done=self.steps_done)
        if self.metrics:
            self.steps_done = None
        try:
            super().save()
        except BaseException:  # Lightning saves once more in the end, then below a header without new columns
            self.metrics = []
            raise

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        path = Path(self.metrics_file_path)
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        _write_rows(path, fieldnames, rows)

    def _check_log_dir_exists(self) -> None:
        """Keep what is there."""


def drop_rows(path: Path, *, steps_done: int) -> list[str]:
    """Drop the steps, counted from 0, that a resumed run does again from metrics.csv; give its columns."""
    lines = path.read_text().splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):  # the run was killed while it wrote this line
        lines.pop()
    if not lines:
        return []
    reader = csv.DictReader(lines)
    rows = [row for row in reader if int(row["step"]) < steps_done]
    names = list(reader.fieldnames or [])
    _write_rows(path, names, rows)
    return names


def _write_rows(path: Path, names: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=names)
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, text.getvalue().encode())


class AppendingCSVLogger(CSVLogger):
    """Write `<run>/metrics.csv`, continuing the file that is there after `steps_done` steps."""

    def __init__(self, run_dir: Path, *, steps_done: int) -> None:
        super().__init__(run_dir, name="", version="", flush_logs_every_n_steps=1)
        self.steps_done = steps_done

    @property
    def experiment(self) -> ExperimentWriter:
        """The writer, made at first use on the first process."""
        if self._experiment is None and is_first_process():
            self._experiment = _AppendingWriter(log_dir=self.log_dir, steps_done=self.steps_done)
        return self._experiment  # type: ignore[return-value]


def build_loggers(run_dir: Path, loggers: Loggers, *, steps_done: int) -> list[Logger]:
    """Build the CSV logger and those the recipe names, all writing under the run's folder.

    What an interrupted run logged after its checkpoint at step `steps_done` is left out, not shown twice.
    """
    built: list[Logger] = [AppendingCSVLogger(run_dir, steps_done=steps_done)]
    if loggers.tensorboard:
        purge = steps_done if steps_done else None
        built.append(TensorBoardLogger(run_dir, name="", version="tensorboard", purge_step=purge))
    if loggers.wandb is not None:
        from lightning.pytorch.loggers import WandbLogger

        built.append(WandbLogger(project=loggers.wandb, save_dir=run_dir, name=run_dir.name))
    if loggers.mlflow is not None:
        from lightning.pytorch.loggers import MLFlowLogger

        built.append(MLFlowLogger(experiment_name=loggers.mlflow, save_dir=str(run_dir / "mlflow")))
    return built


def require_loggers(loggers: Loggers) -> None:
    """Check that the packages of the loggers a recipe names are there.

    Raises:
        ModuleNotFoundError: one is not installed.
    """
    for package, wanted in (("wandb", loggers.wandb), ("mlflow", loggers.mlflow)):
        if wanted is not None and find_spec(package) is None:
            raise ModuleNotFoundError(
                f"trainer.loggers.{package} is set, but {package} is not installed: "
                f"pip install 'dettoolkit[{package}]', or set trainer.loggers.{package}=null"
            )
