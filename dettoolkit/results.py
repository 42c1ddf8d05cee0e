"""What every result is: arrays, a figure, and data for files and other libraries.

H, W: the image, D: detections or masks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from dettoolkit.drawing.grids import save_figure

Image = NDArray[np.uint8]
SHOWN = 6  # classes that a result says in one line


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Result(ABC):
    """What was found in an image, whatever the task.

    Attributes:
        path: the image's file; None where it came as pixels.
        image: uint8 (H, W, 3) RGB, as the model saw it; in its pixels all answers are.
        class_names: by label.
        class_ids: by label, the data set's own: category ids, or values in label files.
    """

    path: Path | None
    image: NDArray[np.uint8]
    class_names: tuple[str, ...]
    class_ids: tuple[int, ...]
    task: ClassVar[str]

    @property
    def hw(self) -> tuple[int, int]:
        """Return the image's height and width."""
        return self.image.shape[0], self.image.shape[1]

    def __repr__(self) -> str:
        """Return what was found, for a person at a prompt."""
        name = "" if self.path is None else f"{self.path.name}, "
        height, width = self.hw
        return f"<{type(self).__name__} {name}{width} x {height} pixels: {self.summary()}>"

    @abstractmethod
    def summary(self) -> str:
        """Return what was found, in a few words."""

    @abstractmethod
    def plot(self) -> NDArray[np.uint8]:
        """Draw what was found on the image: uint8 (H, W, 3) RGB, of its size."""

    def save(self, path: str | Path) -> Path:
        """Write what `plot` draws as .png, .jpg or .jpeg and return the path; missing folders are made.

        Raises:
            FileExistsError: there is a file already; it is left as it is.
            ValueError: another ending.
        """
        save_figure(fresh(path), self.plot())
        return Path(path)

    def tally(self) -> Mapping[str, float]:
        """Return how much there is of each class: a number of objects (int), or a fraction of the image."""
        return {}

    def only(self, labels: Sequence[int]) -> Self:  # noqa: ARG002
        """Return the result with what is of these classes only; ValueError unless the task finds objects."""
        raise ValueError(f"{self.task} does not support selecting classes")

    def record(self, *, masks: bool) -> dict[str, Any]:  # noqa: ARG002
        """Return height, width and what was found as JSON data; with `masks`, coded masks too if any."""
        return {key: value for key, value in self.to_dict().items() if key not in ("path", "task")}

    def crops(self) -> Iterator[tuple[str, Image]]:
        """Yield class name and pixels (h, w, 3) of each object, the surest first."""
        raise ValueError(f"there are no objects to crop: this is a model for {self.task}")

    def to_png(self, path: str | Path, *, ids: bool = True) -> Path:  # noqa: ARG002
        """Write the label map as a gray PNG."""
        raise ValueError(f"there is no label map: this is a model for {self.task}")

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Return everything but the pixels as data that can be written as JSON."""

    def _facts(self) -> dict[str, Any]:
        height, width = self.hw
        path = None if self.path is None else str(self.path)
        return {"path": path, "task": self.task, "height": height, "width": width}


def listed(classes: list[str]) -> str:
    """List the first classes, and say how many more there are."""
    more = len(classes) - SHOWN
    shown = classes if more <= 1 else [*classes[:SHOWN], f"and {more} more classes"]
    return ", ".join(shown) or "nothing found"


def fresh(path: str | Path) -> Path:
    """Return a path to write to, at which there is no file."""
    if Path(path).exists():
        raise FileExistsError(f"{path} already exists and is not overwritten: choose another name")
    return Path(path)


def run_lengths(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Code a mask (H, W) as COCO's files have it: its size and the lengths of its runs, as text."""
    from pycocotools import mask as coder

    coded = coder.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(mask.shape), "counts": coded["counts"].decode("ascii")}


def supervision_detections(
    labels: NDArray[np.int64],
    names: Sequence[str],
    boxes_xyxy: NDArray[np.float32] | None = None,
    scores: NDArray[np.float32] | None = None,
    masks: NDArray[np.bool_] | None = None,
) -> Any:
    """Make `supervision.Detections` of boxes (D, 4) or of masks (D, H, W), none of them empty."""
    try:
        supervision = import_module("supervision")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"this needs the Python package '{error.name}', which is not installed: pip install supervision",
            name=error.name,
        ) from None
    if masks is not None:
        boxes_xyxy = np.array([_bounds(mask) for mask in masks], np.float32).reshape(-1, 4)
    data = {"class_name": np.array(names, dtype=str)}
    return supervision.Detections(xyxy=boxes_xyxy, mask=masks, confidence=scores, class_id=labels, data=data)


def _bounds(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Return left, top, right, bottom of what is True in a mask (H, W)."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
