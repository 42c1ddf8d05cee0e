"""What is wrong with the images and label maps of a segmentation recipe."""

from __future__ import annotations

from collections.abc import Iterator

from dettoolkit.config.recipe import SegmentationRecipe
from dettoolkit.datasets.segmentation_files import SegmentationFiles
from dettoolkit.doctor.classes import check_imbalance, check_occurrence, check_spelling
from dettoolkit.doctor.examination import Examination, ListedImage, Progress
from dettoolkit.doctor.findings import Finding, Severity
from dettoolkit.doctor.reported import check_problems
from dettoolkit.segmentation.label_checks import check_crops, check_labels
from dettoolkit.segmentation.label_values import count_images, count_pixels, read_all
from dettoolkit.segmentation.run import SegmentationRun, find_files, prepare_data


def examine(
    recipe: SegmentationRecipe, *, deep: bool, progress: Progress, run: SegmentationRun | None = None
) -> Examination:
    """Return what the doctor looks at, and the checks of labels."""
    data = recipe.data
    if run is None:
        prepare_data(data, [data.train, data.val, *data.extra])
        train, val = find_files(data, [data.train, *data.extra]), find_files(data, [data.val])
    else:
        train, val = run.train.files, run.val.files
    return Examination(
        images={
            "train": list_images(train, data.max_megapixels),
            "val": list_images(val, data.max_megapixels),
        },
        trained_on=len(train.image_paths),
        input_hw=data.eval_hw,
        stretched=data.eval_hw is not None,
        findings=_findings(recipe, train, val, deep=deep, progress=progress),
    )


def list_images(files: SegmentationFiles, max_megapixels: float) -> list[ListedImage]:
    """List the images of a split."""
    return [ListedImage(path, row, None, max_megapixels) for row, path in enumerate(files.image_paths)]


def _findings(
    recipe: SegmentationRecipe,
    train: SegmentationFiles,
    val: SegmentationFiles,
    *,
    deep: bool,
    progress: Progress,
) -> Iterator[Finding]:
    data = recipe.data
    bad: Severity = "error" if data.on_bad_image == "error" else "warning"
    seen = [
        read_all(
            files, crop_hw=data.crop_hw, max_megapixels=data.max_megapixels, deep=deep, progress=progress
        )
        for files in (train, val)
    ]
    yield from check_problems("train", train.problems)
    yield from check_problems("val", val.problems)
    yield from check_spelling(train.classes.names)
    yield from check_labels("train", train, seen[0], bad=bad)
    yield from check_labels("val", val, seen[1], bad=bad)
    yield from check_crops(seen[0], train.classes, data.crop_hw)
    if deep:  # a sample does not show what is absent
        counts = (count_images(each, files.classes) for each, files in zip(seen, (train, val), strict=True))
        yield from check_occurrence(*counts, things="label files")
        yield from check_imbalance(count_pixels(seen[0], train.classes), "pixels")
