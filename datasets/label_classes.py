"""Label PNGs: the values as stored, never colors, and which value is which class.

K classes; label = 0-based class index; VOID = 255 stands for pixels that no class owns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dettoolkit.datasets.cityscapes_labels import CLASSES, LABELS, VOID
from dettoolkit.datasets.data_report import BadImageError
from dettoolkit.datasets.images import MAX_MEGAPIXELS, decode, header_of, read_whole

RGB = tuple[int, int, int]

UNKNOWN = 254
"""What `LabelClasses.lookup` makes of a value that is neither a class nor ignored."""

VALUES = 1 << 16
"""Values that a picture of 8 or 16 bits can have."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_RGB, _PALETTE, _RGB_ALPHA = 2, 3, 6  # color types of a PNG's header (PNG specification, 11.2.2)
_MOST_NAMED = 10


class LabelError(ValueError):
    """A label picture that cannot be understood: a value without a meaning, or colors instead of values."""


@dataclass(frozen=True, eq=False)
class LabelClasses:
    """K classes and how the values of label files lead to them."""

    names: list[str]  # K, index = label
    label_ids: list[int]  # K, label -> the value that a written prediction has: the first of its class
    colors: list[RGB | None]  # K, label -> color of figures; None: drawing chooses
    lookup: NDArray[np.uint8]  # (65536,) file value -> label, VOID or UNKNOWN

    @classmethod
    def cityscapes(cls, *, train_ids: bool = False, ignore: Sequence[int] = ()) -> LabelClasses:
        """Return the 19 classes that Cityscapes scores, by the values of `*_labelIds.png` or labelTrainIds.

        The other official ids are void, and 255 too (8 bits have no room for the license plate's -1, which
        some exporters write), and those of `ignore`. Of labelTrainIds, 0 to 18 are classes and 255 void;
        predictions are written in official ids nevertheless.
        """
        values = range(len(CLASSES)) if train_ids else [label.id for label in CLASSES]
        void = [] if train_ids else [label.id for label in LABELS if label.train_id is None]
        entries = [(label.name, [value], label.color) for label, value in zip(CLASSES, values, strict=True)]
        table = cls.from_table(entries, ignore=[*void, VOID, *ignore])
        return replace(table, label_ids=[label.id for label in CLASSES])

    @classmethod
    def from_table(
        cls, entries: Sequence[tuple[str, Sequence[int], RGB | None]], *, ignore: Sequence[int]
    ) -> LabelClasses:
        """Build a table of classes, 254 at most, as a recipe has it; label = position in `entries`.

        An entry is a name, the values (0 to 65535) that mean this class and no other, and a color (RGB) or
        None. The values of `ignore` are void; others are unknown.
        """
        lookup = np.full(VALUES, UNKNOWN, np.uint8)
        lookup[list(ignore)] = VOID
        for label, (name, ids, _) in enumerate(entries):
            if both := sorted(set(ids) & set(ignore)):
                raise ValueError(
                    f"the id {both[0]} is the class {name} in data.classes and also in data.ignore: remove "
                    "one"
                )
            lookup[list(ids)] = label
        return cls(
            names=[name for name, _, _ in entries],
            label_ids=[int(ids[0]) for _, ids, _ in entries],
            colors=[color for _, _, color in entries],
            lookup=lookup,
        )

    @property
    def categories(self) -> list[str] | None:
        """Return the category of each class; None unless all of them are Cityscapes' own."""
        official = {(label.name, label.id): label.category for label in CLASSES}
        pairs = list(zip(self.names, self.label_ids, strict=True))
        return [official[pair] for pair in pairs] if all(pair in official for pair in pairs) else None

    def __len__(self) -> int:
        return len(self.names)

    def known_text(self) -> str:
        """List the values of a class or void as ranges: '0-33, 255'."""
        values = np.flatnonzero(self.lookup != UNKNOWN)
        runs = np.split(values, np.flatnonzero(np.diff(values) > 1) + 1)
        return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)

    def reordered(self, names: Sequence[str]) -> LabelClasses:
        """Return the same classes in another order: `names` are all of theirs, and label = position there."""
        order = [self.names.index(name) for name in names]
        lookup = self.lookup.copy()
        for label, before in enumerate(order):
            lookup[self.lookup == before] = label
        ids, colors = [self.label_ids[at] for at in order], [self.colors[at] for at in order]
        return LabelClasses(list(names), ids, colors, lookup)

    def same_as(self, other: LabelClasses) -> bool:
        """Return whether both give every file value the same meaning."""
        return self.names == other.names and bool((self.lookup == other.lookup).all())


def read_labels(
    path: Path, classes: LabelClasses, *, max_megapixels: float = MAX_MEGAPIXELS
) -> NDArray[np.uint8]:
    """Read a label file as labels (H, W), 0 to K - 1 and VOID; a LabelError names a file of other values."""
    values = read_values(path, max_megapixels=max_megapixels)
    if values.dtype == np.uint8:
        labels = np.asarray(cv2.LUT(values, classes.lookup[:256]), np.uint8)
    else:
        labels = classes.lookup[values]
    if (labels == UNKNOWN).any():
        raise LabelError(_unknown_values(path, values[labels == UNKNOWN], classes))
    return labels


def read_instances(path: Path, *, max_megapixels: float = MAX_MEGAPIXELS) -> NDArray[np.int32]:
    """Read `*_instanceIds.png` (H, W): a pixel is 1000 x label id + number, or the label id alone."""
    return read_values(path, max_megapixels=max_megapixels).astype(np.int32)


def read_values(path: Path, *, max_megapixels: float = MAX_MEGAPIXELS) -> NDArray[Any]:
    """Read a one-channel PNG's values as they are stored: uint8 or uint16 (H, W).

    Gray of any depth, and the indices of a palette (OpenCV would give the palette's colors).
    """
    data = read_whole(path, max_megapixels=max_megapixels)
    if not data.startswith(_SIGNATURE) or data[12:16] != b"IHDR":
        raise BadImageError(f"is not a PNG, as label files have to be (starts with {data[:16]!r})")
    depth, color_type = data[24], data[25]
    if color_type in (_RGB, _RGB_ALPHA):
        raise LabelError(
            f"{path} is a color picture; expected a PNG whose values are class ids: one channel of 8 or 16 "
            "bits, or a palette whose indices are the ids. Convert the colors to ids"
        )
    if color_type == _PALETTE:
        image = header_of(data, max_megapixels=max_megapixels)
        try:
            return np.asarray(image, np.uint8)
        except (OSError, ValueError, SyntaxError):  # texts that name a place in memory, new at each reading
            raise BadImageError("cannot be decoded: not an image, or damaged") from None
    values = decode(data, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH, max_megapixels=max_megapixels)
    if depth < 8:  # decoders stretch 1, 2 and 4 bits to 0-255
        values = values // np.uint8(255 // (2**depth - 1))
    return values


def _unknown_values(path: Path, unknown: NDArray[Any], classes: LabelClasses) -> str:
    values, counts = np.unique(unknown, return_counts=True)
    pairs = zip(values.tolist()[:_MOST_NAMED], counts.tolist(), strict=False)
    listing = ", ".join(f"{value} ({count} pixels)" for value, count in pairs)
    more = f" and {len(values) - _MOST_NAMED} more" if len(values) > _MOST_NAMED else ""
    return (
        f"{path} has values that are neither a class nor ignored: {listing}{more}; known are "
        f"{classes.known_text()}. Add them to data.ignore, or give them a class in data.classes"
    )
