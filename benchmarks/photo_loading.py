"""Samples per second of a loader's worker on large photos: ours, albumentations and torchvision's reference.

    python benchmarks/photo_loading.py --data DIR [--photos 12] [--rounds 3]

DIR is a COCO data set with train2017/ and annotations/instances_train2017.json. Of its largest images, photos
of 12 megapixels (3000x4000) and of 1371x2048 are made by enlarging them, with noise as of a camera,
quality 92, and their boxes. From the file to a sample of 320x320, by the preset ssdlite (IoU crop, flip):

- ours: JPEGs are decoded no larger than the crop may need (data.reduced_decoding=training);
- ours, whole: the same with data.reduced_decoding=never;
- ours, cached: with data.cache, after the first epoch;
- albumentations: decoded whole by OpenCV, then RandomSizedBBoxSafeCrop (which crops and resizes) and flip;
- torchvision: its detection reference (Pillow, then v2's RandomIoUCrop, flip and resize).

All run in turns in one process with one thread; printed are medians of the CPU time, so that other work on
the machine hardly counts.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from augmentation import INPUT_HW, seconds, torchvision_preset
from PIL import Image
from torchvision import tv_tensors

from dettoolkit.config import load_recipe
from dettoolkit.datasets.images import read_image
from dettoolkit.datasets.samplers import SampleKey
from dettoolkit.detection.run import build_dataset
from dettoolkit.detection.splits import load_annotations

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import albumentations as A

SIZES = ((3000, 4000), (1371, 2048))
QUALITY = 92


def enlarge(data: Path, out: Path, hw: tuple[int, int], photos: int) -> dict[str, Any]:
    """Write photos of a size and their annotations; return these."""
    document = json.loads((data / "annotations/instances_train2017.json").read_text())
    boxed = {each["image_id"] for each in document["annotations"] if not each.get("iscrowd")}
    images = sorted(
        (each for each in document["images"] if each["id"] in boxed),
        key=lambda each: -each["width"] * each["height"],
    )[:photos]
    (out / "train2017").mkdir(parents=True)
    rng, kept, annotations = np.random.default_rng(0), [], []
    for each in images:
        small = read_image(data / "train2017" / each["file_name"])[..., ::-1]
        own = hw if each["width"] >= each["height"] else hw[::-1]
        large = cv2.resize(small, own[::-1], interpolation=cv2.INTER_CUBIC)
        noisy = (large + rng.normal(0, 3, large.shape)).clip(0, 255).astype(np.uint8)
        name = Path(each["file_name"]).with_suffix(".jpg").name
        cv2.imwrite(str(out / "train2017" / name), noisy, (cv2.IMWRITE_JPEG_QUALITY, QUALITY))
        scale = np.array([own[1] / each["width"], own[0] / each["height"]] * 2)
        kept.append({"id": each["id"], "file_name": name, "height": own[0], "width": own[1]})
        annotations += [
            {**mine, "bbox": (np.array(mine["bbox"]) * scale).tolist(), "segmentation": []}
            for mine in document["annotations"]
            if mine["image_id"] == each["id"] and not mine.get("iscrowd")
        ]
    made = {"images": kept, "annotations": annotations, "categories": document["categories"]}
    (out / "annotations").mkdir()
    (out / "annotations/instances_train2017.json").write_text(json.dumps(made))
    return made


def ours(root: Path, override: str) -> Callable[[int], object]:
    """Make a function from a number to a sample of our data set."""
    recipe: Any = load_recipe("ssdlite_mnv3_large", [f"data.root={root}", override]).recipe
    data = build_dataset(recipe, load_annotations(recipe.data, "train"), split="train")
    return lambda number: data[SampleKey(number % len(data), number)]


def peers(root: Path, document: dict[str, Any]) -> dict[str, Callable[[int], object]]:
    """Make the same functions of albumentations and torchvision."""
    files = [root / "train2017" / each["file_name"] for each in document["images"]]
    boxes: list[Any] = []
    for each in document["images"]:
        mine = [own["bbox"] for own in document["annotations"] if own["image_id"] == each["id"]]
        corners = np.array(mine, np.float32).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        limit = np.array([each["width"], each["height"]] * 2)
        corners = corners.clip(0, limit)
        boxes.append(corners[(corners[:, 2:] > corners[:, :2] + 1).all(1)])
    compose = A.Compose(
        [
            A.RandomSizedBBoxSafeCrop(*INPUT_HW, erosion_rate=0.2),
            A.HorizontalFlip(p=0.5),
        ],
        bbox_params=A.BboxParams(format="pascal_voc", label_fields=["labels"]),
    )
    preset = torchvision_preset("ssdlite")

    def albumentations(number: int) -> object:
        row = number % len(files)
        image = cv2.imdecode(np.fromfile(files[row], np.uint8), cv2.IMREAD_COLOR_RGB)
        return compose(image=image, bboxes=boxes[row], labels=np.arange(len(boxes[row])))

    def torchvision(number: int) -> object:
        row = number % len(files)
        image = Image.open(files[row]).convert("RGB")
        own = tv_tensors.BoundingBoxes(boxes[row], format="XYXY", canvas_size=(image.height, image.width))
        return preset({"image": image, "boxes": own, "labels": torch.arange(len(boxes[row]))})

    return {"albumentations": albumentations, "torchvision": torchvision}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--photos", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    cv2.setNumThreads(0)  # as in a loader's worker
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.filterwarnings("ignore", message="Anti-alias option is always applied")
    for hw in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder) / "data"
            document = enlarge(options.data, root, hw, options.photos)
            calls = {
                "ours": ours(root, "data.reduced_decoding=training"),
                "ours, whole": ours(root, "data.reduced_decoding=never"),
                "ours, cached": ours(root, f"data.cache={folder}/cache"),
                **peers(root, document),
            }
            for call in calls.values():
                seconds(call, options.photos)
            spent: dict[str, list[float]] = {name: [] for name in calls}
            for _ in range(options.rounds):
                for name, call in calls.items():
                    spent[name].append(seconds(call, options.photos))
        medians = {name: statistics.median(values) for name, values in spent.items()}
        print(f"{len(document['images'])} photos of {hw[0]}x{hw[1]}")
        for name, median in medians.items():
            print(f"  {name:16} {1 / median:7.1f} samples/s  {median / medians['ours']:5.2f}x ours' time")


if __name__ == "__main__":
    main()
