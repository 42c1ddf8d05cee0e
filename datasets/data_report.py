"""The cleaning rule for boxes, and the report of everything found wrong in a data set.

Loading, augmentation and the scene generator share one rule: `clean_boxes` at load on the file's boxes, and
again on what augmentation made of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float = TypeVar("Float", bound=np.floating[Any])

RESOLUTION = 0.01
"""Pixels: COCO's files give coordinates with two decimals, so less than this is rounding."""


class Reason(IntEnum):
    """What the cleaning rule says of a box; up to CLIPPED it is usable."""

    OK = 0
    CLIPPED = 1
    NON_FINITE = 2
    NO_AREA = 3
    OUTSIDE = 4
    DEGENERATE = 5


def clean_boxes(boxes_xyxy: NDArray[Float], hw: ArrayLike) -> tuple[NDArray[Float], NDArray[np.uint8]]:
    """Clip boxes (m, 4), in pixels, to their image and say which of them can be trained on.

    `hw` is the image's size, (2,) for all boxes or (m, 2) one each; np.inf where it is not known. Return the
    boxes in the same type, clipped where usable, zeros where not; and the reasons (m,), values of `Reason`,
    usable where `reasons <= Reason.CLIPPED`. A box is unusable with a coordinate that is not finite, a width
    or height of zero or less, no overlap with the image, or a side below RESOLUTION (before or after
    clipping). CLIPPED means that more than RESOLUTION was cut off.
    """
    boxes = np.asarray(boxes_xyxy).reshape(-1, 4)
    finite = np.asarray(np.isfinite(boxes).all(axis=1))
    safe = np.where(finite[:, None], boxes, 0).astype(np.float64)
    height, width = np.moveaxis(np.broadcast_to(np.asarray(hw, np.float64), (len(boxes), 2)), 1, 0)
    limit = np.stack([width, height, width, height], axis=1)
    clipped = np.clip(safe, 0, limit)
    cut = np.abs(clipped - safe).max(axis=1, initial=0)

    no_area = (safe[:, 2:] <= safe[:, :2]).any(axis=1)
    outside = (safe[:, :2] >= limit[:, :2]).any(axis=1) | (safe[:, 2:] <= 0).any(axis=1)
    degenerate = (clipped[:, 2:] - clipped[:, :2] < RESOLUTION).any(axis=1)
    reasons = np.select(
        [~finite, no_area, outside, degenerate, cut > RESOLUTION],
        [Reason.NON_FINITE, Reason.NO_AREA, Reason.OUTSIDE, Reason.DEGENERATE, Reason.CLIPPED],
        Reason.OK,
    ).astype(np.uint8)
    clipped[reasons > Reason.CLIPPED] = 0
    return clipped.astype(boxes.dtype), reasons


KINDS = {
    "root category": "no class; data.keep_root_category=true makes it one",
    "duplicate image id": "the first image is kept",
    "image size read from file": "the JSON has none",
    "image size unknown": "the image cannot be read",
    "unknown image": "annotation dropped",
    "unknown category": "annotation dropped",
    "no bbox": "annotation dropped",
    "non-finite box": "annotation dropped",
    "zero or negative size": "not used for training; scored as in pycocotools",
    "outside the image": "not used for training; scored as in pycocotools",
    "degenerate": "a side under 0.01 pixels; not used for training; scored as in pycocotools",
    "clipped": "extends outside; clipped for training; scored unclipped, as in pycocotools",
    "size differs": "the size of the file is used; boxes are not rescaled",
    "area missing": "filled in as width x height",
    "iscrowd missing": "filled in as 0",
    "image without label": "skipped",
    "label without image": "skipped",
    "nothing but void": "kept; no effect on training or scores",
    "label of another size": "scored at the label's size",
    "image outside class folders": "skipped",
    "not an image": "skipped",
    "class without images": "kept; not trained or scored",
    "broken link": "skipped",
    "link to a folder above it": "not followed",
    "link to something already listed": "not followed; each file counts once",
    "folder cannot be opened": "skipped",
    "not a regular file": "skipped; pipes, devices and sockets are not read",
}
"""Every kind of problem, with what is done about it."""

REASON_KINDS = {
    Reason.NON_FINITE: "non-finite box",
    Reason.NO_AREA: "zero or negative size",
    Reason.OUTSIDE: "outside the image",
    Reason.DEGENERATE: "degenerate",
    Reason.CLIPPED: "clipped",
}


class Problem(NamedTuple):
    """One thing found wrong; ids are the file's, an image's is its index where the data set has no ids.

    No annotation id: the file has none, or it is the image. No image id: it is about files beside the images
    of the data set.
    """

    kind: str
    image_id: int | None
    annotation_id: int | None
    text: str


class _Group(NamedTuple):
    """Problems of one kind as arrays, so that a file full of them costs bytes, not Python objects."""

    kind: str
    template: str
    values: NDArray[Any]  # (m, d) what the template is filled with
    image_ids: NDArray[np.int64]  # NO_ID where there is none
    annotation_ids: NDArray[np.int64]  # NO_ID where there is none


NO_ID = np.iinfo(np.int64).min
"""Stands for an id that is missing, in arrays."""


class DataReport:
    """Everything found wrong in a json or a folder, counted by kind and listed by image and annotation id."""

    def __init__(self, path: Path, *, boxes: int = 0) -> None:
        """Start without problems; `boxes` in the file, if it has any, put their counts in proportion."""
        self.path = path
        self.boxes = boxes
        self._groups: list[_Group] = []
        self._met: dict[Problem, None] = {}  # an ordered set

    def add(
        self,
        kind: str,
        *,
        values: NDArray[Any] | Sequence[Sequence[object]],
        template: str = "{}",
        image_ids: NDArray[np.int64] | None = None,
        annotation_ids: NDArray[np.int64] | None = None,
    ) -> None:
        """Add m problems of one kind, a key of KINDS.

        `values` (m, d) are the arguments of `template`, the format string of one problem's text. An image's
        or annotation's id, (m,), is NO_ID, or None for all, where there is none or it is about none.
        """
        if len(values):
            array = values if isinstance(values, np.ndarray) else np.array(values, object)
            no_ids = np.full(len(array), NO_ID)
            image_ids = no_ids if image_ids is None else image_ids
            annotation_ids = no_ids if annotation_ids is None else annotation_ids
            self._groups.append(_Group(kind, template, array, image_ids, annotation_ids))

    def record(self, problems: Iterable[Problem]) -> None:
        """Add problems met while images are read (a batch's "problems"), each once however often met."""
        self._met.update(dict.fromkeys(problems))

    def extend(self, other: DataReport) -> None:
        """Add all that another report holds."""
        self.boxes += other.boxes
        self._groups.extend(other._groups)
        self._met.update(other._met)

    @property
    def counts(self) -> dict[str, int]:
        """Number of problems of each kind that occurs, in the order of KINDS."""
        totals = dict.fromkeys(KINDS, 0)
        for group in self._groups:
            totals[group.kind] += len(group.values)
        for problem in self._met:
            totals[problem.kind] += 1
        return {kind: count for kind, count in totals.items() if count}

    def problems(self, kind: str | None = None) -> Iterator[Problem]:
        """Yield every problem, or those of one kind."""
        for group in self._groups:
            if kind in (None, group.kind):
                rows = zip(group.image_ids.tolist(), group.annotation_ids.tolist(), group.values, strict=True)
                for image_id, annotation_id, values in rows:
                    text = group.template.format(*values.tolist())
                    yield Problem(group.kind, _id_or_none(image_id), _id_or_none(annotation_id), text)
        yield from (problem for problem in self._met if kind in (None, problem.kind))

    def summary(self, examples: int = 3) -> str:
        """Describe the problems in several lines: the file, each kind with its count, and the first few."""
        counts = self.counts
        if not counts:
            return f"{self.path}: no problems found"
        total = sum(counts.values())
        lines = [f"{self.path}: {total} problem{'' if total == 1 else 's'} (your files are not modified)"]
        for kind, count in counts.items():
            lines.append(f"  {kind}: {count} ({KINDS[kind]})")
            lines += [f"    {_line(problem)}" for problem in islice(self.problems(kind), examples)]
            if count > examples:
                lines.append(f"    ... and {count - examples} more")
        misfits = sum(
            counts.get(REASON_KINDS[r], 0) for r in (Reason.OUTSIDE, Reason.CLIPPED, Reason.NO_AREA)
        )
        if misfits * 5 > self.boxes:  # a fifth: stray boxes never come near, a wrong format always does
            lines.append(
                f"  {misfits} of {self.boxes} boxes do not fit their image: COCO's bbox is [x, y, width, "
                "height] in pixels; is this file in [x1, y1, x2, y2], or are its image sizes wrong?"
            )
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Return the whole report as plain dicts and lists: file, counts, and every problem."""
        return {
            "file": str(self.path),
            "counts": self.counts,
            "problems": [problem._asdict() for problem in self.problems()],
        }


def _id_or_none(id_: int) -> int | None:
    return None if id_ == NO_ID else id_


def _line(problem: Problem) -> str:
    if problem.image_id is None:
        return problem.text
    annotation = "" if problem.annotation_id is None else f", annotation id {problem.annotation_id}"
    return f"image id {problem.image_id}{annotation}: {problem.text}"


class BadImageError(ValueError):
    """An image that cannot be read, or too many of them."""


@contextmanager
def naming(what: object) -> Iterator[None]:
    """Begin the text of a BadImageError, which is the reason only, with what could not be read."""
    try:
        yield
    except BadImageError as error:
        raise BadImageError(f"{what}: {error}") from None


class BadImages:
    """Count the images that could not be read, each once, and stop the run when they are too many.

    Workers cannot see each other's count, so whoever takes the batches records their "bad_images" here.
    """

    def __init__(self, maximum: int) -> None:
        self.maximum = maximum
        self._lines: dict[str, None] = {}  # an ordered set

    @property
    def lines(self) -> list[str]:
        """What was recorded, as "path: image id: reason", in order."""
        return list(self._lines)

    def record(self, lines: Sequence[str]) -> None:
        """Add a batch's bad images; raise BadImageError, listing all of them, beyond the maximum."""
        self._lines.update(dict.fromkeys(lines))
        if len(self._lines) > self.maximum:
            listing = "\n  ".join(self._lines)
            raise BadImageError(
                f"{len(self._lines)} images cannot be read, more than data.max_bad_images={self.maximum}: "
                f"repair or remove them, or raise data.max_bad_images\n  {listing}"
            )
