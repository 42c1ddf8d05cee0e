"""The same picture twice: copies inside a split and between both, and near-duplicates between both."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from dettoolkit.doctor.examination import ListedImage, example_of
from dettoolkit.doctor.findings import Finding, Split, found
from dettoolkit.doctor.image_checks import Seen
from dettoolkit.doctor.looks import Look

# All pairs of coco256, facemask848 and BCCD within these were looked at: 25, photos of the same scene within
# seconds. So were those of CamVid, which is video.
MAX_BITS = 8  # of 64, in which two dHashes differ
MIN_CORRELATION = 0.9  # of two thumbnails
MIN_CONTRAST = 5.0  # standard deviation of a thumbnail's gray; a blank page resembles every other
_ROWS = 64  # compared at a time: 64 x 118,000 bits in 8 bytes are 60 MB


def check_duplicates(split: Split, seen: Seen) -> list[Finding]:
    """Find files of the same bytes inside a split."""
    first = dict[bytes, ListedImage]()
    pairs = []
    for image, look in seen:
        if look.digest is not None:
            other = first.setdefault(look.digest, image)
            if os.path.normpath(other.path) != os.path.normpath(image.path):
                pairs.append((other, image))
    return found(
        "duplicate-in-split",
        "warning" if split == "train" else "note",
        pairs,
        lambda pair: example_of(
            pair[1], f"the same as {pair[0].path} (image id {pair[0].image_id})", beside=pair[0]
        ),
        split=split,
        text="{n} image{n:|s} {n:is a copy|are copies} of another of the split",
        remedy="Keep one of each, and compare their annotations: two that differ teach both.",
    )


def check_shared(train: Seen, val: Seen, *, workers: int) -> Iterator[Finding]:
    """Find validation images that training sees too, as the same bytes or nearly the same picture."""
    own = {look.digest: image for image, look in train if look.digest is not None}
    copies, others = list[tuple[ListedImage, ListedImage]](), list[tuple[ListedImage, Look]]()
    for image, look in val:
        if look.digest in own:
            copies.append((own[look.digest], image))
        elif look.digest is not None:
            others.append((image, look))
    yield from found(
        "duplicate-between-splits",
        "warning",
        [pair for pair in copies if os.path.normpath(pair[0].path) != os.path.normpath(pair[1].path)],
        lambda pair: example_of(pair[1], f"the same as {pair[0].path} of train", beside=pair[0]),
        text="{n} validation image{n:|s} {n:is a copy of an image|are copies of images} to train on",
        remedy="Take them out of one split: the score says nothing about images that were trained on.",
    )
    readable = [each for each in train if each[1].digest is not None]
    yield from found(
        "near-duplicate-between-splits",
        "warning",
        _nearest(readable, others, workers),
        lambda pair: example_of(pair[1], f"almost the same as {pair[0].path} of train", beside=pair[0]),
        text="{n} validation image{n:|s} {n:is|are} almost the same as one to train on",
        remedy="Split by video, place or day, so that neighbors stay together (dettoolkit convert "
        "coco-split --group). With a camera that never moves this is expected.",
    )


def check_two_classes(seen: Mapping[Split, Seen], classes: Mapping[Split, Sequence[str]]) -> list[Finding]:
    """Find files of the same bytes that have different classes, in one split or in both."""
    first = dict[bytes, tuple[ListedImage, str]]()
    cases = list[tuple[ListedImage, str, ListedImage, str]]()
    for split, names in classes.items():
        for image, look in seen.get(split, ()):
            if look.digest is not None:
                name = names[image.image_id]
                other, others = first.setdefault(look.digest, (image, name))
                if others != name:
                    cases.append((image, name, other, others))
    return found(
        "image-in-two-classes",
        "error",
        cases,
        lambda case: example_of(case[0], f"{case[1]}, but {case[3]} as {case[2].path}"),
        text="{n} image{n:|s} {n:is a copy of an image|are copies of images} of another class",
        remedy="Keep each image in one class, the right one: copies in two teach both.",
    )


def _nearest(train: Seen, val: Seen, workers: int) -> list[tuple[ListedImage, ListedImage]]:
    """Return each validation image that has a near-duplicate to train on, behind that one."""
    if not train or not val:
        return []
    theirs, ours = _hashes(train), _hashes(val)

    def closest(start: int) -> NDArray[np.int64]:
        bits = np.bitwise_count(ours[start : start + _ROWS, None] ^ theirs)
        best = np.argmin(bits, axis=1)
        return np.where(np.take_along_axis(bits, best[:, None], 1)[:, 0] <= MAX_BITS, best, -1)

    with ThreadPoolExecutor(workers) as pool:
        best = np.concatenate(list(pool.map(closest, range(0, len(ours), _ROWS))))
    return [
        (train[other][0], val[row][0])
        for row, other in enumerate(best.tolist())
        if other >= 0 and _correlation(train[other][1], val[row][1]) >= MIN_CORRELATION
    ]


def _hashes(seen: Seen) -> NDArray[np.uint64]:
    return np.array([look.difference for _, look in seen], np.uint64)


def _correlation(one: Look, other: Look) -> float:
    """Return the correlation of two thumbnails; 0 where one has no contrast."""
    a, b = (_centered(look.thumbnail) for look in (one, other))
    norms = [float(np.linalg.norm(each)) for each in (a, b)]
    if min(norms) < MIN_CONTRAST * np.sqrt(len(a)):
        return 0.0
    return float(a @ b) / (norms[0] * norms[1])


def _centered(thumbnail: bytes) -> NDArray[np.float64]:
    values = np.frombuffer(thumbnail, np.uint8).astype(np.float64)
    return np.asarray(values - values.mean())
