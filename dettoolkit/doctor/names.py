"""Checks of the names that the splits list against the files that are there; none is opened."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from dettoolkit.datasets.images import ENDINGS
from dettoolkit.datasets.regular_files import Walk
from dettoolkit.doctor.examination import ListedImage, example_of
from dettoolkit.doctor.findings import Example, Finding, Split, found


class Renamed(NamedTuple):
    """A listed image whose file has a name of other capitals."""

    image: ListedImage
    name: str
    opens: bool  # this file system takes one for the other


def check_names(split: Split, images: Sequence[ListedImage]) -> Iterator[Finding]:
    """Find listed files that are not there, and names that one file system takes for the same."""
    missing, renamed = _absent(images)
    yield from found(
        "file-missing",
        "error",
        missing,
        example_of,
        split=split,
        text="{n} image{n:|s} {n:is|are} listed, but not there",
        remedy="Copy the files to their place, correct data.*.images, or take them out of the annotations.",
    )
    yield from found(
        "file-name-case",
        "warning" if all(each.opens for each in renamed) else "error",
        renamed,
        lambda each: example_of(each.image, f"the file is called {each.name}"),
        split=split,
        text="{n} listed name{n:|s} {n:differs|differ} from the file's in capitals only",
        remedy="Rename the files, or correct the annotations: on Linux those are different names.",
    )
    paths = [os.path.normpath(image.path) for image in images]
    yield from found(
        "file-names-alike",
        "warning",
        _alike(images, [path.lower() for path in paths], exact=paths),
        lambda pair: example_of(pair[1], f"beside {pair[0].path.name}"),
        split=split,
        text="{n} file{n:|s} {n:has the name of another|have names of others} but for capitals",
        remedy="Rename them: Windows and macOS keep one of the two only.",
    )
    yield from found(
        "file-listed-twice",
        "warning",
        _alike(images, paths),
        lambda pair: example_of(pair[1], f"image id {pair[0].image_id} is the same file"),
        split=split,
        text="{n} image{n:|s} {n:is|are} listed again under another id",
        remedy="Join the entries: training takes the boxes of the other entry for background.",
    )


def check_both_splits(train: Sequence[ListedImage], val: Sequence[ListedImage]) -> list[Finding]:
    """Find files that are trained on and scored."""
    trained = {os.path.normpath(image.path) for image in train}
    return found(
        "file-in-both-splits",
        "warning",
        [image for image in val if os.path.normpath(image.path) in trained],
        example_of,
        text="{n} validation image{n:|s} {n:is|are} listed for training too",
        remedy="Take them out of one split: the score says nothing about images that were trained on.",
    )


def check_unreferenced(images: Sequence[ListedImage], folders: Sequence[Path]) -> list[Finding]:
    """Find image files in folders that no split lists."""
    listed = {os.path.normpath(image.path).lower() for image in images}  # capitals have their own check
    return found(
        "file-unreferenced",
        "note",
        [path for path in Walk(*folders, endings=ENDINGS) if os.path.normpath(path).lower() not in listed],
        lambda path: Example(file=path),
        text="{n} image file{n:|s} in the folders {n:is|are} in no annotation",
        remedy="Nothing, where they belong to another split; otherwise annotate them (an image without "
        "objects is listed without annotations).",
    )


def _absent(images: Sequence[ListedImage]) -> tuple[list[ListedImage], list[Renamed]]:
    names = dict[Path, set[str]]()
    alike = dict[Path, Mapping[str, str]]()
    missing, renamed = list[ListedImage](), list[Renamed]()
    for image in images:
        folder = image.path.parent
        if folder not in names:
            names[folder] = _names(folder)
        if image.path.name in names[folder]:
            continue
        if folder not in alike:
            alike[folder] = {name.lower(): name for name in names[folder]}
        opens, name = _exists(image.path), alike[folder].get(image.path.name.lower())
        if name is not None:
            renamed.append(Renamed(image, name, opens))
        elif not opens:
            missing.append(image)
    return missing, renamed


def _names(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except (OSError, ValueError):  # no such folder, or a name that none can have
        return set()


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _alike(
    images: Sequence[ListedImage], keys: Sequence[str], exact: Sequence[str] | None = None
) -> list[tuple[ListedImage, ListedImage]]:
    """Return each image with the first of the same key; with `exact`, only where that one differs."""
    first = dict[str, int]()
    pairs = []
    for number, key in enumerate(keys):
        other = first.setdefault(key, number)
        if other != number and (exact is None or exact[other] != exact[number]):
            pairs.append((images[other], images[number]))
    return pairs
