"""What a command works with, whatever the task."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import lightning
import torch
import torchvision

from dettoolkit.backbones.build import listing
from dettoolkit.config import Recipe, recipe_to_dict
from dettoolkit.datasets.data_report import BadImages, DataReport
from dettoolkit.training.data import DataModule
from dettoolkit.training.module import Batch, Task
from dettoolkit.weights.description import description_of

logger = logging.getLogger(__name__)

Split = Literal["train", "val"]


@dataclass(frozen=True)
class Classes:
    """The classes of a run: names by label, and the id that the data's files have for each."""

    names: list[str]
    ids: list[int]


@dataclass(kw_only=True)
class Run:
    """Data, network and task of a training or an evaluation; each task has its own kind.

    Attributes:
        name: the recipe's.
        recipe: the run.
        classes: of the network, as its training data has them; checkpoints carry them.
        task: what is trained and scored.
        train: training set, indexed by SampleKey; of an evaluation, the validation set.
        val: validation set.
        scored_on: where the validation set's ground truth is, for people.
        problems: what was found wrong with the data of each split.
        bad_images: those that could not be read, counted over all processes.
        collate: makes a batch of samples.
    """

    name: str
    recipe: Recipe
    classes: Classes
    task: Task
    train: Any
    val: Any
    scored_on: Path
    problems: dict[Split, DataReport]
    bad_images: BadImages
    collate: Callable[[Sequence[Any]], Any]

    @property
    def monitor(self) -> str | None:
        """Return the score's name that says which checkpoint is best; None when nothing can be scored."""
        return self.task.monitor

    @property
    def val_batch_size(self) -> int:
        """Return the images per process in validation."""
        return self.recipe.data.batch_size

    def read_annotations(self, splits: Sequence[Split]) -> None:
        """Read the annotations of some splits that are not read yet, so that what is wrong shows at once."""

    def network_lines(self) -> list[str]:
        """Describe the network in lines, with the figures that the paper's tables print."""
        raise NotImplementedError

    def batch_lines(self, batch: Batch, outputs: Any) -> list[str]:
        """Describe a batch's targets and the network's outputs."""
        raise NotImplementedError

    def draw_training_batch(self, folder: Path) -> None:
        """Draw ground truth as the network will see it, after augmentation."""
        raise NotImplementedError

    def keep_predictions(self, folder: Callable[[], Path]) -> None:
        """From now on write every prediction of a validation to a folder, unless they are written anyway."""

    def write_predictions(self, predictions: Sequence[Any], out: Path) -> None:
        """Write what was predicted on the validation set, and figures of it."""
        raise NotImplementedError


def build_data_module(run: Run) -> DataModule:
    """Build the loaders of a run."""
    return DataModule(
        train=run.train,
        val=run.val,
        collate=run.collate,
        batch_size=run.recipe.data.batch_size,
        val_batch_size=run.val_batch_size,
        workers=run.recipe.data.workers,
        seed=run.recipe.trainer.seed,
    )


def describe(run: Run) -> dict[str, Any]:
    """Describe a run in plain data: what its checkpoints carry besides weights."""
    return {
        "name": run.name,
        "recipe": recipe_to_dict(run.recipe),
        "class_names": run.classes.names,
        "category_ids": run.classes.ids,
        "versions": {
            "dettoolkit": version("dettoolkit"),
            "torch": str(torch.__version__),
            "torchvision": str(torchvision.__version__),
            "lightning": str(lightning.__version__),
            "python": platform.python_version(),
        },
    }


def warn_of_other_classes(weights: str, names: Sequence[str]) -> None:
    """Warn when a checkpoint of ours was trained on as many classes, but others, taken for these now."""
    description = description_of(Path(weights))
    theirs = list(description["class_names"]) if description is not None else list(names)
    if len(theirs) == len(names) and theirs != list(names):
        logger.warning(
            "%s was trained on the classes %s; its class layers are taken over for %s, in this order",
            weights,
            listing(theirs),
            listing(names),
        )
