"""Which image file is of which class, by its folder; nothing is decoded."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dettoolkit.datasets.data_report import NO_ID, DataReport
from dettoolkit.datasets.images import ENDINGS
from dettoolkit.datasets.labels import match_names
from dettoolkit.datasets.regular_files import read_lines
from dettoolkit.datasets.walk import Walk


@dataclass(frozen=True, eq=False)
class ImageFolderFiles:
    """The images of a split in the order of their names; index = image id.

    A million paths cost their letters only: as Python objects they would be copied into every worker.
    """

    path: Path  # the split's folder
    class_names: list[str]  # by label
    labels: NDArray[np.int64]  # (N,)
    problems: DataReport
    letters: NDArray[np.uint8]  # paths below `path` one after the other, as the file system's bytes
    ends: NDArray[np.int64]  # (N,) where each ends

    @classmethod
    def load(cls, root: Path, *, images: str, names: str | None) -> ImageFolderFiles:
        """Find the images of one split; nothing on disk is changed.

        Args:
            root: data.root.
            images: folder relative to root that has a folder for each class; those are read with their
                subfolders. Classes are numbered in the order of their folders' names.
            names: text file relative to root with the names of folders, see `read_names`; None: folders are
                named as their classes.

        Raises:
            FileNotFoundError: a folder or file is missing, or there is no class or no image.
            ValueError: the text file is not as it should be.
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
            raise _no_class(folder, len(files))
        paths = [path for path in files if "/" in path and path.lower().endswith(ENDINGS)]
        if not paths:
            raise FileNotFoundError(
                f"{folder} has {len(folders)} folders of classes, but no image (.jpg, .png, .webp, .bmp, "
                ".tif) in any: correct data.root or data.*.images"
            )
        label_of = {name: label for label, name in enumerate(folders)}
        labels = np.array([label_of[path.partition("/")[0]] for path in paths])
        empty = np.flatnonzero(np.bincount(labels, minlength=len(folders)) == 0)
        encoded = [os.fsencode(path) for path in paths]
        return cls(
            path=folder,
            class_names=_class_names(folders, called),
            labels=labels,
            problems=_report(walk, folder, files, empty=[folders[label] for label in empty]),
            letters=np.frombuffer(b"".join(encoded), np.uint8),
            ends=np.cumsum([len(each) for each in encoded]),
        )

    def __len__(self) -> int:
        return len(self.labels)

    def image_path(self, index: int) -> Path:
        """Return the path of an image."""
        start = self.ends[index - 1] if index else 0
        return self.path / os.fsdecode(self.letters[start : self.ends[index]].tobytes())

    def numbered_as(self, class_names: Sequence[str], *, whose: str) -> ImageFolderFiles:
        """Number the classes as a network does, which has them by name; it may have more.

        Raises:
            ValueError: a class that the network does not have.
        """
        if list(class_names) == self.class_names:
            return self
        remedy = "Name the folders as its classes (data.names as it had)"
        match_names(class_names, self.class_names, whose=whose, path=self.path, remedy=remedy, may_lack=True)
        number = {name: label for label, name in enumerate(class_names)}
        labels = np.array([number[name] for name in self.class_names])[self.labels]
        return replace(self, class_names=list(class_names), labels=labels)


def read_names(path: Path) -> dict[str, str]:
    """Read what classes are called: lines of a folder, a space (or tab) and a name, which ends at a comma.

    ImageNet's LOC_synset_mapping.txt is such a file: `n01440764 tench, Tinca tinca`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line without a name, or not in UTF-8, or a folder that has two.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"no file {path} with the names of classes: correct data.names, or set it to null"
        )
    called: dict[str, str] = {}
    for number, line in read_lines(path):
        folder, _, names = line.partition("\t" if "\t" in line else " ")
        name = names.split(",")[0].strip()
        if not folder:
            continue
        if not name or folder in called:
            what = "has two names" if name else "has no name after it"
            raise ValueError(
                f"{path}:{number}: '{folder}' {what}: write a line for each class, its folder, a space and "
                "its name"
            )
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


def _no_class(folder: Path, loose: int) -> FileNotFoundError:
    hint = ". ImageNet's validation images are unpacked so: move each into the folder of its class"
    there = f"{loose} files and no folder{hint}" if loose else "nothing"
    return FileNotFoundError(f"{folder} needs a folder of images for each class; it has {there}")


def _report(walk: Walk, folder: Path, files: Sequence[str], *, empty: Sequence[str]) -> DataReport:
    report = DataReport(folder)
    for kind, paths in (
        ("image of no class", [each for each in files if "/" not in each and each.lower().endswith(ENDINGS)]),
        ("file is no image", [each for each in files if "/" in each and not each.lower().endswith(ENDINGS)]),
        ("class without images", empty),
    ):
        values = np.array([str(folder / path) for path in paths], object).reshape(-1, 1)
        report.add(kind, image_ids=np.full(len(paths), NO_ID), template="{}", values=values)
    report.record(walk.left_out.values())
    return report
