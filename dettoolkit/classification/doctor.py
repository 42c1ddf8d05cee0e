"""What is wrong with the images and class folders of a classification recipe."""

from __future__ import annotations

from pathlib import Path

from dettoolkit.classification.run import find_files
from dettoolkit.config.recipe import ClassificationRecipe
from dettoolkit.datasets.data_root import check_root
from dettoolkit.datasets.image_folder import ImageFolderFiles
from dettoolkit.doctor.examination import Examination, ListedImage, Progress


def examine(recipe: ClassificationRecipe, *, deep: bool, progress: Progress) -> Examination:  # noqa: ARG001
    """Return what the doctor looks at, and the checks of class folders."""
    data = recipe.data
    check_root(Path(data.root), expected=[data.train.images, data.val.images], layout="classes")
    train, val = find_files(data, "train"), find_files(data, "val")
    return Examination(
        images={
            "train": list_images(train, data.max_megapixels),
            "val": list_images(val, data.max_megapixels),
        },
        trained_on=len(train.labels),
        input_hw=data.input_hw,
    )


def list_images(files: ImageFolderFiles, max_megapixels: float) -> list[ListedImage]:
    """List the images of a split."""
    rows = range(len(files.labels))
    return [ListedImage(files.image_path(row), row, None, max_megapixels) for row in rows]
