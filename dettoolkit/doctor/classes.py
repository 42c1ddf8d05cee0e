"""Checks of classes by their names and by how often they occur, whatever a task counts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from dettoolkit.doctor.findings import Example, Finding, found

FEW = 10
"""Objects to train on from which a class can be learnt at all; more are better."""

SPLIT_ANEW = "Split anew so that each class is in both (dettoolkit convert coco-split does), or add examples."

IMBALANCE = 100
"""Times as often the most frequent class may be."""


def check_spelling(names: Sequence[str]) -> list[Finding]:
    """Find classes, of both splits together, that are one class in several spellings."""
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        groups.setdefault(re.sub(r"[\s_-]+", " ", name).strip().casefold(), []).append(name)
    return found(
        "class-names-alike",
        "warning",
        [each for each in groups.values() if len(each) > 1],
        lambda each: Example(text=" and ".join(map(repr, each))),
        text="{n} class{n:|es} {n:is|are} written in several ways, which differ in case or spaces only",
        remedy="Give them one name, unless they are meant to be different classes.",
    )


def check_same_classes(
    train: Sequence[str], val: Sequence[str], *, val_may_lack: bool = False
) -> list[Finding]:
    """Find classes that only one split knows, which stops a training."""
    cases = [(name, "val") for name in val if name not in set(train)]
    if not val_may_lack:
        cases = [(name, "train") for name in train if name not in set(val)] + cases
    return found(
        "classes-differ",
        "error",
        cases,
        lambda case: Example(text=f"{case[0]!r} is a class of {case[1]} only"),
        text="{n} class{n:|es} {n:is|are} known to one split only: a training refuses that",
        remedy="Give both splits the same classes, of the same names.",
    )


def check_occurrence(train: Mapping[str, int], val: Mapping[str, int], *, things: str) -> Iterator[Finding]:
    """Find classes that are in one split only, in none, or too rare.

    Args:
        train: how often each class is there to be learnt.
        val: how often to be scored.
        things: what was counted, such as "boxes".
    """
    empty = [name for name in train if not train[name] and not val.get(name, 0)]
    yield from found(
        "class-empty",
        "warning",
        empty,
        lambda name: Example(text=repr(name)),
        text=f"{{n}} class{{n:|es}} {{n:has|have}} no {things}, neither in train nor in val",
        remedy="Take them out of the classes, or add examples: nothing of them is learnt or scored.",
    )
    yield from found(
        "class-not-in-train",
        "warning",
        [name for name in train if not train[name] and val.get(name, 0)],
        lambda name: Example(text=f"{name!r}: {val[name]:,} in val"),
        split="train",
        text=f"{{n}} class{{n:|es}} {{n:has|have}} {things} in val, but none in train: their score will be 0",
        remedy=SPLIT_ANEW,
    )
    yield from found(
        "class-not-in-val",
        "note",
        [name for name, count in train.items() if count and not val.get(name, 0)],
        lambda name: Example(text=f"{name!r}: {train[name]:,} in train"),
        split="val",
        text=f"{{n}} class{{n:|es}} {{n:has|have}} {things} in train, but none in val: they are not scored",
        remedy=SPLIT_ANEW,
    )
    yield from found(
        "class-few",
        "warning",
        [name for name, count in train.items() if 0 < count < FEW],
        lambda name: Example(text=f"{name!r}: {train[name]}"),
        split="train",
        text=f"{{n}} class{{n:|es}} {{n:has|have}} fewer than {FEW} {things} to train on",
        remedy="Add examples, or merge rare classes; expect little of their scores.",
    )


def check_imbalance(train: Mapping[str, int], things: str) -> list[Finding]:
    """Find classes that are far rarer than the most frequent one."""
    most = max(train, key=lambda name: train[name], default="")
    rare = [name for name, count in train.items() if 0 < count * IMBALANCE < train[most]]
    return found(
        "class-imbalance",
        "note",
        sorted(rare, key=lambda name: train[name]),
        lambda name: Example(text=f"{name!r}: {train[name]:,}, {most!r}: {train[most]:,}"),
        split="train",
        text=f"{{n}} class{{n:|es}} {{n:has|have}} less than a hundredth of the {things} of the most "
        "frequent class",
        remedy="Look at the scores of each class, not only at their mean; add examples of the rare ones.",
    )
