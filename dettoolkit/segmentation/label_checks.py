"""Checks of label maps: their values as stored, and which class each is by the recipe's table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from dettoolkit.datasets.cityscapes_labels import CLASSES, VOID
from dettoolkit.datasets.label_classes import UNKNOWN, LabelClasses
from dettoolkit.datasets.segmentation_files import SegmentationFiles
from dettoolkit.doctor.findings import Example, Finding, Severity, Split, counted, found
from dettoolkit.segmentation.label_values import Seen, totals_of

MANY_VALUES = 32
"""Unknown values of one file from which it is a picture: smoothing makes new ones along every edge."""

MUCH_VOID = 0.5
"""Fraction of void pixels that is worth a word."""

HARDLY = 0.25
"""Fraction of the crops of the images that have a class; below, the crop hides it."""


def check_labels(
    split: Split, files: SegmentationFiles, seen: Sequence[Seen], *, bad: Severity
) -> Iterator[Finding]:
    """Find label files that a training refuses, or that teach what is not meant; list all values.

    Args:
        split: whose files.
        files: of the split.
        seen: what was read of them.
        bad: severity of a file that cannot be read, by what the recipe does with it.
    """
    yield from _check_files(split, seen, bad)
    readable, classes = [each for each in seen if not each.trouble], files.classes
    pictures = [each for each in readable if len(each.first) > MANY_VALUES]
    yield from found(
        "label-looks-like-color",
        "error",
        pictures,
        lambda each: _example(each, f"{len(each.first)} values of no class"),
        split=split,
        text="{n} label file{n:|s} {n:has|have} values as a gray or smoothed picture, not class ids",
        remedy="Write ids instead of colors (dettoolkit convert colors), as PNG, and never resize smoothly.",
    )
    yield from _check_unknown(split, [each for each in readable if len(each.first) <= MANY_VALUES])
    totals = totals_of(readable)
    if looks_like_train_ids(totals, classes):
        yield from found(
            "label-train-ids",
            "error",
            readable,
            lambda each: _example(each, f"values {', '.join(map(str, each.values.tolist()))}"),
            split=split,
            text="{n} label file{n:|s} {n:seems|seem} to hold Cityscapes' train ids (0 to 18), but "
            "{n:is|are} read as label ids",
            remedy="Name them *_labelTrainIds.png, or give the ids by data.classes: road is 0 in the files.",
        )
    yield from _check_void(split, readable, totals, classes)
    yield from _list_values(split, readable, totals, classes)


def check_crops(seen: Sequence[Seen], classes: LabelClasses, crop_hw: tuple[int, int]) -> list[Finding]:
    """Find classes that most crops of the images that have them do not show."""
    sums, images = np.zeros(len(classes)), np.zeros(len(classes))
    for each in seen:
        if not each.trouble:
            sums += each.in_crops
            images += np.isin(np.arange(len(classes)), classes.lookup[each.values])
    shown = sums / np.maximum(images, 1)
    hidden = np.flatnonzero((images > 0) & (shown < HARDLY))
    return found(
        "class-hidden-by-crop",
        "note",
        hidden[np.argsort(shown[hidden])].tolist(),
        lambda label: Example(
            text=f"{classes.names[label]!r}: in {shown[label]:.0%} of the crops of {int(images[label]):,} "
            "images that have it"
        ),
        split="train",
        text=f"{{n}} class{{n:|es}} {{n:is|are}} in less than {HARDLY:.0%} of the unscaled crops of "
        f"{crop_hw[0]}x{crop_hw[1]} of the images that have {{n:it|them}}",
        remedy="Enlarge data.crop_hw, or train longer: a class is learnt from the crops that show it.",
    )


def looks_like_train_ids(totals: NDArray[np.int64], classes: LabelClasses) -> bool:
    """Return whether pixels by value (65536,) are Cityscapes' train ids, where label ids are expected.

    Of label ids, 0 to 6 are void and 19 to 33 most things; train ids stop at 18, and 0 to 6 are the ground
    and what is built.
    """
    if classes.categories is None or classes.lookup[0] != VOID:
        return False
    last = len(CLASSES) - 1
    low, all_ids = totals[:7], totals[: last + 1].sum()
    beyond = totals[last + 1 : VOID].sum() + totals[VOID + 1 :].sum()
    return bool(not beyond and (low[1:] > 0).sum() >= 3 and low[1:].sum() > 0.1 * all_ids)


def _example(seen: Seen, text: str, first: tuple[int, int] | None = None) -> Example:
    boxes = () if first is None else ((float(first[1]), float(first[0]), first[1] + 1.0, first[0] + 1.0),)
    return Example(file=str(seen.path), image_id=seen.row, text=text, boxes_xyxy=boxes)


def _check_files(split: Split, seen: Sequence[Seen], bad: Severity) -> Iterator[Finding]:
    yield from found(
        "label-color",
        "error",
        [each for each in seen if each.trouble == "color"],
        lambda each: _example(each, "red, green and blue"),
        split=split,
        text="{n} label file{n:|s} {n:is a color picture|are color pictures}; class ids are needed",
        remedy="Convert colors to ids: dettoolkit convert colors.",
    )
    yield from found(
        "label-unreadable",
        bad,
        [each for each in seen if each.trouble not in ("", "color")],
        lambda each: _example(each, each.trouble),
        split=split,
        text="{n} label file{n:|s} cannot be read",
        remedy="Copy or export them again.",
    )
    yield from found(
        "label-size-differs",
        bad if split == "train" else "warning",
        [each for each in seen if not each.trouble and each.image_hw not in ((0, 0), each.hw)],
        lambda each: _example(each, f"{_size(each.hw)}, the image {_size(each.image_hw)} (width x height)"),
        split=split,
        text="{n} label file{n:|s} {n:has|have} another size than the image",
        remedy="Export them at the image's size, or check whether both belong together.",
    )


def _size(hw: tuple[int, int]) -> str:
    return f"{hw[1]} x {hw[0]}"


def _check_unknown(split: Split, seen: Sequence[Seen]) -> list[Finding]:
    where: dict[int, list[Seen]] = {}
    for each in seen:
        for value in each.first:
            where.setdefault(value, []).append(each)

    def example(value: int) -> Example:
        first = where[value][0]
        row, column = first.first[value]
        pixels = sum(int(each.counts[each.values == value][0]) for each in where[value])
        text = f"value {value}, first at row {row}, column {column}; "
        text += f"{counted(pixels, 'pixel')} in {counted(len(where[value]), 'file')}"
        return _example(first, text, (row, column))

    return found(
        "label-unknown-value",
        "error",
        sorted(where, key=lambda value: (-len(where[value]), value)),
        example,
        split=split,
        text="{n} value{n:|s} of the label files {n:is|are} no class and not ignored: a training stops there",
        remedy="Give each a class in data.classes, or add it to data.ignore. Values up to 33 may be "
        "Cityscapes' label ids, read as train ids.",
    )


def _check_void(
    split: Split, seen: Sequence[Seen], totals: NDArray[np.int64], classes: LabelClasses
) -> Iterator[Finding]:
    shares = [
        float(each.counts[classes.lookup[each.values] == VOID].sum() / max(each.counts.sum(), 1))
        for each in seen
    ]
    pairs = list(zip(seen, shares, strict=True))
    yield from found(
        "label-all-void",
        "warning",
        [each for each, fraction in pairs if fraction == 1],
        lambda each: _example(each, f"values {', '.join(map(str, each.values.tolist()))}"),
        split=split,
        text="{n} label file{n:|s} {n:has|have} nothing but void",
        remedy="Remove them with their images: nothing is learnt or scored there.",
    )
    void = totals[classes.lookup == VOID].sum() / max(totals.sum(), 1)
    if void > MUCH_VOID:
        yield from found(
            "label-much-void",
            "warning",
            sorted((pair for pair in pairs if pair[1] > MUCH_VOID), key=lambda pair: -pair[1]),
            lambda pair: _example(pair[0], f"{pair[1]:.1%} void"),
            split=split,
            text=f"{void:.0%} of all pixels are void; {{n}} label file{{n:|s}} {{n:has|have}} more than half",
            remedy="Check data.classes and data.ignore: values of things that are meant may be ignored.",
        )


def _list_values(
    split: Split, seen: Sequence[Seen], totals: NDArray[np.int64], classes: LabelClasses
) -> list[Finding]:
    names = {**dict(enumerate(classes.names)), VOID: "void", UNKNOWN: "unknown"}
    values = np.flatnonzero(totals)
    values = values[np.argsort(-totals[values], kind="stable")].tolist()
    lines = [
        f"{value} {names[int(classes.lookup[value])]} {totals[value]:,} ({totals[value] / totals.sum():.2%})"
        for value in values[: 2 * MANY_VALUES]
    ]
    more = f"; and {len(values) - len(lines)} more" if len(values) > len(lines) else ""
    text = ("; ".join(lines) + more).replace("{", "{{").replace("}", "}}")
    return found(
        "label-values",
        "note",
        values,
        lambda value: _example(
            next(each for each in seen if value in each.values), f"value {value} occurs here first"
        ),
        split=split,
        text=f"{{n}} value{{n:|s}} in {len(seen):,} label files, with class and pixels: {text}",
        remedy="Look whether each value has the class that you mean.",
    )
