"""What loading reports of a folder's files, as findings."""

from __future__ import annotations

from collections.abc import Iterator

from dettoolkit.datasets.data_report import DataReport
from dettoolkit.doctor.findings import Example, Finding, Severity, Split, found

KINDS: dict[str, tuple[str, Severity, str, str]] = {
    "image without label": (
        "image-without-label",
        "warning",
        "{n} image{n:|s} {n:has|have} no label file, and {n:is|are} left out",
        "Add the label files, or remove the images.",
    ),
    "label without image": (
        "label-without-image",
        "warning",
        "{n} label file{n:|s} {n:has|have} no image, and {n:is|are} left out",
        "Add the images, or remove the label files.",
    ),
    "image outside class folders": (
        "image-of-no-class",
        "warning",
        "{n} image{n:|s} {n:lies|lie} beside the folders of the classes, and {n:is|are} left out",
        "Move each into the folder of its class.",
    ),
    "not an image": (
        "file-of-no-image",
        "note",
        "{n} file{n:|s} in the folders {n:has|have} no image's ending, and {n:is|are} left out",
        "Nothing to do, unless they were meant: .jpg, .jpeg, .png, .webp, .bmp and .tif are read.",
    ),
    "broken link": (
        "link-broken",
        "warning",
        "{n} link{n:|s} {n:leads|lead} nowhere, and {n:is|are} left out",
        "Bring back what they led to, or remove them.",
    ),
    "link to a folder above it": (
        "link-to-above",
        "note",
        "{n} link{n:|s} {n:leads|lead} to a folder above {n:it|them}, and {n:is|are} not followed",
        "Remove them.",
    ),
    "folder cannot be opened": (
        "folder-closed",
        "warning",
        "{n} folder{n:|s} cannot be opened, and {n:is|are} left out",
        "Allow reading them.",
    ),
    "not a regular file": (
        "file-not-regular",
        "warning",
        "{n} pipe{n:|s}, device{n:|s} or socket{n:|s} {n:is|are} left out",
        "Remove them from the data set.",
    ),
}
"""Id, severity, text and remedy by the kind of problem, of those in `data_report.KINDS`."""


def check_problems(split: Split, report: DataReport) -> Iterator[Finding]:
    """Find files that training leaves out."""
    for kind, count in report.counts.items():
        if kind in KINDS:
            id_, severity, text, remedy = KINDS[kind]
            problems = report.problems(kind)
            yield from found(
                id_,
                severity,
                range(count),
                lambda _, problems=problems: Example(text=next(problems).text),  # type: ignore[misc]
                split=split,
                text=text,
                remedy=remedy,
            )
