"""What is wrong with the images and class folders of a classification recipe."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dettoolkit.classification.run import ClassificationRun, find_files
from dettoolkit.config.recipe import ClassificationRecipe
from dettoolkit.datasets.data_root import check_root
from dettoolkit.datasets.image_folder import ImageFolderFiles
from dettoolkit.doctor.classes import check_imbalance, check_occurrence, check_same_classes, check_spelling
from dettoolkit.doctor.examination import Examination, ListedImage, Progress
from dettoolkit.doctor.findings import Finding
from dettoolkit.doctor.reported import check_problems


def examine(
    recipe: ClassificationRecipe,
    *,
    deep: bool,  # noqa: ARG001
    progress: Progress,  # noqa: ARG001
    run: ClassificationRun | None = None,
) -> Examination:
    """Return what the doctor looks at, and the checks of class folders."""
    data = recipe.data
    if run is None:
        check_root(Path(data.root), expected=[data.train.images, data.val.images], layout="classes")
        train, val = find_files(data, "train"), find_files(data, "val")
    else:
        train, val = run.train.files, run.val.files
    return Examination(
        images={
            "train": list_images(train, data.max_megapixels),
            "val": list_images(val, data.max_megapixels),
        },
        trained_on=len(train.labels),
        input_hw=data.input_hw,
        classes={
            "train": [train.class_names[label] for label in train.labels.tolist()],
            "val": [val.class_names[label] for label in val.labels.tolist()],
        },
        findings=_findings(train, val),
    )


def list_images(files: ImageFolderFiles, max_megapixels: float) -> list[ListedImage]:
    """List the images of a split."""
    rows = range(len(files.labels))
    return [ListedImage(files.image_path(row), row, None, max_megapixels) for row in rows]


def _findings(train: ImageFolderFiles, val: ImageFolderFiles) -> Iterator[Finding]:
    yield from check_problems("train", train.problems)
    yield from check_problems("val", val.problems)
    yield from check_same_classes(train.class_names, val.class_names, val_may_lack=True)
    yield from check_spelling(train.class_names + val.class_names)
    counts = _count(train), _count(val)
    yield from check_occurrence(*counts, things="images")
    yield from check_imbalance(counts[0], "images")


def _count(files: ImageFolderFiles) -> dict[str, int]:
    """Count the images of each class."""
    counts = np.bincount(files.labels, minlength=len(files.class_names)).tolist()
    return dict(zip(files.class_names, counts, strict=True))
