"""What is wrong with the images and boxes of a detection recipe."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dettoolkit.config.recipe import DetectionRecipe
from dettoolkit.datasets.coco_annotations import CocoAnnotations
from dettoolkit.datasets.labels import GAP
from dettoolkit.detection.box_checks import check_boxes
from dettoolkit.detection.box_examples import example_of_image
from dettoolkit.detection.box_problems import check_problems
from dettoolkit.detection.splits import load_splits, prepare_data
from dettoolkit.doctor.classes import check_imbalance, check_occurrence, check_same_classes, check_spelling
from dettoolkit.doctor.examination import Examination, ListedImage, Progress
from dettoolkit.doctor.findings import Example, Finding, Split, found

if TYPE_CHECKING:
    from dettoolkit.detection.run import DetectionRun

SPLITS: tuple[Split, ...] = ("train", "val")

ROOT_NAMES = frozenset(
    ("all", "background", "__background__", "none", "object", "objects", "root", "supercategory", "things")
)
"""What labeling services call a category that stands for all others."""


def examine(
    recipe: DetectionRecipe,
    *,
    deep: bool,  # noqa: ARG001
    progress: Progress,  # noqa: ARG001
    run: DetectionRun | None = None,
) -> Examination:
    """Return what the doctor looks at, and the checks of boxes and classes."""
    data = recipe.data
    if run is None:
        prepare_data(data, SPLITS)
        train, val = load_splits(data)
    else:
        train, val = run.train.annotations, run.val.annotations
    annotations: dict[Split, CocoAnnotations] = {"train": train, "val": val}
    return Examination(
        images={split: list_images(each, data.max_megapixels) for split, each in annotations.items()},
        trained_on=int((~train.empty).sum()) if data.drop_empty else len(train),
        folders=list(dict.fromkeys(Path(each.images) for each in annotations.values())),
        input_hw=recipe.model.input_hw,
        stretched=True,
        findings=_findings(recipe, train, val),
    )


def _findings(recipe: DetectionRecipe, train: CocoAnnotations, val: CocoAnnotations) -> Iterator[Finding]:
    for split, each in zip(SPLITS, (train, val), strict=True):
        yield from check_problems(split, each)
        yield from check_boxes(split, each)
    yield from check_classes(train, val)
    yield from check_crowding(recipe, val)
    from dettoolkit.detection.default_box_checks import check_default_boxes  # loads torch

    yield from check_default_boxes(recipe, train)


def check_classes(train: CocoAnnotations, val: CocoAnnotations) -> Iterator[Finding]:
    """Find categories without boxes, too rare ones, and those that differ between the splits."""
    names = [[name for name in each.class_names if name != GAP] for each in (train, val)]
    yield from check_same_classes(*names)
    yield from check_spelling(names[0] + names[1])
    ids = [dict(zip(each.class_names, each.category_ids, strict=True)) for each in (train, val)]
    yield from found(
        "class-ids-differ",
        "note",
        [name for name in names[0] if ids[1].get(name, ids[0][name]) != ids[0][name]],
        lambda name: Example(text=f"{name!r}: id {ids[0][name]} in train, {ids[1][name]} in val"),
        text="{n} categor{n:y|ies} {n:has|have} another id in val than in train; they are matched by name",
        remedy="Nothing to do here; other programs may mix the classes up.",
    )
    counts = _count(train, train.usable), _count(val, ~val.iscrowd)
    yield from found(
        "class-root-like",
        "warning",
        [
            name
            for name in names[0]
            if name.casefold() in ROOT_NAMES and not counts[0][name] + counts[1].get(name, 0)
        ],
        lambda name: Example(text=f"{name!r}, category id {ids[0][name]}"),
        text="{n} class{n:|es} without boxes {n:looks|look} like a root that stands for all others",
        remedy="Remove it from the categories of both splits: the model gets a class that it never sees.",
    )
    yield from check_occurrence(*counts, things="boxes")
    yield from check_imbalance(counts[0], "boxes")


def check_crowding(recipe: DetectionRecipe, val: CocoAnnotations) -> Iterator[Finding]:
    """Find images with more objects to score than detections are kept."""
    most, of_class = recipe.evaluation.max_detections, recipe.model.postprocess.candidates_per_class
    rows, labels = val.rows[~val.iscrowd], val.labels[~val.iscrowd]
    objects = np.bincount(rows, minlength=len(val))
    yield from found(
        "objects-over-max-detections",
        "warning",
        np.flatnonzero(objects > most).tolist(),
        lambda row: example_of_image(val, row, f"{objects[row]:,} objects"),
        split="val",
        text=f"{{n}} image{{n:|s}} {{n:has|have}} more objects than the {most} detections that are kept",
        remedy="Raise evaluation.max_detections, or cut images into parts: the others count as missed.",
    )
    keys, counts = np.unique(rows * len(val.class_names) + labels, return_counts=True)
    over = keys[counts > of_class].tolist()
    yield from found(
        "objects-over-candidates",
        "warning",
        over,
        lambda key: example_of_image(
            val, key // len(val.class_names), f"{val.class_names[key % len(val.class_names)]!r}"
        ),
        split="val",
        text=f"{{n}} time{{n:|s}} an image has more objects of one class than the {of_class} candidates that "
        "enter NMS",
        remedy="Raise model.postprocess.candidates_per_class: the others always count as missed.",
    )


def _count(annotations: CocoAnnotations, chosen: NDArray[np.bool_]) -> dict[str, int]:
    """Count the chosen boxes of each class."""
    counts = np.bincount(annotations.labels[chosen], minlength=len(annotations.class_names)).tolist()
    return {name: count for name, count in zip(annotations.class_names, counts, strict=True) if name != GAP}


def list_images(annotations: CocoAnnotations, max_megapixels: float) -> list[ListedImage]:
    """List the images of a split with their ids and the sizes that the json says."""
    rows = zip(annotations.image_ids.tolist(), annotations.image_hw.tolist(), strict=True)
    return [
        ListedImage(annotations.image_path(row), image_id, (height, width), max_megapixels)
        for row, (image_id, (height, width)) in enumerate(rows)
    ]
