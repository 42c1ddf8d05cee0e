"""Images with their boxes, whatever format they came in, and how they are written as a COCO data set."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dettoolkit.config.yaml12 import write_lines
from dettoolkit.datasets.images import open_header
from dettoolkit.datasets.regular_files import open_regular
from dettoolkit.destinations import check_free

LISTED = 20  # of what could not be carried over, by kind

Hw = tuple[int, int]


@dataclass(frozen=True)
class Box:
    """An object: its class, (left, top, width, height) in pixels, and what else its annotation keeps."""

    name: str
    xywh: tuple[float, float, float, float]
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Picture:
    """An image file, its size and its boxes.

    Attributes:
        source: the file.
        name: its path below the output's folder of images.
        hw: height and width that the boxes were made for.
        boxes: of its objects; an image without any is kept.
    """

    source: Path
    name: str
    hw: Hw
    boxes: Sequence[Box]


@dataclass
class Lost:
    """What could not be carried over, counted by kind, with the first places of each."""

    counts: Counter[str] = field(default_factory=Counter)
    places: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, place: str) -> None:
        """Count one case, with the file and line it is in."""
        self.counts[kind] += 1
        if self.counts[kind] <= LISTED:
            self.places.setdefault(kind, []).append(place)

    def lines(self) -> Iterator[str]:
        """Yield a line for each kind, and below it where it was met."""
        for kind, count in self.counts.items():
            yield f"{kind}: {count}"
            yield from (f"  {place}" for place in self.places[kind])
            if count > LISTED:
                yield f"  ... and {count - LISTED} more"


@dataclass(frozen=True)
class Collection:
    """A data set: its classes in order, the images of each split, and what could not be carried over."""

    classes: Sequence[str]
    splits: Mapping[str, Sequence[Picture]]
    lost: Lost


def image_sizes(path: Path) -> tuple[Hw, Hw]:
    """Read an image's size from its header, as its pixels are stored and as it is shown (EXIF orientation).

    Raises:
        OSError, ValueError: it cannot be read.
    """
    with open_regular(path) as file:
        image = open_header(file)
        stored = image.height, image.width
        turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)  # the orientations that swap the sides
    return stored, stored[::-1] if turned else stored


def annotated_size(path: Path, said: Hw | None, lost: Lost) -> Hw | None:
    """Return the size that an image's boxes were made for: the annotation's, if the file can have it.

    None, and a line in `lost`, where the file is missing or no image.
    """
    try:
        stored, shown = image_sizes(path)
    except FileNotFoundError:
        lost.add("image missing, left out", str(path))
        return None
    except (OSError, ValueError) as error:
        lost.add("image cannot be read, left out", f"{path}: {error}")
        return None
    if said in (stored, shown):
        return said
    if said is not None and min(said) > 0:
        lost.add(
            "annotation names another size than the image has; the image's is used, boxes are not rescaled",
            f"{path}: {said[1]}x{said[0]} in the annotation, {shown[1]}x{shown[0]} in the file",
        )
    return shown


def write(collection: Collection, out: Path) -> list[str]:
    """Write a COCO data set to a new folder: images, annotations, and `data.yaml` to lay over a recipe.

    Images are copied byte for byte.

    Returns:
        Lines that say what was written.

    Raises:
        FileExistsError: the folder has something in it.
        ValueError: there is no image, or two of a split have one name.
    """
    check_free(out)
    if not any(collection.splits.values()):
        raise ValueError("no image with readable annotations was found, so nothing is written")
    names = [picture.name for pictures in collection.splits.values() for picture in pictures]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"two images would be written as {twice[0]}: give them different names")
    (out / "annotations").mkdir(parents=True)
    lines, sections = [], dict[str, Any]()
    for split, pictures in collection.splits.items():
        for picture in pictures:
            copy = out / "images" / picture.name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(picture.source, copy)
        annotations = f"annotations/instances_{split}.json"
        (out / annotations).write_text(json.dumps(_coco(pictures, collection.classes)), encoding="utf-8")
        boxes = sum(len(picture.boxes) for picture in pictures)
        empty = sum(not picture.boxes for picture in pictures)
        lines.append(f"{annotations}: {len(pictures)} images ({empty} without boxes), {boxes} boxes")
        sections[split] = {"images": "images", "annotations": annotations}
    data = {"type": "coco", "root": str(out.absolute())}
    data |= {split: sections[split] for split in ("train", "val") if split in sections}
    return [*lines, write_overlay(out, data)]


def write_overlay(out: Path, data: Mapping[str, Any]) -> str:
    """Write `data.yaml`, the section of a recipe that names this data set; return the line about it."""
    text = "".join(f"{line}\n" for line, _ in write_lines({"data": dict(data)}))
    path = out / "data.yaml"
    path.write_text(f"# Laid over a recipe: dettoolkit train RECIPE {path}\n{text}", encoding="utf-8")
    missing = [split for split in ("train", "val") if split not in data]
    hint = f" (no {' and no '.join(missing)} in it: see dettoolkit convert coco-split)" if missing else ""
    return f"data.yaml: lay it over a recipe, as in: dettoolkit train RECIPE {path}{hint}"


def _coco(pictures: Sequence[Picture], classes: Sequence[str]) -> dict[str, Any]:
    ids = {name: number for number, name in enumerate(classes, start=1)}
    images, annotations = [], list[dict[str, Any]]()
    for image_id, picture in enumerate(pictures, start=1):
        height, width = picture.hw
        images.append({"id": image_id, "file_name": picture.name, "width": width, "height": height})
        for box in picture.boxes:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": ids[box.name],
                    "bbox": list(box.xywh),
                    "area": box.xywh[2] * box.xywh[3],
                    "iscrowd": 0,
                    **box.extra,
                }
            )
    categories = [{"id": id_, "name": name} for name, id_ in ids.items()]
    return {"images": images, "annotations": annotations, "categories": categories}
