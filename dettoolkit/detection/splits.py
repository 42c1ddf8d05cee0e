"""The annotations that a detection recipe names; what only looks at them loads no torch."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from dettoolkit.config.detection import DetectionData
from dettoolkit.datasets.cityscapes_boxes import load_boxes
from dettoolkit.datasets.coco_annotations import CocoAnnotations
from dettoolkit.datasets.data_root import Layout, check_root
from dettoolkit.datasets.scenes.folder import write_scenes
from dettoolkit.doctor.findings import Split

logger = logging.getLogger(__name__)

LAYOUTS: dict[str, Layout] = {"coco": "coco", "cityscapes": "instances"}


def prepare_data(data: DetectionData, splits: Sequence[Split], *, generate: bool = False) -> None:
    """Check that the splits are there; with `generate`, make the scenes that the recipe asks for.

    Only a training generates: elsewhere a wrong data.root would be filled with other data than was meant.
    """
    if data.type == "scenes":
        write_scenes(Path(data.root), **data.scenes.model_dump(), generate=generate)
    else:
        sections = [getattr(data, split) for split in splits]
        expected = [path for each in sections for path in (each.images, each.annotations)]
        check_root(Path(data.root), expected=expected, layout=LAYOUTS[data.type])


def load_splits(data: DetectionData) -> tuple[CocoAnnotations, CocoAnnotations]:
    """Read both splits' annotations; a root category that has boxes in one of them is a class in both."""
    train = load_annotations(data, "train")
    val = load_annotations(data, "val", classes=train.class_names)
    if not set(train.roots).isdisjoint(val.class_names):
        train = load_annotations(data, "train", classes=val.class_names)
    return train, val


def load_annotations(data: DetectionData, split: Split, *, classes: Sequence[str] = ()) -> CocoAnnotations:
    """Read a split's annotations and report what is wrong with them; `classes` are no root categories."""
    section = data.train if split == "train" else data.val
    root = Path(data.root)
    if data.type == "cityscapes":
        annotations = load_boxes(
            root,
            images=section.images,
            labels=section.annotations,
            label_map=data.label_map,
            max_megapixels=data.max_megapixels,
        )
    else:
        annotations = CocoAnnotations.load(
            root / section.annotations,
            images=root / section.images,
            label_map=data.label_map,
            keep_roots=None if data.keep_root_category else classes,
        )
    if annotations.problems.counts:
        logger.warning("%s", annotations.problems.summary())
    return annotations
