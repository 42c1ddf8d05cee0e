"""Generated street scenes, the data that the toolkit brings along, as a COCO and a Cityscapes data set.

Both data sets hold the same images, so one folder tries out detection and segmentation. They are read by the
same loaders as real data.
"""

import json
import logging
import os
import secrets
import shutil
import time
from pathlib import Path
from typing import Any

import cv2

from dettoolkit.datasets.scenes.render import SPLITS, Scene, Split, draw_scene
from dettoolkit.datasets.scenes.stage import CATEGORIES

logger = logging.getLogger(__name__)

VERSION = 1  # rises when the same parameters give other images, so that old folders are not mistaken for new
MANIFEST = "scenes.json"  # written last: a folder with it is complete
MARKER = "scenes.partial"  # written first and removed at the end
CITIES: dict[Split, tuple[str, ...]] = {
    "train": ("lindenfurt", "marlowia", "kestrelberg", "tannenau"),
    "val": ("arvenholm", "sandhaven"),
}
_FOLDERS = ("annotations", "gtFine", "leftImg8bit", "train2017", "val2017")
_MAX_IMAGES = 999_999  # per split: image ids and sequence numbers have room for this many
_ABANDONED_AFTER_S = 600.0  # a writer touches its marker for every scene, which takes milliseconds
_JPEG = (cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
_PNG = (cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE)
_INFO = {"description": "Generated street scenes", "version": str(VERSION), "contributor": "dettoolkit"}
_CATEGORIES = [{"id": key, "name": name, "supercategory": "street"} for key, name in CATEGORIES.items()]
_LICENSE = {"id": 1, "name": "Apache License 2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"}


def write_scenes(
    root: Path,
    *,
    train_images: int,
    val_images: int,
    image_hw: tuple[int, int],
    seed: int,
    generate: bool = True,
) -> None:
    """Write street scenes below `root`, or return at once when they are there already.

    The files are `train2017/`, `val2017/` and `annotations/instances_{train,val}2017.json` as in COCO,
    and `leftImg8bit/<split>/<city>/` and `gtFine/<split>/<city>/` as in Cityscapes. A scene depends on
    the seed, its split, its index and the size only. Several processes may call this at once: each writes
    into a folder beside `root`, and the first to finish moves it into place. Without `generate`, or over
    anything but these scenes, nothing is written.
    """
    counts = {"train_images": train_images, "val_images": val_images}
    wanted = {"generator": __name__, "version": VERSION, **counts, "image_hw": list(image_hw), "seed": seed}
    given, root = root, root.expanduser().resolve()
    if _is_finished(root, wanted):
        return
    if not generate:
        raise FileNotFoundError(
            f"no generated scenes at data.root={given}: correct data.root. They are generated only by "
            f"training, or by its dry run: tools/train.py RECIPE --check data.root={given}"
        )
    root.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(root)
    folder = root.parent / f".{root.name}.{secrets.token_hex(4)}.partial"
    folder.mkdir()
    try:
        _write_all(folder, wanted)
        _move_into_place(folder, root, wanted)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    logger.info("generated %d training and %d validation scenes in %s", train_images, val_images, root)


def _is_finished(root: Path, wanted: dict[str, Any]) -> bool:
    """Return whether `root` holds the wanted scenes; False: it may be written. Refuse anything else."""
    # In this order: another process may give the folder its name between the two looks.
    if not root.exists():
        return False
    if not root.is_dir():
        problem = f"{root} should become a folder of generated scenes, but is a file"
    elif MANIFEST not in (names := {path.name for path in root.iterdir()}):
        foreign = sorted(names - {MARKER, *_FOLDERS} if MARKER in names else names)
        if not foreign:
            return False
        listing = ", ".join(foreign[:5]) + (", …" if len(foreign) > 5 else "")
        problem = f"{root} contains files that are not generated scenes ({listing})"
    elif not isinstance(found := _read_json(root / MANIFEST), dict):
        problem = f"{root / MANIFEST} is unreadable, so {root} may contain anything"
    elif found != wanted:
        differing = [key for key in {**found, **wanted} if found.get(key) != wanted.get(key)]
        changes = "; ".join(f"{key} is {found.get(key)}, expected {wanted.get(key)}" for key in differing)
        problem = f"{root} contains generated scenes with other parameters ({changes})"
    elif missing := sorted(set(_FOLDERS) - names):
        problem = f"{root} contains generated scenes, but {', '.join(missing)} is missing"
    else:
        return True
    raise FileExistsError(f"{problem}: choose another data.root, or delete it to have scenes generated there")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None


def _remove_abandoned(root: Path) -> None:
    """Delete what writers left beside `root` when they were killed."""
    for folder in root.parent.iterdir():
        if folder.name.startswith(f".{root.name}.") and folder.name.endswith(".partial"):
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
    marker.write_text("scenes are being generated; they are incomplete without scenes.json\n", "utf-8")
    for name in _FOLDERS:
        (folder / name).mkdir()
    for split in SPLITS:
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for index in range(wanted[f"{split}_images"]):
            scene = draw_scene(seed=wanted["seed"], split=split, index=index, image_hw=wanted["image_hw"])
            image_id = SPLITS.index(split) * (_MAX_IMAGES + 1) + index + 1  # differs between the splits
            name, (height, width) = f"{image_id:012d}.jpg", scene.label_ids.shape
            images.append({
                "id": image_id, "width": width, "height": height, "file_name": name, "license": _LICENSE["id"]
            })  # fmt: skip
            annotations += [{
                "id": len(annotations) + number, "image_id": image_id, "category_id": item.label_id,
                "bbox": item.bbox_xywh, "area": item.area, "iscrowd": int(item.crowd), "segmentation": [],
            } for number, item in enumerate(scene.objects, start=1)]  # fmt: skip
            _write_scene(folder, scene, split, index, name)
            os.utime(marker)
        info = _INFO | {"seed": wanted["seed"]}
        coco = {"info": info, "licenses": [_LICENSE], "images": images, "annotations": annotations}
        text = json.dumps(coco | {"categories": _CATEGORIES}, separators=(",", ":"))
        (folder / "annotations" / f"instances_{split}2017.json").write_text(text + "\n", encoding="utf-8")
    unfinished = folder / f"{MANIFEST}.new"
    unfinished.write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")
    os.replace(unfinished, folder / MANIFEST)
    marker.unlink()


def cityscapes_key(name: str) -> str:
    """Return how Cityscapes' folders call the image that COCO's calls `name`: city/stem, without endings."""
    split, number = divmod(int(Path(name).stem), _MAX_IMAGES + 1)
    return _cityscapes_key(SPLITS[split], number - 1)


def _cityscapes_key(split: Split, index: int) -> str:
    frame, number = divmod(index, len(CITIES[split]))
    city = CITIES[split][number]
    return f"{city}/{city}_{frame:06d}_000019"  # Cityscapes labels every 20th frame


def _write_scene(folder: Path, scene: Scene, split: Split, index: int, name: str) -> None:
    """Write one scene's image and label maps for Cityscapes, and the image again as `name` for COCO."""
    key = _cityscapes_key(split, index)
    bgr = cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR)
    for kind, ending, image, settings in (
        ("gtFine", "gtFine_labelIds.png", scene.label_ids, _PNG),
        ("gtFine", "gtFine_instanceIds.png", scene.instance_ids, _PNG),
        ("leftImg8bit", "leftImg8bit.jpg", bgr, _JPEG),
    ):
        path = folder / kind / split / f"{key}_{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        done, encoded = cv2.imencode(path.suffix, image, settings)
        if not done:
            raise OSError(f"OpenCV could not encode {path}; check its installation")
        path.write_bytes(encoded.tobytes())
    try:
        os.link(path, folder / f"{split}2017" / name)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, folder / f"{split}2017" / name)
