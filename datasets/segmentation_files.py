"""Which image file belongs to which label file, in Cityscapes' folders or any two; nothing is decoded."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from dettoolkit.datasets.data_report import DataReport, Problem
from dettoolkit.datasets.label_classes import LabelClasses
from dettoolkit.datasets.regular_files import Walk

Layout = Literal["cityscapes", "folders"]

_CITYSCAPES_IMAGE = re.compile(r"(.+)_leftImg8bit\.(?:png|jpe?g)", re.IGNORECASE)
_LABEL_IDS, _TRAIN_IDS, _INSTANCE_IDS = (
    re.compile(rf"(.+)_gt[A-Za-z]+_{kind}\.png") for kind in ("labelIds", "labelTrainIds", "instanceIds")
)
_IMAGE = re.compile(r"(.+)\.(?:png|jpe?g|bmp|webp|tiff?)", re.IGNORECASE)
_LABEL = re.compile(r"(.+)\.png", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class SegmentationFiles:
    """The file pairs of a split, in the order of their names; index = image id."""

    path: Path  # the labels' folder, for messages
    image_paths: list[Path]
    label_paths: list[Path]
    instance_paths: list[Path | None]  # `*_instanceIds.png`, None where there is none
    classes: LabelClasses
    problems: DataReport

    @classmethod
    def load(
        cls,
        root: Path,
        *,
        images: str,
        labels: str,
        classes: LabelClasses | None,
        layout: Layout,
        ignore: Sequence[int] = (),
    ) -> SegmentationFiles:
        """Find the pairs of one split; folders are relative to root, and read with their subfolders.

        Layout "cityscapes" pairs `aachen/X_leftImg8bit.png` (or .jpg, .jpeg) with
        `aachen/X_gtFine_labelIds.png` (or gtCoarse, or labelTrainIds) and its instanceIds; `classes` None
        takes Cityscapes' own, whichever ids the files have, with further values to `ignore`. A folder that
        holds both kinds is read by its labelIds. Layout "folders", with PNGs for labels and with `classes`,
        pairs files by path without ending.
        """
        image_folder, label_folder = root / images, root / labels
        for folder, key in ((image_folder, "images"), (label_folder, "labels")):
            if not folder.is_dir():
                raise FileNotFoundError(
                    f"the folder {folder} does not exist: correct data.root or data.*.{key}"
                )
        found = _find(image_folder, label_folder, layout)
        keys = sorted(found.images.keys() & found.labels.keys())
        if not keys:
            key, image = next(iter(found.images.items()))
            label, wanted = next(iter(found.labels.values())), label_folder / found.label_of.format(key)
            raise ValueError(
                f"none of the {len(found.images)} images in {image_folder} has a label in {label_folder}: "
                f"for {image}, expected {wanted}, but the {len(found.labels)} labels have names such as "
                f"{label}. Give labels the same names and folders as their images"
            )
        problems = DataReport(label_folder)
        for kind, ours, others in (
            ("image without label", found.images, found.labels),
            ("label without image", found.labels, found.images),
        ):
            problems.add(kind, values=[[str(ours[key])] for key in sorted(ours.keys() - others.keys())])
        problems.record(found.problems)
        return cls(
            path=label_folder,
            image_paths=[found.images[key] for key in keys],
            label_paths=[found.labels[key] for key in keys],
            instance_paths=[found.instances.get(key) for key in keys],
            classes=classes or LabelClasses.cityscapes(train_ids=found.train_ids, ignore=ignore),
            problems=problems,
        )

    @staticmethod
    def join(parts: Sequence[SegmentationFiles]) -> SegmentationFiles:
        """Put several sets of the same classes one after the other, as fine and coarse labels."""
        first = parts[0]
        for part in parts[1:]:
            if not first.classes.same_as(part.classes):
                raise ValueError(
                    f"{first.path} and {part.path} cannot make one data set: their values mean different "
                    "classes (labelIds and labelTrainIds?); use the same kind of files for both"
                )
        path = first.path if len(parts) == 1 else Path(os.path.commonpath([part.path for part in parts]))
        problems = DataReport(path)
        for part in parts:
            problems.extend(part.problems)
        return SegmentationFiles(
            path=path,
            image_paths=[each for part in parts for each in part.image_paths],
            label_paths=[each for part in parts for each in part.label_paths],
            instance_paths=[each for part in parts for each in part.instance_paths],
            classes=first.classes,
            problems=problems,
        )

    def __len__(self) -> int:
        return len(self.image_paths)


class _Found(NamedTuple):
    """Files by key: the path below their folder without what differs between an image and its label."""

    images: dict[str, Path]
    labels: dict[str, Path]
    instances: dict[str, Path]
    problems: list[Problem]  # what was left out
    train_ids: bool  # labels are labelTrainIds
    label_of: str  # how the label of a key is called, with "{}" for the key


def _find(image_folder: Path, label_folder: Path, layout: Layout) -> _Found:
    (image_files, left_out), (label_files, others) = _list_files(image_folder), _list_files(label_folder)
    left_out += others
    if layout == "folders":
        if image_folder.resolve() == label_folder.resolve():
            raise ValueError(f"images and labels are both in {image_folder}: use separate folders")
        images = _some(image_folder, image_files, _IMAGE, "images (.jpg, .png, .webp, .bmp, .tif)")
        labels = _some(label_folder, label_files, _LABEL, "label figures (.png)")
        return _Found(images, labels, {}, left_out, False, "{}.png")
    wanted = "*_leftImg8bit.png, .jpg or .jpeg in it or its city folders"
    images = _some(image_folder, image_files, _CITYSCAPES_IMAGE, wanted)
    labels, kind = _by_key(label_folder, label_files, _LABEL_IDS), "labelIds"
    if not labels:
        wanted = "*_gtFine_labelIds.png or *_gtFine_labelTrainIds.png (or gtCoarse) in it or its city folders"
        labels, kind = _some(label_folder, label_files, _TRAIN_IDS, wanted), "labelTrainIds"
    fine = "gtCoarse" if "gtCoarse" in label_folder.parts else "gtFine"
    instances = _by_key(label_folder, label_files, _INSTANCE_IDS)
    return _Found(images, labels, instances, left_out, kind == "labelTrainIds", f"{{}}_{fine}_{kind}.png")


def _list_files(folder: Path) -> tuple[list[Path], list[Problem]]:
    """List the files below a folder, and what is left out."""
    walk = Walk(folder)
    return sorted(map(Path, walk)), list(walk.left_out.values())


def _by_key(folder: Path, files: Sequence[Path], pattern: re.Pattern[str]) -> dict[str, Path]:
    """Choose files by name; their key is the path below `folder` with the pattern's group for a name."""
    found: dict[str, Path] = {}
    for path in files:
        if match := pattern.fullmatch(path.name):
            key = (path.parent.relative_to(folder) / match[1]).as_posix()
            if key in found:
                raise ValueError(f"{found[key]} and {path} have the same image name: remove one of them")
            found[key] = path
    return found


def _some(folder: Path, files: Sequence[Path], pattern: re.Pattern[str], wanted: str) -> dict[str, Path]:
    """Choose files by name, as _by_key; raise FileNotFoundError when there is none."""
    found = _by_key(folder, files, pattern)
    if not found:
        endings = Counter(path.suffix or "(no ending)" for path in files).most_common(5)
        listing = ", ".join(f"{count} {ending}" for ending, count in endings)
        there = f"it contains {listing}, such as {files[0]}" if files else "it is empty"
        raise FileNotFoundError(
            f"{folder} contains no {wanted}; {there}. Complete it, or correct data.root, data.*.images or "
            "data.*.labels"
        )
    return found
