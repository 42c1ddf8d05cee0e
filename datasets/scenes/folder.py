"""Generated street scenes, the data that the toolkit brings along, as a COCO and a Cityscapes data set.

Both data sets hold the same figures, so one folder tries out detection and segmentation. They are read
by the same loaders as real data.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dettoolkit.datasets.scenes.render import CATEGORIES, SPLITS, Scene, Split, draw_scene

logger = logging.getLogger(__name__)

VERSION = 1  # rises when the same parameters give other figures, so that old folders are not mistaken for new
MANIFEST = "scenes.json"  # written last: a folder with it is complete
MARKER = "scenes.partial"  # written first and removed at the end
CITIES: dict[Split, tuple[str, ...]] = {
    "train": ("lindenfurt", "marlowia", "kestrelberg", "tannenau"),
    "val": ("arvenholm", "sandhaven"),
}
_FOLDERS = ("annotations", "gtFine", "leftImg8bit", "train2017", "val2017")
_MOST_IMAGES = 1_000_000  # per split: image ids and sequence numbers have room for this many
_ABANDONED_AFTER_S = 600.0  # a writer touches its marker for every scene, which takes milliseconds
_JPEG = (cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
_PNG = (cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE)


def write_scenes(
    root: Path, *, train_images: int, val_images: int, image_hw: tuple[int, int], seed: int
) -> None:
    """Write street scenes below `root`, or return at once when they are there already.

    The files are `train2017/`, `val2017/` and `annotations/instances_{train,val}2017.json` as COCO has them,
    and `leftImg8bit/<split>/<city>/` and `gtFine/<split>/<city>/` as Cityscapes has them. A scene depends on
    the seed, its split, its index and the size only. Several processes may call this at once: each writes
    into a folder beside `root`, the first to finish moves it into place.

    Args:
        root: folder to write; its parents are made.
        train_images: scenes to train on.
        val_images: held-out scenes.
        image_hw: height and width of each picture, at least 32.
        seed: of the random generator, not negative.

    Raises:
        ValueError: an argument is out of range.
        FileExistsError: `root` holds something else, or scenes of other parameters. Nothing in it is changed.
    """
    wanted = _manifest(train_images, val_images, image_hw, seed)
    root = Path(root).expanduser().resolve()
    if _is_finished(root, wanted):
        return
    root.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(root)
    folder = root.parent / f".{root.name}.{secrets.token_hex(4)}.partial"
    folder.mkdir()
    try:
        _write_all(folder, wanted)
        _move_into_place(folder, root, wanted)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    logger.info("generated %d scenes to train on and %d to validate on in %s", train_images, val_images, root)


def check_scenes(
    root: Path, *, train_images: int, val_images: int, image_hw: tuple[int, int], seed: int
) -> None:
    """Raise unless `write_scenes` has written these scenes below `root`; nothing is written.

    Raises:
        ValueError, FileExistsError: as write_scenes.
        FileNotFoundError: there are none.
    """
    wanted = _manifest(train_images, val_images, image_hw, seed)
    if not _is_finished(Path(root).expanduser().resolve(), wanted):
        raise FileNotFoundError(
            f"no generated scenes at data.root={root}: correct data.root. Only a training generates them, or "
            f"its check: tools/train.py RECIPE --check data.root={root}"
        )


def _manifest(train_images: int, val_images: int, image_hw: tuple[int, int], seed: int) -> dict[str, Any]:
    """Check the parameters and return what `scenes.json` says."""
    for name, count in (("train_images", train_images), ("val_images", val_images)):
        if not 1 <= count < _MOST_IMAGES:
            raise ValueError(
                f"{name} is {count}, wanted 1 to {_MOST_IMAGES - 1}; choose another number of scenes"
            )
    if len(image_hw) != 2 or min(image_hw) < 32:
        raise ValueError(f"image_hw is {tuple(image_hw)}, wanted (height, width) of at least 32 pixels each")
    if seed < 0:
        raise ValueError(f"seed is {seed}, wanted 0 or more; choose another seed")
    return {
        "generator": "dettoolkit.datasets.scenes.folder",
        "version": VERSION,
        "train_images": int(train_images),
        "val_images": int(val_images),
        "image_hw": [int(side) for side in image_hw],
        "seed": int(seed),
    }


def _is_finished(root: Path, wanted: dict[str, Any]) -> bool:
    """Return whether `root` holds the wanted scenes; False means that it may be written.

    Raises:
        FileExistsError: `root` holds anything else.
    """
    advice = "choose another data.root, or delete it to have scenes generated there"
    # In this order: another process may give the folder its name between the two looks.
    if not root.exists():
        return False
    if not root.is_dir():
        raise FileExistsError(f"{root} should become a folder of generated scenes, but is a file: {advice}")
    names = {path.name for path in root.iterdir()}
    if MANIFEST not in names:
        foreign = sorted(names - {MARKER, *_FOLDERS}) if MARKER in names else sorted(names)
        if foreign:
            listing = ", ".join(foreign[:5]) + (", …" if len(foreign) > 5 else "")
            raise FileExistsError(f"{root} holds files that are not generated scenes ({listing}): {advice}")
        return False
    try:
        found = json.loads((root / MANIFEST).read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise FileExistsError(f"{root / MANIFEST} is unreadable, so {root} may hold anything: {advice}")
    if found != wanted:
        differing = [key for key in {**found, **wanted} if found.get(key) != wanted.get(key)]
        changes = "; ".join(f"{key} is {found.get(key)}, wanted {wanted.get(key)}" for key in differing)
        raise FileExistsError(f"{root} holds generated scenes of other parameters ({changes}): {advice}")
    missing = sorted(set(_FOLDERS) - names)
    if missing:
        raise FileExistsError(f"{root} holds generated scenes, but {', '.join(missing)} is gone: {advice}")
    return True


def _remove_abandoned(root: Path) -> None:
    """Delete what writers left beside `root` when they were killed."""
    for folder in root.parent.iterdir():
        if not (folder.name.startswith(f".{root.name}.") and folder.name.endswith(".partial")):
            continue
        marker = folder / MARKER
        try:
            touched = (marker if marker.exists() else folder).stat().st_mtime
        except OSError:
            continue  # its writer has just finished
        if time.time() - touched > _ABANDONED_AFTER_S:
            shutil.rmtree(folder, ignore_errors=True)


def _move_into_place(folder: Path, root: Path, wanted: dict[str, Any]) -> None:
    """Rename `folder` to `root`, unless another process was first."""
    if _is_finished(root, wanted):
        return
    if (root / MARKER).exists():
        shutil.rmtree(root, ignore_errors=True)  # an unfinished set, checked to hold nothing else
    try:
        if os.name == "nt" and root.exists():
            root.rmdir()  # empty; elsewhere os.rename replaces an empty folder
        os.rename(folder, root)
    except OSError:
        if not _is_finished(root, wanted):
            raise


def _write_all(folder: Path, wanted: dict[str, Any]) -> None:
    """Write both data sets into an empty folder, the manifest last."""
    marker = folder / MARKER
    marker.write_text(
        "scenes are being generated; without scenes.json they are incomplete\n", encoding="utf-8"
    )
    for name in _FOLDERS:
        (folder / name).mkdir()
    height, width = wanted["image_hw"]
    for split in SPLITS:
        for kind in ("leftImg8bit", "gtFine"):
            for city in CITIES[split]:
                (folder / kind / split / city).mkdir(parents=True)
        coco = _empty_coco(wanted)
        for index in range(wanted[f"{split}_images"]):
            scene = draw_scene(seed=wanted["seed"], split=split, index=index, image_hw=(height, width))
            name = _write_scene(folder, scene, split, index)
            _append(coco, scene, _image_id(split, index), name)
            os.utime(marker)
        annotations = folder / "annotations" / f"instances_{split}2017.json"
        annotations.write_text(json.dumps(coco, separators=(",", ":")) + "\n", encoding="utf-8")
    _write_manifest(folder, wanted)
    marker.unlink()


def _write_manifest(folder: Path, wanted: dict[str, Any]) -> None:
    unfinished = folder / f"{MANIFEST}.new"
    unfinished.write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")
    os.replace(unfinished, folder / MANIFEST)


def _image_id(split: Split, index: int) -> int:
    """Return an id that no scene of the other split has, whatever the number of scenes."""
    return SPLITS.index(split) * _MOST_IMAGES + index + 1


def _write_scene(folder: Path, scene: Scene, split: Split, index: int) -> str:
    """Write one scene's picture and label maps; return the picture's COCO file name."""
    city = CITIES[split][index % len(CITIES[split])]
    stem = f"{city}_{index // len(CITIES[split]):06d}_000019"  # Cityscapes labels every 20th frame
    picture = folder / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.jpg"
    _write_image(picture, cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR), _JPEG)
    labels = folder / "gtFine" / split / city
    _write_image(labels / f"{stem}_gtFine_labelIds.png", scene.label_ids, _PNG)
    _write_image(labels / f"{stem}_gtFine_instanceIds.png", scene.instance_ids, _PNG)
    coco_picture = folder / f"{split}2017" / f"{_image_id(split, index):012d}.jpg"
    try:
        os.link(picture, coco_picture)
    except OSError:  # a file system without hard links
        shutil.copyfile(picture, coco_picture)
    return coco_picture.name


def _write_image(path: Path, image: NDArray[Any], settings: tuple[int, ...]) -> None:
    done, encoded = cv2.imencode(path.suffix, image, settings)
    if not done:
        raise OSError(f"OpenCV could not encode {path}; check its installation")
    path.write_bytes(np.asarray(encoded).tobytes())


def _empty_coco(wanted: dict[str, Any]) -> dict[str, Any]:
    return {
        "info": {
            "description": "Generated street scenes",
            "version": str(VERSION),
            "contributor": "dettoolkit",
            "seed": wanted["seed"],
        },
        "licenses": [
            {"id": 1, "name": "Apache License 2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"}
        ],
        "images": [],
        "annotations": [],
        "categories": [
            {"id": label_id, "name": name, "supercategory": "street"} for label_id, name in CATEGORIES.items()
        ],
    }


def _append(coco: dict[str, Any], scene: Scene, image_id: int, file_name: str) -> None:
    """Add one scene to a COCO json; boxes are tight around visible pixels, segmentations are left empty."""
    height, width = scene.label_ids.shape
    coco["images"].append(
        {"id": image_id, "width": width, "height": height, "file_name": file_name, "license": 1}
    )
    for item in scene.objects:
        coco["annotations"].append(
            {
                "id": len(coco["annotations"]) + 1,
                "image_id": image_id,
                "category_id": item.label_id,
                "bbox": list(item.bbox_xywh),
                "area": item.area,
                "iscrowd": int(item.crowd),
                "segmentation": [],
            }
        )
