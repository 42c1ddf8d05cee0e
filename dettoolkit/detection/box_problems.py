"""What loading reports of a split's annotations, as findings of the doctor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from dettoolkit.datasets.coco_annotations import CocoAnnotations
from dettoolkit.datasets.data_report import NO_ID, Problem
from dettoolkit.detection.box_examples import example_of, example_of_image
from dettoolkit.doctor.findings import Example, Finding, Severity, Split, found


class Kind(NamedTuple):
    """How the finding of one kind of problem, of those in `data_report.KINDS`, is written."""

    id: str
    severity: Severity
    text: str
    remedy: str


_CORRECT = "Correct or remove them in the annotation file: for training such an object is background."
KINDS = {
    "root category": Kind(
        "class-root",
        "note",
        "{n} categor{n:y|ies} {n:is|are} only the root of others, as labeling services add it, and left out",
        "Nothing to do; data.keep_root_category=true makes it a class.",
    ),
    "duplicate image id": Kind(
        "image-id-repeated",
        "warning",
        "{n} image{n:|s} {n:has|have} the id of an earlier one and {n:is|are} left out",
        "Number the images anew, each with an id of its own, and their annotations.",
    ),
    "image size read from file": Kind(
        "image-size-missing",
        "note",
        "{n} image{n:|s} {n:has|have} no size in the json; it was read from the file",
        "Add width and height to the images of the json: reading them from the files takes time.",
    ),
    "image size unknown": Kind(
        "image-size-unknown",
        "warning",
        "{n} image{n:|s} {n:has|have} no size, neither in the json nor in a file that can be read",
        "Add width and height, or remove the images.",
    ),
    "unknown image": Kind(
        "box-of-unknown-image",
        "warning",
        "{n} annotation{n:|s} {n:is|are} of no image in the file, and left out",
        "Add the images to the json, or remove the annotations.",
    ),
    "unknown category": Kind(
        "box-of-unknown-category",
        "error",
        "{n} annotation{n:|s} {n:has|have} a category that is not in the file, and {n:is|are} left out",
        "Add the category, or correct category_id: the object is trained on as background.",
    ),
    "no bbox": Kind(
        "box-missing", "warning", "{n} annotation{n:|s} {n:has|have} no bbox of four numbers", _CORRECT
    ),
    "non-finite box": Kind(
        "box-not-finite", "warning", "{n} box{n:|es} {n:is|are} not finite (NaN or infinity)", _CORRECT
    ),
    "zero or negative size": Kind(
        "box-without-area", "warning", "{n} box{n:|es} {n:has|have} no width or no height", _CORRECT
    ),
    "outside the image": Kind(
        "box-outside-image", "warning", "{n} box{n:|es} {n:lies|lie} outside the image", _CORRECT
    ),
    "degenerate": Kind(
        "box-degenerate",
        "warning",
        "{n} box{n:|es} {n:has|have} less than 0.01 pixels of width or height in the image",
        _CORRECT,
    ),
    "clipped": Kind(
        "box-clipped",
        "note",
        "{n} box{n:|es} {n:reaches|reach} beyond the image; training clips them",
        "Nothing to do for a pixel or two; more may mean wrong image sizes or another format.",
    ),
    "area missing": Kind(
        "area-missing",
        "note",
        "{n} annotation{n:|s} {n:has|have} no area; it is taken as width x height",
        "Nothing to do; AP by size then goes by the box, in COCO by the mask.",
    ),
}
"""Finding of each kind of problem that loading reports. A missing iscrowd changes nothing."""


def check_problems(split: Split, annotations: CocoAnnotations) -> Iterator[Finding]:
    """Find what training leaves out, clips or fills in."""
    for kind in annotations.problems.counts:
        if kind in KINDS:
            yield from _check_problems(split, annotations, kind)


def _check_problems(split: Split, annotations: CocoAnnotations, kind: str) -> list[Finding]:
    problems = annotations.problems.problems(kind)
    return found(
        KINDS[kind].id,
        KINDS[kind].severity,
        range(annotations.problems.counts[kind]),
        lambda _: _problem(annotations, next(problems)),
        split=split,
        text=KINDS[kind].text,
        remedy=KINDS[kind].remedy,
    )


def _problem(annotations: CocoAnnotations, problem: Problem) -> Example:
    """Return a problem as an example, with its box where the annotation was kept."""
    rows = np.flatnonzero(annotations.image_ids == (NO_ID if problem.image_id is None else problem.image_id))
    if not len(rows):
        return Example(
            file=str(annotations.path),
            image_id=problem.image_id,
            annotation_id=problem.annotation_id,
            text=problem.text,
        )
    row = int(rows[0])
    start, stop = annotations.offsets[row : row + 2].tolist()
    mine = start + np.flatnonzero(annotations.annotation_ids[start:stop] == problem.annotation_id)
    if len(mine) == 1:
        return example_of(annotations, int(mine[0]), problem.text)
    return example_of_image(annotations, row, problem.text, problem.annotation_id)
