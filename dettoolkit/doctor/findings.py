"""What a check found: how bad it is, how often, three examples, and what to do."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any, Literal, TypeVar

Case = TypeVar("Case")

Severity = Literal["error", "warning", "note"]
"""error: the training stops, or learns what is wrong. warning: it costs accuracy or time, or the score is not
what it seems. note: worth knowing."""

Split = Literal["train", "val"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""The worst first."""

EXAMPLES = 3  # that a finding keeps
SUSPECTS = 20  # that one keeps whose examples are ranked


@dataclass(frozen=True, kw_only=True)
class Example:
    """One case of a finding.

    Attributes:
        file: the file that it is in, or none, where it is about classes or the recipe.
        image_id: of the annotation file; the image's index where a data set has no ids.
        annotation_id: of the annotation file.
        text: what is there, as numbers and names; it names neither file nor ids.
        boxes_xyxy: what to draw, in the pixels of the image.
        hw: the size of the image those pixels are of; None: as it is stored.
        beside: another image file to show, such as the one that this is a copy of.
    """

    file: str | None = None
    image_id: int | None = None
    annotation_id: int | None = None
    text: str = ""
    boxes_xyxy: tuple[tuple[float, float, float, float], ...] = ()
    hw: tuple[int, int] | None = None
    beside: str | None = None

    def line(self) -> str:
        """Write it in a line."""
        ids = [] if self.image_id is None else [f"image id {self.image_id}"]
        ids += [] if self.annotation_id is None else [f"annotation id {self.annotation_id}"]
        where = " ".join(each for each in (self.file, f"({', '.join(ids)})" if ids else None) if each)
        return ": ".join(each for each in (where, self.text) if each)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check says of one split, or of both (`split` None).

    Attributes:
        id: the check's name, such as "box-clipped"; it stays the same over versions.
        severity: how bad it is.
        split: whose data it is about.
        count: cases.
        text: a sentence with the count.
        remedy: what to do about it, a sentence.
        examples: the first cases, or the worst.
    """

    id: str
    severity: Severity
    split: Split | None
    count: int
    text: str
    remedy: str
    examples: tuple[Example, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)


class Amount(int):
    """A number that agrees with its words: in a format, `{n}` is the number and `{n:is|are}` the word for it.

    >>> "{n} image{n:|s} {n:is|are} missing".format(n=Amount(1))
    '1 image is missing'
    """

    def __format__(self, words: str) -> str:
        """Return the number with thousands apart, or of two words the one that agrees with it."""
        one, bar, more = words.partition("|")
        return (one if self == 1 else more) if bar else int.__format__(self, words or ",")


def counted(number: int, noun: str) -> str:
    """Write a number and what it counts."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def found(
    id: str,
    severity: Severity,
    cases: Collection[Case],
    example: Callable[[Case], Example],
    *,
    text: str,
    remedy: str,
    split: Split | None = None,
    listed: int = EXAMPLES,
) -> list[Finding]:
    """Return the finding of all cases of one kind; none where there is no case.

    Args:
        id: the check's name.
        severity: how bad it is.
        cases: all of them, as anything countable (ids, rows of an array); the first few are shown.
        example: makes an example of a case; called for those that are shown only.
        text: a sentence in which `{n}` is the number of cases, as `Amount` is formatted.
        remedy: a sentence.
        split: whose data; None is both.
        listed: cases that are shown.
    """
    if not len(cases):
        return []
    shown = tuple(example(case) for case in islice(cases, listed))
    return [
        Finding(
            id=id,
            severity=severity,
            split=split,
            count=len(cases),
            text=text.format(n=Amount(len(cases))),
            remedy=remedy,
            examples=shown,
        )
    ]


def by_severity(findings: Sequence[Finding]) -> list[Finding]:
    """Sort findings: the worst first, otherwise in their order."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def suspects(
    split: Split, cases: Sequence[tuple[float, Example]], *, things: str = "annotation{n:|s}"
) -> list[Finding]:
    """Return the finding of labels that a model doubts, by (score, example), the lowest scores first."""
    return found(
        "label-suspect",
        "note",
        sorted(cases, key=lambda case: case[0]),
        lambda case: replace(case[1], text=f"{case[1].text}; score {case[0]:.2f}"),
        split=split,
        text=f"{{n}} {things} {{n:is|are}} doubted by the model (score: 0 wrong, 1 right), worst first",
        remedy="Look at them: correct the label where the model is right. Of images that it was trained "
        "on, it may have learnt wrong labels too.",
        listed=SUSPECTS,
    )
