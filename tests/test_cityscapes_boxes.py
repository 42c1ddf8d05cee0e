"""Boxes of Cityscapes' instance files: by hand, against pycocotools and the scenes' JSON; in a recipe."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools import mask

from dettoolkit.config import load_recipe
from dettoolkit.datasets.cityscapes_boxes import BOXED, find_boxes, load_boxes
from dettoolkit.datasets.cityscapes_labels import LABELS
from dettoolkit.datasets.coco_annotations import CocoAnnotations
from dettoolkit.datasets.data_report import BadImageError
from dettoolkit.datasets.scenes.folder import as_in_cityscapes, write_scenes
from dettoolkit.datasets.segmentation_files import SegmentationFiles
from dettoolkit.detection.splits import load_annotations
from dettoolkit.doctor.examination import silent
from dettoolkit.tasks import spec_of

NAMES = ["person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"]
IDS = [24, 25, 26, 27, 28, 31, 32, 33]
CITYSCAPES = (
    "data.type=cityscapes",
    "data.train={images: leftImg8bit/train, annotations: gtFine/train}",
    "data.val={images: leftImg8bit/val, annotations: gtFine/val}",
)


def load(root: Path, split: str = "train", **changes: Any) -> CocoAnnotations:
    settings = {"label_map": "contiguous", "max_megapixels": 1.0} | changes
    return load_boxes(root, images=f"leftImg8bit/{split}", labels=f"gtFine/{split}", **settings)


def write(
    root: Path, name: str, instances: NDArray[Any] | None, image_hw: tuple[int, int] | None = None
) -> Path:
    """Write an image of `image_hw`, or the instances' size, its labels and instances, if there are any."""
    image_hw = image_hw or instances.shape
    instance_path = root / "gtFine" / "train" / f"{name}_gtFine_instanceIds.png"
    label_path = instance_path.with_name(f"{Path(name).name}_gtFine_labelIds.png")
    image_path = root / "leftImg8bit" / "train" / f"{name}_leftImg8bit.png"
    for path in (instance_path, image_path):
        path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(image_path), np.full((*image_hw, 3), 90, np.uint8))
    cv2.imwrite(str(label_path), np.zeros(image_hw, np.uint8))
    if instances is not None:
        cv2.imwrite(str(instance_path), instances)
    return instance_path


def filled(hw: tuple[int, int], *areas: tuple[int, int, int, int, int]) -> NDArray[np.uint16]:
    """Draw areas (value, left, top, right, bottom), right and bottom outside, one over the other, on road."""
    values = np.full(hw, 7, np.uint16)
    for value, left, top, right, bottom in areas:
        values[top:bottom, left:right] = value
    return values


# By hand


def test_boxed_classes_are_those_that_cityscapes_evaluates_instances_of() -> None:
    assert [(label.name, label.id) for label in BOXED] == list(zip(NAMES, IDS, strict=True))


def test_boxes_areas_and_crowds_of_tiny_masks(tmp_path: Path) -> None:
    whole = filled((3, 4), (26000, 0, 0, 4, 3))
    pixel = filled((5, 6), (33007, 5, 4, 6, 5))
    # A car that a pole cuts in two, another car, a group of people in two places, a person
    several = filled(
        (8, 10),
        (26000, 1, 2, 8, 5),
        (17, 4, 0, 5, 8),
        (26012, 0, 7, 2, 8),
        (24, 8, 0, 9, 1),
        (24, 9, 6, 10, 8),
        (24999, 6, 6, 8, 8),
    )
    nothing = filled((8, 10), (29000, 0, 0, 5, 5), (30, 5, 5, 9, 8), (23, 0, 0, 1, 1), (65535, 9, 0, 10, 1))
    for name, instances in {"b/2": whole, "a/1": several, "b/1": pixel, "c/1": nothing}.items():
        write(tmp_path, name, instances)
    found = load(tmp_path)

    names = ["a/1", "b/1", "b/2", "c/1"]  # sorted; c/1 has a caravan and trailers, which are not scored
    assert list(found.file_names) == [f"{name}_leftImg8bit.png" for name in names]
    assert [found.image_path(row).is_file() for row in range(4)] == [True] * 4
    assert found.image_ids.tolist() == [1, 2, 3, 4]
    assert found.image_hw.tolist() == [[8, 10], [5, 6], [3, 4], [8, 10]]
    assert found.offsets.tolist() == [0, 4, 5, 6, 6]
    assert (found.class_names, found.category_ids) == (NAMES, IDS)
    assert found.boxes_xywh.tolist() == [
        [8, 0, 2, 8],  # the group: columns 8 and 9, rows 0 to 7
        [6, 6, 2, 2],
        [1, 2, 7, 3],
        [0, 7, 2, 1],
        [5, 4, 1, 1],
        [0, 0, 4, 3],
    ]
    assert found.areas.tolist() == [1 + 2, 4, 21 - 3, 2, 1, 12]
    assert [NAMES[label] for label in found.labels] == ["person", "person", "car", "car", "bicycle", "car"]
    assert found.iscrowd.tolist() == [True, False, False, False, False, False]
    assert found.usable.tolist() == [False, True, True, True, True, True]
    assert found.annotation_ids.tolist() == [1, 2, 3, 4, 5, 6]
    assert found.empty.tolist() == [False, False, False, True]
    assert found.problems.counts == {}


def test_eight_bits_hold_groups_only() -> None:
    found = find_boxes(filled((4, 4), (33, 1, 1, 3, 4)).astype(np.uint8))
    assert found.label_ids.tolist() == [33]
    assert found.boxes_xywh.tolist() == [[1, 1, 2, 3]]
    assert found.iscrowd.tolist() == [True]
    assert len(find_boxes(np.full((4, 4), 7, np.uint8)).areas) == 0


@pytest.mark.parametrize("seed", range(6))
def test_boxes_and_areas_are_those_of_pycocotools_for_each_mask(seed: int) -> None:
    rng = np.random.default_rng(seed)
    kinds = [label.id for label in LABELS]
    values = np.zeros((47, 61), np.uint16)
    for _ in range(60):  # blobs over each other, so that some are cut into pieces
        kind = int(rng.choice(kinds))
        value = kind if rng.random() < 0.3 else 1000 * kind + int(rng.integers(4))
        center = int(rng.integers(61)), int(rng.integers(47))
        cv2.ellipse(values, center, (int(rng.integers(1, 15)), int(rng.integers(1, 9))), 0, 0, 360, value, -1)
    found = find_boxes(values)
    wanted = [v for v in np.unique(values).tolist() if (v if v < 1000 else v // 1000) in IDS]
    assert found.label_ids.tolist() == [v if v < 1000 else v // 1000 for v in wanted]
    assert found.iscrowd.tolist() == [v < 1000 for v in wanted]
    coded = [mask.encode(np.asfortranarray(values == v, np.uint8)) for v in wanted]
    assert len(coded) > 3
    np.testing.assert_array_equal(found.boxes_xywh, mask.toBbox(coded))
    np.testing.assert_array_equal(found.areas, mask.area(coded))


def test_ids_are_slots_if_the_recipe_wants_that(tmp_path: Path) -> None:
    write(tmp_path, "a/1", filled((8, 10), (31002, 1, 1, 4, 4)))
    found = load(tmp_path, label_map="ids")
    assert len(found.class_names) == 33
    assert found.class_names[30] == "train"
    assert found.labels.tolist() == [30]


# Against the scenes' own JSON


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("boxes") / "scenes"
    write_scenes(root, train_images=60, val_images=5, image_hw=(96, 192), seed=0)
    return root


@pytest.mark.parametrize("split", ["train", "val"])
def test_scenes_have_the_boxes_of_their_json(scenes: Path, split: str) -> None:
    """Ours are the JSON's people, riders, cars and crowds; and bicycles and hardly visible objects.

    The JSON leaves these out, and has signs and lights, which instance files do not tell apart.
    """
    ours = load(scenes, split)
    document = json.loads((scenes / "annotations" / f"instances_{split}2017.json").read_text())
    same = {
        each["id"]: as_in_cityscapes(scenes / f"{split}2017" / each["file_name"])
        for each in document["images"]
    }
    keys = {
        id_: f"{path.parent.name}/{path.name.removesuffix('_leftImg8bit.jpg')}" for id_, path in same.items()
    }
    assert sorted(keys.values()) == [name.removesuffix("_leftImg8bit.jpg") for name in ours.file_names]
    wanted = {
        (keys[each["image_id"]], each["category_id"], *each["bbox"], each["area"], bool(each["iscrowd"]))
        for each in document["annotations"]
        if each["category_id"] in (24, 25, 26)
    }
    ids = np.asarray(ours.category_ids)[ours.labels]
    columns = (ours.rows, ids, *ours.boxes_xywh.T, ours.areas, ours.iscrowd)
    found = {
        (ours.file_names[row].removesuffix("_leftImg8bit.jpg"), *values)
        for row, *values in zip(*(each.tolist() for each in columns), strict=True)
    }
    assert len(wanted) > (100 if split == "train" else 5)
    assert wanted <= found
    rest = [each for each in found - wanted if each[1] != 33]
    assert len(rest) < len(wanted) / 20
    assert len(wanted) + len(rest) < len(found)  # there are bicycles


# Wrong data


def test_data_without_instances_are_refused(tmp_path: Path, shared_data: Path) -> None:
    with pytest.raises(
        FileNotFoundError,
        match=r"(?s)^(\d+) of \1 images have no instance file, which boxes are made of; the first that is "
        r"missing is .*/train/0001TP/\w+_gtFine_instanceIds\.png\. .*gtFine_trainvaltest\.zip.*type=coco",
    ):
        load(shared_data / "camvid_cityscapes")
    write(tmp_path, "a/1", filled((4, 4)))
    write(tmp_path, "a/2", None, (4, 4))
    with pytest.raises(FileNotFoundError, match=r"^1 of 2 images .*a/2_gtFine_instanceIds\.png"):
        load(tmp_path)


def test_empty_folders_are_refused(tmp_path: Path) -> None:
    for folder in ("leftImg8bit/train", "gtFine/train"):
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"leftImg8bit/train contains no \*_leftImg8bit\.png"):
        load(tmp_path)


def test_unreadable_files_and_other_sizes_are_refused(tmp_path: Path) -> None:
    damaged = write(tmp_path, "a/1", filled((4, 4)))
    damaged.write_bytes(damaged.read_bytes()[:-20])
    with pytest.raises(BadImageError, match=r"a/1_gtFine_instanceIds\.png: file is truncated.*unpack"):
        load(tmp_path)
    write(tmp_path, "a/1", filled((40, 40)))
    with pytest.raises(BadImageError, match=r"a/1_gtFine_instanceIds\.png: .*data\.max_megapixels"):
        load(tmp_path, max_megapixels=0.001)
    write(tmp_path, "a/1", filled((4, 6)), image_hw=(8, 12))
    with pytest.raises(
        ValueError,
        match=r"a/1_gtFine_instanceIds\.png is 4 x 6, but its image .*/1_leftImg8bit\.png is 8 x 12 \(height",
    ):
        load(tmp_path)
    (tmp_path / "leftImg8bit/train/a/1_leftImg8bit.png").write_bytes(b"no image")  # a matter of reading it
    assert load(tmp_path).image_hw.tolist() == [[4, 6]]


def test_left_out_files_are_reported(tmp_path: Path) -> None:
    write(tmp_path, "a/1", filled((4, 4), (26000, 0, 0, 2, 2)))
    shutil.copy(
        tmp_path / "leftImg8bit/train/a/1_leftImg8bit.png", tmp_path / "leftImg8bit/train/a/2_leftImg8bit.png"
    )
    assert load(tmp_path).problems.counts == {"image without label": 1}


# In a recipe


def recipe_at(tiny: Any, data: Path, out: Path, *overrides: str) -> Any:
    return tiny.load(out, *CITYSCAPES, f"data.root={data}", *overrides).recipe


def test_a_detector_trains_and_is_scored_on_them(
    tiny: Any, tiny_segmentation: Any, tmp_path: Path, alone: None
) -> None:
    data = f"data.root={tiny_segmentation.data}"
    run_dir, score = tiny.train(tmp_path, *CITYSCAPES, data, "trainer.max_epochs=1")
    assert 0 <= score.numbers["AP"] <= 1
    evaluation = json.loads((run_dir / "evaluation.json").read_text())
    assert evaluation["about"]["scored_on"].endswith("gtFine/val")
    assert evaluation["about"]["images"] == 5
    predictions = json.loads((run_dir / "predictions.json").read_text())
    assert {each["category_id"] for each in predictions} <= set(IDS)
    assert {each["image_id"] for each in predictions} <= {1, 2, 3, 4, 5}


def test_the_doctor_examines_them(tiny: Any, tiny_segmentation: Any, tmp_path: Path) -> None:
    recipe = recipe_at(tiny, tiny_segmentation.data, tmp_path)
    examination = spec_of(recipe).examine(recipe, deep=True, progress=silent)
    found = {each.id: each for each in examination.findings}
    assert "class-empty" in found  # of the 8 classes, the set has two
    assert [len(images) for images in examination.images.values()] == [8, 5]
    assert not [each.text for each in found.values() if each.severity == "error"]


def test_pixels_of_the_tiny_set_are_in_their_boxes(tiny: Any, tiny_segmentation: Any, tmp_path: Path) -> None:
    annotations = load_annotations(recipe_at(tiny, tiny_segmentation.data, tmp_path).data, "train")
    files = SegmentationFiles.load(
        tiny_segmentation.data,
        images="leftImg8bit/train",
        labels="gtFine/train",
        classes=None,
        layout="cityscapes",
    )
    assert [annotations.image_path(row) for row in range(len(annotations))] == files.image_paths
    assert len(annotations.labels) > 16


def test_missing_folders_say_how_they_are_named(tiny: Any, tmp_path: Path) -> None:
    recipe = tiny.load(tmp_path, "data.type=cityscapes", f"data.root={tmp_path / 'none'}").recipe
    with pytest.raises(
        FileNotFoundError,
        match=r"(?s)no Cityscapes at data\.root=.*train +\(missing\).*www\.cityscapes-dataset\.com.*"
        r"data\.train\.images=leftImg8bit/train data\.train\.annotations=gtFine/train.*overlays/scenes\.yaml",
    ):
        spec_of(recipe).training_run("tiny", recipe, pretrained=True)


def test_the_model_zoo_counts_their_classes(tmp_path: Path) -> None:
    recipe = load_recipe("ssdlite_mnv3_large", list(CITYSCAPES)).recipe
    assert spec_of(recipe).zoo_size(recipe) == (8, (320, 320))
