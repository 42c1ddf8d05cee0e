"""What is wrong with the images and boxes of a detection recipe."""

from __future__ import annotations

from pathlib import Path

from dettoolkit.config.recipe import DetectionRecipe
from dettoolkit.datasets.coco_annotations import CocoAnnotations
from dettoolkit.detection.data import load_annotations, prepare_data
from dettoolkit.doctor.examination import Examination, ListedImage, Progress
from dettoolkit.doctor.findings import Split

SPLITS: tuple[Split, ...] = ("train", "val")


def examine(recipe: DetectionRecipe, *, deep: bool, progress: Progress) -> Examination:  # noqa: ARG001
    """Return what the doctor looks at, and the checks of boxes and classes."""
    data = recipe.data
    prepare_data(data, SPLITS)
    annotations = {split: load_annotations(data, split) for split in SPLITS}
    train = annotations["train"]
    return Examination(
        images={split: list_images(each, data.max_megapixels) for split, each in annotations.items()},
        trained_on=int((~train.empty).sum()) if data.drop_empty else len(train),
        folders=list(dict.fromkeys(Path(each.images) for each in annotations.values())),
        input_hw=recipe.model.input_hw,
        stretched=True,
    )


def list_images(annotations: CocoAnnotations, max_megapixels: float) -> list[ListedImage]:
    """List the images of a split with their ids and the sizes that the json says."""
    rows = zip(annotations.image_ids.tolist(), annotations.image_hw.tolist(), strict=True)
    return [
        ListedImage(annotations.image_path(row), image_id, (height, width), max_megapixels)
        for row, (image_id, (height, width)) in enumerate(rows)
    ]
