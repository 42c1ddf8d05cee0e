"""From a COCO file's categories to labels: which id becomes which 0-based class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dettoolkit.wording import listing

LabelMap = Literal["contiguous", "ids"]

GAP = "N/A"
"""Name of a class that no category has, as in torchvision's COCO category list."""

MOST_CLASSES = 20_000
"""An SSDLite at 320 x 320 has then 240 million weights; the largest data sets have 13,204 classes (V3Det)."""


def match_names(
    names: Sequence[str], found: Sequence[str], *, whose: str, path: Path, remedy: str, may_lack: bool = False
) -> None:
    """Raise ValueError unless the classes found at `path` are those that `whose` has, in any order.

    With `may_lack`, some of `names` are enough; `remedy` is what to do besides training on those found.
    """
    lacking, unknown = sorted(set(names) - set(found)), sorted(set(found) - set(names))
    if unknown or (lacking and not may_lack):
        raise ValueError(
            f"{whose} has {len(names)} classes ({listing(names)}), but {path} has {len(found)} "
            f"({listing(found)}). Only in the first: {listing(lacking)}; only in the second: "
            f"{listing(unknown)}. {remedy}, or train on these (model.weights starts from a checkpoint of "
            "other classes)"
        )


class ClassMap(NamedTuple):
    """K classes, and how the file's C category ids lead to them."""

    names: list[str]  # K, label -> name; GAP for gaps
    category_ids: list[int]  # K, label -> the file's id; for a gap the id itself
    file_ids: NDArray[np.int64]  # (C,) ids of the file's categories, ascending
    labels: NDArray[np.int64]  # (C,) label of each of file_ids


def map_classes(categories: list[tuple[int, str]], label_map: LabelMap, path: Path) -> ClassMap:
    """Map a file's categories, (id, name) in any order, to labels.

    "contiguous": one label per category, in the order of ids. "ids": label = id - 1, one label for every id
    from 1 to the largest, with gaps.
    """
    if len(categories) > MOST_CLASSES:
        raise ValueError(
            f"{path}: {len(categories)} categories, but a detector can have at most {MOST_CLASSES}: "
            "remove unused categories, or merge some"
        )
    for what, values in zip(("id", "name"), zip(*categories, strict=True), strict=True):
        if repeated := [str(value) for value, count in Counter(values).items() if count > 1]:
            raise ValueError(
                f"{path}: category {what} {', '.join(repeated)} occurs more than once in categories: "
                f"give each category its own {what}"
            )
    by_id = dict(sorted(categories))
    if GAP in by_id.values():
        raise ValueError(f"{path}: a category is named {GAP!r}, which means no category: rename or remove it")
    ids = list(by_id)
    file_ids = np.array(ids, np.int64)
    if label_map == "contiguous":
        return ClassMap(list(by_id.values()), ids, file_ids, np.arange(len(ids)))
    if ids[0] < 1 or ids[-1] > MOST_CLASSES:
        raise ValueError(
            f"{path}: category ids run from {ids[0]} to {ids[-1]}, but data.label_map=ids supports 1 to "
            f"{MOST_CLASSES} (label = id - 1): use data.label_map=contiguous"
        )
    slots = list(range(1, ids[-1] + 1))
    return ClassMap([by_id.get(each, GAP) for each in slots], slots, file_ids, file_ids - 1)
