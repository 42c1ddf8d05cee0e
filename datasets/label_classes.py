"""Which value of a label picture is which class: Cityscapes' own tables, or a table of one's own.

K classes; label = 0-based class index; VOID = 255 stands for pixels that no class owns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dettoolkit.datasets.cityscapes_labels import CLASSES, LABELS, VOID

RGB = tuple[int, int, int]

UNKNOWN = 254
"""What `LabelClasses.lookup` makes of a value that is neither a class nor ignored."""

MOST_CLASSES = UNKNOWN
"""Labels are stored in 8 bits: 0 to 253, besides UNKNOWN and VOID."""

VALUES = 1 << 16
"""Values that a picture of 8 or 16 bits can have."""


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
    def cityscapes(cls, *, ignore: Sequence[int] = ()) -> LabelClasses:
        """Return the 19 classes that Cityscapes scores, for `*_labelIds.png`.

        The other official ids are void, and 255 too: 8 bits have no room for the license plate's -1. The
        official script leaves license plates out when it draws these files; other exporters write them.

        Args:
            ignore: further values to be void.
        """
        return _official(
            values=[label.id for label in CLASSES],
            void=[*(label.id for label in LABELS if label.train_id is None), VOID],
            ignore=ignore,
        )

    @classmethod
    def cityscapes_train_ids(cls, *, ignore: Sequence[int] = ()) -> LabelClasses:
        """Return the same classes for `*_labelTrainIds.png`: values 0 to 18, void 255.

        `label_ids` are the official ids nevertheless: predictions are written in them.
        """
        return _official(values=range(len(CLASSES)), void=[VOID], ignore=ignore)

    @classmethod
    def from_table(
        cls, entries: Sequence[tuple[str, Sequence[int], RGB | None]], *, ignore: Sequence[int]
    ) -> LabelClasses:
        """Build one's own table; label = position in `entries`. Any value it does not name is unknown.

        Args:
            entries: name, the values (0 to 65535) that mean this class, and a color (RGB) or None.
            ignore: the values that are void.

        Raises:
            ValueError: there are no classes or too many; a name or a value occurs twice, a value is both a
                class and ignored, or is out of range.
        """
        if not 1 <= len(entries) <= MOST_CLASSES:
            raise ValueError(
                f"data.classes has {len(entries)} classes, wanted 1 to {MOST_CLASSES}: labels have 8 bits"
            )
        names = [name for name, _, _ in entries]
        if twice := _repeated(names):
            raise ValueError(f"data.classes has two classes named {twice}: give each its own name")
        for name, ids, _ in entries:
            if not ids:
                raise ValueError(f"data.classes: {name} has no ids: name at least one value of the files")
        used = [value for _, ids, _ in entries for value in ids]
        if wrong := sorted({value for value in [*used, *ignore] if not 0 <= value < VALUES}):
            raise ValueError(
                f"data.classes or data.ignore has the id {wrong[0]}, wanted 0 to {VALUES - 1}, the values "
                "of a picture of 8 or 16 bits: correct it"
            )
        if twice := _repeated(used):
            owners = [name for name, ids, _ in entries if int(twice) in ids]
            raise ValueError(
                f"data.classes gives the id {twice} twice ({', '.join(owners)}): a value can mean one class"
            )
        if both := sorted(set(used) & set(ignore)):
            owner = next(name for name, ids, _ in entries if both[0] in ids)
            raise ValueError(
                f"the id {both[0]} is the class {owner} in data.classes and also in data.ignore: remove one"
            )
        lookup = np.full(VALUES, UNKNOWN, np.uint8)
        lookup[list(ignore)] = VOID
        for label, (_, ids, _) in enumerate(entries):
            lookup[list(ids)] = label
        return cls(names, [int(ids[0]) for _, ids, _ in entries], [color for _, _, color in entries], lookup)

    @property
    def known(self) -> NDArray[np.bool_]:
        """(65536,) whether a file value has a meaning, be it a class or void."""
        return np.asarray(self.lookup != UNKNOWN)

    @property
    def categories(self) -> list[str] | None:
        """Return the category of each class; None unless all of them are Cityscapes' own."""
        official = {(label.name, label.id): label.category for label in CLASSES}
        pairs = list(zip(self.names, self.label_ids, strict=True))
        return [official[pair] for pair in pairs] if all(pair in official for pair in pairs) else None

    def __len__(self) -> int:
        return len(self.names)

    def known_text(self) -> str:
        """List the known values as ranges: '0-33, 255'."""
        return _ranges(np.flatnonzero(self.known).tolist())

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


def _official(*, values: Sequence[int], void: Sequence[int], ignore: Sequence[int]) -> LabelClasses:
    entries = [(label.name, [value], label.color) for label, value in zip(CLASSES, values, strict=True)]
    table = LabelClasses.from_table(entries, ignore=[*void, *ignore])
    return LabelClasses(table.names, [label.id for label in CLASSES], table.colors, table.lookup)


def _repeated(values: Iterable[object]) -> str:
    """Return the first value that occurs twice, as text; empty when there is none."""
    return next((str(value) for value, count in Counter(values).items() if count > 1), "")


def _ranges(values: Sequence[int]) -> str:
    """Write ascending numbers as ranges: [1, 2, 3, 7] becomes '1-3, 7'."""
    starts = [value for place, value in enumerate(values) if place == 0 or values[place - 1] != value - 1]
    ends = [value for place, value in enumerate(values) if value + 1 not in values[place + 1 : place + 2]]
    pairs = zip(starts, ends, strict=True)
    return ", ".join(str(start) if start == end else f"{start}-{end}" for start, end in pairs)
