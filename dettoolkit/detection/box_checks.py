"""Checks of a split's boxes, from the arrays that training uses: the boxes as numbers, no pictures.

A annotations of a CocoAnnotations, in its order; a case is an index of theirs.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dettoolkit.datasets.coco_annotations import CocoAnnotations
from dettoolkit.detection.box_examples import Floats, corners, example_of, example_of_image, size_of
from dettoolkit.doctor.findings import Example, Finding, Severity, Split, found

SAME_OBJECT = 0.9
"""IoU from which two boxes of a class are one object. Twins of COCO and other sets that were looked at reach
less, copies of one box more."""

SAME_PLACE = 0.95
"""IoU from which two boxes of different classes are one object that was given both."""

EXTREME_ASPECT = 20
"""Long side / short side; a pencil has 20."""

MISFITS, FITS = 0.2, 0.95
"""Fractions of boxes that leave their image as width and height, and stay in it as corners, from which the
file has corners."""


def check_boxes(split: Split, annotations: CocoAnnotations) -> Iterator[Finding]:
    """Find boxes that can hardly be meant."""
    yield from _check_numbers(split, annotations)
    again, two_classes = same_objects(annotations)
    yield from found(
        "box-duplicate",
        "warning",
        again,
        lambda pair: _pair(annotations, pair),
        split=split,
        text="{n} box{n:|es} {n:repeats|repeat} another of the same class",
        remedy="Keep one of each: the other counts as an object that is always missed.",
    )
    yield from found(
        "box-two-classes",
        "note",
        two_classes,
        lambda pair: _pair(annotations, pair),
        split=split,
        text="{n} box{n:|es} {n:lies|lie} on a box of another class",
        remedy="Decide for one class, unless both are meant: one default box learns one class.",
    )


def _check_numbers(split: Split, annotations: CocoAnnotations) -> Iterator[Finding]:
    boxes, hw = annotations.boxes_xywh, annotations.image_hw[annotations.rows]
    known = (hw > 0).all(axis=1) & ~annotations.iscrowd
    usable, limit = annotations.usable & known, hw[:, ::-1]
    starts, sizes = boxes[:, :2], boxes[:, 2:]
    misfits = known & (starts + sizes > limit + 1).any(axis=1)
    fits = known & (sizes > starts).all(axis=1) & (sizes <= limit + 1).all(axis=1)
    is_corners = misfits.sum() > MISFITS * known.sum() and fits.sum() >= FITS * known.sum()

    cases = partial(_cases, split, annotations)
    if is_corners:
        yield from cases(
            "box-corners",
            "error",
            misfits,
            f"{{n}} of {int(known.sum()):,} boxes fit their image only as corners [x1, y1, x2, y2]",
            "COCO's bbox is [x, y, width, height]: subtract x1 and y1 from the last two of every box.",
        )
    yield from cases(
        "box-fractions",
        "warning",
        usable & (boxes <= 1).all(axis=1) & (boxes % 1 != 0).any(axis=1),
        "{n} box{n:|es} {n:is|are} within 0..1: fractions of the image, or less than a pixel",
        "COCO's bbox is in pixels: multiply by the image's width and height, or remove the box.",
    )
    tolerance = np.minimum(1.0, limit / 100)
    whole = usable & (starts <= tolerance).all(axis=1) & (starts + sizes >= limit - tolerance).all(axis=1)
    yield from cases(
        "box-whole-image",
        "warning" if whole.sum() * 2 > usable.sum() else "note",
        whole,
        f"{{n}} of {int(usable.sum()):,} boxes {{n:is|are}} as large as the image",
        "Look whether the object fills the image; labels of whole images make no detector.",
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = sizes.max(axis=1) / sizes.min(axis=1)
    yield from cases(
        "box-extreme-aspect",
        "note",
        usable & (ratio >= EXTREME_ASPECT),
        f"{{n}} box{{n:|es}} {{n:is|are}} {EXTREME_ASPECT} times as long as wide, or longer",
        "Look at them: slips of the mouse look so, and what is left of a cut object.",
    )


def _cases(
    split: Split,
    annotations: CocoAnnotations,
    id_: str,
    severity: Severity,
    where: NDArray[np.bool_],
    text: str,
    remedy: str,
) -> list[Finding]:
    return found(
        id_,
        severity,
        np.flatnonzero(where).tolist(),
        lambda index: example_of(annotations, index, size_of(annotations, index)),
        split=split,
        text=text,
        remedy=remedy,
    )


class Pair(NamedTuple):
    """Two annotations of an image on the same place; the first is the earlier in the file."""

    first: int
    second: int
    iou: float


def _pair(annotations: CocoAnnotations, pair: Pair) -> Example:
    other = example_of(annotations, pair.first, "")
    mine = example_of(annotations, pair.second, "")
    names = [annotations.class_names[annotations.labels[each]] for each in pair[:2]]
    text = f"{names[1]}, IoU {pair.iou:.2f} with annotation id {other.annotation_id}, {names[0]}"
    return example_of_image(
        annotations,
        int(np.searchsorted(annotations.offsets, pair.second, side="right")) - 1,
        text,
        mine.annotation_id,
        (*other.boxes_xyxy, *mine.boxes_xyxy),
    )


def same_objects(annotations: CocoAnnotations) -> tuple[list[Pair], list[Pair]]:
    """Return pairs of boxes that are one object: of one class, and of two; each second box once.

    Sorted by left side, the partners of a box come soon after it, so few pairs are compared.
    """
    chosen = np.flatnonzero(annotations.usable)
    chosen = chosen[np.lexsort((annotations.boxes_xywh[chosen, 0], annotations.rows[chosen]))]
    rows, boxes = annotations.rows[chosen], corners(annotations, chosen)
    wide = boxes[:, 2] - boxes[:, 0]
    found_pairs: list[dict[int, Pair]] = [{}, {}]
    left, step = np.arange(len(chosen)), 0
    while len(left):
        step += 1
        left = left[left + step < len(chosen)]
        right = left + step
        near = (rows[left] == rows[right]) & (
            boxes[right, 0] - boxes[left, 0] <= wide[left] * (1 - SAME_OBJECT) + 1e-9
        )
        left, right = left[near], right[near]
        overlap = _iou(boxes[left], boxes[right])
        labels = annotations.labels[chosen[left]] == annotations.labels[chosen[right]]
        same = overlap >= np.where(labels, SAME_OBJECT, SAME_PLACE)
        for a, b, iou, kind in zip(
            chosen[left[same]].tolist(),
            chosen[right[same]].tolist(),
            overlap[same],
            ~labels[same],
            strict=True,
        ):
            pair = Pair(min(a, b), max(a, b), float(iou))
            found_pairs[int(kind)].setdefault(pair.second, pair)
    one, two = ([pairs[key] for key in sorted(pairs)] for pairs in found_pairs)
    return one, two


def _iou(one: Floats, other: Floats) -> Floats:
    sides = np.minimum(one[:, 2:], other[:, 2:]) - np.maximum(one[:, :2], other[:, :2])
    shared = np.clip(sides, 0, None).prod(axis=1)
    areas = [(each[:, 2:] - each[:, :2]).prod(axis=1) for each in (one, other)]
    return np.asarray(shared / (areas[0] + areas[1] - shared))
