"""datasets/cityscapes.py and what it is made of: classes, files, label figures, samples and batches."""

from __future__ import annotations

import hashlib
import pickle
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from dettoolkit.cli import failures as errors
from dettoolkit.datasets.cityscapes import SegmentationDataset, collate
from dettoolkit.datasets.data_report import BadImageError, BadImages, DataReport, Problem
from dettoolkit.datasets.data_root import check_root
from dettoolkit.datasets.label_classes import (
    UNKNOWN,
    LabelClasses,
    LabelError,
    read_instances,
    read_labels,
    read_values,
)
from dettoolkit.datasets.samplers import EpochSampler, ResumableLoader, SampleKey, worker_init
from dettoolkit.datasets.scenes.folder import write_scenes
from dettoolkit.datasets.segmentation_augment import CenterCrop, EvalTransform, SegmentationTransform
from dettoolkit.datasets.segmentation_files import SegmentationFiles

HW = (24, 40)
CROP_HW = (16, 20)
OWN = LabelClasses.from_table(
    [("road", [1], None), ("car", [300, 3, 4], (1, 2, 3)), ("sky", [0], None)], ignore=[255, 77]
)


def augmented() -> SegmentationTransform:
    return SegmentationTransform(
        crop_hw=CROP_HW, base_hw=None, scale=(0.5, 2.0), scale_step=0.25, max_class_fraction=0.75,
        flip=True, color=True, rare_crops=0.0, class_weights=np.ones(19), mean_fill=(0.5, 0.5, 0.5),
    )  # fmt: skip


def cropped() -> CenterCrop:
    return CenterCrop(crop_hw=CROP_HW, mean_fill=(0.5, 0.5, 0.5))


def whole(eval_hw: tuple[int, int] | None = None) -> EvalTransform:
    return EvalTransform(eval_hw=eval_hw)


def official_labels() -> Any:
    return pytest.importorskip("cityscapesscripts.helpers.labels")


def pixels(hw: tuple[int, int] = HW, seed: int = 0, most: int = 34) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, most, hw, np.uint8)


def save(path: Path, values: NDArray[Any]) -> Path:
    """Write a picture; three channels are RGB."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), values[..., ::-1] if values.ndim == 3 else values)
    return path


def save_pair(
    root: Path, name: str, *, split: str = "train", hw: tuple[int, int] = HW, **options: Any
) -> None:
    """Write one image with labels as Cityscapes has them; `name` is city/stem."""
    picture = np.repeat(pixels(hw, most=255)[..., None], 3, axis=2)
    save(root / f"leftImg8bit/{split}/{name}_leftImg8bit{options.get('ending', '.png')}", picture)
    kind = options.get("kind", "gtFine_labelIds")
    save(root / f"gtFine/{split}/{name}_{kind}.png", options.get("labels", pixels(hw)))


NAMES = ("aachen/aachen_000000_000019", "aachen/aachen_000001_000019", "bonn/bonn_000000_000019")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a data set of three pairs in two cities, the last one with instances."""
    for seed, name in enumerate(NAMES):
        save_pair(tmp_path, name, labels=pixels(seed=seed))
    instances = pixels(seed=2).astype(np.uint16)
    instances[instances == 26] = 26003
    save(tmp_path / f"gtFine/train/{NAMES[2]}_gtFine_instanceIds.png", instances)
    return tmp_path


def load(root: Path, **changes: Any) -> SegmentationFiles:
    settings = {
        "images": "leftImg8bit/train",
        "labels": "gtFine/train",
        "classes": None,
        "layout": "cityscapes",
    }
    return SegmentationFiles.load(root, **settings | changes)


def load_folders(root: Path, **changes: Any) -> SegmentationFiles:
    return load(
        root, **{"images": "images", "labels": "labels", "classes": OWN, "layout": "folders"} | changes
    )


def dataset(files: SegmentationFiles, transform: Any = None, **changes: Any) -> SegmentationDataset:
    settings = {
        "on_bad_image": "error",
        "max_bad_images": 1,
        "max_megapixels": 10.0,
        "seed": 0,
        "with_instances": False,
    }
    return SegmentationDataset(files=files, transform=transform or cropped(), **settings | changes)


class TestClasses:
    def test_label_ids_map_as_the_official_table_says(self):
        official = official_labels()
        ours = LabelClasses.cityscapes()
        for value in range(256):
            label = official.id2label.get(value)
            wanted = UNKNOWN if label is None else label.trainId if 0 <= label.trainId < 19 else 255
            assert ours.lookup[value] == (255 if value == 255 else wanted)
        assert (ours.lookup[256:] == UNKNOWN).all()
        by_train_id = [official.trainId2label[train_id] for train_id in range(19)]
        assert ours.names == [label.name for label in by_train_id]
        assert ours.label_ids == [label.id for label in by_train_id]
        assert ours.colors == [label.color for label in by_train_id]
        assert ours.known_text() == "0-33, 255"

    def test_train_ids_are_the_same_classes(self):
        ours = LabelClasses.cityscapes(train_ids=True)
        assert ours.lookup[:19].tolist() == list(range(19))
        assert ours.lookup[255] == 255
        assert np.flatnonzero(ours.lookup != UNKNOWN).tolist() == [*range(19), 255]
        ids = LabelClasses.cityscapes()
        assert (ours.names, ours.label_ids, ours.colors) == (ids.names, ids.label_ids, ids.colors)
        assert not ours.same_as(ids)

    def test_further_ignored_values(self):
        assert LabelClasses.cityscapes(ignore=[34, 0]).known_text() == "0-34, 255"
        assert LabelClasses.cityscapes(train_ids=True, ignore=[254]).lookup[254] == 255
        with pytest.raises(ValueError, match=r"the id 7 is the class road .* and also in data.ignore"):
            LabelClasses.cityscapes(ignore=[7])

    def test_own_table(self):
        assert (OWN.names, OWN.label_ids) == (["road", "car", "sky"], [1, 300, 0])
        assert OWN.colors == [None, (1, 2, 3), None]
        assert [int(OWN.lookup[value]) for value in (1, 300, 3, 4, 0, 255, 77)] == [0, 1, 1, 1, 2, 255, 255]
        assert OWN.known_text() == "0-1, 3-4, 77, 255, 300"
        assert len(OWN) == 3

    def test_most_classes_that_fit(self):
        entries = [(f"c{value}", [value], None) for value in range(254)]
        table = LabelClasses.from_table(entries, ignore=[])
        assert table.lookup[253] == 253
        assert int((table.lookup != UNKNOWN).sum()) == 254

    def test_a_class_that_is_ignored_too(self):
        with pytest.raises(ValueError, match=r"the id 2 is the class b .*data.ignore: remove one"):
            LabelClasses.from_table([("a", [1], None), ("b", [2], None)], ignore=[9, 2])

    def test_another_order_of_the_same_classes(self):
        other = OWN.reordered(["sky", "road", "car"])
        assert (other.names, other.label_ids, other.colors[2]) == (
            ["sky", "road", "car"],
            [0, 1, 300],
            (1, 2, 3),
        )
        assert [int(other.lookup[value]) for value in (0, 1, 4, 77, 5)] == [0, 1, 2, 255, UNKNOWN]


class TestFiles:
    def test_pairs_in_order_of_name(self, root):
        files = load(root)
        assert len(files) == 3
        stems = [str(root / "{}/train" / name) for name in NAMES]
        assert [str(each) for each in files.image_paths] == [
            f"{stem.format('leftImg8bit')}_leftImg8bit.png" for stem in stems
        ]
        labels = [f"{stem.format('gtFine')}_gtFine_labelIds.png" for stem in stems]
        assert [str(each) for each in files.label_paths] == labels
        assert files.instance_paths == [None, None, Path(labels[2].replace("labelIds", "instanceIds"))]
        assert files.path == root / "gtFine/train"
        assert files.classes.same_as(LabelClasses.cityscapes())
        assert files.problems.counts == {}

    @pytest.mark.parametrize("ending", [".jpg", ".jpeg", ".JPG", ".PNG"])
    def test_endings_of_images(self, tmp_path, ending):
        save_pair(tmp_path, "x", ending=ending)
        assert len(load(tmp_path)) == 1

    def test_train_ids_are_known_by_name_and_label_ids_preferred(self, tmp_path):
        save_pair(tmp_path, "a/a", kind="gtFine_labelTrainIds", labels=pixels(most=19))
        files = load(tmp_path)
        assert files.classes.same_as(LabelClasses.cityscapes(train_ids=True))
        assert load(tmp_path, ignore=[254]).classes.lookup[254] == 255
        assert load(tmp_path, classes=OWN).classes is OWN
        save_pair(tmp_path, "a/a")
        assert [each.name for each in load(tmp_path).label_paths] == ["a_gtFine_labelIds.png"]
        save_pair(tmp_path, "a/b", kind="gtFine_labelTrainIds")
        assert load(tmp_path).problems.counts == {"image without label": 1}

    def test_coarse_labels_join_the_fine_ones(self, root):
        save(root / "leftImg8bit/train_extra/ulm/u_leftImg8bit.png", np.zeros((*HW, 3), np.uint8))
        save(root / "gtCoarse/train_extra/ulm/u_gtCoarse_labelIds.png", pixels())
        save(root / "gtCoarse/train_extra/ulm/v_gtCoarse_labelIds.png", pixels())
        coarse = load(root, images="leftImg8bit/train_extra", labels="gtCoarse/train_extra")
        both = SegmentationFiles.join([load(root), coarse])
        assert [each.name for each in both.label_paths[2:]] == [
            "bonn_000000_000019_gtFine_labelIds.png",
            "u_gtCoarse_labelIds.png",
        ]
        assert both.path == root
        assert both.problems.counts == {"label without image": 1}
        assert len(collate([dataset(both)[index] for index in range(4)])["label_map"]) == 4
        assert SegmentationFiles.join([coarse]).path == coarse.path

    def test_sets_of_different_classes_do_not_join(self, root):
        other = load(root, classes=OWN)
        with pytest.raises(
            ValueError, match=r"gtFine/train and .* cannot make one data set: .*labelTrainIds\?"
        ):
            SegmentationFiles.join([load(root), other])

    def test_files_without_a_partner_are_counted_and_named(self, root):
        alone = root / f"gtFine/train/{NAMES[0]}_gtFine_labelIds.png"
        alone.unlink()
        (root / f"leftImg8bit/train/{NAMES[2]}_leftImg8bit.png").unlink()
        files = load(root)
        assert len(files) == 1
        assert files.problems.counts == {"image without label": 1, "label without image": 1}
        summary = files.problems.summary()
        assert "2 problems (" in summary
        assert f"image without label: 1 (skipped)\n    {root}/leftImg8bit/train/{NAMES[0]}_left" in summary
        assert f"label without image: 1 (skipped)\n    {root}/gtFine/train/{NAMES[2]}_gtFine" in summary
        assert files.problems.to_json()["problems"][0]["image_id"] is None

    def test_no_pair_at_all_says_what_was_looked_for(self, tmp_path):
        save_pair(tmp_path, "a/a")
        (tmp_path / "gtFine/train/a").rename(tmp_path / "gtFine/train/b")
        wanted = r"a/a_leftImg8bit.png, expected .*gtFine/train/a/a_gtFine_labelIds.png, but the 1 labels"
        with pytest.raises(ValueError, match=rf"none of the 1 images .* for .*{wanted} .*b/a_gtFine"):
            load(tmp_path)

    @pytest.mark.parametrize(
        ("path", "message"),
        [
            (
                None,
                r"train contains no \*_leftImg8bit.png, .jpg or .jpeg in it or its city folders; it is empty",
            ),
            (
                "leftImg8bit/train/a/x.png",
                r"it contains 1 .png, such as .*train/a/x.png. Complete it, or correct",
            ),
            ("leftImg8bit/train/a/x_leftImg8bit.png", r"contains no \*_gtFine_labelIds.png or .*it is empty"),
        ],
    )
    def test_empty_folders(self, tmp_path, path, message):
        for kind in ("leftImg8bit", "gtFine"):
            (tmp_path / kind / "train").mkdir(parents=True)
        if path:
            save(tmp_path / path, np.zeros((2, 2, 3), np.uint8))
        with pytest.raises(FileNotFoundError, match=message):
            load(tmp_path)

    def test_labels_of_another_kind_are_named(self, tmp_path):
        save_pair(tmp_path, "a", kind="gtFine_color")
        (tmp_path / "gtFine/train/a_gtFine_polygons.json").touch()
        with pytest.raises(
            FileNotFoundError, match=r"contains no .*labelTrainIds.*; it contains 1 .png, 1 .json, such as"
        ):
            load(tmp_path)

    def test_missing_folder(self, root):
        with pytest.raises(FileNotFoundError, match=r"folder .*gtFine/val does not exist: .*data.\*.labels"):
            load(root, labels="gtFine/val")

    def test_two_files_for_one_image(self, root):
        save(root / f"leftImg8bit/train/{NAMES[0]}_leftImg8bit.jpg", np.zeros((*HW, 3), np.uint8))
        with pytest.raises(
            ValueError, match=r"_leftImg8bit.jpg and .*_leftImg8bit.png have the same image name"
        ):
            load(root)

    def test_links_are_followed_and_hidden_files_are_not_data(self, root):
        (root / "linked").symlink_to(root / "leftImg8bit")
        (root / "leftImg8bit/train/aachen/._aachen_000000_000019_leftImg8bit.png").touch()
        (root / "leftImg8bit/train/zoo").symlink_to(root / "leftImg8bit/train/bonn")
        (root / "elsewhere").mkdir()
        (root / "elsewhere/zurich_000000_000019_leftImg8bit.png").touch()
        (root / "leftImg8bit/train/zurich").symlink_to(root / "elsewhere")
        files = load(root, images="linked/train")
        assert len(files) == 3
        assert files.problems.counts == {
            "image without label": 1,  # the city elsewhere
            "link to something already listed": 1,
        }

    def test_any_two_folders(self, tmp_path):
        for name in ("b.jpg", "sub/a.png", "c.tif"):
            save(tmp_path / "images" / name, np.zeros((*HW, 3), np.uint8))
        for name in ("b.png", "sub/a.png", "lonely.png"):
            save(tmp_path / "labels" / name, pixels())
        files = load_folders(tmp_path)
        assert [each.relative_to(tmp_path).as_posix() for each in files.image_paths] == [
            "images/b.jpg",
            "images/sub/a.png",
        ]
        assert files.instance_paths == [None, None]
        assert files.problems.counts == {"image without label": 1, "label without image": 1}
        with pytest.raises(ValueError, match="images and labels are both in"):
            load_folders(tmp_path, labels="images")
        (tmp_path / "labels/b.png").rename(tmp_path / "labels/b_mask.png")
        (tmp_path / "labels/sub/a.png").unlink()
        with pytest.raises(
            ValueError, match=r"images/b.jpg, expected .*labels/b.png, .*such as .*labels/b_mask"
        ):
            load_folders(tmp_path)

    def test_real_data(self, shared_data):
        ids = (23, 11, 17, 7, 8, 21, 20, 13, 26, 24, 25)  # as the data's README says
        table = LabelClasses.from_table([(f"class {id_}", [id_], None) for id_ in ids], ignore=[0])
        for split, count in (("train", 367), ("val", 101), ("test", 233)):
            files = load(
                shared_data / "camvid_cityscapes", images=f"leftImg8bit/{split}", labels=f"gtFine/{split}",
                classes=table,
            )  # fmt: skip
            assert (len(files), files.problems.counts) == (count, {})
            assert files.instance_paths == [None] * count
        data = dataset(files, whole(), with_instances=True)
        batch = collate([data[index] for index in range(0, 233, 30)])
        assert set(batch["label_map"].unique().tolist()) == {*range(11), 255}
        assert (batch["instances"] == -1).all()

    def test_generated_scenes(self, tmp_path):
        write_scenes(tmp_path / "scenes", train_images=2, val_images=3, image_hw=(64, 96), seed=0)
        files = load(tmp_path / "scenes", images="leftImg8bit/val", labels="gtFine/val")
        assert (len(files), files.problems.counts) == (3, {})
        batch = collate([dataset(files, whole(), with_instances=True)[index] for index in range(3)])
        assert batch["images"].shape == (3, 3, 64, 96)
        values = np.stack([np.asarray(Image.open(path)) for path in files.label_paths])
        numbered = batch["instances"].numpy()
        np.testing.assert_array_equal(np.where(numbered >= 1000, numbered // 1000, numbered), values)


def png(values: NDArray[Any], *, depth: int, color_type: int, palette: bytes = b"") -> bytes:
    """Write a PNG by the specification alone: filter 0, `depth` bits a pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = values.shape
    bits = (values[..., None].astype(np.int64) >> np.arange(depth)[::-1]) & 1
    rows = np.packbits(bits.astype(np.uint8).reshape(height, -1), axis=1)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    colors = chunk(b"PLTE", palette) if palette else b""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + colors + chunk(b"IDAT", data) + chunk(b"IEND", b"")


class TestLabelPictures:
    @pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
    def test_gray_of_any_depth(self, tmp_path, depth):
        values = np.random.default_rng(depth).integers(0, 2**depth, (9, 13))
        (tmp_path / "x.png").write_bytes(png(values, depth=depth, color_type=0))
        read = read_values(tmp_path / "x.png")
        assert read.dtype == (np.uint16 if depth == 16 else np.uint8)
        np.testing.assert_array_equal(read, values)

    @pytest.mark.parametrize("depth", [1, 2, 4, 8])
    def test_palettes_give_indices_not_colors(self, tmp_path, depth):
        values = np.random.default_rng(depth).integers(0, 2**depth, (9, 13))
        palette = np.random.default_rng(0).integers(0, 255, 3 * 2**depth, np.uint8).tobytes()
        (tmp_path / "x.png").write_bytes(png(values, depth=depth, color_type=3, palette=palette))
        np.testing.assert_array_equal(read_values(tmp_path / "x.png"), values)

    def test_gray_with_alpha(self, tmp_path):
        values = pixels()
        Image.fromarray(np.stack([values, 255 - values], axis=-1), "LA").save(tmp_path / "x.png")
        np.testing.assert_array_equal(read_values(tmp_path / "x.png"), values)

    @pytest.mark.parametrize("mode", ["RGB", "RGBA"])
    def test_colors_are_refused(self, tmp_path, mode):
        path = tmp_path / "x.png"
        Image.new(mode, (4, 3)).save(path)
        with pytest.raises(
            LabelError, match=f"{path} is a color picture; expected a PNG whose values are class ids"
        ):
            read_labels(path, OWN)

    def test_16_bits_are_mapped(self, tmp_path):
        path = save(tmp_path / "x.png", np.array([[300, 3, 1], [0, 255, 77]], np.uint16))
        labels = read_labels(path, OWN)
        assert labels.dtype == np.uint8
        assert labels.tolist() == [[1, 1, 0], [2, 255, 255]]
        with pytest.raises(LabelError, match=r"neither a class nor ignored: 60000 \(1 pixels\);"):
            read_labels(save(path, np.array([[1, 60000]], np.uint16)), OWN)
        instances = read_instances(save(path, np.array([[26003, 7]], np.uint16)))
        assert (instances.dtype, instances.tolist()) == (np.int32, [[26003, 7]])

    def test_unknown_values_are_named_with_their_counts_and_the_remedy(self, tmp_path):
        values = np.zeros((5, 8), np.uint8)
        values[0, :3], values[1] = 34, 200
        path = save(tmp_path / "x.png", values)
        message = (
            r"x.png has values that are neither a class nor ignored: 34 \(3 pixels\), 200 \(8 pixels\); "
            r"known are 0-33, 255. Add them to data.ignore, or give them a class in data.classes"
        )
        with pytest.raises(LabelError, match=message):
            read_labels(path, LabelClasses.cityscapes())
        assert (read_labels(path, LabelClasses.cityscapes(ignore=[34, 200])) == 255).all()
        with pytest.raises(LabelError, match=r"109 \(1 pixels\) and 146 more; known are"):
            read_labels(
                save(path, np.arange(256, dtype=np.uint8)[None]),
                LabelClasses.from_table([("a", [*range(100)], None)], ignore=[]),
            )

    def test_damage_is_found_wherever_it_is(self, tmp_path):
        path, values = tmp_path / "x.png", np.kron(pixels((6, 8)), np.ones((8, 8), np.uint8))
        palette = np.random.default_rng(0).integers(0, 255, 768, np.uint8).tobytes()
        pixels_at = 33 + 12 + 768  # after the header and the palette, whose colors do not matter
        for content, first in (
            (cv2.imencode(".png", values)[1].tobytes(), 33),
            (png(values, depth=8, color_type=3, palette=palette), pixels_at),
        ):
            for at in range(first, len(content) - 16, 7):
                broken = bytearray(content)
                broken[at] ^= 0x55
                path.write_bytes(bytes(broken))
                reasons = []
                for _ in range(2):
                    with pytest.raises(BadImageError, match=r"cannot be decoded|truncated") as caught:
                        read_values(path)
                    reasons.append(str(caught.value))
                assert reasons[0] == reasons[1]  # for a file to count once

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "file is empty"),
            (None, "file does not exist"),
            (b"<html>", "is not a PNG, as label files have to be .starts with b'<html>'"),
            (b"\x89PNG\r\n\x1a\n\0\0\0\0IEND\0\0\0\0", "is not a PNG"),
            (cv2.imencode(".jpg", np.zeros((9, 9), np.uint8))[1].tobytes(), "is not a PNG"),
            (cv2.imencode(".png", np.zeros((9, 9), np.uint8))[1].tobytes()[:-5], "truncated or damaged"),
        ],
    )
    def test_no_label_picture(self, tmp_path, content, message):
        if content is not None:
            (tmp_path / "x.png").write_bytes(content)
        with pytest.raises(BadImageError, match=message):
            read_labels(tmp_path / "x.png", OWN)


class TestSamples:
    def test_training_sample_and_batch(self, root):
        data = dataset(load(root))
        assert len(data) == 3
        batch = collate([data[index] for index in (2, 0)])
        assert set(batch) == {
            "images", "label_map", "label_map_hw", "image_ids", "files", "original_hw", "bad_images",
            "problems",
        }  # fmt: skip
        assert (batch["images"].shape, batch["images"].dtype) == ((2, 3, *CROP_HW), torch.uint8)
        assert (batch["label_map"].shape, batch["label_map"].dtype) == ((2, *CROP_HW), torch.uint8)
        assert batch["label_map_hw"].tolist() == [[*CROP_HW]] * 2
        assert batch["image_ids"].tolist() == [2, 0]
        assert batch["original_hw"].tolist() == [[*HW]] * 2
        assert batch["bad_images"] == batch["problems"] == []
        assert all(batch[name].dtype == torch.int64 for name in ("label_map_hw", "image_ids", "original_hw"))

    def test_labels_are_what_the_official_table_makes_of_the_file(self, root):
        official = official_labels()
        train_ids = np.array([official.id2label[value].trainId for value in range(34)])
        for seed, sample in enumerate(dataset(load(root), whole())[index] for index in range(3)):
            np.testing.assert_array_equal(sample["label_map"].numpy(), train_ids[pixels(seed=seed)])
            np.testing.assert_array_equal(sample["image"][0].numpy(), pixels(most=255))
        for name in NAMES:  # the same again as the official script would have written it
            path = root / f"gtFine/train/{name}_gtFine_labelIds.png"
            save(
                path.with_name(path.name.replace("labelIds", "labelTrainIds")),
                train_ids[read_values(path)].astype(np.uint8),
            )
            path.unlink()
        again = collate([dataset(load(root), whole())[index] for index in range(3)])
        wanted = np.stack([train_ids[pixels(seed=seed)] for seed in range(3)])
        np.testing.assert_array_equal(again["label_map"].numpy(), wanted)

    def test_validation_batch_keeps_labels_at_their_size(self, root):
        save_pair(root, "bonn/tall", hw=(50, 30), labels=np.full((50, 30), 7, np.uint8))
        files = load(root)
        batch = collate([dataset(files, whole((32, 48)), with_instances=True)[index] for index in (2, 3)])
        assert batch["images"].shape == (2, 3, 32, 48)
        assert batch["label_map"].shape == batch["instances"].shape == (2, 50, 40)
        assert batch["label_map_hw"].tolist() == batch["original_hw"].tolist() == [[*HW], [50, 30]]
        assert (batch["label_map"][0, HW[0] :] == 255).all()
        assert (batch["label_map"][1, :, :30] == 0).all()
        assert (batch["label_map"][1, :, 30:] == 255).all()
        assert batch["instances"].dtype == torch.int32
        assert (batch["instances"][1, :50, :30] == -1).all()
        values = pixels(seed=2).astype(np.int32)
        values[values == 26] = 26003
        np.testing.assert_array_equal(batch["instances"][0, : HW[0], : HW[1]], values)
        assert (batch["instances"][0, HW[0] :] == 0).all()

    def test_a_missing_instance_file_is_minus_one_all_over(self, root):
        save_pair(root, "bonn/tall", hw=(50, 60))
        batch = collate(
            [dataset(load(root), whole((32, 48)), with_instances=True)[index] for index in (0, 3)]
        )
        assert (batch["instances"] == -1).all()

    def test_images_of_different_sizes_make_no_batch(self, root):
        save_pair(root, "bonn/tall", hw=(50, 30))
        data = dataset(load(root), whole())
        assert collate([data[3]])["images"].shape == (1, 3, 50, 30)
        with pytest.raises(
            ValueError, match=r"images of 24 x 40, 50 x 30 .*set data.eval_hw, .*eval_batch_size=1"
        ):
            collate([data[0], data[3]])
        with pytest.raises(ValueError, match="collate needs at least one sample"):
            collate([])

    def test_nothing_but_void_is_kept_and_counted(self, root):
        save_pair(root, NAMES[1], labels=np.zeros(HW, np.uint8))
        files = load(root)
        for transform in (augmented(), whole()):
            data = dataset(files, transform)
            batch = collate([data[index] for index in range(3)])
            assert (batch["label_map"][1] == 255).all()
            files.problems.record(batch["problems"])  # again in the next epoch
        assert files.problems.counts == {"nothing but void": 1}
        assert f"image id 1: {files.label_paths[1]}" in files.problems.summary()

    def test_size_that_differs_cannot_be_trained_on(self, root):
        path = save(root / f"gtFine/train/{NAMES[1]}_gtFine_labelIds.png", pixels((12, 20)))
        image = root / f"leftImg8bit/train/{NAMES[1]}_leftImg8bit.png"
        message = f"{image} is 24 x 40, but {path} is 12 x 20 (height x width)"
        with pytest.raises(BadImageError, match=re.escape(message) + r".*data.on_bad_image=skip"):
            dataset(load(root))[1]
        assert collate([dataset(load(root), on_bad_image="skip")[1]])["bad_images"] == [message]
        files = load(root)
        batch = collate([dataset(files, whole())[index] for index in range(3)])
        files.problems.record(batch["problems"])
        assert batch["label_map_hw"].tolist() == [[*HW], [12, 20], [*HW]]
        assert "label of another size: 1 (scored at the label's size)" in files.problems.summary()
        assert f"image id 1: {message}" in files.problems.summary()

    @pytest.mark.parametrize(
        ("kind", "content", "message"),
        [
            ("leftImg8bit", b"", "leftImg8bit.png: file is empty"),
            ("leftImg8bit", None, "leftImg8bit.png: file does not exist"),
            ("gtFine_labelIds", b"<html>", "gtFine_labelIds.png: is not a PNG"),
            ("gtFine_labelIds", None, "gtFine_labelIds.png: file does not exist"),
            ("gtFine_instanceIds", b"\x89PNG\r\n\x1a\n", "gtFine_instanceIds.png: file is truncated"),
            ("gtFine_instanceIds", "other size", r"instanceIds.png is 5 x 5, but .*labelIds.png is 24 x 40"),
        ],
    )
    def test_damaged_files_stop_or_are_skipped_by_name(self, root, kind, content, message):
        files = load(root)
        path = root / kind.split("_")[0] / f"train/{NAMES[2]}_{kind}.png"
        path.unlink()
        if content is not None:
            save(path, pixels((5, 5))) if isinstance(content, str) else path.write_bytes(content)
        with pytest.raises(
            BadImageError, match=message + r".*\. Repair or remove it, or skip such images with"
        ):
            dataset(files, whole(), with_instances=True)[2]
        data = dataset(files, whole(), with_instances=True, on_bad_image="skip")
        batch = collate([data[0], data[2]])
        assert batch["image_ids"].tolist() == [0]
        assert len(batch["bad_images"]) == 1
        assert re.search(message, batch["bad_images"][0])
        if kind == "gtFine_instanceIds":
            assert "instances" not in dataset(files)[2]  # training does not ask for them

    @pytest.mark.parametrize(
        ("transform", "hw"), [(augmented(), CROP_HW), (whole((8, 9)), (8, 9)), (whole(), (0, 0))]
    )
    def test_batch_of_skipped_images_only(self, root, transform, hw):
        files = load(root)
        for path in files.image_paths:
            path.write_bytes(b"")
        data = dataset(files, transform, on_bad_image="skip", max_bad_images=2)
        batch = collate([data[0], data[1]])
        shapes = {
            name: tuple(value.shape) for name, value in batch.items() if isinstance(value, torch.Tensor)
        }
        assert shapes == {
            "images": (0, 3, *hw), "label_map": (0, *hw), "label_map_hw": (0, 2), "image_ids": (0,),
            "original_hw": (0, 2),
        }  # fmt: skip
        assert batch["images"].dtype == batch["label_map"].dtype == torch.uint8
        bad = BadImages(1)
        with pytest.raises(BadImageError, match=r"2 images cannot be read, more than data.max_bad_images=1"):
            bad.record(batch["bad_images"])
        with pytest.raises(BadImageError, match="3 images cannot be read"):
            data[2]

    def test_unknown_values_are_never_skipped_and_reach_the_user_as_a_sentence(self, root):
        save_pair(root, NAMES[0], labels=np.full(HW, 99, np.uint8))
        data = dataset(load(root), on_bad_image="skip")
        with pytest.raises(LabelError, match=r"99 \(960 pixels\)") as caught:
            data[0]
        assert errors.sentence(caught.value) == str(caught.value)  # no traceback

    def test_image_turned_by_its_exif_orientation_fits_its_label(self, tmp_path):
        picture = Image.fromarray(np.repeat(pixels((40, 24), most=255)[..., None], 3, axis=2))
        exif = Image.Exif()
        exif[0x0112] = 6  # orientation: turn by 90 degrees to show
        (tmp_path / "images").mkdir()
        picture.save(tmp_path / "images/a.jpg", exif=exif)
        save(tmp_path / "labels/a.png", pixels(HW, most=2))
        assert dataset(load_folders(tmp_path), whole())[0]["image"].shape == (3, *HW)

    def test_instances_go_with_labels_that_stay_as_they_are(self, root):
        with pytest.raises(ValueError, match="with_instances=True needs a transform that leaves labels"):
            dataset(load(root), augmented(), with_instances=True)

    def test_forked_workers_give_what_the_process_itself_gives(self, root):
        data = dataset(load(root), augmented())

        def batches(workers: int) -> list[Any]:
            sampler = EpochSampler(size=3, seed=5, rank=0, world_size=1, batch_size=1)
            sampler.set_epoch(4)
            loader = ResumableLoader(
                data, batch_size=1, sampler=sampler, collate_fn=collate, num_workers=workers,
                worker_init_fn=worker_init, multiprocessing_context="fork" if workers else None,
            )  # fmt: skip
            return list(loader)

        for ours, theirs in zip(batches(0), batches(2), strict=True):
            assert ours["image_ids"].tolist() == theirs["image_ids"].tolist()
            assert torch.equal(ours["images"], theirs["images"])
            assert torch.equal(ours["label_map"], theirs["label_map"])

    def test_epoch_and_index_decide_and_pickling_changes_nothing(self, root):
        data = dataset(load(root), augmented())
        first = data[SampleKey(1, 3)]
        copy = pickle.loads(pickle.dumps(data))
        assert torch.equal(copy[SampleKey(1, 3)]["image"], first["image"])
        assert torch.equal(copy[SampleKey(1, 3)]["label_map"], first["label_map"])
        assert not torch.equal(data[SampleKey(1, 4)]["image"], first["image"])
        assert torch.equal(data[1]["image"], data[SampleKey(1, 0)]["image"])

    def test_nothing_is_written(self, root):
        def state() -> list[tuple[str, str, int]]:
            return [
                (str(path), hashlib.sha1(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
                for path in sorted(root.rglob("*"))
                if path.is_file()
            ]

        before = state()
        files = load(root)
        collate([dataset(files, augmented())[index] for index in range(3)])
        collate([dataset(files, whole(), with_instances=True)[index] for index in range(3)])
        assert state() == before


class TestProblems:
    def test_problems_without_image_ids_and_reports_put_together(self, tmp_path):
        one, two = DataReport(tmp_path / "one", boxes=3), DataReport(tmp_path / "two")
        problem = Problem("nothing but void", 4, None, "a.png")
        one.record([problem, problem])
        two.add("image without label", values=[["b.png"]])
        two.record([problem, Problem("nothing but void", 4, None, "c.png")])
        both = DataReport(tmp_path)
        both.extend(one)
        both.extend(two)
        assert both.counts == {"image without label": 1, "nothing but void": 2}
        assert both.boxes == 3
        assert [each.image_id for each in both.problems()] == [None, 4, 4]
        assert "\n    b.png\n" in both.summary()
        both.record([problem])
        assert both.counts["nothing but void"] == 2  # met already


class TestRoot:
    EXPECTED = ("leftImg8bit/train", "gtFine/train", "gtFine/val")

    def check(self, root: Path, layout: Any = "cityscapes") -> str:
        with pytest.raises(FileNotFoundError) as caught:
            check_root(root, expected=self.EXPECTED, layout=layout)
        return str(caught.value)

    def test_nothing_there_says_where_to_get_it(self, tmp_path):
        text = self.check(tmp_path / "none")
        for part in (
            "no Cityscapes at data.root=",
            f"{tmp_path / 'none' / 'gtFine/val'}   (missing)",
            "www.cityscapes-dataset.com",
            "csDownload leftImg8bit_trainvaltest.zip gtFine_trainvaltest.zip",
            "tools/train.py RECIPE configs/overlays/scenes_segmentation.yaml",
            "data.type=folders, data.train.images=... data.train.labels=...",
            "data.classes",
        ):
            assert part in text
        assert "Existing folders" not in text

    def test_incomplete_says_what_is_there(self, root):
        text = self.check(root)
        assert f"  {root / 'gtFine/train'}\n" in text
        assert f"  {root / 'gtFine/val'}   (missing)\n" in text
        assert "Existing folders: gtFine, gtFine/train, leftImg8bit, leftImg8bit/train\n" in text
        own = self.check(root, "folders")
        assert "is incomplete. Expected:" in own
        assert "Existing folders: gtFine" in own
        assert "data.train.labels=" in own
        assert "cityscapes-dataset.com" not in own

    def test_complete(self, root):
        check_root(root, expected=self.EXPECTED[:2], layout="cityscapes")
