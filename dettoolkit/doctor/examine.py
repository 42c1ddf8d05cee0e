"""All checks of a recipe and its data, one after the other."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from dettoolkit.config import Recipe, ResolvedRecipe
from dettoolkit.doctor.diagnosis import Diagnosis
from dettoolkit.doctor.duplicates import check_duplicates, check_shared, check_two_classes
from dettoolkit.doctor.examination import Examination, ListedImage, Progress, silent
from dettoolkit.doctor.findings import Finding, Split, by_severity
from dettoolkit.doctor.image_checks import Seen, check_looks
from dettoolkit.doctor.looks import look_at
from dettoolkit.doctor.names import check_both_splits, check_names, check_unreferenced
from dettoolkit.doctor.recipe_checks import (
    check_aspect,
    check_length,
    check_rate,
    check_workers,
    length_of,
    meant_length,
)

SAMPLE = 1000
"""Headers of a split that the quick part reads."""


def diagnose(
    name: str,
    recipe: Recipe,
    task: Examination,
    *,
    files: ResolvedRecipe | None,
    deep: bool,
    progress: Progress = silent,
) -> Diagnosis:
    """Return all findings of the recipe of that name, with what they are of; see `examine`."""
    images = {split: len(each) for split, each in task.images.items()}
    findings = examine(recipe, task, files=files, deep=deep, progress=progress)
    return Diagnosis(name=name, root=recipe.data.root, images=images, deep=deep, findings=findings)


def refused(name: str, recipe: Recipe, text: str) -> Diagnosis:
    """Return the one finding of data that cannot be loaded at all."""
    finding = Finding(
        id="data-refused",
        severity="error",
        split=None,
        count=1,
        text=text,
        remedy="Correct this first: nothing else was looked at.",
        examples=(),
    )
    return Diagnosis(name=name, root=recipe.data.root, images={}, deep=False, findings=[finding])


def examine(
    recipe: Recipe,
    task: Examination,
    *,
    files: ResolvedRecipe | None = None,
    deep: bool = True,
    progress: Progress = silent,
) -> list[Finding]:
    """Return what all checks find, the worst first; nothing on disk is changed.

    Args:
        recipe: the run.
        task: what its task says of the data.
        files: what the recipe's files say, without values from the command line; None: not known.
        deep: read every image; otherwise the headers of some.
        progress: shows how far it is.
    """
    findings = list(_check_recipe(recipe, task, files))
    seen = dict[Split, Seen]()
    for split, images in task.images.items():
        findings += check_names(split, images)
        seen[split] = _look(images, deep=deep, progress=progress)
        findings += check_looks(
            split,
            seen[split],
            listed=len(images),
            input_hw=task.input_hw,
            bad="error" if recipe.data.on_bad_image == "error" else "warning",
        )
    findings += _check_together(task, seen)
    findings += check_two_classes(seen, task.classes)
    if task.stretched and task.input_hw is not None and "train" in seen:
        findings += check_aspect(_sizes(seen["train"]), task.input_hw)
    findings += task.findings
    return by_severity(findings)


def _check_recipe(recipe: Recipe, task: Examination, files: ResolvedRecipe | None) -> Iterator[Finding]:
    length = length_of(recipe, task.trained_on)
    meant = None if files is None else meant_length(files)
    yield from check_length(length, meant, recipe=recipe, images=task.trained_on)
    yield from check_rate(length, recipe if files is None else files.recipe, recipe=recipe)
    yield from check_workers(recipe, cores=cores())


def _look(images: Sequence[ListedImage], *, deep: bool, progress: Progress) -> Seen:
    """Look at the images that are there: all of them, or SAMPLE evenly over the split."""
    chosen = images
    if not deep and len(images) > SAMPLE:
        chosen = [images[row] for row in np.linspace(0, len(images) - 1, SAMPLE).astype(int).tolist()]
    return list(look_at(chosen, deep=deep, workers=cores(), progress=progress))


def _check_together(task: Examination, seen: Mapping[Split, Seen]) -> Iterator[Finding]:
    train, val = task.images.get("train", ()), task.images.get("val", ())
    yield from check_both_splits(train, val)
    yield from check_unreferenced([*train, *val], task.folders)
    for split, each in seen.items():
        yield from check_duplicates(split, each)
    yield from check_shared(seen.get("train", ()), seen.get("val", ()), workers=cores())


def _sizes(seen: Seen) -> NDArray[np.int64]:
    """Return height and width (n, 2) of the images that were read, as annotated where that is known."""
    known = [
        image.hw if image.hw not in (None, (0, 0)) else look.hw
        for image, look in seen
        if look.trouble is None
    ]
    return np.array(known, np.int64).reshape(-1, 2)


def cores() -> int:
    """Count the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
