"""Large JPEGs are decoded smaller than they are, never below what a window needs, and boxes follow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from dettoolkit.config.detection import Mosaic, ZoomIn, ZoomOut
from dettoolkit.datasets.augment import DetectionTransform, least_of
from dettoolkit.datasets.classification_augment import EvalTransform, TrainTransform
from dettoolkit.datasets.coco import CocoDetection
from dettoolkit.datasets.coco_annotations import CocoAnnotations
from dettoolkit.datasets.data_report import BadImageError
from dettoolkit.datasets.image_folder import ImageFolder, ImageFolderFiles
from dettoolkit.datasets.images import read_image, read_reduced
from dettoolkit.datasets.strong_augment import StrongTransform
from dettoolkit.tasks import spec_of

READING: dict[str, Any] = {"on_bad_image": "error", "max_bad_images": 0, "max_megapixels": 100.0, "seed": 0}


def photo(path: Path, hw: tuple[int, int], box: tuple[int, int, int, int] | None = None) -> None:
    """Write a smooth picture, with a white box."""
    rows, columns = np.mgrid[: hw[0], : hw[1]]
    image = np.stack([rows * 120 // hw[0], columns * 120 // hw[1], (rows + columns) % 90], -1).astype(
        np.uint8
    )
    if box is not None:
        left, top, width, height = box
        image[top : top + height, left : left + width] = 255
    assert cv2.imwrite(str(path), image[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, 98))


@pytest.mark.parametrize(
    ("hw", "least", "factor", "size"),
    [
        ((640, 960), (320, 320), 2, (320, 480)),
        ((639, 960), (320, 320), 1, (639, 960)),  # half of it would be a row too small
        ((641, 963), (320, 320), 2, (321, 482)),
        ((1280, 1283), (320, 320), 4, (320, 321)),
        ((2600, 2600), (320, 320), 8, (325, 325)),
        ((9000, 3000), (100, 100), 8, (1125, 375)),  # JPEG knows no smaller one
        ((300, 300), (320, 320), 1, (300, 300)),
        ((1280, 1283), (640, 100), 2, (640, 642)),
    ],
)
def test_a_jpeg_is_as_small_as_it_may_be(
    tmp_path: Path, hw: tuple[int, int], least: tuple[int, int], factor: int, size: tuple[int, int]
) -> None:
    photo(tmp_path / "photo.jpg", hw)
    reduced = read_reduced(tmp_path / "photo.jpg", least_hw=least)
    assert (reduced.hw, reduced.image.shape) == (hw, (*size, 3))
    assert reduced.scale_xy == (1 / factor, 1 / factor)


def test_pixels_are_means_of_the_files(tmp_path: Path) -> None:
    photo(tmp_path / "photo.jpg", (640, 960), (200, 100, 240, 160))
    whole = read_image(tmp_path / "photo.jpg").astype(np.float64)
    reduced = read_reduced(tmp_path / "photo.jpg", least_hw=(160, 240))
    assert reduced.scale_xy == (0.25, 0.25)
    means = whole.reshape(160, 4, 240, 4, 3).mean((1, 3))
    assert np.abs(reduced.image - means).mean() < 2


@pytest.mark.parametrize("kind", ["png", "gray", "turned"])
def test_other_images(tmp_path: Path, kind: str) -> None:
    """A PNG, and a JPEG whose annotations are for it as it is shown, are read whole."""
    from PIL import Image

    path = tmp_path / ("photo.png" if kind == "png" else "photo.jpg")
    pixels = np.random.default_rng(0).integers(0, 255, (400, 800, 3), np.uint8)
    picture = Image.fromarray(pixels[..., 0] if kind == "gray" else pixels)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right to show it
    picture.save(path, **({"exif": exif} if kind == "turned" else {}))
    expected = (800, 400) if kind == "turned" else None
    reduced = read_reduced(path, least_hw=(100, 100), expected_hw=expected)
    if kind == "gray":
        assert reduced.image.shape == (100, 200, 3)
        assert (reduced.image[..., 0] == reduced.image[..., 2]).all()
        return
    np.testing.assert_array_equal(reduced.image, read_image(path, expected_hw=expected))
    assert reduced.scale_xy == (1, 1)
    assert reduced.hw == reduced.image.shape[:2]


def test_what_is_refused_stays_refused(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    photo(path, (640, 960))
    with pytest.raises(BadImageError, match=r"0\.6 megapixels"):
        read_reduced(path, least_hw=(64, 64), max_megapixels=0.5)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(BadImageError, match="truncated"):
        read_reduced(path, least_hw=(64, 64))


def coco(folder: Path, transform: Any, *, reduced: bool) -> CocoDetection:
    """Return a data set of one photo of 1283x1601 with one box."""
    photo(folder / "1.jpg", (1283, 1601), (801, 403, 402, 305))
    text = {
        "images": [{"id": 1, "file_name": "1.jpg", "height": 1283, "width": 1601}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [801, 403, 402, 305], "area": 1, "iscrowd": 0}
        ],
        "categories": [{"id": 1, "name": "box"}],
    }
    (folder / "labels.json").write_text(json.dumps(text))
    annotations = CocoAnnotations.load(folder / "labels.json", images=folder, label_map="contiguous")
    return CocoDetection(
        annotations=annotations, transform=transform, drop_empty=False, reduced=reduced, **READING
    )


STRONG = StrongTransform(
    input_hw=(96, 96),
    mosaic=Mosaic(),
    zoom_in=ZoomIn(probability=1.0),
    zoom_out=ZoomOut(),
    max_aspect=1.25,
    flip=True,
    color=False,
)


@pytest.mark.parametrize(
    "transform",
    [
        DetectionTransform(augment="none", input_hw=(96, 96)),
        DetectionTransform(augment="ssdlite", input_hw=(96, 96)),
        STRONG,
    ],
    ids=["none", "ssdlite", "strong"],
)
def test_boxes_stay_on_their_objects(tmp_path: Path, transform: Any) -> None:
    """The white box is where the box says, within a pixel, reduced or not, after every augmentation."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole, reduced = (
        coco(tmp_path / "a", transform, reduced=False),
        coco(tmp_path / "b", transform, reduced=True),
    )
    assert reduced.read(0).image.shape[0] < whole.read(0).image.shape[0] == 1283
    for epoch in range(20):
        for data in (whole, reduced):
            sample = data[(0, epoch)]  # type: ignore[index]
            assert sample["original_hw"] == (1283, 1601)
            assert sample["problems"] == []
            for left, top, right, bottom in sample["boxes_xyxy"].tolist():
                rows, columns = np.nonzero(sample["image"].min(0).values.numpy() > 200)
                found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
                np.testing.assert_allclose(found, (left, top, right, bottom), atol=1.5)


def test_windows_are_never_enlarged() -> None:
    assert least_of((320, 320), 0.3) == (1067, 1067)
    assert DetectionTransform(augment="none", input_hw=(320, 640)).least_hw == (320, 640)
    # Objects up to three times as large, in a window 1.25 times as wide or high for its height or width.
    assert STRONG.least_hw == (322, 322)  # 96 * 3 * 1.25 ** 0.5


def test_label_maps_need_whole_images(tiny_joint: Any) -> None:
    recipe = tiny_joint.load(Path("runs")).recipe
    run = spec_of(recipe).training_run("tiny", recipe, pretrained=False)
    assert run.train.least_hw is None


@pytest.mark.parametrize(
    ("setting", "expected"),
    [("never", (False, False)), ("training", (True, False)), ("always", (True, True))],
)
def test_the_recipe_says_which_sets_are_reduced(
    tiny: Any, tmp_path: Path, setting: str, expected: tuple[bool, bool]
) -> None:
    recipe = tiny.load(tmp_path, f"data.reduced_decoding={setting}").recipe
    run = spec_of(recipe).training_run("tiny", recipe, pretrained=False)
    assert (run.train.least_hw is not None, run.val.least_hw is not None) == expected


def test_a_classifiers_smallest_window_is_not_enlarged(tmp_path: Path) -> None:
    """torchvision draws the window's area and aspect: the narrowest one of a square image."""
    transform = TrainTransform(
        input_hw=(32, 32), area=(0.25, 1.0), aspect=(0.75, 4 / 3), antialias=True, flip=False, changes=[]
    )
    assert transform.least_hw == (74, 74)  # 32 / (0.5 * 0.75 ** 0.5)
    assert EvalTransform(input_hw=(32, 32), resize=36, antialias=True).least_hw == (36, 36)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        photo(tmp_path / name / "1.jpg", (300, 400))
    files = ImageFolderFiles.load(tmp_path.parent, images=tmp_path.name, names=None)
    data = ImageFolder(files=files, transform=transform, reduced=True, **READING)
    sample = data[0]
    assert sample["image"].shape == (3, 32, 32)
    assert sample["original_hw"] == (300, 400)
