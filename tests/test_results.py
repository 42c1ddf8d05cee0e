"""What predictions show, write and turn into; other libraries read it back."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from dettoolkit.detection.result import DetectedObject, DetectionResult
from dettoolkit.drawing.boxes import class_color
from dettoolkit.drawing.masks import draw_segments
from dettoolkit.segmentation.result import SegmentationResult


def photo(height=120, width=160):
    rng = np.random.default_rng(0)
    return rng.integers(60, 120, (height, width, 3), np.uint8)


def detections(count=3):
    boxes = [[10.25, 20, 60.5, 100], [0, 0, 160, 120], [100, 50, 101, 52]]
    return DetectionResult(
        path=None,
        image=photo(),
        class_names=("car", "person", "dog"),
        class_ids=(3, 1, 18),
        boxes_xyxy=np.array(boxes, np.float32).reshape(-1, 4)[:count],
        scores=np.array([0.9, 0.5, 0.25], np.float32)[:count],
        labels=np.array([1, 0, 1])[:count],
    )


def segments(labels=None, **changed):
    """Return the left 40 columns to sky, a square of 20 to a sign and the rest to road."""
    if labels is None:
        labels = np.zeros((120, 160), np.uint8)
        labels[:, :40] = 2
        labels[70:90, 100:120] = 1
    values = {
        "path": None,
        "image": photo(*labels.shape),
        "class_names": ("road", "sign", "sky", "car"),
        "class_ids": (7, 20, 23, 26),
        "colors": None,
        "labels": labels,
    }
    return SegmentationResult(**{**values, **changed})


def test_detections_are_counted_and_listed():
    found = detections()
    assert found.task == "detection"
    assert found.hw == (120, 160)
    assert len(found) == 3
    assert found.names == ("person", "car", "person")
    assert list(found)[2] == DetectedObject("person", 0.25, (100.0, 50.0, 101.0, 52.0))
    assert repr(found) == "<DetectionResult 160 x 120 pixels: 2 person, 1 car>"
    assert repr(detections(0)) == "<DetectionResult 160 x 120 pixels: nothing found>"
    assert list(detections(0)) == []


def test_repr_names_the_file_and_the_first_classes(tmp_path):
    names = tuple(f"c{number}" for number in range(9))
    labels = np.repeat(np.arange(9, dtype=np.uint8), 10).reshape(9, 10)
    found = segments(labels, path=tmp_path / "a.jpg", class_names=names, class_ids=tuple(range(9)))
    start = "<SegmentationResult a.jpg, 10 x 9 pixels: c0 11.1%, c1 11.1%,"
    assert repr(found).startswith(start)
    assert repr(found).endswith("c5 11.1%, and 3 more classes>")
    one = np.zeros((100, 100), np.uint8)
    one[0, 0] = 1
    assert repr(segments(one)).endswith("road 100.0%, sign <0.1%>")


def test_fractions_and_masks_of_classes():
    found = segments()
    assert found.task == "segmentation"
    assert list(found.fractions) == ["road", "sky", "sign"]
    assert found.fractions["sky"] == 0.25
    assert sum(found.fractions.values()) == pytest.approx(1)
    assert found.mask("sign").dtype == np.bool_
    assert np.argwhere(found.mask("sign")).min(axis=0).tolist() == [70, 100]
    assert not found.mask("car").any()
    with pytest.raises(ValueError, match=r"no class 'rode': did you mean 'road'. There are road, sign"):
        found.mask("rode")


@pytest.mark.parametrize("found", [detections(), detections(0), segments()])
def test_everything_but_pixels_goes_through_json(found):
    data = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert data == found.to_dict()
    assert (data["path"], data["height"], data["width"], data["task"]) == (None, 120, 160, found.task)


def test_dicts_hold_what_was_found():
    assert detections().to_dict()["objects"][0] == {
        "name": "person",
        "label": 1,
        "class_id": 1,
        "score": pytest.approx(0.9),
        "box_xyxy": [10.25, 20, 60.5, 100],
    }
    assert segments().to_dict()["classes"][1] == {
        "name": "sky",
        "label": 2,
        "class_id": 23,
        "pixels": 4800,
        "fraction": 0.25,
    }


def test_coco_results_are_what_pycocotools_reads():
    from pycocotools.coco import COCO

    truth = COCO()
    truth.dataset = {
        "images": [{"id": 5, "height": 120, "width": 160}],
        "categories": [{"id": id_} for id_ in (1, 3, 18)],
        "annotations": [],
    }
    truth.createIndex()
    results = detections().to_coco(5)
    assert results[0] == {
        "image_id": 5,
        "category_id": 1,
        "bbox": [10.25, 20, 50.25, 80],
        "score": pytest.approx(0.9),
    }
    assert len(truth.loadRes(results).anns) == 3
    assert detections(0).to_coco(5) == []


def test_coco_masks_are_what_pycocotools_reads():
    from pycocotools import mask as coder

    found = segments()
    results = json.loads(json.dumps(found.to_coco(5)))
    assert [each["category_id"] for each in results] == [7, 23, 20]
    for each, name in zip(results, ("road", "sky", "sign"), strict=True):
        assert each["image_id"] == 5
        np.testing.assert_array_equal(coder.decode(each["segmentation"]), found.mask(name))


def test_label_maps_are_written_with_the_ids_of_the_data(tmp_path):
    found = segments()
    path = found.to_png(tmp_path / "deep" / "map.png")
    read = Image.open(path)
    assert read.mode == "L"
    np.testing.assert_array_equal(np.asarray(read), np.array([7, 20, 23, 26])[found.labels])
    plain = np.asarray(Image.open(found.to_png(tmp_path / "plain.png", ids=False)))
    np.testing.assert_array_equal(plain, found.labels)
    wide = segments(class_ids=(7, 300, 23, 65535)).to_png(tmp_path / "wide.png")
    assert set(np.unique(np.asarray(Image.open(wide)))) == {7, 300, 23}


def test_nothing_is_overwritten(tmp_path):
    path = tmp_path / "there.png"
    path.write_text("mine")
    for write in (detections().save, segments().save, segments().to_png):
        with pytest.raises(FileExistsError, match=r"there.png already exists and is not overwritten"):
            write(str(path))
    assert path.read_text() == "mine"
    with pytest.raises(ValueError, match=r"label maps must be saved as .png"):
        segments().to_png(tmp_path / "map.jpg")
    with pytest.raises(ValueError, match=r"expected .png, .jpg or .jpeg"):
        detections().save(tmp_path / "picture.gif")


@pytest.mark.parametrize("found", [detections(), detections(0), segments()])
def test_pictures_have_the_size_of_the_image_and_are_saved(found, tmp_path):
    before = found.image.copy()
    picture = found.plot()
    assert picture.dtype == np.uint8
    assert picture.shape == found.image.shape
    np.testing.assert_array_equal(found.image, before)
    assert (picture != before).any() == bool(found.task == "segmentation" or len(found))
    path = found.save(tmp_path / "deep" / "picture.png")
    np.testing.assert_array_equal(np.asarray(Image.open(path)), picture)


# Label maps over images


def test_pixels_are_a_blend_of_image_and_class_color():
    found = segments(colors=((0, 0, 0), None, (0, 0, 250), None))
    picture = found.plot().astype(int)
    image = found.image.astype(int)
    corner = (slice(0, 20), slice(0, 20))  # sky, away from its name
    np.testing.assert_allclose(picture[corner], 0.45 * image[corner] + [0, 0, 137.5], atol=1)
    assert (picture[:, 40] == 255).sum() > 200  # a white line between sky and road
    signs = segments(np.ones((40, 40), np.uint8)).plot().reshape(-1, 3)
    assert np.abs(signs[0] - (0.55 * np.array(class_color(1)) + 40)).max() < 15


def test_names_are_written_once_on_their_classes():
    found = segments(colors=((10, 200, 10), (200, 10, 10), (10, 10, 200), None))
    picture = found.plot().astype(int)
    plates = {  # a plate's ground is nearly its class's color, so it is none of the blended pixels
        name: np.argwhere(np.abs(picture - color).max(axis=2) <= 20)
        for name, color in (("road", (10, 200, 10)), ("sky", (10, 10, 200)), ("sign", (200, 10, 10)))
    }
    assert all(len(where) > 50 for where in plates.values())
    assert plates["sky"][:, 1].max() < 45
    assert found.mask("road")[tuple(plates["road"].mean(axis=0).astype(int))]
    # Sign is hardly larger than its name, which therefore stays beside it or just inside.
    assert abs(plates["sign"][:, 1].mean() - 110) < 12


def test_a_region_smaller_than_its_name_is_not_hidden_by_it():
    labels = np.zeros((240, 320), np.uint8)
    labels[100:108, 150:158] = 1
    image = np.zeros((240, 320, 3), np.uint8)
    picture = draw_segments(image, labels, class_names=("road", "sign"), colors=((0, 0, 0), (200, 0, 0)))
    inside = picture[102:107, 152:157]
    np.testing.assert_array_equal(inside, np.broadcast_to([110, 0, 0], inside.shape))


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (200, 3), (33, 47), (700, 1500)])
def test_any_size_can_be_drawn(shape):
    labels = np.random.default_rng(0).integers(0, 4, (-(-shape[0] // 8), -(-shape[1] // 8)), np.uint8)
    labels = labels.repeat(8, axis=0).repeat(8, axis=1)[: shape[0], : shape[1]]
    assert segments(labels).plot().shape == (*shape, 3)


def test_what_is_no_class_stays_as_it_is():
    labels = np.full((50, 50), 255, np.uint8)
    image = photo(50, 50)
    np.testing.assert_array_equal(draw_segments(image, labels, class_names=("road",)), image)
    with pytest.raises(ValueError, match=r"expected uint8 \(H, W, 3\) RGB and \(H, W\)"):
        draw_segments(image, labels[1:], class_names=("road",))


# supervision


@pytest.mark.parametrize("found", [detections(), detections(0)])
def test_supervision_takes_boxes(found):
    sv = pytest.importorskip("supervision", reason="supervision is not installed")
    theirs = found.to_supervision()
    assert isinstance(theirs, sv.Detections)
    assert len(theirs) == len(found)
    np.testing.assert_array_equal(theirs.xyxy, found.boxes_xyxy)
    np.testing.assert_array_equal(theirs.class_id, found.labels)
    assert list(theirs["class_name"]) == list(found.names)
    sure = theirs[theirs.confidence > 0.4]
    assert len(sure) == min(2, len(found))
    scene = sv.BoxAnnotator().annotate(found.image.copy(), theirs)
    scene = sv.LabelAnnotator().annotate(scene, theirs)
    assert (scene != found.image).any() == bool(len(found))
    merged = sv.Detections.merge([theirs, detections().to_supervision()])
    assert len(merged) == len(found) + 3


def test_supervision_takes_masks():
    sv = pytest.importorskip("supervision", reason="supervision is not installed")
    found = segments()
    theirs = found.to_supervision()
    assert isinstance(theirs, sv.Detections)
    assert theirs.class_id.tolist() == [0, 2, 1]
    assert list(theirs["class_name"]) == ["road", "sky", "sign"]
    np.testing.assert_array_equal(theirs.xyxy, [[40, 0, 160, 120], [0, 0, 40, 120], [100, 70, 120, 90]])
    np.testing.assert_array_equal(theirs.mask[2], found.mask("sign"))
    assert theirs.area.tolist() == [120 * 160 - 4800 - 400, 4800, 400]
    assert (sv.MaskAnnotator().annotate(found.image.copy(), theirs) != found.image).any()


@pytest.mark.parametrize("found", [detections(), segments()])
def test_supervision_is_asked_for_where_it_lacks(found, monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ModuleNotFoundError, match="'supervision', which is not installed: pip install"):
        found.to_supervision()
