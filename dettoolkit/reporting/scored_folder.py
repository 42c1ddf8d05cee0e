"""The folder of a training or an evaluation, as a report reads it; nothing in it is executed."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dettoolkit.datasets.data_report import BadImageError
from dettoolkit.datasets.images import read_image
from dettoolkit.datasets.regular_files import open_regular
from dettoolkit.spec import TaskSpec
from dettoolkit.tasks import spec_named

EVALUATION, IMAGE_SCORES, REPORT = "evaluation.json", "image_scores.json", "report.html"
MAX_BYTES = 200_000_000  # of a file that is read whole


@dataclass(frozen=True)
class ScoredFolder:
    """A folder with an evaluation.json.

    Attributes:
        path: the folder.
        training: the run's folder: the same, or the one above; None for an evaluation that is elsewhere.
        evaluation: what evaluation.json holds.
        spec: its task.
    """

    path: Path
    training: Path | None
    evaluation: dict[str, Any]
    spec: TaskSpec

    @property
    def about(self) -> Mapping[str, Any]:
        """Return how the scores were made."""
        about: Mapping[str, Any] = self.evaluation["about"]
        return about

    @property
    def folders(self) -> list[Path]:
        """Return the folders in which files of the run may lie."""
        return [self.path, *([self.training] if self.training not in (None, self.path) else [])]

    def json(self, name: str) -> Any:
        """Read a json of the folder or of the run's; None where there is none."""
        path = next((folder / name for folder in self.folders if (folder / name).is_file()), None)
        return None if path is None else read_json(path)

    def metrics(self) -> list[dict[str, float]]:
        """Read metrics.csv: the numbers of each row; no rows where there is none."""
        if self.training is None or not (self.training / "metrics.csv").is_file():
            return []
        with open_regular(self.training / "metrics.csv") as file:
            lines = file.read(MAX_BYTES).decode("utf-8", "replace").splitlines()
        rows = [{key: _number(value) for key, value in row.items()} for row in csv.DictReader(lines)]
        return [{key: value for key, value in row.items() if not math.isnan(value)} for row in rows]

    def picture(self, entry: Mapping[str, Any]) -> NDArray[np.uint8] | None:
        """Read what was drawn of an image that evaluation.json lists."""
        name = entry.get("picture")
        if not isinstance(name, str) or Path(name).is_absolute() or ".." in Path(name).parts:
            return None
        try:
            return read_image(self.path / name)
        except BadImageError:
            return None


def open_folder(path: Path) -> ScoredFolder:
    """Read the folder of a training or an evaluation, of which `path` may be the report or evaluation.json.

    Raises:
        FileNotFoundError: it has no evaluation.json.
        ValueError: that was written by an earlier version, or is none of ours.
    """
    folder = path.parent if path.is_file() else path
    file = folder / EVALUATION
    if not file.is_file():
        training = (folder / "checkpoints").is_dir()
        remedy = (
            f"score it first: dettoolkit evaluate {folder}"
            if training
            else "give the folder of a training, runs/<recipe>/<time>, or of an evaluation"
        )
        raise FileNotFoundError(f"{folder} has no {EVALUATION}: {remedy}")
    content = read_json(file)
    if not isinstance(content, dict) or not {"numbers", "about"} <= content.keys():
        raise ValueError(
            f"{file} does not say how it was made, as those of earlier versions: score the run once more, "
            f"dettoolkit evaluate {folder}, and give the new folder"
        )
    runs = [each for each in (folder, folder.resolve().parent) if (each / "metrics.csv").is_file()]
    return ScoredFolder(folder, next(iter(runs), None), content, spec_named(content["about"]["task"]))


def read_json(path: Path) -> Any:
    """Read a json file; a ValueError names one that is damaged."""
    with open_regular(path) as file:
        text = file.read(MAX_BYTES)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}): remove it, or score the run once more") from None


def _number(text: str | list[str] | None) -> float:
    try:
        return float(text)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return math.nan
