"""datasets/coco.py and what it is made of: reading, cleaning, reports, samples and batches of COCO files."""

import hashlib
import io
import json
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from coco_results import detections_of
from PIL import Image
from torch.utils.data import DataLoader

from dettoolkit.datasets.coco import BoxedImage, CocoDetection, collate
from dettoolkit.datasets.coco_annotations import CocoAnnotations
from dettoolkit.datasets.data_report import BadImageError, BadImages, Reason, clean_boxes
from dettoolkit.datasets.data_root import check_root
from dettoolkit.datasets.images import damage, header_hw, read_image
from dettoolkit.datasets.labels import MOST_CLASSES
from dettoolkit.detection.run import ground_truth_of
from dettoolkit.evaluation.arrays import GroundTruthArrays
from dettoolkit.evaluation.coco_ap import evaluate_coco

HW = (40, 60)


class Jitter:
    """A transform that shows its seed: adds noise to the image and moves nothing."""

    input_hw = (20, 30)

    def __call__(self, sample: BoxedImage, seed: int) -> BoxedImage:
        image, boxes_xyxy, labels, _ = sample
        height, width = image.shape[:2]
        small = cv2.resize(image, self.input_hw[::-1])
        noise = np.random.default_rng(seed).integers(0, 50, small.shape, np.uint8)
        scale = np.array([30 / width, 20 / height] * 2, np.float32)
        return BoxedImage(small // 2 + noise, boxes_xyxy * scale, labels)


def document(**changes: Any) -> dict[str, Any]:
    """Three images, two categories with a gap, listed out of order, three boxes; `changes` replace lists."""
    boxes = ((1, 7, 5, [2, 3, 10, 20]), (2, 3, 90, [0, 0, 60, 40]), (3, 7, 90, [1.5, 2.5, 5.25, 6]))
    base: dict[str, Any] = {
        "images": [
            {"id": id_, "file_name": f"{id_}.jpg", "height": HW[0], "width": HW[1]} for id_ in (7, 3, 5)
        ],
        "annotations": [
            {"id": id_, "image_id": image, "category_id": category, "bbox": box, "area": 10, "iscrowd": 0}
            for id_, image, category, box in boxes
        ],
        "categories": [{"id": 90, "name": "tooth brush"}, {"id": 5, "name": "aeroplane"}],
    }
    return {**base, **changes}


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., CocoAnnotations]:
    """Write a document (or text, or bytes) to a data set's json and load it."""
    (tmp_path / "images").mkdir()

    def write_and_load(content: Any, label_map: Any = "contiguous") -> CocoAnnotations:
        path = tmp_path / "instances.json"
        text = content if isinstance(content, str | bytes) else json.dumps(content)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return CocoAnnotations.load(path, images=tmp_path / "images", label_map=label_map)

    return write_and_load


def write_images(folder: Path, ids: tuple[int, ...] = (7, 3, 5), hw: tuple[int, int] = HW) -> None:
    for id_ in ids:
        pixels = np.random.default_rng(id_).integers(0, 255, (*hw, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{id_}.jpg", quality=95)


def detection(annotations: CocoAnnotations, **changes: Any) -> CocoDetection:
    settings = {
        "on_bad_image": "error",
        "max_bad_images": 1,
        "max_megapixels": 1.0,
        "drop_empty": False,
        "seed": 0,
    }
    return CocoDetection(annotations=annotations, transform=Jitter(), **{**settings, **changes})


def one_box(box: list[float] | None, **more: Any) -> dict[str, Any]:
    """One annotation of image 7 (id 42), with a good one before it."""
    good = {"id": 41, "image_id": 3, "category_id": 5, "bbox": [1, 1, 5, 5], "area": 25, "iscrowd": 0}
    bad = {"id": 42, "image_id": 7, "category_id": 5, "bbox": box, "area": 9, "iscrowd": 0}
    return document(annotations=[good, {**bad, **more}])


class TestLoad:
    def test_ids_with_gaps_unsorted_become_labels_in_order_of_id(self, load):
        data = load(document())
        assert data.class_names == ["aeroplane", "tooth brush"]
        assert data.category_ids == [5, 90]
        assert data.image_ids.tolist() == [7, 3, 5]
        assert data.offsets.tolist() == [0, 2, 3, 3]
        assert data.labels.tolist() == [0, 1, 1]
        assert data.boxes_xywh.tolist() == [[2, 3, 10, 20], [1.5, 2.5, 5.25, 6], [0, 0, 60, 40]]
        assert data.usable.all()
        assert data.empty.tolist() == [False, False, True]
        assert data.image_path(2) == data.images / "5.jpg"
        assert data.problems.counts == {}

    def test_ids_from_zero(self, load):
        categories = [{"id": 0, "name": "zero"}, {"id": 1, "name": "one"}]
        box = {"id": 0, "image_id": 7, "category_id": 0, "bbox": [1, 1, 2, 2]}
        data = load(document(categories=categories, annotations=[box]))
        assert (data.class_names, data.category_ids, data.labels.tolist()) == (["zero", "one"], [0, 1], [0])
        with pytest.raises(ValueError, match=r"ids run from 0 to 1.*use data.label_map=contiguous"):
            load(document(categories=categories, annotations=[box]), "ids")

    def test_label_map_ids_gives_a_slot_to_every_id(self, load):
        data = load(document(), "ids")
        assert len(data.class_names) == 90
        assert data.category_ids == list(range(1, 91))
        assert data.class_names[4] == "aeroplane"
        assert data.class_names[89] == "tooth brush"
        assert data.class_names.count("N/A") == 88
        assert data.labels.tolist() == [4, 89, 89]
        truth = ground_truth_of(data)
        assert (truth.category_ids.tolist(), truth.names) == ([5, 90], ["aeroplane", "tooth brush"])
        assert truth.categories.tolist() == [0, 1, 1]

    @pytest.mark.parametrize("label_map", ["contiguous", "ids"])
    def test_maps_coco_as_torchvision_names_it(self, shared_data, label_map):
        from torchvision.models.detection import SSDLite320_MobileNet_V3_Large_Weights as Weights

        root = shared_data / "coco256"
        data = CocoAnnotations.load(
            root / "annotations/instances_train2017.json", images=root / "train2017", label_map=label_map
        )
        theirs = Weights.COCO_V1.meta["categories"][1:]  # without background; gaps are "N/A"
        expected = theirs if label_map == "ids" else [name for name in theirs if name != "N/A"]
        assert data.class_names == expected
        assert int(data.empty.sum()) == 2  # as the data's README says
        assert data.problems.counts == {}

    def test_no_annotations_at_all(self, load):
        data = load(document(annotations=[]))
        assert data.boxes_xywh.shape == (0, 4)
        assert data.offsets.tolist() == [0, 0, 0, 0]
        assert data.empty.all()
        assert ground_truth_of(data).boxes_xywh.shape == (0, 4)

    def test_missing_area_iscrowd_ids_and_info_are_filled_in(self, load):
        data = load(document(annotations=[{"image_id": 7, "category_id": 5, "bbox": [2, 3, 10, 20]}]))
        assert data.areas.tolist() == [200]
        assert data.iscrowd.tolist() == [False]
        assert data.problems.counts == {"area missing": 1, "iscrowd missing": 1}
        assert next(data.problems.problems()).annotation_id is None

    def test_duplicate_image_ids_keep_the_first(self, load):
        images = [*document()["images"], {"id": 3, "file_name": "other.jpg", "height": 9, "width": 9}]
        data = load(document(images=images))
        assert data.image_ids.tolist() == [7, 3, 5]
        assert data.image_path(1).name == "3.jpg"
        assert "duplicate image id: 1" in data.problems.summary()
        assert "image id 3: another image with this id, other.jpg, is dropped" in data.problems.summary()

    def test_sizes_that_the_json_lacks_come_from_the_headers(self, load, tmp_path):
        write_images(tmp_path / "images", (7, 3))
        images = [{"id": id_, "file_name": f"{id_}.jpg"} for id_ in (7, 3, 5)]
        data = load(document(images=images))
        assert data.image_hw.tolist() == [[*HW], [*HW], [0, 0]]
        assert data.problems.counts == {"image size read from file": 2, "image size unknown": 1}
        assert data.usable.all()

    def test_nonfinite_numbers_as_python_writes_them(self, load):
        for value in (float("nan"), float("inf"), -float("inf")):
            data = load(one_box([1, 2, value, 4]))
            assert data.problems.counts == {"non-finite box": 1}
            assert len(data.labels) == 1
            assert len(ground_truth_of(data).boxes_xywh) == 1
        assert load(json.dumps(one_box([1, 2, 3, 4])).replace("9,", "1e999,")).areas.tolist() == [12, 25]

    @pytest.mark.parametrize("box", [None, [], [1, 2, 3], [1, 2, 3, 4, 5]])
    def test_bbox_that_is_none(self, load, box):
        data = load(one_box(box))
        assert data.problems.counts == {"no bbox": 1}
        assert "image id 7, annotation id 42" in data.problems.summary()

    def test_huge_and_odd_values_survive(self, load):
        data = load(one_box([1, 1, 1e300, 5], id="a-string", iscrowd=True, area=None))
        assert data.iscrowd.tolist() == [True, False]
        assert data.usable.tolist() == [False, True]
        assert data.problems.counts == {"clipped": 1, "area missing": 1}
        assert load(one_box([1, 1, 1e308, 5])).problems.counts == {"non-finite box": 1}

    def test_unreadable_by_utf8_only_but_with_a_byte_order_mark(self, load):
        assert len(load(b"\xef\xbb\xbf" + json.dumps(document()).encode())) == 3


class TestCleaning:
    @pytest.mark.parametrize(
        ("box", "kind", "usable"),
        [
            ([5, 5, 0, 4], "zero or negative size", False),
            ([5, 5, 4, -1], "zero or negative size", False),
            ([60, 5, 4, 4], "outside the image", False),
            ([5, -9, 4, 9], "outside the image", False),
            ([5, 5, 0.001, 4], "degenerate", False),
            ([59.995, 5, 4, 4], "degenerate", False),
            ([-3, 5, 9, 9], "clipped", True),
            ([50, 30, 20, 20], "clipped", True),
        ],
    )
    def test_is_counted_and_reported_with_file_image_and_annotation(self, load, box, kind, usable):
        data = load(one_box(box))
        assert data.problems.counts == {kind: 1}
        assert data.usable.tolist() == [usable, True]
        numbers = ", ".join(f"{each:g}" for each in box)
        summary = data.problems.summary()
        assert str(data.path) in summary
        assert f"{kind}: 1 (" in summary
        assert f"image id 7, annotation id 42: bbox [{numbers}] in an image of 40 x 60" in summary
        assert data.problems.to_json()["problems"][0]["annotation_id"] == 42
        json.dumps(data.problems.to_json())
        # What pycocotools would score is untouched by the rule.
        assert ground_truth_of(data).boxes_xywh[0].tolist() == box

    def test_unknown_image_and_category(self, load):
        extra = [
            {"id": 8, "image_id": 99, "category_id": 5, "bbox": [1, 1, 2, 2], "area": 4, "iscrowd": 0},
            {"id": 9, "image_id": 7, "category_id": 91, "bbox": [1, 1, 2, 2], "area": 4, "iscrowd": 0},
        ]
        data = load(document(annotations=document()["annotations"] + extra))
        assert data.problems.counts == {"unknown image": 1, "unknown category": 1}
        summary = data.problems.summary()
        assert "image id 99, annotation id 8: no image has this id (annotations[3])" in summary
        assert "annotation id 9: category_id 91 is not in categories (annotations[4])" in summary
        assert len(data.labels) == len(ground_truth_of(data).boxes_xywh) == 3

    def test_a_file_without_any_usable_annotation_is_refused(self, load):
        boxes = [{**each, "image_id": each["image_id"] + 100} for each in document()["annotations"]]
        with pytest.raises(ValueError, match=r"(?s)none of the 3 annotations can be used.*unknown image: 3"):
            load(document(annotations=boxes))

    def test_corner_boxes_are_recognized(self, load):
        boxes = [{**document()["annotations"][0], "id": id_, "bbox": [30, 20, 55, 38]} for id_ in range(9)]
        data = load(document(annotations=boxes))
        assert "9 of 9 boxes do not fit their image" in data.problems.summary()
        assert "... and 6 more" in data.problems.summary()

    def test_fractions_are_refused(self, load):
        boxes = [{**each, "bbox": [0.1, 0.25, 0.5, 1]} for each in document()["annotations"]]
        with pytest.raises(ValueError, match=r"every bbox is within 0..1.*COCO uses pixels: multiply"):
            load(document(annotations=boxes))

    def test_crowds_are_kept_for_evaluation_only(self, load):
        data = load(one_box([1, 1, 5, 5], iscrowd=1))
        assert data.usable.tolist() == [False, True]
        assert data.empty.tolist() == [True, False, True]
        assert ground_truth_of(data).crowds.tolist() == [True, False]

    def test_rule_agrees_with_torchvision_on_random_boxes(self):
        from torchvision.ops import clip_boxes_to_image, remove_small_boxes

        boxes = np.random.default_rng(0).uniform(-80, 120, (2000, 4)).astype(np.float32)
        before = boxes.copy()
        clean, reasons = clean_boxes(boxes, HW)
        clipped = clip_boxes_to_image(torch.from_numpy(boxes), HW)
        kept = remove_small_boxes(clipped, 0.01)
        assert np.flatnonzero(reasons <= Reason.CLIPPED).tolist() == kept.tolist()
        np.testing.assert_array_equal(clean[kept], clipped[kept].numpy())
        np.testing.assert_array_equal(boxes, before)
        assert clean.dtype == np.float32

    def test_rule_with_one_size_per_box_unknown_size_and_no_box(self):
        boxes = np.array([[0, 0, 50, 50], [0, 0, 50, 50], [-5, 0, 1e9, 50], [0, np.nan, 1, 1]])
        clean, reasons = clean_boxes(boxes, [[50, 50], [10, 99], [np.inf, np.inf], [50, 50]])
        assert reasons.tolist() == [Reason.OK, Reason.CLIPPED, Reason.CLIPPED, Reason.NON_FINITE]
        assert clean.tolist() == [[0, 0, 50, 50], [0, 0, 50, 10], [0, 0, 1e9, 50], [0, 0, 0, 0]]
        clean, reasons = clean_boxes(np.zeros((0, 4), np.float32), HW)
        assert (clean.shape, reasons.shape) == ((0, 4), (0,))


class TestErrors:
    def without(self, key: str) -> dict[str, Any]:
        return {name: value for name, value in document().items() if name != key}

    @pytest.mark.parametrize("key", ["images", "annotations", "categories"])
    def test_missing_list(self, load, key):
        with pytest.raises(
            ValueError, match=rf"instances.json has no {key}; it has .* a COCO detection file is"
        ):
            load(self.without(key))

    @pytest.mark.parametrize("key", ["images", "categories"])
    def test_empty_list(self, load, key):
        with pytest.raises(ValueError, match=f"instances.json has no {key}: its list '{key}' is empty"):
            load(document(**{key: []}))

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("", r"instances.json is empty \(0 bytes\)"),
            ("{'images': []}", r"is not valid JSON: .*starts with b\"{'images'"),
            ('{"images": [', "is not valid JSON: .*download or export it again"),
            (b"\xff\xd8\xff\xe0", "is not valid JSON"),
            ("3", "contains a int, not an object"),
            ([{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}], "maybe results"),
            ({"imgHeight": 1024, "imgWidth": 2048, "objects": []}, "it has imgHeight.*by Cityscapes"),
            (document(images={"7": "a.jpg"}), "images is a dict, not a list"),
        ],
    )
    def test_other_files(self, load, content, message):
        with pytest.raises(ValueError, match=message):
            load(content)

    @pytest.mark.parametrize(
        ("key", "field", "value", "message"),
        [
            ("images", "id", "0007", r"images\[1\].id: Expected `int`, got `str`; .*number the images"),
            ("images", "id", 1.5, r"images\[1\].id: Expected `int`, got `float`"),
            ("images", "file_name", None, r"images\[1\].file_name: Expected `str`, got `null`"),
            (
                "annotations",
                "bbox",
                [1, 2, "3", 4],
                r"annotations\[1\].bbox\[2\]: Expected `float`, got `str`",
            ),
            ("annotations", "category_id", "5", r"annotations\[1\].category_id: Expected `int`, got `str`"),
            ("annotations", "image_id", None, r"annotations\[1\].image_id: Expected `int`, got `null`"),
            ("categories", "id", 2**70, r"categories\[1\].id: Expected `int` <="),
            ("categories", "name", 3, r"categories\[1\].name: Expected `str`, got `int`"),
        ],
    )
    def test_wrong_type_names_file_and_element(self, load, key, field, value, message):
        broken = document()
        broken[key][1][field] = value
        with pytest.raises(ValueError, match=r"instances.json: " + message):
            load(broken)

    def test_missing_field_names_the_element(self, load):
        broken = document()
        del broken["annotations"][2]["category_id"]
        with pytest.raises(
            ValueError, match=r"annotations\[2\]: Object missing required field `category_id`"
        ):
            load(broken)

    @pytest.mark.parametrize(
        ("second", "message"),
        [
            ({"id": 90, "name": "x"}, "category id 90 occurs more than once"),
            ({"id": 5, "name": "tooth brush"}, "category name tooth brush occurs more than once"),
            ({"id": 5, "name": "N/A"}, "a category is named 'N/A'.*rename"),
        ],
    )
    def test_categories_that_clash(self, load, second, message):
        with pytest.raises(ValueError, match=f"instances.json: {message}"):
            load(document(categories=[document()["categories"][0], second]))

    def test_enormous_ids(self, load):
        categories = [{"id": 5, "name": "a"}, {"id": 10**9, "name": "b"}, {"id": 90, "name": "c"}]
        assert len(load(document(categories=categories)).class_names) == 3
        with pytest.raises(ValueError, match=r"ids run from 5 to 1000000000.*contiguous"):
            load(document(categories=categories), "ids")

    def test_missing_file_lists_those_that_are_there(self, tmp_path):
        (tmp_path / "annotations").mkdir()
        (tmp_path / "annotations/instances_train2017.json").touch()
        with pytest.raises(
            FileNotFoundError, match=r"val.json does not exist; .* has instances_train2017.json"
        ):
            CocoAnnotations.load(tmp_path / "annotations/val.json", images=tmp_path, label_map="contiguous")
        with pytest.raises(
            FileNotFoundError, match=r"does not exist, nor does its folder; correct data.root"
        ):
            CocoAnnotations.load(tmp_path / "no/val.json", images=tmp_path, label_map="contiguous")

    def test_missing_image_folder(self, load, tmp_path):
        (tmp_path / "images").rmdir()
        with pytest.raises(
            FileNotFoundError, match=r"images, the image folder of .*instances.json, does not"
        ):
            load(document())

    def test_no_coco_at_root_says_where_to_get_it(self, tmp_path):
        expected = ["train2017", "annotations/instances_train2017.json"]
        with pytest.raises(FileNotFoundError) as caught:
            check_root(tmp_path / "coco", expected=expected, layout="coco")
        for part in (
            "no COCO data set at data.root=",
            f"{tmp_path / 'coco' / 'train2017'}   (missing)",
            f"tools/download_coco.py {tmp_path / 'coco'}",
            f"dettoolkit download-coco {tmp_path / 'coco'}",
            "tools/train.py RECIPE configs/overlays/scenes.yaml",
            "data.train.annotations=",
        ):
            assert part in str(caught.value)
        (tmp_path / "coco/train2017").mkdir(parents=True)
        (tmp_path / "coco/annotations").mkdir()
        (tmp_path / "coco/annotations/train.json").touch()
        listing = r"is incomplete(?s:.*)JSON files: annotations.train.json"
        with pytest.raises(FileNotFoundError, match=listing):
            check_root(tmp_path / "coco", expected=expected, layout="coco")
        check_root(tmp_path / "coco", expected=["train2017", "annotations/train.json"], layout="coco")


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    ramp = np.linspace(0, 255, 80 * 120 * 3).reshape(80, 120, 3)
    noise = np.random.default_rng(0).normal(0, 20, ramp.shape)
    return Image.fromarray(np.clip(ramp + noise, 0, 255).astype(np.uint8))


def test_more_categories_than_a_detector_can_have_are_refused(tmp_path):
    categories = [{"id": id_, "name": str(id_)} for id_ in range(1, MOST_CLASSES + 2)]
    path = tmp_path / "many.json"
    path.write_text(json.dumps(document(categories=categories)))
    for label_map in ("contiguous", "ids"):
        with pytest.raises(ValueError, match=r"many\.json: 20001 categories, .* at most 20000: remove"):
            CocoAnnotations.load(path, images=tmp_path, label_map=label_map)
    path.write_text(json.dumps(document(categories=categories[:-1], annotations=[])))
    loaded = CocoAnnotations.load(path, images=tmp_path, label_map="contiguous")
    assert len(loaded.class_names) == MOST_CLASSES


class TestImages:
    @pytest.mark.parametrize(
        ("mode", "kind"),
        [
            ("RGB", "JPEG"), ("L", "JPEG"), ("RGB", "PNG"), ("P", "PNG"), ("RGBA", "PNG"), ("LA", "PNG"),
            ("1", "PNG"), ("RGB", "WEBP"), ("RGB", "BMP"), ("RGB", "TIFF"), ("P", "GIF"),
        ],
    )  # fmt: skip
    def test_every_kind_reads_as_pillow_reads_it(self, picture, tmp_path, mode, kind):
        path = tmp_path / "image"
        path.write_bytes(encoded(picture.convert(mode), kind))
        image = read_image(path)
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(image, np.asarray(Image.open(path).convert("RGB")))

    def test_cmyk_and_16_bit(self, picture, tmp_path):
        path = tmp_path / "image"
        path.write_bytes(encoded(picture.convert("CMYK"), "JPEG"))
        theirs = np.asarray(Image.open(path).convert("RGB")).astype(int)
        assert np.abs(read_image(path) - theirs).max() <= 3  # two roundings of the conversion
        gray = np.asarray(picture.convert("L"))
        path.write_bytes(cv2.imencode(".png", gray.astype(np.uint16) * 257)[1].tobytes())
        np.testing.assert_array_equal(read_image(path), np.repeat(gray[..., None], 3, axis=2))

    @pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
    def test_jpeg_cut_anywhere_is_found(self, picture, tmp_path, options):
        whole = encoded(picture, "JPEG", quality=95, **options)
        assert damage(whole) is None
        path = tmp_path / "cut.jpg"
        for size in np.linspace(1, len(whole) - 1, 60).astype(int).tolist():
            path.write_bytes(whole[:size])
            with pytest.raises(BadImageError, match=r"truncated or damaged|cannot be decoded"):
                read_image(path)
            # An interrupted copy: the right length, but zeros.
            path.write_bytes(whole[:size] + b"\0" * (len(whole) - size))
            with pytest.raises(BadImageError, match=r"truncated or damaged|cannot be decoded"):
                read_image(path)

    def test_jpeg_with_bytes_after_its_end(self, picture, tmp_path):
        whole = encoded(picture, "JPEG")
        path = tmp_path / "image.jpg"
        for tail in (b"\n", b"\0" * 5000, encoded(picture, "JPEG")[:500]):
            path.write_bytes(whole + tail)
            assert read_image(path).shape == (80, 120, 3)

    def test_jpeg_with_thumbnail_and_cut_is_found(self, picture, tmp_path):
        thumbnail = encoded(picture.resize((30, 20)), "JPEG")
        whole = encoded(picture, "JPEG", quality=95, comment=thumbnail)
        assert whole.count(b"\xff\xd9") == 2
        path = tmp_path / "image.jpg"
        start = whole.index(b"\xff\xd9") + 2
        for size in (start, start + 10, (start + len(whole)) // 2, len(whole) - 2):
            path.write_bytes(whole[:size])
            with pytest.raises(BadImageError, match=r"truncated or damaged|cannot be decoded"):
                read_image(path)

    def test_png_cut_or_with_a_tail(self, picture, tmp_path):
        whole = encoded(picture, "PNG")
        path = tmp_path / "image.png"
        path.write_bytes(whole + b"more")
        assert read_image(path).shape == (80, 120, 3)
        for size in (20, 100, len(whole) // 2, len(whole) - 6):
            path.write_bytes(whole[:size])
            with pytest.raises(BadImageError, match="truncated"):
                read_image(path)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "file is empty"),
            (b"<html>not found</html>", "not an image, or damaged .starts with b'<html>"),
            (None, "file does not exist"),
        ],
    )
    def test_no_image(self, tmp_path, content, message):
        path = tmp_path / "image.jpg"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(BadImageError, match=message):
            read_image(path)
        with pytest.raises(BadImageError, match="cannot be opened"):
            read_image(tmp_path)
        assert header_hw(path) is None

    def test_orientation_counts_only_when_the_json_says_so(self, picture, tmp_path):
        exif = Image.Exif()
        exif[0x0112] = 6  # orientation: turn by 90 degrees to show
        path = tmp_path / "image.jpg"
        path.write_bytes(encoded(picture, "JPEG", exif=exif))
        assert header_hw(path) == (80, 120)
        for expected in (None, (80, 120), (11, 12)):
            assert read_image(path, expected_hw=expected).shape == (80, 120, 3)
        turned = read_image(path, expected_hw=(120, 80))
        np.testing.assert_array_equal(turned, np.rot90(read_image(path), -1))


class TestSamples:
    def test_sample_and_batch(self, load, tmp_path):
        write_images(tmp_path / "images")
        data = detection(load(document()))
        assert len(data) == 3
        batch = collate([data[0], data[1], data[2]])
        assert batch["images"].shape == (3, 3, 20, 30)
        assert batch["images"].dtype == torch.uint8
        assert batch["boxes_xyxy"].dtype == torch.float32
        expected = [[[1, 1.5, 6, 11.5], [0.75, 1.25, 3.375, 4.25]], [[0, 0, 30, 20], [0] * 4], [[0] * 4] * 2]
        torch.testing.assert_close(batch["boxes_xyxy"], torch.tensor(expected, dtype=torch.float32))
        assert batch["box_labels"].tolist() == [[0, 1], [1, -1], [-1, -1]]
        assert batch["image_ids"].tolist() == [7, 3, 5]
        assert batch["original_hw"].tolist() == [[*HW]] * 3
        assert batch["bad_images"] == batch["problems"] == []

    def test_batch_without_any_box(self, load, tmp_path):
        write_images(tmp_path / "images")
        batch = collate([detection(load(document(annotations=[])))[0]])
        assert batch["boxes_xyxy"].shape == (1, 0, 4)
        assert batch["box_labels"].shape == (1, 0)
        with pytest.raises(ValueError, match="collate needs at least one sample"):
            collate([])

    def test_unusable_boxes_and_crowds_are_not_trained_on(self, load, tmp_path):
        write_images(tmp_path / "images")
        annotations = load(one_box([5, 5, 0, 4]))
        assert len(detection(annotations)[0]["box_labels"]) == 0
        assert len(detection(load(one_box([5, 5, 4, 4], iscrowd=1)))[0]["box_labels"]) == 0
        clipped = detection(load(one_box([50, 30, 20, 20])))[0]
        assert clipped["boxes_xyxy"].tolist() == [[25, 15, 30, 20]]

    def test_drop_empty(self, load, tmp_path):
        annotations = load(document())
        assert len(detection(annotations)) == 3
        assert len(detection(annotations, drop_empty=True)) == 2
        with pytest.raises(
            ValueError, match=r"none of its 3 images has a usable box and data.drop_empty=true"
        ):
            detection(load(document(annotations=[])), drop_empty=True)

    def test_size_that_differs_is_reported_and_the_file_trusted(self, load, tmp_path):
        write_images(tmp_path / "images", hw=(20, 60))
        annotations = load(document())
        batch = collate([detection(annotations)[index] for index in (0, 1)])
        assert batch["original_hw"].tolist() == [[20, 60]] * 2
        for _ in range(2):  # epochs
            annotations.problems.record(batch["problems"])
        summary = annotations.problems.summary()
        assert "size differs: 2 (the size of the file is used; boxes are not rescaled)" in summary
        path = annotations.image_path(0)
        assert f"image id 7: {path} is 20 x 60, but its annotations say 40 x 60" in summary
        assert batch["boxes_xyxy"][1, 0].tolist() == [0, 0, 30, 20]  # clipped to the 20 rows there are

    def test_json_smaller_than_the_file_loses_no_box(self, load, tmp_path):
        write_images(tmp_path / "images", hw=(80, 60))
        annotations = load(one_box([10, 50, 20, 20]))
        assert annotations.problems.counts == {"outside the image": 1}
        assert detection(annotations)[0]["boxes_xyxy"].tolist() == [[5, 12.5, 15, 17.5]]

    def test_bad_image_is_an_error_with_path_id_and_remedy(self, load, tmp_path):
        write_images(tmp_path / "images", (7,))
        path = tmp_path / "images/7.jpg"
        path.write_bytes(path.read_bytes()[:-50])
        data = detection(load(document()))
        message = rf"{re.escape(str(path))}: image id 7: file is truncated .*data.on_bad_image=skip"
        with pytest.raises(BadImageError, match=message):
            data[0]
        with pytest.raises(BadImageError, match=r"3.jpg: image id 3: file does not exist\. Repair"):
            data[1]

    def test_bad_images_are_skipped_listed_and_counted(self, load, tmp_path):
        write_images(tmp_path / "images", (7,))
        data = detection(load(document()), on_bad_image="skip", max_bad_images=2)
        batch = collate([data[0], data[1], data[2]])
        assert batch["image_ids"].tolist() == [7]
        assert [line.split(": ")[1:] for line in batch["bad_images"]] == [
            ["image id 3", "file does not exist"],
            ["image id 5", "file does not exist"],
        ]
        empty = collate([data[1], data[2]])
        shapes = {
            name: tuple(value.shape) for name, value in empty.items() if isinstance(value, torch.Tensor)
        }
        assert shapes == {
            "images": (0, 3, 20, 30), "boxes_xyxy": (0, 0, 4), "box_labels": (0, 0), "image_ids": (0,),
            "original_hw": (0, 2),
        }  # fmt: skip
        assert empty["images"].dtype == torch.uint8

        bad = BadImages(2)
        bad.record(batch["bad_images"])
        bad.record(batch["bad_images"])  # the next epoch
        assert bad.lines == batch["bad_images"]
        with pytest.raises(
            BadImageError, match=r"(?s)3 images cannot be read, more than.*=2.*3.jpg.*5.jpg.*x.jpg"
        ):
            bad.record(["x.jpg: image id 1: file is empty"])

    def test_too_many_bad_images_in_one_process_stop_it(self, load):
        data = detection(load(document()), on_bad_image="skip", max_bad_images=1)
        data[0]
        data[0]
        with pytest.raises(BadImageError, match="2 images cannot be read"):
            data[1]


class TestSeeds:
    def batches(self, data: CocoDetection, workers: int, epoch: int = 0) -> list[Any]:
        from dettoolkit.datasets.samplers import SampleKey, worker_init

        keys = [SampleKey(index, epoch) for index in (2, 0, 1)]
        loader = DataLoader(
            data, batch_size=2, sampler=keys, num_workers=workers, collate_fn=collate,
            worker_init_fn=worker_init,
        )  # fmt: skip
        return list(loader)

    def assert_same(self, first: list[Any], second: list[Any]) -> None:
        assert len(first) == len(second) == 2
        for ours, theirs in zip(first, second, strict=True):
            for name in ("images", "boxes_xyxy", "box_labels", "image_ids"):
                assert torch.equal(ours[name], theirs[name])

    def test_same_seed_same_batches_whatever_the_workers(self, load, tmp_path):
        write_images(tmp_path / "images")
        data = detection(load(document()))
        first = self.batches(data, 0)
        self.assert_same(first, self.batches(data, 0))
        self.assert_same(first, self.batches(data, 2))
        self.assert_same(first, self.batches(pickle.loads(pickle.dumps(data)), 0))
        other_seed = self.batches(detection(load(document()), seed=1), 0)
        other_epoch = self.batches(data, 0, epoch=1)
        for other in (other_seed, other_epoch):
            assert not torch.equal(first[0]["images"], other[0]["images"])
        assert not torch.equal(first[0]["images"][0], first[0]["images"][1])

    def test_with_the_real_transform(self, shared_data):
        from dettoolkit.datasets.augment import DetectionTransform

        root = shared_data / "coco256"
        annotations = CocoAnnotations.load(
            root / "annotations/instances_train2017.json", images=root / "train2017", label_map="contiguous"
        )
        data = CocoDetection(
            annotations=annotations, transform=DetectionTransform(augment="ssdlite", input_hw=(96, 128)),
            on_bad_image="error", max_bad_images=0, max_megapixels=1.0, drop_empty=False, seed=3,
        )  # fmt: skip
        self.assert_same(self.batches(data, 0), self.batches(data, 2))
        batch = collate([data[index] for index in range(16)])
        assert batch["images"].shape == (16, 3, 96, 128)
        assert batch["problems"] == []
        assert (batch["boxes_xyxy"] <= torch.tensor([128, 96, 128, 96])).all()


class TestGroundTruth:
    @pytest.mark.parametrize(
        "name",
        [
            "coco256/annotations/instances_val2017.json",
            "coco256/annotations/instances_val2017_100_crowd.json",
            "cocoeval_reference/instances_val2014_100.json",
        ],
    )
    @pytest.mark.parametrize("label_map", ["contiguous", "ids"])
    def test_it_is_scored_as_pycocotools_scores_the_file(self, shared_data, tmp_path, name, label_map):
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        path = shared_data / name
        before = hashlib.sha256(path.read_bytes()).hexdigest()
        truth = ground_truth_of(CocoAnnotations.load(path, images=tmp_path, label_map=label_map))
        file = COCO(str(path))
        rng = np.random.default_rng(0)
        detections = [
            {
                "image_id": each["image_id"],
                "category_id": each["category_id"] if rng.random() < 0.8 else 1,
                "bbox": (np.array(each["bbox"]) + rng.normal(0, 4, 4)).clip(1).tolist(),
                "score": rng.random(),
            }
            for each in file.dataset["annotations"]
        ]
        ours = evaluate_coco(truth, detections_of(detections), max_detections=100)
        evaluation = COCOeval(file, file.loadRes(detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        assert list(ours.numbers.values()) == pytest.approx(evaluation.stats, rel=0, abs=1e-12)
        assert 0.05 < ours.numbers["AP"] < 1
        assert hashlib.sha256(path.read_bytes()).hexdigest() == before

    def test_it_is_what_evaluation_packs_of_the_file(self, load):
        crowd = {"id": 4, "image_id": 5, "category_id": 90, "bbox": [0, 0, 9, 9], "area": 7, "iscrowd": 1}
        content = document(annotations=[*document()["annotations"], crowd])
        content["annotations"].sort(key=lambda each: [7, 3, 5].index(each["image_id"]))  # as they are loaded
        ours, packed = ground_truth_of(load(content)), GroundTruthArrays.from_coco(content)
        for field in GroundTruthArrays.__slots__:
            one, other = getattr(ours, field), getattr(packed, field)
            if field == "names":
                assert one == other
            else:
                assert (one.dtype, one.tolist()) == (other.dtype, other.tolist())


def test_nothing_on_disk_is_changed(load, tmp_path):
    write_images(tmp_path / "images")
    annotations = load(one_box([-3, 5, 9, 9]))

    def state() -> dict[str, tuple[bytes, int]]:
        files = (each for each in tmp_path.rglob("*") if each.is_file())
        return {str(each): (each.read_bytes(), each.stat().st_mtime_ns) for each in files}

    before = state()
    annotations = CocoAnnotations.load(annotations.path, images=annotations.images, label_map="contiguous")
    data = detection(annotations)
    collate([data[index] for index in range(3)])
    ground_truth_of(annotations)
    assert state() == before


def test_datasets_as_a_top_level_package_is_refused(repository):
    command = [sys.executable, "-c", "import datasets"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ImportError: this folder is dettoolkit's and is imported as 'dettoolkit.datasets'" in done.stderr
