"""What to say when there is no data set at data.root."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

Layout = Literal["coco", "cityscapes", "instances", "folders", "classes"]

_OWN = "data.train.images=... data.train.{}=..., and the same for data.val"
_CITYSCAPES = (
    "Cityscapes is 5,000 finely labeled photos of streets (1024 x 2048), free for research: register at "
    "www.cityscapes-dataset.com, then pip install cityscapesscripts and csDownload "
    "leftImg8bit_trainvaltest.zip gtFine_trainvaltest.zip (11 GB and 241 MB); unpack both in data.root\n"
)
_WHERE = {
    "coco": (
        "no COCO data set at data.root={root}. Expected",
        "To download COCO 2017 (about 19 GB): tools/download_coco.py {root} "
        "(or: dettoolkit download-coco {root})\n"
        "To try generated scenes instead: tools/train.py RECIPE configs/overlays/scenes.yaml\n"
        f"For your own data: data.root=... {_OWN.format('annotations')}",
    ),
    "cityscapes": (
        "no Cityscapes at data.root={root}. Expected",
        f"{_CITYSCAPES}"
        "To try generated scenes instead: tools/train.py RECIPE configs/overlays/scenes_segmentation.yaml\n"
        f"For your own folders: data.type=folders, {_OWN.format('labels')}, and data.classes with the ids "
        "of each class",
    ),
    "instances": (
        "no Cityscapes at data.root={root}. Expected",
        f"{_CITYSCAPES}"
        "Its folders are data.train.images=leftImg8bit/train data.train.annotations=gtFine/train, and the "
        "same with val\n"
        "To try generated scenes instead: tools/train.py RECIPE configs/overlays/scenes.yaml",
    ),
    "classes": (
        "no class folders at data.root={root}. Expected, each with one folder per class",
        "For other folders set data.train.images=... and data.val.images=...\n"
        "ImageNet has 1,281,167 training and 50,000 validation images of 1000 classes (150 GB): "
        "register at image-net.org, unpack each class into a folder, and move the validation images into "
        "folders of the same names",
    ),
}


def check_root(root: Path, *, expected: Iterable[str], layout: Layout) -> None:
    """Raise FileNotFoundError, saying how to get data, unless everything expected is at data.root.

    Expected are folders of the splits, with COCO their json files too, relative to root. Layout "instances"
    is Cityscapes for detection, "folders" a data set of the user's own, of images and label maps.
    """
    expected = list(dict.fromkeys(expected))
    is_there = Path.exists if layout == "coco" else Path.is_dir
    missing = [each for each in expected if not is_there(root / each)]
    if not missing:
        return
    listing = "\n".join(f"  {root / each}{'   (missing)' if each in missing else ''}" for each in expected)
    patterns = {"coco": ["*.json", "*/*.json"], "classes": ["*"]}.get(layout, ["*", "*/*"])
    found = [each for pattern in patterns for each in root.glob(pattern)]  # root may be large
    if layout != "coco":
        found = [each for each in found if each.is_dir() and each.name[0] != "."]
    names = ", ".join(sorted(each.relative_to(root).as_posix() for each in found)[:20])
    there = f"Existing {'JSON files' if layout == 'coco' else 'folders'}: {names}\n" if names else ""
    if layout == "folders" or (layout == "coco" and (names or len(missing) < len(expected))):
        own = _OWN.format("annotations" if layout == "coco" else "labels")
        raise FileNotFoundError(
            f"the data set at data.root={root} is incomplete. Expected:\n{listing}\n{there}"
            f"To use existing files, set {own}"
        )
    what, remedy = (text.format(root=root) for text in _WHERE[layout])
    raise FileNotFoundError(f"{what}:\n{listing}\n{there}{remedy}")
