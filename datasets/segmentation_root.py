"""What to say when data.root holds no labeled images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dettoolkit.datasets.segmentation_files import Layout


def check_cityscapes_root(root: Path, *, expected: Sequence[str], layout: Layout) -> None:
    """Raise FileNotFoundError, saying how to get data, unless everything expected is under root.

    Args:
        root: data.root.
        expected: folders of images and labels of the splits, relative to root.
        layout: of SegmentationFiles.
    """
    missing = [each for each in expected if not (root / each).is_dir()]
    if not missing:
        return
    listing = "\n".join(f"  {root / each}{'   (missing)' if each in missing else ''}" for each in expected)
    found = _folders(root)
    there = f"Folders there: {', '.join(found)}\n" if found else ""
    own = "data.train.images=... data.train.labels=..., and the same for data.val"
    if layout == "folders":
        raise FileNotFoundError(
            f"the data set at data.root={root} is incomplete. Expected:\n{listing}\n{there}"
            f"Name the folders that are there by {own}"
        )
    raise FileNotFoundError(
        f"no Cityscapes at data.root={root}. Expected:\n{listing}\n{there}"
        "Cityscapes is 5,000 finely labeled photos of streets (1024 x 2048), free for research: register at "
        "www.cityscapes-dataset.com, then pip install cityscapesscripts and csDownload "
        "leftImg8bit_trainvaltest.zip gtFine_trainvaltest.zip (11 GB and 241 MB); unpack both in data.root\n"
        "To try the embedded data instead: tools/train.py RECIPE configs/overlays/scenes_segmentation.yaml\n"
        f"For folders of your own: data.type=folders, {own}, and data.classes with the ids of each class"
    )


def _folders(root: Path) -> list[str]:
    """Name some folders at most two levels below root."""
    found = [each for pattern in ("*", "*/*") for each in root.glob(pattern) if each.is_dir()]
    return sorted(each.relative_to(root).as_posix() for each in found if each.name[0] != ".")[:20]
