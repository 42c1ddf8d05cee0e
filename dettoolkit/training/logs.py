"""The logger of metrics.csv, which resuming continues."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from dettoolkit.training.run_folder import write_whole


class MetricsFile(Logger):
    """Write `<run>/metrics.csv`, continuing the file that is there after `steps_done` steps.

    Lightning's CSVLogger would delete the metrics of a resumed run, and lose them in a kill.
    """

    name = version = ""

    def __init__(self, run_dir: Path, *, steps_done: int) -> None:
        super().__init__()
        self.path, self.steps_done = run_dir / "metrics.csv", steps_done
        self.columns: list[str] | None = None  # of the file, once it is read

    @property
    def save_dir(self) -> str:
        """Return the run's folder: profilers write there too."""
        return str(self.path.parent)

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Write nothing: config.yaml has the recipe."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append a row; before the first, drop what a resumed run does again.

        Not before: a resume that is refused must not change the file.
        """
        if self.columns is None:
            self.columns = drop_rows(self.path, steps_done=self.steps_done) if self.path.is_file() else []
        row = {**metrics, "step": step}
        if row.keys() <= set(self.columns):
            with self.path.open("a", newline="") as file:
                csv.DictWriter(file, self.columns).writerow(row)
            return
        rows = list(csv.DictReader(self.path.read_text().splitlines())) if self.columns else []
        self.columns = sorted({*self.columns, *row})
        _write_rows(self.path, self.columns, [*rows, row])


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
