"""Why a detector loses average precision: TIDE's kinds of error (Bolya et al., arXiv 2008.08115).

It calls them classification, localization, both, duplicate, background and missed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from dettoolkit.evaluation.arrays import GroundTruthArrays, IntArray
from dettoolkit.evaluation.box_matches import FOUND_IOU, NONE, Matches, curves

NEAR_IOU = 0.1  # below, a detection is said to be of the background
KINDS = {
    "class": "in the right place, of the wrong class",
    "location": "of the right class, not quite in its place",
    "both": "of the wrong class, and not quite in its place",
    "duplicate": "a second detection of an object",
    "background": "where there is no object",
    "missed": "objects that no detection came near",
}
CLASSIFICATION, LOCALIZATION, BOTH, DUPLICATE, BACKGROUND = range(5)


@dataclass(frozen=True)
class ErrorKind:
    """How often an error was made, and what AP50 would gain without it."""

    name: str
    meaning: str
    count: int
    gain: float


def error_kinds(truth: GroundTruthArrays, found: Matches) -> list[ErrorKind]:
    """Count each kind of error and compute the AP50 that its repair alone would bring (TIDE's dAP).

    A wrong detection is repaired as TIDE does: of the wrong class, it gets the object's; not in its place, it
    is put there, unless the object is found already, in both cases; all others are removed. Missed objects
    are taken out of the truth.
    """
    kinds = kinds_of(found)
    before = _ap(truth, found)
    wrong = [
        ErrorKind(name, KINDS[name], int((kinds == number).sum()), _gain(truth, found, kinds, number, before))
        for number, name in enumerate(list(KINDS)[:5])
    ]
    missed = _missed(truth, found, kinds)
    without = replace(
        truth, crowds=truth.crowds | np.isin(np.arange(len(truth.crowds)), missed)
    )  # a crowd is not counted among the objects to be found
    gain = _ap(without, found) - before
    return [*wrong, ErrorKind("missed", KINDS["missed"], len(missed), gain)]


def kinds_of(found: Matches) -> IntArray:
    """Return the kind of error of each detection, its place in KINDS, (n,); -1 of right ones and crowds.

    A detection may fit several kinds; TIDE's own program has this order, the last one wins here.
    """
    kinds = np.full(len(found.scores), BOTH)
    kinds[np.maximum(found.own_iou, found.other_iou) <= NEAR_IOU] = BACKGROUND
    kinds[found.own_iou >= FOUND_IOU] = DUPLICATE  # of an object that a better one has found
    kinds[found.other_iou >= FOUND_IOU] = CLASSIFICATION
    kinds[(found.own_iou >= NEAR_IOU) & (found.own_iou <= FOUND_IOU)] = LOCALIZATION
    kinds[(found.objects != NONE) | found.ignored] = NONE
    return kinds


def _missed(truth: GroundTruthArrays, found: Matches, kinds: IntArray) -> IntArray:
    """Return the objects that nothing found and that no error of class or place would find if repaired."""
    near = np.concatenate(
        [
            found.objects,
            found.other[kinds == CLASSIFICATION],
            found.own[kinds == LOCALIZATION],
        ]
    )
    return np.setdiff1d(np.flatnonzero(~truth.crowds), near)


def _ap(truth: GroundTruthArrays, found: Matches) -> float:
    defined = [curve.ap for curve in curves(truth, found) if curve.objects]
    return math.fsum(defined) / len(defined) if defined else math.nan


def _gain(truth: GroundTruthArrays, found: Matches, kinds: IntArray, kind: int, before: float) -> float:
    if math.isnan(before):
        return math.nan
    mine = kinds == kind
    objects, classes, keep = found.objects.copy(), found.classes.copy(), np.ones(len(mine), np.bool_)
    if kind in (CLASSIFICATION, LOCALIZATION):
        taken = set(objects[objects != NONE].tolist())
        meant = found.other if kind == CLASSIFICATION else found.own
        for row in np.flatnonzero(mine)[np.argsort(-found.scores[mine], kind="stable")]:
            keep[row] = meant[row] not in taken
            objects[row], classes[row] = meant[row], truth.categories[meant[row]]
            taken.add(int(meant[row]))
    else:
        keep = ~mine
    fields = ("images", "scores", "boxes_xywh", "ignored", "own_iou", "own", "other_iou", "other")
    rest = {name: getattr(found, name)[keep] for name in fields}
    return _ap(truth, Matches(objects=objects[keep], classes=classes[keep], **rest)) - before
