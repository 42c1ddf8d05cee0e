"""What is wrong with the images and label maps of a segmentation recipe."""

from __future__ import annotations

from dettoolkit.config.recipe import SegmentationRecipe
from dettoolkit.doctor.examination import Examination, ListedImage, Progress
from dettoolkit.segmentation.run import find_files, prepare_data


def examine(recipe: SegmentationRecipe, *, deep: bool, progress: Progress) -> Examination:  # noqa: ARG001
    """Return what the doctor looks at, and the checks of labels."""
    data = recipe.data
    prepare_data(data, [data.train, data.val, *data.extra])
    train, val = find_files(data, [data.train, *data.extra]), find_files(data, [data.val])
    return Examination(
        images={
            "train": [
                ListedImage(path, row, None, data.max_megapixels)
                for row, path in enumerate(train.image_paths)
            ],
            "val": [
                ListedImage(path, row, None, data.max_megapixels) for row, path in enumerate(val.image_paths)
            ],
        },
        trained_on=len(train.image_paths),
        input_hw=data.eval_hw,
        stretched=data.eval_hw is not None,
    )
