"""The generated scenes: their files against each other, against pycocotools, and against their promises."""

import contextlib
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools.coco import COCO

from dettoolkit.datasets.scenes.folder import write_scenes
from dettoolkit.datasets.scenes.render import MIN_VISIBLE_PIXELS, Scene, draw_scene
from dettoolkit.datasets.scenes.stage import CATEGORIES

SMALL: dict[str, Any] = {"train_images": 4, "val_images": 3, "image_hw": (96, 192), "seed": 0}
# labelId: (name, has instances), from cityscapesScripts' helpers/labels.py
CITYSCAPES = {
    7: ("road", False),
    8: ("sidewalk", False),
    11: ("building", False),
    17: ("pole", False),
    19: ("traffic light", False),
    20: ("traffic sign", False),
    21: ("vegetation", False),
    23: ("sky", False),
    24: ("person", True),
    25: ("rider", True),
    26: ("car", True),
    33: ("bicycle", True),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes") / "made" / "on" / "the way"
    write_scenes(folder, **SMALL)
    return folder


@pytest.fixture(scope="module")
def many() -> list[Scene]:
    return [draw_scene(seed=0, split="train", index=index, image_hw=(64, 128)) for index in range(160)]


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def read(path: Path) -> NDArray[Any]:
    return np.asarray(cv2.imread(str(path), cv2.IMREAD_UNCHANGED))


def coco(root: Path, split: str) -> COCO:
    with contextlib.redirect_stdout(None):
        return COCO(str(root / "annotations" / f"instances_{split}2017.json"))


def test_both_layouts_hold_the_same_pictures(root: Path) -> None:
    for split, count in (("train", 4), ("val", 3)):
        figures = {path.read_bytes() for path in (root / f"{split}2017").iterdir()}
        assert len(figures) == count
        cityscapes = sorted((root / "leftImg8bit" / split).glob("*/*_leftImg8bit.jpg"))
        assert {path.read_bytes() for path in cityscapes} == figures
        for path in cityscapes:
            assert path.name.startswith(path.parent.name + "_")
            for kind, dtype in (("labelIds", np.uint8), ("instanceIds", np.uint16)):
                stem = path.name.replace("leftImg8bit.jpg", f"gtFine_{kind}.png")
                ids = read(root / "gtFine" / split / path.parent.name / stem)
                assert ids.shape == (96, 192)
                assert ids.dtype == dtype
            assert read(path).shape == (96, 192, 3)


def test_written_labels_are_the_drawn_ones(root: Path) -> None:
    scene = draw_scene(seed=0, split="val", index=1, image_hw=(96, 192))
    folder = root / "gtFine" / "val" / "sandhaven"
    for kind, drawn in (("labelIds", scene.label_ids), ("instanceIds", scene.instance_ids)):
        name = f"sandhaven_000000_000019_gtFine_{kind}.png"
        np.testing.assert_array_equal(read(folder / name), drawn)
    picture = read(root / "val2017" / "000001000002.jpg")[..., ::-1]
    assert np.abs(picture.astype(int) - scene.image).mean() < 2.5  # JPEG at quality 95


def test_pycocotools_reads_the_json(root: Path) -> None:
    train, val = coco(root, "train"), coco(root, "val")
    assert {item["id"]: item["name"] for item in train.loadCats(train.getCatIds())} == CATEGORIES
    assert set(CATEGORIES) <= set(CITYSCAPES)
    assert all(CITYSCAPES[key][0] == name for key, name in CATEGORIES.items())
    assert not set(train.getImgIds()) & set(val.getImgIds())
    for data, split in ((train, "train"), (val, "val")):
        assert {info["file_name"] for info in data.dataset["images"]} == {
            path.name for path in (root / f"{split}2017").iterdir()
        }
        assert [a["id"] for a in data.dataset["annotations"]] == list(range(1, len(data.anns) + 1))
        for annotation in data.loadAnns(data.getAnnIds()):
            assert annotation["category_id"] in CATEGORIES
            x, y, width, height = annotation["bbox"]
            assert min(x, y) >= 0
            assert x + width <= 192
            assert y + height <= 96
            assert MIN_VISIBLE_PIXELS <= annotation["area"] <= width * height


def test_boxes_are_tight_around_visible_instances(many: list[Scene]) -> None:
    instances = 0
    for scene in many:
        for item in scene.objects:
            mask = scene.instance_ids == item.instance_id
            if CITYSCAPES[item.label_id][1] and not item.crowd:
                assert item.instance_id // 1000 == item.label_id
                rows, columns = np.nonzero(mask)
                x, y, width, height = item.bbox_xywh
                assert (x, y) == (columns.min(), rows.min())
                assert (x + width, y + height) == (columns.max() + 1, rows.max() + 1)
                assert item.area == mask.sum()
                instances += 1
            else:  # signs, lights and groups carry the plain labelId, several may be in one scene
                assert item.instance_id == item.label_id
                x, y, width, height = (int(side) for side in item.bbox_xywh)
                assert item.area <= mask[y : y + height, x : x + width].sum()
    assert instances > 300


def test_label_and_instance_ids_are_cityscapes(many: list[Scene]) -> None:
    seen: set[int] = set()
    for scene in many:
        seen |= set(np.unique(scene.label_ids).tolist())
        single = scene.instance_ids >= 1000
        np.testing.assert_array_equal(scene.instance_ids[single] // 1000, scene.label_ids[single])
        np.testing.assert_array_equal(scene.instance_ids[~single], scene.label_ids[~single])
        with_instances = [label for label, (_, has) in CITYSCAPES.items() if has]
        assert np.isin(scene.label_ids[single], with_instances).all()
    assert seen == set(CITYSCAPES)


def test_crowds_and_empty_scenes_are_there(many: list[Scene]) -> None:
    crowds = [item for scene in many for item in scene.objects if item.crowd]
    assert 3 <= len(crowds) <= 30
    assert {item.label_id for item in crowds} == {24}
    counts = [len(scene.objects) for scene in many]
    assert min(counts) == 0
    assert 4 <= np.mean(counts) <= 8


def test_sizes_follow_the_picture() -> None:
    """Objects are large enough for a small detector: a quarter of a picture's height, typically."""
    heights = [
        item.bbox_xywh[3] / 128
        for index in range(40)
        for item in draw_scene(seed=1, split="train", index=index, image_hw=(128, 256)).objects
        if item.label_id in (24, 25, 26) and not item.crowd
    ]
    assert 0.2 < np.median(heights) < 0.5


@pytest.mark.parametrize("image_hw", [(97, 161), (32, 32), (64, 40), (33, 300)])
def test_any_size_works(image_hw: tuple[int, int]) -> None:
    for index in range(6):
        scene = draw_scene(seed=3, split="train", index=index, image_hw=image_hw)
        assert scene.image.shape == (*image_hw, 3)
        assert scene.image.dtype == np.uint8
        assert scene.label_ids.shape == scene.instance_ids.shape == image_hw
        assert set(np.unique(scene.label_ids).tolist()) <= set(CITYSCAPES)


def test_same_seed_gives_the_same_bytes(root: Path, tmp_path: Path) -> None:
    write_scenes(tmp_path / "again", **SMALL)
    assert files(tmp_path / "again") == files(root)


def test_scenes_do_not_depend_on_their_number(root: Path, tmp_path: Path) -> None:
    write_scenes(tmp_path / "fewer", **{**SMALL, "train_images": 2, "val_images": 1})
    fewer, all_files = files(tmp_path / "fewer"), files(root)
    shared = {name for name in fewer if name.endswith((".jpg", ".png"))}
    assert len(shared) == 3 * 4
    assert all(fewer[name] == all_files[name] for name in shared)
    name = "annotations/instances_train2017.json"
    some, every = json.loads(fewer[name]), json.loads(all_files[name])
    for key in ("images", "annotations"):
        assert some[key] == every[key][: len(some[key])]


def test_seeds_and_splits_differ() -> None:
    drawn = {
        draw_scene(seed=seed, split=split, index=index, image_hw=(48, 96)).image.tobytes()
        for seed in (0, 1)
        for split in ("train", "val")
        for index in (0, 1)
    }
    assert len(drawn) == 8
