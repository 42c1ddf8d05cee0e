"""Images of one class each, by their folder, as a torch data set; and the batches made of them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from numpy.typing import NDArray

from dettoolkit.datasets.data_report import DataReport, naming
from dettoolkit.datasets.images import ENDINGS, read_reduced
from dettoolkit.datasets.labels import match_names
from dettoolkit.datasets.regular_files import PackedStrings, Walk, read_lines
from dettoolkit.datasets.samplers import SampleKey
from dettoolkit.datasets.samples import ImageDataset, Reading, collate_images, to_tensor


@dataclass(frozen=True, eq=False)
class ImageFolderFiles:
    """The images of a split in the order of their names; index = image id."""

    path: Path  # the split's folder
    class_names: list[str]  # by label
    labels: NDArray[np.int64]  # (N,)
    names: PackedStrings  # N paths below `path`
    problems: DataReport

    @classmethod
    def load(cls, root: Path, *, images: str, names: str | None) -> ImageFolderFiles:
        """Find the images of one split; nothing is decoded, nothing on disk is changed.

        `images`, relative to root, has a folder for each class, read with its subfolders; classes are
        numbered in the order of their folders' names. `names` is a text file relative to root, see
        `read_names`; None: folders are named as their classes.
        """
        folder = root / images
        if not folder.is_dir():
            raise FileNotFoundError(f"the folder {folder} does not exist: correct data.root or data.*.images")
        called = {} if names is None else read_names(root / names)
        walk = Walk(folder)
        start = len(os.path.join(folder, ""))
        files = sorted((path[start:].replace(os.sep, "/") for path in walk), key=_folder_by_folder)
        folders = sorted(entry.name for entry in folder.iterdir() if _is_class(entry, walk))
        if not folders:
            hint = ". ImageNet's validation images come in this form: move each into its class folder"
            there = f"{len(files)} files and no folder{hint}" if files else "nothing"
            raise FileNotFoundError(f"{folder} needs one folder of images per class, but has {there}")
        pictures = {path for path in files if path.lower().endswith(ENDINGS)}
        paths = [path for path in files if "/" in path and path in pictures]
        if not paths:
            raise FileNotFoundError(
                f"{folder} has {len(folders)} folders of classes, but no image (.jpg, .png, .webp, .bmp, "
                ".tif) in any: correct data.root or data.*.images"
            )
        label_of = {name: label for label, name in enumerate(folders)}
        labels = np.array([label_of[path.partition("/")[0]] for path in paths])
        empty = np.flatnonzero(np.bincount(labels, minlength=len(folders)) == 0)
        problems = DataReport(folder)
        for kind, found in (
            ("image outside class folders", [path for path in files if "/" not in path and path in pictures]),
            ("not an image", [path for path in files if "/" in path and path not in pictures]),
            ("class without images", [folders[label] for label in empty]),
        ):
            problems.add(kind, values=[[str(folder / path)] for path in found])
        problems.record(walk.left_out.values())
        return cls(folder, _class_names(folders, called), labels, PackedStrings.pack(paths), problems)

    def __len__(self) -> int:
        return len(self.labels)

    def image_path(self, index: int) -> Path:
        """Return the path of an image."""
        return self.path / self.names[index]

    def numbered_as(self, class_names: Sequence[str], *, whose: str) -> ImageFolderFiles:
        """Number the classes as a network does, which has them by name; it must have them all."""
        if list(class_names) == self.class_names:
            return self
        remedy = "Name the folders like its classes (with the same data.names)"
        match_names(class_names, self.class_names, whose=whose, path=self.path, remedy=remedy, may_lack=True)
        number = {name: label for label, name in enumerate(class_names)}
        labels = np.array([number[name] for name in self.class_names])[self.labels]
        return replace(self, class_names=list(class_names), labels=labels)


def read_names(path: Path) -> dict[str, str]:
    """Read what classes are called: lines of a folder, a space (or tab) and a name, which ends at a comma.

    ImageNet's LOC_synset_mapping.txt is such a file: `n01440764 tench, Tinca tinca`.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"no file {path} with the names of classes: correct data.names, or set it to null"
        )
    called: dict[str, str] = {}
    for number, line in read_lines(path):
        folder, _, names = line.partition("\t" if "\t" in line else " ")
        name = names.split(",")[0].strip()
        if folder and (not name or folder in called):
            what = "has two names" if name else "has no name after it"
            raise ValueError(
                f"{path}:{number}: '{folder}' {what}: write one line per class: its folder, a space and "
                "its name"
            )
        if folder:
            called[folder] = name
    return called


def _class_names(folders: Sequence[str], called: dict[str, str]) -> list[str]:
    """Return the class names; one that several have (ImageNet's two cranes) gets its folder's name too."""
    names = [called.get(folder, folder) for folder in folders]
    times = Counter(names)
    return [
        name if times[name] == 1 else f"{name} ({folder})"
        for name, folder in zip(names, folders, strict=True)
    ]


def _folder_by_folder(path: str) -> tuple[list[str], str]:
    """Return the key by which a folder's files come before those of its folders."""
    parent, _, name = path.rpartition("/")
    return parent.split("/"), name


def _is_class(entry: Path, walk: Walk) -> bool:
    followed = not (entry.is_symlink() and str(entry) in walk.left_out)
    return entry.name[0] != "." and entry.is_dir() and followed


class ImageFolder(ImageDataset):
    """Images of ImageFolderFiles; the transform maps image (H, W, 3) and a seed to (h, w, 3)."""

    def __init__(self, *, files: ImageFolderFiles, transform: Any, **reading: Unpack[Reading]) -> None:
        super().__init__(transform=transform, **reading)
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def read_sample(self, key: SampleKey, seed: int) -> dict[str, Any]:
        """Read and transform one sample."""
        index = key.index
        path = self.files.image_path(index)
        with naming(path):
            image, hw, _ = read_reduced(path, least_hw=self.least_hw, max_megapixels=self.max_megapixels)
        return {
            "image": to_tensor(self.transform(image, seed)),
            "label": int(self.files.labels[index]),
            "image_id": index,
            "file": str(path),
            "original_hw": hw,
        }


def collate(samples: Sequence[Any]) -> dict[str, Any]:
    """Stack samples into a batch: what every task's has, and class_labels, int64 (N,) 0-based."""
    good, batch = collate_images(samples)
    return {**batch, "class_labels": torch.tensor([each["label"] for each in good], dtype=torch.int64)}
