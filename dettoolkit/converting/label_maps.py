"""Polygons or colors to index PNGs, which segmentation trains on."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from dettoolkit.converting.collection import Hw, Lost, annotated_size, write_overlay
from dettoolkit.converting.labelme import AREAS, Shape, read_documents
from dettoolkit.converting.split import assign
from dettoolkit.datasets.coco_json import SEGMENTATION
from dettoolkit.datasets.data_report import BadImageError
from dettoolkit.datasets.images import ENDINGS, encode_image, read_image
from dettoolkit.datasets.regular_files import Walk, read_lines
from dettoolkit.destinations import check_free

VOID = 255
BACKGROUND = "background"
Labels = NDArray[np.uint8]
Color = tuple[int, int, int]


@dataclass(frozen=True)
class LabeledImage:
    """An image, its name below the output's folders, and what draws its labels: uint8 (H, W)."""

    source: Path
    name: str
    draw: Callable[[], Labels]


@dataclass(frozen=True)
class LabelMaps:
    """A data set: its classes by value, their colors where they have any, its images, and what was lost."""

    classes: Sequence[str]
    images: Sequence[LabeledImage]
    lost: Lost
    colors: Sequence[Color | None] = ()


def polygons_of_labelme(root: Path, *, unlabeled: str) -> LabelMaps:
    """Read labelme's JSON files; later shapes cover earlier ones, as labelme shows them.

    Args:
        root: folder of the files.
        unlabeled: what a pixel without a shape is: "background", a class of its own with the value 0, or
            "ignore", 255.
    """
    lost = Lost()
    documents = list(read_documents(root))
    names = {
        shape.label for _, document in documents for shape in document.shapes if shape.shape_type in AREAS
    }
    classes = _numbered(names, unlabeled)
    images = []
    for path, document in documents:
        source = path.parent / document.imagePath.replace("\\", "/")
        said = (document.imageHeight, document.imageWidth)
        hw = annotated_size(source, None if None in said else said, lost)  # type: ignore[arg-type]
        for shape in document.shapes:
            if shape.shape_type not in AREAS or len(shape.points) < 2:
                lost.add(f"{shape.shape_type}, which has no area, left out", f"{path}: {shape.label}")
        if hw is not None:
            draw = partial(_draw_shapes, document.shapes, hw, classes, unlabeled)
            images.append(LabeledImage(source, source.relative_to(root).as_posix(), draw))
    return LabelMaps(list(classes), images, lost)


def polygons_of_coco(annotations: Path, images: Path, *, unlabeled: str) -> LabelMaps:
    """Read a COCO json's segmentations, polygons and RLE; smaller objects cover larger ones."""
    try:
        content = msgspec.json.decode(annotations.read_bytes())
        names = {category["id"]: str(category["name"]) for category in content["categories"]}
        by_image: dict[Any, list[Any]] = {image["id"]: [] for image in content["images"]}
        lost = Lost()
        for entry in content["annotations"]:
            if entry["image_id"] not in by_image or not entry.get(SEGMENTATION):
                lost.add(
                    "annotation without a segmentation or image, left out", f"annotation id {entry.get('id')}"
                )
            else:
                by_image[entry["image_id"]].append(entry)
        classes, found = _numbered(set(names.values()), unlabeled, order=list(names.values())), []
        for image in content["images"]:
            source = images / str(image["file_name"])
            hw = annotated_size(source, (int(image["height"]), int(image["width"])), lost)
            if hw is not None:
                draw = partial(_draw_entries, by_image[image["id"]], hw, names, classes, unlabeled)
                found.append(LabeledImage(source, str(image["file_name"]), draw))
    except (KeyError, TypeError, AttributeError, ValueError, msgspec.DecodeError) as error:
        raise ValueError(f"{annotations} is no COCO json: {type(error).__name__} {error}") from None
    return LabelMaps(list(classes), found, lost)


def colored(images: Path, labels: Path, palette: Path) -> LabelMaps:
    """Read color PNGs by a list of colors; a color that is not in it becomes 255, which is ignored.

    Args:
        images: folder of the images.
        labels: folder of the PNGs; one belongs to the image whose name it has, but for the ending or for a
            suffix such as `_L` or `_color`.
        palette: text file, a line `red green blue name` for each class, in the order of the labels. Lines of
            one name make one class.

    Raises:
        ValueError: a line is not of that form, or no image has a PNG.
    """
    table = dict(_palette(palette))
    classes = list(dict.fromkeys(table.values()))
    lost, found = Lost(), []
    suffix = re.compile(r"(_L|_color|_labels?|_mask|_gt)$")
    pngs = {suffix.sub("", path.stem): path for path in map(Path, Walk(labels, endings=(".png",)))}
    for source in map(Path, Walk(images, endings=ENDINGS)):
        if source.stem in pngs:
            draw = partial(_draw_colors, pngs[source.stem], table, classes, lost)
            found.append(LabeledImage(source, source.relative_to(images).as_posix(), draw))
        else:
            lost.add("image without a color PNG, left out", str(source))
    if not found:
        raise ValueError(f"no image in {images} has a PNG of its name in {labels}")
    first = {name: color for color, name in reversed(table.items())}
    return LabelMaps(classes, found, lost, [first[name] for name in classes])


def write_label_maps(
    maps: LabelMaps, out: Path, *, fraction: float, seed: int, group: str | None
) -> list[str]:
    """Write images, index PNGs and `data.yaml` to a new folder, cut into train and val.

    Returns:
        Lines that say what was written.

    Raises:
        FileExistsError: the folder has something in it.
        ValueError: more than 255 classes, no image, or two images of one name.
    """
    check_free(out)
    if len(maps.classes) > VOID:
        raise ValueError(f"{len(maps.classes)} classes: an index PNG has room for {VOID}")
    if not maps.images:
        raise ValueError("no image with labels was found, so nothing is written")
    stems = [Path(image.name).with_suffix("").as_posix() for image in maps.images]
    if twice := [name for name, count in Counter(stems).items() if count > 1]:
        raise ValueError(f"two images would get the label file {twice[0]}.png: give them different names")
    pixels, present, pngs = Counter[int](), dict[str, set[int]](), dict[str, bytes]()
    for stem, image in zip(stems, maps.images, strict=True):
        labels = image.draw()
        values, counts = np.unique(labels, return_counts=True)
        pixels.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        present[stem] = set(values.tolist()) - {VOID}
        pngs[stem] = encode_image(Image.fromarray(labels), format="PNG")
    validation = assign(stems, present, fraction=fraction, seed=seed, group=group)
    for stem, image in zip(stems, maps.images, strict=True):
        split = "val" if stem in validation else "train"
        copy, png = out / "images" / split / image.name, out / "labels" / split / f"{stem}.png"
        for path in (copy, png):
            path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(image.source, copy)
        png.write_bytes(pngs[stem])
    data: dict[str, Any] = {"type": "folders", "root": str(out.absolute()), "ignore": [VOID], "classes": []}
    data |= {split: {"images": f"images/{split}", "labels": f"labels/{split}"} for split in ("train", "val")}
    for value, name in enumerate(maps.classes):
        color = maps.colors[value] if maps.colors else None
        entry = {"name": name, "ids": [value]}
        data["classes"].append(entry if color is None else entry | {"color": list(color)})
    total = max(1, sum(pixels.values()))
    lines = [f"{len(stems) - len(validation)} images in train, {len(validation)} in val; fraction of pixels:"]
    lines += [f"  {value} {name}: {pixels[value] / total:.2%}" for value, name in enumerate(maps.classes)]
    return [*lines, f"  {VOID} ignored: {pixels[VOID] / total:.2%}", write_overlay(out, data)]


def _numbered(names: set[str], unlabeled: str, order: Sequence[str] = ()) -> dict[str, int]:
    """Number the classes in the order given, or in alphabetical order; the background is 0."""
    ordered = list(dict.fromkeys(order)) or sorted(names)
    if unlabeled == BACKGROUND:
        ordered = [BACKGROUND, *(name for name in ordered if name != BACKGROUND)]
    return {name: number for number, name in enumerate(ordered)}


def _empty(hw: Hw, classes: Mapping[str, int], unlabeled: str) -> Labels:
    return np.full(hw, classes[BACKGROUND] if unlabeled == BACKGROUND else VOID, np.uint8)


def _draw_shapes(shapes: Sequence[Shape], hw: Hw, classes: Mapping[str, int], unlabeled: str) -> Labels:
    labels = _empty(hw, classes, unlabeled)
    for shape in shapes:
        if shape.shape_type not in AREAS or len(shape.points) < 2:
            continue
        points = np.array(shape.points, np.float64)
        if shape.shape_type == "circle":
            angles = np.linspace(0, 2 * np.pi, 180, endpoint=False)
            radius = np.linalg.norm(points[1] - points[0])
            points = points[0] + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        elif shape.shape_type == "rectangle":
            (x1, y1), (x2, y2) = points[:2]
            points = np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)])
        _fill(labels, points, classes[shape.label])
    return labels


def _draw_entries(
    entries: Sequence[Mapping[str, Any]],
    hw: Hw,
    names: Mapping[Any, str],
    classes: Mapping[str, int],
    unlabeled: str,
) -> Labels:
    labels = _empty(hw, classes, unlabeled)
    masks = []
    for entry in entries:
        try:
            masks.append((_mask(entry[SEGMENTATION], hw), names[entry["category_id"]]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"annotation id {entry.get('id')}: wanted polygons or RLE of a listed category, got "
                f"{type(error).__name__} {error}"
            ) from None
    for mask, name in sorted(masks, key=lambda each: -int(each[0].sum())):
        labels[mask > 0] = classes[name]
    return labels


def _mask(segmentation: Any, hw: Hw) -> Labels:
    """Draw COCO's polygons, or its RLE, compressed or not: uint8 (H, W) of 0 and 1."""
    if isinstance(segmentation, list):
        polygons = [list(map(float, polygon)) for polygon in segmentation]
        segmentation = coco_mask.merge(coco_mask.frPyObjects(polygons, *hw))
    elif isinstance(segmentation["counts"], list):
        segmentation = coco_mask.frPyObjects(segmentation, *hw)
    return np.asarray(coco_mask.decode(segmentation), np.uint8)


def _fill(labels: Labels, points: NDArray[np.float64], value: int) -> None:
    """Fill a polygon as COCO's masks are filled."""
    mask = _mask([points.ravel().tolist()], (labels.shape[0], labels.shape[1]))
    labels[mask > 0] = value


def _palette(path: Path) -> Iterator[tuple[Color, str]]:
    for number, line in read_lines(path):
        if not line.strip() or line.startswith("#"):
            continue
        match = re.fullmatch(r"\s*(\d{1,3})[\s,]+(\d{1,3})[\s,]+(\d{1,3})[\s,]+(\S.*?)\s*", line)
        color = tuple(int(match[each]) for each in (1, 2, 3)) if match else (256,)
        if match is None or max(color) > 255:
            raise ValueError(
                f"{path}:{number}: wanted 'red green blue name' with colors from 0 to 255, got '{line:.60}'"
            )
        yield (color[0], color[1], color[2]), match[4]


def _draw_colors(path: Path, table: Mapping[Color, str], classes: Sequence[str], lost: Lost) -> Labels:
    try:
        image = read_image(path).astype(np.int32)
    except BadImageError as error:
        raise ValueError(f"{path}: {error}") from None
    codes = image[..., 0] << 16 | image[..., 1] << 8 | image[..., 2]
    labels = np.full(codes.shape, VOID, np.uint8)
    values, counts = np.unique(codes, return_counts=True)
    for code, count in zip(values.tolist(), counts.tolist(), strict=True):
        color = (code >> 16, code >> 8 & 255, code & 255)
        if color in table:
            labels[codes == code] = classes.index(table[color])
        else:
            lost.add(
                "color that the list does not have, ignored",
                f"{path}: {' '.join(map(str, color))}, {count} pixels",
            )
    return labels
