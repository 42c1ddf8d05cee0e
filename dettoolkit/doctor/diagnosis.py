"""What the doctor found, as text, as JSON and as a page."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dettoolkit.datasets.data_report import BadImageError
from dettoolkit.datasets.images import read_image, resize_image
from dettoolkit.doctor.findings import SEVERITIES, Example, Finding, Severity, Split, counted
from dettoolkit.drawing.boxes import draw_boxes
from dettoolkit.pages.html import render
from dettoolkit.pages.parts import Block, Facts, Gallery, Picture, Section, Table

TITLES: Mapping[Severity, str] = {"error": "Errors", "warning": "Warnings", "note": "Notes"}
DOCTOR = "doctor.json"  # of a run, in its folder
MARK = "Data check of "  # in the first letters of what is written here
ENLARGED = 320  # pixels that a part of an image is shown with, so that its boxes' lines hide nothing
ZOOM = 4  # an example's boxes that fill less than this part of each side of their image are shown enlarged


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """All findings of a recipe, and what they are of.

    Attributes:
        name: the recipe's.
        root: where its data are.
        images: of each split.
        deep: whether every image was read.
        findings: the worst first.
    """

    name: str
    root: str
    images: Mapping[Split, int]
    deep: bool
    findings: Sequence[Finding]

    @property
    def counts(self) -> dict[Severity, int]:
        """Findings of each severity."""
        counts = Counter(finding.severity for finding in self.findings)
        return {severity: counts[severity] for severity in SEVERITIES}

    def summary(self) -> str:
        """Write in one line what there is."""
        amount = ", ".join(counted(count, severity) for severity, count in self.counts.items() if count)
        how = "every image was read" if self.deep else "only names and headers were read"
        where = f" in {_amount(self.images)} ({how})" if self.images else ""
        return f"{amount or 'nothing found'}{where}"

    def lines(self) -> Iterator[str]:
        """Yield the findings as text, the summary last."""
        for finding in self.findings:
            where = f" ({finding.split})" if finding.split else ""
            yield f"{finding.severity:<8} {finding.id}{where}: {finding.text}"
            for example in finding.examples:
                yield f"           {example.line()}"
            if finding.examples and finding.count > len(finding.examples):
                yield f"           ... and {finding.count - len(finding.examples):,} more"
            yield f"         -> {finding.remedy}"
        yield self.summary()

    def to_json(self) -> str:
        """Write all of it as JSON."""
        content = {
            "title": MARK + self.name,
            "recipe": self.name,
            "data": self.root,
            "images": dict(self.images),
            "every_image_read": self.deep,
            "counts": self.counts,
            "findings": [finding.to_json() for finding in self.findings],
        }
        return json.dumps(content, indent=2) + "\n"

    def page(self) -> str:
        """Return the page, with the examples' images."""
        return render(MARK + self.name, list(self.sections()), footer=self.summary())

    def sections(self) -> Iterator[Section]:
        """Yield the parts of the page; a report of a training has them too."""
        facts = [("Data", self.root), ("Found", self.summary())]
        blocks: list[Block] = [Facts(title="What was looked at", rows=facts)]
        if self.findings:
            rows = [(each.severity, f"{each.text} ({_check(each)})") for each in self.findings]
            blocks.append(Table(title="Findings", columns=("severity", "what"), rows=rows))
        yield Section(title="Overview", blocks=blocks)
        for severity in SEVERITIES:
            found = [finding for finding in self.findings if finding.severity == severity]
            if found:
                blocks = [block for finding in found for block in _blocks(finding)]
                yield Section(title=TITLES[severity], blocks=blocks)


def _amount(images: Mapping[Split, int]) -> str:
    return " and ".join(f"{counted(count, 'image')} of {split}" for split, count in images.items())


def _check(finding: Finding) -> str:
    return finding.id if finding.split is None else f"{finding.id}, {finding.split}"


def _blocks(finding: Finding) -> Iterator[Block]:
    """Yield a finding with its examples: pictures first, then those that have none."""
    title = f"{finding.text} ({_check(finding)})"
    pictures, rows = list[Picture](), list[tuple[str]]()
    for example in finding.examples:
        image = example_image(example)
        if image is None:
            rows.append((example.line(),))
        else:
            pictures.append(Picture(image, example.line()))
    if pictures:
        yield Gallery(title=title, note=finding.remedy, pictures=pictures)
    if rows and pictures:
        yield Table(title="Without a picture", columns=("examples",), rows=rows)
    elif rows:
        yield Table(title=title, note=finding.remedy, columns=("examples",), rows=rows)
    if not finding.examples:
        yield Facts(title=title, note=finding.remedy, rows=())


def example_image(example: Example) -> NDArray[np.uint8] | None:
    """Draw an example: uint8 (H, W, 3); None where it has no image that can be read."""
    if example.file is None:
        return None
    try:
        image = read_image(Path(example.file), expected_hw=example.hw)
    except BadImageError:
        return None
    if example.beside is not None:
        return _side_by_side(image, Path(example.beside))
    boxes = np.array(example.boxes_xyxy, np.float64).reshape(-1, 4)
    if not len(boxes):
        return image
    names = [str(example.annotation_id)] if len(boxes) == 1 else [str(row + 1) for row in range(len(boxes))]
    names = [""] if example.annotation_id is None and len(boxes) == 1 else names
    window = _window(boxes, image.shape[:2])
    part = image[window[1] : window[3], window[0] : window[2]]
    larger = max(1.0, ENLARGED / max(part.shape)) if part.shape != image.shape else 1.0
    boxes = (boxes - [window[0], window[1]] * 2) * larger
    part = resize_image(part, (round(part.shape[0] * larger), round(part.shape[1] * larger)))
    return draw_boxes(part, boxes, np.arange(len(boxes)), class_names=names)


def _side_by_side(image: NDArray[np.uint8], other: Path) -> NDArray[np.uint8]:
    """Put another image beside one, as high as it; one that cannot be read is left out."""
    try:
        second = read_image(other)
    except BadImageError:
        return image
    height = image.shape[0]
    second = resize_image(second, (height, max(1, round(second.shape[1] * height / second.shape[0]))))
    gap = np.full((height, max(2, height // 50), 3), 255, np.uint8)
    return np.concatenate([image, gap, second], axis=1)


def _window(boxes: NDArray[np.float64], hw: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Return left, top, right, bottom of the part to show: all, unless the boxes are lost in it."""
    height, width = hw[:2]
    limit = np.array([width, height])
    whole = (0, 0, width, height)
    if not np.isfinite(boxes).all():
        return whole
    low, high = np.clip(boxes[:, :2].min(axis=0), 0, limit), np.clip(boxes[:, 2:].max(axis=0), 0, limit)
    side = float(max(high - low).max()) if (high > low).all() else 0.0
    if side <= 0 or side * ZOOM * ZOOM > min(height, width):
        return whole
    half = max(side * ZOOM, 32) / 2
    center = (low + high) / 2
    left, top = np.clip(center - half, 0, limit).astype(int).tolist()
    right, bottom = np.clip(center + half, 0, limit).astype(int).tolist()
    return left, top, right, bottom
