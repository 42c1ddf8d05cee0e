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
        f"{name}{' ' * (width - _columns(name))}  {_digits(ap)}  {_digits(ap50)}  {_digits(ar)}{objects:>9}"
        for name, ap, ap50, ar, objects in per_class
        if objects
    ]
    absent = sum(1 for entry in per_class if not entry[4])
    if absent:
        lines.append(f"{absent} class{'es' if absent > 1 else ''} without objects")
    return "\n".join([*lines, "", note] if note else lines)


def _columns(text: str) -> int:
    """Count the columns that a terminal gives to text: Chinese, Japanese and Korean characters take two."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _digits(value: float) -> str:
    """Write three digits, six characters wide."""
    return f"{'–':>6}" if math.isnan(value) else f"{value:>6.3f}"
