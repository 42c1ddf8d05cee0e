"""What was found in an image: as arrays, as a picture, and in the formats of others.

D: detections, H, W: the image, K: classes.
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dettoolkit.evaluation.drawing import Color, draw_boxes
from dettoolkit.evaluation.image_files import encode_image
from dettoolkit.evaluation.overlay import draw_segments
from dettoolkit.evaluation.pictures import save_picture
from dettoolkit.inference.formats import run_lengths, supervision_boxes, supervision_masks

SHOWN = 6  # classes that a prediction says in one line


class FoundObject(NamedTuple):
    """One detection, in plain Python types."""

    name: str
    score: float
    box_xyxy: tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Prediction(ABC):
    """What every prediction has.

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
    task: ClassVar[Literal["detection", "segmentation"]]

    @property
    def hw(self) -> tuple[int, int]:
        """Give the image's height and width."""
        return self.image.shape[0], self.image.shape[1]

    def __repr__(self) -> str:
        """Say what was found, for a person at a prompt."""
        name = "" if self.path is None else f"{self.path.name}, "
        height, width = self.hw
        return f"<{type(self).__name__} {name}{width} x {height} pixels: {self._summary()}>"

    @abstractmethod
    def _summary(self) -> str: ...

    @abstractmethod
    def plot(self) -> NDArray[np.uint8]:
        """Draw what was found on the image: uint8 (H, W, 3) RGB, of its size."""

    def save(self, path: str | Path) -> Path:
        """Write what `plot` draws as .png, .jpg or .jpeg and return the path; missing folders are made.

        Raises:
            FileExistsError: there is a file already; it is left as it is.
            ValueError: another ending.
        """
        save_picture(_fresh(path), self.plot())
        return Path(path)

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Give everything but the pixels as data that can be written as JSON."""

    def _facts(self) -> dict[str, Any]:
        height, width = self.hw
        path = None if self.path is None else str(self.path)
        return {"path": path, "task": self.task, "height": height, "width": width}


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class DetectionPrediction(Prediction):
    """The objects found in an image, the surest first. Its length is their number; it yields FoundObjects.

    Attributes:
        boxes_xyxy: float32 (D, 4) pixels: left, top, right, bottom.
        scores: float32 (D,).
        labels: int64 (D,) 0-based classes.
    """

    boxes_xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    task = "detection"

    def __len__(self) -> int:
        """Count the objects."""
        return len(self.scores)

    def __iter__(self) -> Iterator[FoundObject]:
        """Yield the objects, the surest first."""
        rows = zip(self.names, self.scores.tolist(), self.boxes_xyxy.tolist(), strict=True)
        return (FoundObject(name, score, tuple(box)) for name, score, box in rows)

    @property
    def names(self) -> tuple[str, ...]:
        """Name the class of each object."""
        return tuple(self.class_names[label] for label in self.labels)

    def _summary(self) -> str:
        return _listed([f"{count} {name}" for name, count in Counter(self.names).most_common()])

    def plot(self) -> NDArray[np.uint8]:
        """Draw boxes, names and scores on the image: uint8 (H, W, 3) RGB, of its size."""
        return draw_boxes(
            self.image, self.boxes_xyxy, self.labels, class_names=self.class_names, scores=self.scores
        )

    def to_dict(self) -> dict[str, Any]:
        """Give everything but the pixels as data that can be written as JSON."""
        objects = [
            {
                "name": found.name,
                "label": label,
                "class_id": self.class_ids[label],
                "score": found.score,
                "box_xyxy": list(found.box_xyxy),
            }
            for found, label in zip(self, self.labels.tolist(), strict=True)
        ]
        return {**self._facts(), "objects": objects}

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """List the objects as COCO's results have them: left, top, width, height and the data's own ids."""
        boxes = self.boxes_xyxy.astype(np.float64)  # before the subtraction, as evaluation does it
        boxes[:, 2:] -= boxes[:, :2]
        rows = zip(self.labels.tolist(), boxes.tolist(), self.scores.tolist(), strict=True)
        return [
            {"image_id": image_id, "category_id": self.class_ids[label], "bbox": box, "score": score}
            for label, box, score in rows
        ]

    def to_supervision(self) -> Any:
        """Give `supervision.Detections`: xyxy, confidence, class_id (the label) and data["class_name"].

        Raises:
            ModuleNotFoundError: the package supervision is not installed.
        """
        return supervision_boxes(self.boxes_xyxy, self.scores, self.labels, self.names)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SegmentationPrediction(Prediction):
    """The class of each pixel of an image.

    Attributes:
        labels: uint8 (H, W) 0-based classes.
        colors: red, green, blue of each class in pictures; None, for one or all, chooses.
    """

    labels: NDArray[np.uint8]
    colors: tuple[Color | None, ...] | None
    task = "segmentation"

    @property
    def shares(self) -> dict[str, float]:
        """Give the share of pixels, in (0, 1], of each class that occurs, the largest first."""
        return {self.class_names[label]: count / self.labels.size for label, count in self._pixels()}

    def _pixels(self) -> list[tuple[int, int]]:
        """Count the pixels of each label that occurs, the most frequent first."""
        counts = np.bincount(self.labels.reshape(-1))
        order = np.argsort(-counts, kind="stable")
        return [(int(label), int(counts[label])) for label in order if counts[label]]

    def mask(self, name: str) -> NDArray[np.bool_]:
        """Tell which pixels are of a class: bool (H, W), all False where it does not occur.

        Raises:
            ValueError: no such class.
        """
        if name not in self.class_names:
            close = difflib.get_close_matches(name, self.class_names, n=1)
            hint = f"did you mean '{close[0]}'? " if close else ""
            raise ValueError(f"no class '{name}': {hint}There are {', '.join(self.class_names)}")
        mask: NDArray[np.bool_] = self.labels == self.class_names.index(name)
        return mask

    def _summary(self) -> str:
        shares = self.shares.items()
        return _listed(
            [f"{name} {share:.1%}" if share >= 0.001 else f"{name} <0.1%" for name, share in shares]
        )

    def plot(self) -> NDArray[np.uint8]:
        """Draw the classes' colours and names over the image: uint8 (H, W, 3) RGB, of its size."""
        return draw_segments(self.image, self.labels, class_names=self.class_names, colors=self.colors)

    def to_dict(self) -> dict[str, Any]:
        """Give the classes that occur and their pixels as data that can be written as JSON; no label map."""
        classes = [
            {
                "name": self.class_names[label],
                "label": label,
                "class_id": self.class_ids[label],
                "pixels": count,
                "share": count / self.labels.size,
            }
            for label, count in self._pixels()
        ]
        return {**self._facts(), "classes": classes}

    def to_png(self, path: str | Path, *, ids: bool = True) -> Path:
        """Write the label map as a grey PNG and return its path; missing folders are made.

        Args:
            path: ends in .png.
            ids: write the data set's own values (`class_ids`), as label files have them; else 0-based labels.
                With a value above 255 the PNG has 16 bits.

        Raises:
            FileExistsError: there is a file already; it is left as it is.
            ValueError: another ending.
        """
        path = _fresh(path)
        if path.suffix.lower() != ".png":
            raise ValueError(f"{path}: label maps are written as .png, which loses nothing")
        values = np.array(self.class_ids if ids else range(len(self.class_ids)))
        values = values.astype(np.uint8 if values.max(initial=0) < 256 else np.uint16)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_image(Image.fromarray(values[self.labels]), format="png"))
        return path

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """List a mask for each class that occurs, run-length coded, as COCO's stuff results have them."""
        return [
            {
                "image_id": image_id,
                "category_id": self.class_ids[label],
                "segmentation": run_lengths(self.labels == label),
            }
            for label, _ in self._pixels()
        ]

    def to_supervision(self) -> Any:
        """Give `supervision.Detections`, one for each class that occurs: mask, class_id, data["class_name"].

        Raises:
            ModuleNotFoundError: the package supervision is not installed.
        """
        labels = np.array([label for label, _ in self._pixels()], np.int64)
        names = [self.class_names[label] for label in labels]
        return supervision_masks(self.labels == labels[:, None, None], labels, names)


def _listed(classes: list[str]) -> str:
    """List the first classes, and say how many more there are."""
    more = len(classes) - SHOWN
    shown = classes if more <= 1 else [*classes[:SHOWN], f"and {more} more classes"]
    return ", ".join(shown) or "nothing found"


def _fresh(path: str | Path) -> Path:
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{path} exists already and is not overwritten: give another name")
    return path
