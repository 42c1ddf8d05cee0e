"""What a training or an evaluation works with, whatever the task: data, network, losses, scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from dettoolkit.config import Recipe
from dettoolkit.datasets.data_report import BadImages, DataReport, naming
from dettoolkit.datasets.images import MAX_MEGAPIXELS, read_image
from dettoolkit.datasets.samplers import SampleKey
from dettoolkit.drawing.grids import save_figure
from dettoolkit.network import Features, Network, Outputs, name_outputs
from dettoolkit.preprocessing import normalize
from dettoolkit.teacher import Teacher

Batch = dict[str, Any]
Split = Literal["train", "val"]


@dataclass(frozen=True)
class Classes:
    """The classes of a run: names by label, and the id that the data's files have for each."""

    names: list[str]
    ids: list[int]


class ImageFile(NamedTuple):
    """An image file of a data set."""

    path: Path
    hw: tuple[int, int] | None = None  # that its annotations were made for; None takes the pixels as stored
    max_megapixels: float = MAX_MEGAPIXELS  # a larger one cannot be read

    def read(self) -> NDArray[np.uint8]:
        """Read it as RGB uint8 (H, W, 3), turned as in training; a BadImageError names the file."""
        with naming(self.path):
            return read_image(self.path, expected_hw=self.hw, max_megapixels=self.max_megapixels)


class Score(Protocol):
    """What an evaluation found; `numbers` are logged, the task's monitor among them."""

    @property
    def numbers(self) -> dict[str, float]:
        """Score by name, in [0, 1]; NaN where there was nothing to score."""

    def table(self) -> str:
        """Describe it to people, in lines."""

    def to_json(self) -> dict[str, Any]:
        """Return everything found, as plain data."""


@dataclass(kw_only=True)
class Task(ABC):
    """What a run trains and scores on one data set: nothing of it knows Lightning."""

    network: Network
    mean: Sequence[float]  # of red, green and blue in [0, 1], as `normalize` takes it
    std: Sequence[float]
    monitor: ClassVar[str]  # name of the number that says which checkpoint is best, the higher the better
    raw_outputs: ClassVar[tuple[str, ...]]  # names of the network's outputs, in their order
    auxiliary: nn.ModuleDict = field(default_factory=nn.ModuleDict)
    """Parts that are trained beside the network and are no part of it: no file but a run's checkpoints has
    them."""
    teacher: Teacher | None = None

    @property
    def has_more_losses(self) -> bool:
        """Return whether training adds losses of something beside the network."""
        return len(self.auxiliary) > 0 or self.teacher is not None

    def images(self, batch: Batch) -> Tensor:
        """Normalize the batch's uint8 images to (N, 3, H, W) float32 on their device."""
        return normalize(batch["images"], self.mean, self.std)

    def training_inputs(self, batch: Batch) -> tuple[Tensor, Batch]:
        """Return normalized images and the batch that `losses` takes; training may mix images of a batch."""
        return self.images(batch), batch

    def passes(self, images: Tensor, batch: Batch) -> list[tuple[Tensor, Batch]]:
        """Return the images of each forward pass of a training step, with the batch that `losses` takes."""
        return [(images, batch)]

    @abstractmethod
    def losses(self, outputs: Any, batch: Batch) -> dict[str, Tensor]:
        """Return the parts of the loss, which add up to it."""

    def auxiliary_losses(self, features: Features, batch: Batch) -> dict[str, Tensor]:  # noqa: ARG002
        """Return the losses of the task's own auxiliary parts, which take the backbone's features."""
        return {}

    def more_losses(
        self, images: Tensor, outputs: Outputs, features: Features, batch: Batch
    ) -> dict[str, Tensor]:
        """Return the parts that training adds to the loss, where `has_more_losses`.

        Outputs and features are the network's for the normalized images (N, 3, H, W).
        """
        parts = self.auxiliary_losses(features, batch)
        if self.teacher is not None:
            parts |= self.teacher.losses(images, outputs, features, self.auxiliary)
        return parts

    def step_numbers(self, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:  # noqa: ARG002
        """Return more numbers of a logged step, of the parts of its loss, before the backward pass."""
        return {}

    @abstractmethod
    def predict(self, forward: Callable[[Tensor], Any], batch: Batch) -> Any:
        """Return the batch's predictions as plain arrays on the host.

        `forward` runs the network on normalized images, as often as the task's way of inference asks.
        """

    @abstractmethod
    def score(self, predictions: Sequence[Any]) -> Score:
        """Score the predictions of the whole set, in any order."""


def spread(rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return `count` of some rows, or all of them, at even distances."""
    return np.take(rows, np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(np.int64))


def file_names(run: Run) -> list[str]:
    """Return the image files of a run's validation set below data.root, in its order."""
    root = Path(run.recipe.data.root)
    paths = [image.path for image in run.image_files()]
    return [(path.relative_to(root) if path.is_relative_to(root) else path).as_posix() for path in paths]


@dataclass(kw_only=True)
class Run:
    """Data, network and task of a training or an evaluation; each task has its own kind."""

    name: str  # the recipe's
    recipe: Recipe
    classes: Classes  # of the network, as its training data has them; checkpoints carry them
    task: Task
    train: Any
    """Training set, indexed by SampleKey, with images of `transform.input_hw`; of an evaluation, `val`."""
    val: Any
    scored_on: Path  # where the validation set's ground truth is, for people
    problems: dict[Split, DataReport]  # what was found wrong with the data
    collate: Callable[[Sequence[Any]], Any]  # makes a batch of samples
    bad_images: BadImages = field(init=False)  # that could not be read, counted over all processes

    def __post_init__(self) -> None:
        self.bad_images = BadImages(self.recipe.data.max_bad_images)

    @property
    def monitor(self) -> str | None:
        """Return the score's name that says which checkpoint is best; None when nothing can be scored."""
        return self.task.monitor

    @property
    def val_batch_size(self) -> int:
        """Return the images per process in validation."""
        return self.recipe.data.batch_size

    @property
    def data_at(self) -> str:
        """Return where the data are, for people."""
        return self.recipe.data.root

    def trained_on(self) -> str:
        """Count the training images, for people."""
        return f"{len(self.train)} training images"

    @property
    def images_per_sample(self) -> int:
        """Return how many images a sample of the training set has."""
        return 1

    def image_files(self) -> list[ImageFile]:
        """Return the image files of the validation set, in its order."""
        raise NotImplementedError

    def prediction_of(self, result: Any, row: int) -> Any:
        """Return what `task.score` takes, of a predictor's result on image `row` of the validation set.

        The image was as it is stored, and the result has everything the thresholds let through. None where
        the data set's own file of that image cannot be read and is to be skipped.
        """
        raise NotImplementedError

    def read_annotations(self, splits: Sequence[Split]) -> None:
        """Read the annotations of some splits that are not read yet, so that what is wrong shows at once."""

    def network_lines(self) -> list[str]:
        """Describe the network in lines, with the figures that the paper's tables print."""
        raise NotImplementedError

    def batch_lines(self, batch: Batch, outputs: Outputs) -> list[str]:
        """Describe a batch and the network's outputs."""
        named = name_outputs(self.task.raw_outputs, outputs)
        shapes = ", ".join(f"{name.replace('_', ' ')} {tuple(output.shape)}" for name, output in named)
        images = f"images {tuple(batch['images'].shape)}"
        return [f"batch     {images}, {self.describe_targets(batch)}", f"outputs   {shapes}"]

    def describe_targets(self, batch: Batch) -> str:
        """Describe what a batch is to be learned as."""
        raise NotImplementedError

    def draw_training_batch(self, folder: Path) -> None:
        """Draw ground truth of some images as the network will see it, after augmentation."""
        count: int = getattr(self.recipe.evaluation, "figures", 0)  # a task may have none
        rows = np.random.default_rng(0).permutation(len(self.train))[:count]
        if len(rows):
            batch = self.collate([self.train[SampleKey(int(row), 0)] for row in rows])
            if len(batch["images"]):
                save_figure(folder / "training_batch.jpg", self.batch_figure(batch))

    def batch_figure(self, batch: Batch) -> NDArray[np.uint8]:
        """Draw the ground truth of a batch that is on the CPU: uint8 (H, W, 3)."""
        raise NotImplementedError

    def keep_predictions(self, folder: Callable[[], Path]) -> None:
        """From now on write every prediction of a validation to a folder, unless they are written anyway."""

    def write_predictions(self, predictions: Sequence[Any], out: Path) -> None:
        """Write what was predicted on the validation set, and figures of it."""
        raise NotImplementedError
