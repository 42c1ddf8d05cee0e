"""The scores as text for people."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence

# COCO's area limits 32² and 96² pixels: cocodataset.org/#detection-eval.
WORDS = {
    "AP": "average precision, IoU 0.50 to 0.95",
    "AP50": "average precision, IoU 0.50",
    "AP75": "average precision, IoU 0.75",
    "APs": "average precision, small objects (area to 32²)",
    "APm": "average precision, medium objects (32² to 96²)",
    "APl": "average precision, large objects (from 96²)",
    "AR1": "average recall, {1} per image and class",
    "AR10": "average recall, {10} per image and class",
    "AR100": "average recall, {100} per image and class",
    "ARs": "average recall, small objects",
    "ARm": "average recall, medium objects",
    "ARl": "average recall, large objects",
}

SEGMENTATION_WORDS = {
    "mIoU": "mean IoU of the classes",
    "category mIoU": "mean IoU of the categories",
    "pixel accuracy": "share of labeled pixels that are right",
    "iIoU": "mean IoU of the classes, objects weighted to one size",
    "category iIoU": "mean IoU of the categories, objects weighted to one size",
}

CLASSIFICATION_WORDS = {
    "top-1": "share of images whose class came first",
    "top-5": "share of images whose class came among the first five",
    "mean class top-1": "mean over the classes of their images' share that is right",
}
MOST_CLASSES = 40  # lines of a classification table; evaluation.json has all


def results_table(
    numbers: Mapping[str, float],
    per_class: Sequence[tuple[str, float, float, float, int]],
    max_detections: int,
    note: str | None,
) -> str:
    """Write the 12 numbers in words and a line for each class, aligned; "–" stands for undefined.

    Classes without objects are counted, not listed.

    Args:
        numbers: COCO's 12 numbers by name.
        per_class: (name, AP, AP50, AR100, number of objects) in the order of the lines.
        max_detections: detections of an image and class that were scored.
        note: a sentence to put below, or None.
    """
    limits = {"{1}": min(1, max_detections), "{10}": min(10, max_detections), "{100}": max_detections}
    lines = [f"{'number':<7}{'value':>6}  what"]
    for name, value in numbers.items():
        words = WORDS[name]
        for mark, limit in limits.items():
            words = words.replace(mark, f"{limit} detection{'s' if limit > 1 else ''}")
        lines.append(f"{name:<7}{_digits(value)}  {words}")
    width = max([len("class"), *(_columns(entry[0]) for entry in per_class)])
    lines += ["", f"{'class':<{width}}  {'AP':>6}{'AP50':>8}{'AR100':>8}{'objects':>9}"]
    lines += [
        f"{_padded(name, width)}  {_digits(ap)}  {_digits(ap50)}  {_digits(ar)}{objects:>9}"
        for name, ap, ap50, ar, objects in per_class
        if objects
    ]
    absent = sum(1 for entry in per_class if not entry[4])
    if absent:
        lines.append(f"{absent} class{'es' if absent > 1 else ''} without objects")
    return "\n".join([*lines, "", note] if note else lines)


def segmentation_table(
    numbers: Mapping[str, float],
    per_class: Sequence[tuple[str, float, float, int, int]],
    per_category: Sequence[tuple[str, float, float]],
    note: str | None,
) -> str:
    """Write the numbers in words and a line for each class and category, aligned; "–" stands for undefined.

    Classes in neither truth nor prediction are counted, not listed.

    Args:
        numbers: the five numbers by name.
        per_class: (name, IoU, iIoU, pixels in the truth, pixels predicted) in the order of the lines.
        per_category: (name, IoU, iIoU) in the order of the lines.
        note: a sentence to put below, or None.
    """
    wide = max(len(name) for name in SEGMENTATION_WORDS)
    lines = [f"{'number':<{wide}}{'value':>8}  what"]
    lines += [
        f"{name:<{wide}}  {_digits(value)}  {SEGMENTATION_WORDS[name]}" for name, value in numbers.items()
    ]
    total = max(1, sum(pixels for _, _, _, pixels, _ in per_class))
    names = [entry[0] for entry in per_class] + [entry[0] for entry in per_category]
    width = max([len("category"), *(_columns(name) for name in names)])
    lines += ["", f"{'class':<{width}}  {'IoU':>6}{'iIoU':>8}{'pixels':>9}"]
    lines += [
        f"{_padded(name, width)}  {_digits(iou)}  {_digits(iiou)}{pixels / total:>9.2%}"
        for name, iou, iiou, pixels, predicted in per_class
        if pixels or predicted
    ]
    absent = sum(1 for _, _, _, pixels, predicted in per_class if not pixels and not predicted)
    if absent:
        lines.append(f"{absent} class{'es' if absent > 1 else ''} neither labeled nor predicted")
    if per_category:
        lines += ["", f"{'category':<{width}}  {'IoU':>6}{'iIoU':>8}"]
        lines += [
            f"{_padded(name, width)}  {_digits(iou)}  {_digits(iiou)}" for name, iou, iiou in per_category
        ]
    return "\n".join([*lines, "", note] if note else lines)


def classification_table(
    numbers: Mapping[str, float],
    per_class: Sequence[tuple[str, int, int, int, int]],
    confusions: Sequence[tuple[str, str, int]],
    note: str | None,
) -> str:
    """Write the numbers in words, a line for each class and the mistakes, aligned; "–" stands for undefined.

    Of many classes the worst are listed, worst first; classes without images are counted, not listed.

    Args:
        numbers: the three numbers by name.
        per_class: (name, images, of them right, among the first five, images taken for it).
        confusions: (name, name of what its images were taken for, number of them).
        note: a sentence to put below, or None.
    """
    wide = max(len(name) for name in CLASSIFICATION_WORDS)
    lines = [f"{'number':<{wide}}{'value':>8}  what"]
    lines += [
        f"{name:<{wide}}  {_digits(value)}  {CLASSIFICATION_WORDS[name]}" for name, value in numbers.items()
    ]
    listed = [entry for entry in per_class if entry[1]]
    absent = len(per_class) - len(listed)
    heading = "class"
    if len(listed) > MOST_CLASSES:
        heading = f"worst {MOST_CLASSES} of {len(listed)}"
        listed = sorted(listed, key=lambda entry: entry[2] / entry[1])[:MOST_CLASSES]
    width = max([len(heading), *(_columns(entry[0]) for entry in listed)])
    lines += ["", f"{heading:<{width}}  {'top-1':>6}{'top-5':>8}{'images':>8}{'predicted':>11}"]
    lines += [
        f"{_padded(name, width)}  {_digits(right / images)}  {_digits(five / images)}"
        f"{images:>8}{predicted:>11}"
        for name, images, right, five, predicted in listed
    ]
    if absent:
        lines.append(f"{absent} class{'es' if absent > 1 else ''} without images")
    if confusions:
        lines += ["", "most frequent mistakes"]
        lines += [f"{number:>7}  {name} taken for {other}" for name, other, number in confusions[:5]]
    return "\n".join([*lines, "", note] if note else lines)


def _padded(text: str, width: int) -> str:
    return text + " " * (width - _columns(text))


def _columns(text: str) -> int:
    """Count the columns that a terminal gives to text: Chinese, Japanese and Korean characters take two."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _digits(value: float) -> str:
    """Write three digits, six characters wide."""
    return f"{'–':>6}" if math.isnan(value) else f"{value:>6.3f}"
