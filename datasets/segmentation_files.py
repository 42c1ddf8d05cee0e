"""Which image file belongs to which label file, in Cityscapes' folders or any two; nothing is decoded."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from dettoolkit.datasets.data_report import NO_ID, DataReport, Problem
from dettoolkit.datasets.label_classes import LabelClasses
from dettoolkit.datasets.walk import Walk

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
        """Find the pairs of one split; nothing on disk is changed.

        Args:
            root: data.root.
            images: folder of the images relative to root, read with its subfolders.
            labels: folder of the labels, likewise.
            classes: None for Cityscapes' own, by labelIds or by labelTrainIds, whichever the files are. A
                folder that holds both kinds is read by its labelIds, with this table too.
            layout: "cityscapes" pairs `aachen/X_leftImg8bit.png` (or .jpg, .jpeg) with
                `aachen/X_gtFine_labelIds.png` (or gtCoarse, or labelTrainIds), and takes
                `X_gtFine_instanceIds.png` along. "folders" pairs files by path without ending; labels are
                PNGs.
            ignore: further values that are void in Cityscapes' own tables; other tables have theirs.

        Raises:
            FileNotFoundError: a folder is missing or holds nothing usable.
            ValueError: no image has a label, two files stand for one image, or there is no table.
        """
        image_folder, label_folder = root / images, root / labels
        for folder, key in ((image_folder, "images"), (label_folder, "labels")):
            if not folder.is_dir():
                raise FileNotFoundError(
                    f"the folder {folder} does not exist: correct data.root or data.*.{key}"
                )
        if layout == "cityscapes":
            found = _find_cityscapes(image_folder, label_folder)
            if classes is None:
                official = LabelClasses.cityscapes_train_ids if found.train_ids else LabelClasses.cityscapes
                classes = official(ignore=ignore)
        else:
            found = _find_folders(image_folder, label_folder)
            if classes is None:
                raise ValueError(
                    "data.type=folders needs data.classes: each class's name and its ids in the files"
                )
        keys = sorted(found.images.keys() & found.labels.keys())
        if not keys:
            raise _no_pair(image_folder, label_folder, found)
        return cls(
            path=label_folder,
            image_paths=[found.images[key] for key in keys],
            label_paths=[found.labels[key] for key in keys],
            instance_paths=[found.instances.get(key) for key in keys],
            classes=classes,
            problems=_report_single_files(label_folder, found),
        )

    @staticmethod
    def join(parts: Sequence[SegmentationFiles]) -> SegmentationFiles:
        """Put several sets one after the other, as fine and coarse labels.

        Raises:
            ValueError: none given, or the values of their files mean different classes.
        """
        if not parts:
            raise ValueError("join needs at least one set of files, got none")
        first = parts[0]
        for part in parts[1:]:
            if not first.classes.same_as(part.classes):
                raise ValueError(
                    f"{first.path} and {part.path} cannot make one data set: their values mean different "
                    "classes (labelIds and labelTrainIds?); give both the same kind of files"
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


def _find_cityscapes(image_folder: Path, label_folder: Path) -> _Found:
    (image_files, left_out), (label_files, others) = _list_files(image_folder), _list_files(label_folder)
    wanted = "*_leftImg8bit.png, .jpg or .jpeg in it or its city folders"
    images = _some(image_folder, image_files, _CITYSCAPES_IMAGE, wanted)
    labels, train_ids = _by_key(label_folder, label_files, _LABEL_IDS), False
    if not labels:
        wanted = "*_gtFine_labelIds.png or *_gtFine_labelTrainIds.png (or gtCoarse) in it or its city folders"
        labels, train_ids = _some(label_folder, label_files, _TRAIN_IDS, wanted), True
    kind = "labelTrainIds" if train_ids else "labelIds"
    fine = "gtCoarse" if "gtCoarse" in label_folder.parts else "gtFine"
    instances = _by_key(label_folder, label_files, _INSTANCE_IDS)
    return _Found(images, labels, instances, left_out + others, train_ids, f"{{}}_{fine}_{kind}.png")


def _find_folders(image_folder: Path, label_folder: Path) -> _Found:
    if image_folder.resolve() == label_folder.resolve():
        raise ValueError(f"images and labels are both in {image_folder}: give each kind a folder of its own")
    wanted = "images (.jpg, .png, .webp, .bmp, .tif)"
    (image_files, left_out), (label_files, others) = _list_files(image_folder), _list_files(label_folder)
    images = _some(image_folder, image_files, _IMAGE, wanted)
    labels = _some(label_folder, label_files, _LABEL, "label figures (.png)")
    return _Found(images, labels, {}, left_out + others, False, "{}.png")


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
                raise ValueError(f"{found[key]} and {path} are the same image by name: remove one of them")
            found[key] = path
    return found


def _some(folder: Path, files: Sequence[Path], pattern: re.Pattern[str], wanted: str) -> dict[str, Path]:
    """Choose files by name, as _by_key; raise FileNotFoundError when there is none."""
    found = _by_key(folder, files, pattern)
    if not found:
        endings = Counter(path.suffix or "(no ending)" for path in files).most_common(5)
        listing = ", ".join(f"{count} {ending}" for ending, count in endings)
        there = f"it holds {listing}, such as {files[0]}" if files else "it is empty"
        raise FileNotFoundError(
            f"{folder} holds no {wanted}; {there}. Complete it, or correct data.root, data.*.images or "
            "data.*.labels"
        )
    return found


def _no_pair(image_folder: Path, label_folder: Path, found: _Found) -> ValueError:
    key, image = next(iter(found.images.items()))
    label, wanted = next(iter(found.labels.values())), label_folder / found.label_of.format(key)
    return ValueError(
        f"none of the {len(found.images)} images in {image_folder} has a label in {label_folder}: "
        f"for {image} {wanted} was looked for, but the {len(found.labels)} labels have names such as "
        f"{label}. Name labels as their images, in folders of the same names"
    )


def _report_single_files(label_folder: Path, found: _Found) -> DataReport:
    report = DataReport(label_folder)
    for kind, ours, others in (
        ("image without label", found.images, found.labels),
        ("label without image", found.labels, found.images),
    ):
        paths = [str(ours[key]) for key in sorted(ours.keys() - others.keys())]
        values = np.array(paths, object).reshape(-1, 1)
        report.add(kind, image_ids=np.full(len(paths), NO_ID), template="{}", values=values)
    report.record(found.problems)
    return report
