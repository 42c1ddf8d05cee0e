"""What `dettoolkit convert` writes passes the doctor, from a source without a fault and with one."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_doctor_files import HW, scene

from dettoolkit.cli import main

NAMES, SIZE = ("cat", "dog"), 60
COLORS = {"cat": (64, 0, 128), "dog": (0, 64, 0)}


def box_of(number: int) -> tuple[str, int, int, int, int]:
    """Return class, left, top, width and height of the object of a picture."""
    return NAMES[number % 2], 8 + number % 40, 10, 50, 60


def pictures(folder: Path, count: int = SIZE) -> list[str]:
    folder.mkdir(parents=True)
    names = [f"{number:03}" for number in range(count)]
    for number, name in enumerate(names):
        Image.fromarray(scene(number)).save(folder / f"{name}.jpg", quality=95)
    return names


def yolo(root: Path) -> list[str]:
    for number, name in enumerate(pictures(root / "images")):
        label, x, y, w, h = box_of(number)
        center = (x + w / 2) / HW[1], (y + h / 2) / HW[0]
        (root / "labels").mkdir(exist_ok=True)
        line = [NAMES.index(label), *center, w / HW[1], h / HW[0]]
        (root / f"labels/{name}.txt").write_text(" ".join(map(str, line)))
    (root / "data.yaml").write_text(f"train: images\nnames: {list(NAMES)}\n")
    return ["yolo", str(root), "--fraction", "0.4"]


def voc(root: Path) -> list[str]:
    (root / "Annotations").mkdir(parents=True)
    for number, name in enumerate(pictures(root / "JPEGImages")):
        label, x, y, w, h = box_of(number)
        corners = {"xmin": x + 1, "ymin": y + 1, "xmax": x + w, "ymax": y + h}
        box = "".join(f"<{key}>{value}</{key}>" for key, value in corners.items())
        size = f"<size><width>{HW[1]}</width><height>{HW[0]}</height></size>"
        entry = f"<object><name>{label}</name><bndbox>{box}</bndbox></object>"
        (root / f"Annotations/{name}.xml").write_text(f"<annotation>{size}{entry}</annotation>")
    lists = root / "ImageSets/Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("\n".join(f"{number:03}" for number in range(36)))
    (lists / "val.txt").write_text("\n".join(f"{number:03}" for number in range(36, SIZE)))
    return ["voc", str(root)]


def write_labelme(root: Path) -> None:
    for number, name in enumerate(pictures(root)):
        label, x, y, w, h = box_of(number)
        shape = {"label": label, "shape_type": "rectangle", "points": [[x, y], [x + w, y + h]]}
        content = {"shapes": [shape], "imagePath": f"{name}.jpg"}
        content |= {"imageHeight": HW[0], "imageWidth": HW[1]}
        (root / f"{name}.json").write_text(json.dumps(content))


def labelme(root: Path) -> list[str]:
    write_labelme(root)
    return ["labelme", str(root), "--fraction", "0.4"]


def coco_split(root: Path) -> list[str]:
    content = {"images": [], "annotations": [], "categories": []}
    content["categories"] = [{"id": id_, "name": name} for id_, name in enumerate(NAMES, start=3)]
    for number, name in enumerate(pictures(root)):
        label, *box = box_of(number)
        content["images"].append({"id": number, "file_name": f"{name}.jpg", "height": HW[0], "width": HW[1]})
        content["annotations"].append(
            {"id": number, "image_id": number, "category_id": 3 + NAMES.index(label), "bbox": box}
            | {"area": box[2] * box[3], "iscrowd": 0}
        )
    (root / "all.json").write_text(json.dumps(content))
    return ["coco-split", str(root / "all.json"), "--fraction", "0.4"]


def polygons(root: Path) -> list[str]:
    write_labelme(root)
    return ["polygons", str(root), "--fraction", "0.4"]


def colors(root: Path) -> list[str]:
    (root / "masks").mkdir(parents=True)
    for number, name in enumerate(pictures(root / "images")):
        label, x, y, w, h = box_of(number)
        mask = np.zeros((*HW, 3), np.uint8)
        mask[y : y + h, x : x + w] = COLORS[label]
        Image.fromarray(mask).save(root / f"masks/{name}.png")
    lines = [f"{r} {g} {b} {name}" for name, (r, g, b) in {**COLORS, "ground": (0, 0, 0)}.items()]
    (root / "colors.txt").write_text("\n".join(lines))
    images = ["--images", str(root / "images"), "--colors", str(root / "colors.txt")]
    return ["colors", str(root / "masks"), *images, "--fraction", "0.4"]


RECIPES = {
    "boxes": ["ssdlite_mnv3_large", "finetune.yaml"],
    "maps": ["lraspp_mnv3_large", "finetune_segmentation.yaml", "data.crop_hw=[96, 128]"],
}
FORMATS = [(yolo, "boxes"), (voc, "boxes"), (labelme, "boxes"), (coco_split, "boxes")]
FORMATS += [(polygons, "maps"), (colors, "maps")]
QUIET = ["data.workers=1", "trainer.max_epochs=400", "trainer.accelerator=cpu", "data.batch_size=8"]


def worse_than_notes(out: Path, kind: str, found: Path) -> list[str]:
    """Return the errors and warnings of the doctor, every image read, but those of the recipe's length."""
    command = ["doctor", *RECIPES[kind], str(out / "data.yaml"), *QUIET, "--json", str(found)]
    assert main(command) in (0, 2)
    findings = json.loads(found.read_text())["findings"]
    return [each["id"] for each in findings if each["severity"] != "note"]


@pytest.mark.parametrize(("make", "kind"), FORMATS)
def test_a_converted_set_passes_the_doctor(make, kind, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["convert", *make(tmp_path / "source"), "--out", str(out)]) == 0
    assert worse_than_notes(out, kind, tmp_path / "found.json") == []
    capsys.readouterr()


@pytest.mark.parametrize(("make", "kind"), FORMATS)
def test_a_fault_of_the_source_is_all_that_is_found(make, kind, tmp_path, capsys):
    command, out = make(tmp_path / "source"), tmp_path / "out"
    first, second = sorted((tmp_path / "source").rglob("*.jpg"))[:2]
    second.write_bytes(first.read_bytes())
    assert main(["convert", *command, "--out", str(out)]) == 0
    (found,) = worse_than_notes(out, kind, tmp_path / "found.json")
    assert found in ("duplicate-in-split", "duplicate-between-splits")
    capsys.readouterr()
