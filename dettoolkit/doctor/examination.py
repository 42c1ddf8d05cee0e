"""What a task tells the doctor of a recipe's data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from dettoolkit.datasets.images import MAX_MEGAPIXELS
from dettoolkit.doctor.findings import Example, Finding, Split

Item = TypeVar("Item")


class ListedImage(NamedTuple):
    """An image file that a split names.

    Attributes:
        path: the file.
        image_id: of the annotation file; the image's index where a data set has no ids.
        hw: size that its annotations were made for; None where they say nothing of it.
        max_megapixels: a larger one cannot be read.
    """

    path: Path
    image_id: int
    hw: tuple[int, int] | None = None
    max_megapixels: float = MAX_MEGAPIXELS


def example_of(image: ListedImage, text: str = "", *, beside: ListedImage | None = None) -> Example:
    """Return an image, with another one to compare it with, as an example of a finding."""
    other = None if beside is None else str(beside.path)
    return Example(file=str(image.path), image_id=image.image_id, text=text, hw=image.hw, beside=other)


@dataclass(frozen=True, kw_only=True)
class Examination:
    """The images of both splits, and what the task itself finds.

    Attributes:
        images: of each split, as the annotations list them.
        trained_on: images that an epoch has, without those that training leaves out.
        folders: image files there that no split lists are unreferenced; () where the task reports them.
        input_hw: size that whole images are resized to; None where they keep their own.
        classes: of each image by its id, where the image as a whole has one.
        stretched: whether that resize changes their aspect.
        findings: of the task's own checks, which run while this is read.
    """

    images: Mapping[Split, Sequence[ListedImage]]
    trained_on: int
    folders: Sequence[Path] = ()
    input_hw: tuple[int, int] | None = None
    stretched: bool = False
    classes: Mapping[Split, Sequence[str]] = field(default_factory=dict)
    findings: Iterable[Finding] = ()


class Progress(Protocol):
    """Shows how far a check is that reads many files."""

    def __call__(self, items: Iterable[Item], total: int, what: str) -> Iterable[Item]:
        """Return the same items; what they are is for people, such as "images"."""


def silent(items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
    """Return the items, showing nothing."""
    del total, what
    return iter(items)
