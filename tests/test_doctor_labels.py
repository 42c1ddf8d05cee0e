"""The doctor's checks of label maps and of class folders: each finds what is planted, and only that."""

import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_doctor_files import scene

from dettoolkit.config import load_recipe
from dettoolkit.datasets import data_report
from dettoolkit.detection.box_problems import KINDS as BOX_KINDS
from dettoolkit.doctor.examination import silent
from dettoolkit.doctor.examine import examine
from dettoolkit.doctor.reported import KINDS as FILE_KINDS
from dettoolkit.tasks import spec_of

HW = (40, 60)
OVERLAY = """\
data:
  type: folders
  train: {images: images/train, labels: labels/train}
  val: {images: images/val, labels: labels/val}
  classes: [{name: road, ids: [1]}, {name: sky, ids: [2, 3]}]
  crop_hw: [40, 60]
"""


def label_map(number: int) -> np.ndarray:
    """Return road below, sky above, and a line of void."""
    labels = np.full(HW, 2 + number % 2, np.uint8)
    labels[20:] = 1
    labels[19] = 255
    return labels


def write_labels(root: Path) -> None:
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for number in range(12):
            seed = number + 100 * (split == "val")
            Image.fromarray(scene(seed, HW)).save(root / f"images/{split}/{number:02}.png")
            Image.fromarray(label_map(number)).save(root / f"labels/{split}/{number:02}.png")
    (root / "overlay.yaml").write_text(OVERLAY)


@pytest.fixture(autouse=True)
def closed_folders(monkeypatch):
    """Refuse to list folders named "closed", as the system does with permissions, except for root."""
    scandir = os.scandir

    def refuse(folder):
        if str(folder).endswith("closed"):
            raise PermissionError(errno.EACCES, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)


@pytest.fixture(scope="module")
def clean_labels(tmp_path_factory):
    root = tmp_path_factory.mktemp("labels") / "data"
    write_labels(root)
    return root


@pytest.fixture
def labels(clean_labels, tmp_path):
    """Return a copy to spoil."""
    return shutil.copytree(clean_labels, tmp_path / "data")


def label_findings(root: Path, *values: str, deep: bool = True):
    extras = [str(root / "overlay.yaml"), f"data.root={root}", *values]
    recipe = load_recipe("lraspp_mnv3_large", extras).recipe
    task = spec_of(recipe).examine(recipe, deep=deep, progress=silent)
    return {(each.id, each.split): each for each in task.findings}


def put(labels: np.ndarray, name: str = "train/03"):
    return lambda root: Image.fromarray(labels).save(root / f"labels/{name}.png")


def changed(value: int) -> np.ndarray:
    labels = label_map(3)
    labels[7, 11:13] = value
    return labels


def everywhere(split: str, change):
    def fault(root):
        for path in (root / "labels" / split).iterdir():
            labels = np.asarray(Image.open(path)).copy()
            Image.fromarray(change(labels)).save(path)

    return fault


def without_sky(labels):
    labels[labels != 1] = 255
    return labels


def sky_of(pixels: int):
    """Return a change that leaves so many pixels of sky; those in a corner are in every crop."""

    def change(labels):
        labels[labels != 1] = 1
        labels[0, :pixels] = 2
        return labels

    return change


def mostly_void(labels):
    labels[:, :40] = 255
    return labels


def link(name: str, target: str):
    return lambda root: (root / name).symlink_to(root / target)


LABEL_FAULTS = [
    ("label-unknown-value", "error", "train", put(changed(9))),
    ("label-unknown-value", "error", "val", put(changed(9), "val/03")),
    ("label-color", "error", "train", put(np.zeros((*HW, 3), np.uint8))),
    ("label-looks-like-color", "error", "train", put(np.arange(2400).reshape(HW).astype(np.uint8))),
    ("label-unreadable", "error", "train", lambda root: (root / "labels/train/03.png").write_bytes(b"PNG")),
    ("label-size-differs", "error", "train", put(label_map(3)[:, :50])),
    ("label-size-differs", "warning", "val", put(label_map(3)[:, :50], "val/03")),
    ("label-all-void", "warning", "train", put(np.full(HW, 255, np.uint8))),
    ("label-much-void", "warning", "train", everywhere("train", mostly_void)),
    ("class-not-in-train", "warning", "train", everywhere("train", without_sky)),
    ("class-not-in-val", "note", "val", everywhere("val", without_sky)),
    ("class-imbalance", "note", "train", everywhere("train", sky_of(23))),  # of 2,400 pixels
    ("image-without-label", "warning", "val", lambda root: (root / "labels/val/03.png").unlink()),
    ("label-without-image", "warning", "train", lambda root: (root / "images/train/03.png").unlink()),
    ("link-broken", "warning", "train", link("images/train/gone.png", "nowhere")),
    ("link-to-above", "note", "val", link("labels/val/up", "labels")),
    ("folder-closed", "warning", "train", lambda root: (root / "images/train/closed").mkdir()),
    ("file-not-regular", "warning", "val", lambda root: os.mkfifo(root / "images/val/pipe.png")),
]
LISTS = {("label-values", "train"), ("label-values", "val")}  # said of every data set


def test_clean_labels_are_listed_and_nothing_else(clean_labels):
    found = label_findings(clean_labels)
    assert set(found) == LISTS
    text = found["label-values", "train"].text
    # 12 maps of 60 columns: 20 rows of road, 19 of sky, by 2 in six maps and by 3 in six, and one of void
    for line in (
        "1 road 14,400 (50.00%)",
        "2 sky 6,840 (23.75%)",
        "3 sky 6,840 (23.75%)",
        "255 void 720 (2.50%)",
    ):
        assert line in text
    assert set(label_findings(clean_labels, deep=False)) == LISTS


@pytest.mark.parametrize(("id_", "severity", "split", "fault"), LABEL_FAULTS)
def test_planted_in_labels(labels, id_, severity, split, fault):
    fault(labels)
    found = label_findings(labels)
    also = {("label-much-void", split)} if "class-not" in id_ else set()
    assert set(found) == {(id_, split)} | LISTS | (also & set(found))
    finding = found[id_, split]
    assert finding.severity == severity
    assert finding.remedy
    assert "{" not in finding.text


def test_an_unknown_value_names_file_and_first_pixel(labels):
    put(changed(9))(labels)
    finding = label_findings(labels)["label-unknown-value", "train"]
    (example,) = finding.examples
    assert example.file == str(labels / "labels/train/03.png")
    assert example.text == "value 9, first at row 7, column 11; 2 pixels in 1 file"
    assert (example.image_id, example.boxes_xyxy) == (3, ((11.0, 7.0, 12.0, 8.0),))


def test_rare_pixels_are_counted(labels):
    everywhere("train", sky_of(23))(labels)
    finding = label_findings(labels)["class-imbalance", "train"]
    assert finding.examples[0].text == "'sky': 276, 'road': 28,524"  # 12 x 23, and 12 x 2,377
    everywhere("train", sky_of(24))(labels)  # 1 of 99
    assert set(label_findings(labels)) == LISTS


def test_classes_that_a_crop_hides(labels):
    def corner(labels):
        labels[:] = 1
        labels[:4, :4] = 2
        return labels

    everywhere("train", corner)(labels)
    found = label_findings(labels, "data.crop_hw=[32, 32]")
    finding = found["class-hidden-by-crop", "train"]
    assert (finding.severity, finding.count) == ("note", 1)
    assert finding.examples[0].text == "'sky': in 11% of the crops of 12 images that have it"  # 1 of 9
    assert ("class-hidden-by-crop", "train") not in label_findings(labels)


def test_classes_without_any_pixel(labels):
    classes = "[{name: road, ids: [1]}, {name: sky, ids: [2, 3]}, {name: Sky, ids: [4]}]"
    found = label_findings(labels, f"data.classes={classes}")
    assert set(found) == {("class-empty", None), ("class-names-alike", None)} | LISTS
    assert found["class-empty", None].examples[0].text == "'Sky'"


def test_rare_classes(labels):
    for number in range(5):
        put(without_sky(label_map(number)), f"train/{number:02}")(labels)
    assert set(label_findings(labels)) == {("class-few", "train")} | LISTS


@pytest.mark.parametrize("train_ids", [True, False])
def test_train_ids_that_are_read_as_label_ids(tmp_path, train_ids):
    kind = [0, 1, 2, 5, 10, 13, 255] if train_ids else [7, 8, 11, 21, 23, 26, 3]
    for split in ("train", "val"):
        for folder in (tmp_path / "leftImg8bit" / split / "a", tmp_path / "gtFine" / split / "a"):
            folder.mkdir(parents=True)
        for number in range(12):
            labels = np.repeat(np.array(kind, np.uint8), 60).reshape(7, 60)
            stem = f"{split}/a/{number:02}"
            Image.fromarray(scene(number, labels.shape)).save(
                tmp_path / f"leftImg8bit/{stem}_leftImg8bit.png"
            )
            Image.fromarray(labels).save(tmp_path / f"gtFine/{stem}_gtFine_labelIds.png")
    recipe = load_recipe("lraspp_mnv3_large", [f"data.root={tmp_path}"]).recipe
    found = list(spec_of(recipe).examine(recipe, deep=True, progress=silent).findings)
    assert sum(each.id == "label-train-ids" for each in found) == 2 * train_ids
    assert not [each for each in found if each.severity == "error" and each.id != "label-train-ids"]


# Class folders


@pytest.fixture(scope="module")
def clean_folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("folders") / "data"
    for split in ("train", "val"):
        for label, name in enumerate(("cat", "dog")):
            (root / split / name).mkdir(parents=True)
            for number in range(12):
                seed = 1000 * (split == "val") + 100 * label + number
                Image.fromarray(scene(seed, HW)).save(root / split / name / f"{number:02}.png")
    return root


@pytest.fixture
def folders(clean_folders, tmp_path):
    """Return a copy to spoil."""
    return shutil.copytree(clean_folders, tmp_path / "data")


def folder_findings(root: Path, *, deep: bool = True):
    """Return what all checks find of the data, without those of the recipe's length and rate."""
    recipe = load_recipe("imagenet_mnv3_large", [f"data.root={root}"]).recipe
    task = spec_of(recipe).examine(recipe, deep=deep, progress=silent)
    wanted = ("class", "image-in", "image-of", "file-of", "file-not-regular", "folder", "link", "duplicate")
    return {each.id: each for each in examine(recipe, task, deep=deep) if each.id.startswith(wanted)}


def class_folder(name: str, count: int, *splits: str):
    def fault(root):
        for split in splits:
            (root / split / name).mkdir()
            for number in range(count):
                picture = scene(5000 + number + 500 * (split == "val"), HW)
                Image.fromarray(picture).save(root / split / name / f"{number}.png")

    return fault


def copy_to(target: str):
    return lambda root: shutil.copy(root / "train/cat/03.png", root / target)


def many_cats(root):
    for number in range(1300):
        shutil.copy(root / "train/cat/03.png", root / f"train/cat/more_{number}.png")


def no_training_cows(root):
    class_folder("cow", 12, "val")(root)
    class_folder("cow", 0, "train")(root)


FOLDER_FAULTS = [
    ("class-empty", "warning", class_folder("cow", 0, "train", "val"), set()),
    ("classes-differ", "error", class_folder("cow", 12, "val"), set()),
    ("class-not-in-train", "warning", no_training_cows, set()),
    ("class-not-in-val", "note", class_folder("cow", 12, "train"), set()),
    ("class-few", "warning", class_folder("cow", 9, "train", "val"), set()),
    ("class-names-alike", "warning", class_folder("Cat", 12, "train", "val"), set()),
    ("class-imbalance", "note", many_cats, {"duplicate-in-split"}),
    ("image-in-two-classes", "error", copy_to("train/dog/copy.png"), {"duplicate-in-split"}),
    ("image-in-two-classes", "error", copy_to("val/dog/copy.png"), {"duplicate-between-splits"}),
    ("image-of-no-class", "warning", copy_to("train/stray.png"), set()),
    ("file-of-no-image", "note", lambda root: (root / "train/cat/notes.txt").write_text("x"), set()),
    ("link-broken", "warning", link("train/cat/gone.png", "nowhere"), set()),
    ("link-to-above", "note", link("train/cat/up", "train"), set()),
    ("folder-closed", "warning", lambda root: (root / "val/dog/closed").mkdir(), set()),
    ("file-not-regular", "warning", lambda root: os.mkfifo(root / "val/dog/pipe.png"), set()),
]


@pytest.mark.parametrize("deep", [True, False])
def test_clean_folders_are_silent(clean_folders, deep):
    assert folder_findings(clean_folders, deep=deep) == {}


@pytest.mark.parametrize(("id_", "severity", "fault", "also"), FOLDER_FAULTS)
def test_planted_in_folders(folders, id_, severity, fault, also):
    fault(folders)
    found = folder_findings(folders)
    assert set(found) == {id_} | also
    assert found[id_].severity == severity


def test_a_copy_in_another_class_names_both(folders):
    copy_to("val/dog/copy.png")(folders)
    (example,) = folder_findings(folders)["image-in-two-classes"].examples
    assert example.file == str(folders / "val/dog/copy.png")
    assert example.text == f"dog, but cat as {folders / 'train/cat/03.png'}"


def test_every_reported_kind_is_one_of_loading_and_has_a_test():
    assert set(BOX_KINDS) | set(FILE_KINDS) <= set(data_report.KINDS)
    assert {id_ for id_, *_ in FILE_KINDS.values()} <= {id_ for id_, *_ in LABEL_FAULTS + FOLDER_FAULTS}
