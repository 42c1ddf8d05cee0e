"""What a joint result shows, writes and turns into: what both parts do, together."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from joint_models import COLORS, OBJECTS, PIXELS, joint_result
from PIL import Image

from dettoolkit.drawing.boxes import class_color
from dettoolkit.drawing.boxes_over_masks import draw_boxes_over_segments
from dettoolkit.drawing.masks import COVER


def photo(height=240, width=320):
    return np.random.default_rng(0).integers(60, 120, (height, width, 3), np.uint8)


def result(count=3, **changes):
    """Return sky above road with a car and a person, and as many of three objects."""
    label_map = np.ones((240, 320), np.uint8)
    label_map[100:] = 0
    label_map[120:180, 40:140] = 2
    label_map[90:200, 220:260] = 3
    values = {
        "image": photo(),
        "boxes_xyxy": [[40.25, 120, 140, 180.5], [220, 90, 260, 200], [0, 0, 0.25, 0.25]][:count],
        "scores": [0.9, 0.5, 0.25][:count],
        "labels": [0, 1, 1][:count],
        "label_map": label_map,
    }
    return joint_result(**{**values, **changes})


def test_it_says_what_both_parts_found():
    found = result()
    assert found.task == "joint"
    assert found.summary() == f"2 person, 1 car; {found.segmentation.summary()}"
    assert repr(found).startswith("<JointResult 320 x 240 pixels: 2 person, 1 car; road ")
    tally = found.tally()
    assert {key: value for key, value in tally.items() if isinstance(value, int)} == {
        "detection/car": 1,
        "detection/person": 2,
    }
    assert sum(value for value in tally.values() if isinstance(value, float)) == pytest.approx(1)
    assert tally["segmentation/car"] == pytest.approx(60 * 100 / 240 / 320)
    assert result(0).summary().startswith("nothing found; road")


def test_a_changed_path_is_that_of_both_parts():
    found = result()
    moved = replace(found, path=Path("a/b.png"))
    assert moved.detection.path == moved.segmentation.path == Path("a/b.png")
    assert found.detection.path is found.segmentation.path is None
    other = replace(found, image=photo() // 2)
    assert other.detection.image is other.segmentation.image is other.image


def test_everything_but_pixels_is_json():
    found = replace(result(), path=Path("b.png"))
    data = found.to_dict()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert data.keys() == {"path", "task", "height", "width", "objects", "classes"}
    assert (data["task"], data["path"]) == ("joint", "b.png")
    assert data["objects"] == found.detection.to_dict()["objects"]
    assert data["classes"] == found.segmentation.to_dict()["classes"]
    assert found.record(masks=False) == {
        key: value for key, value in data.items() if key not in ("path", "task")
    }
    assert all("rle" in each for each in found.record(masks=True)["classes"])
    assert result(0).to_dict()["objects"] == []


def test_objects_of_some_classes_are_kept():
    found = result()
    assert found.only([1]).detection.names == ("person", "person")
    assert found.only([0, 1]).detection.names == found.detection.names
    assert found.only([]).detection.names == ()
    np.testing.assert_array_equal(found.only([0]).segmentation.labels, found.segmentation.labels)
    with pytest.raises(
        ValueError, match=r"labels \[3\] are not of objects: .* detection/car, detection/person"
    ):
        found.only([0, 3])


def test_it_turns_into_what_both_parts_turn_into(tmp_path):
    found = result()
    entries = found.to_coco(5)
    assert [("bbox" in each, "segmentation" in each) for each in entries] == [(True, False)] * 3 + [
        (False, True)
    ] * 4
    assert [each["category_id"] for each in entries[:3]] == [OBJECTS.ids[label] for label in (0, 1, 1)]
    assert {each["category_id"] for each in entries[3:]} == set(PIXELS.ids)
    with Image.open(found.to_png(tmp_path / "map.png")) as image:
        np.testing.assert_array_equal(np.asarray(image), np.array(PIXELS.ids)[found.segmentation.labels])
    names, crops = zip(*found.crops(), strict=True)
    assert names == ("car", "person", "person")
    assert crops[1].shape == (110, 40, 3)
    assert crops[2].size == 0


def test_supervision_gets_the_objects():
    supervision = pytest.importorskip("supervision", reason="supervision is not installed")
    found = result().to_supervision()
    assert isinstance(found, supervision.Detections)
    assert found.data["class_name"].tolist() == ["car", "person", "person"]


# ---- the figure


def covered(color, pixels):
    return np.round((1 - COVER) * pixels + COVER * np.asarray(color))


def test_boxes_are_drawn_over_the_classes_colors(tmp_path):
    found = result()
    before = found.image.copy()
    picture = found.plot()
    np.testing.assert_array_equal(found.image, before)
    assert picture.shape == before.shape
    for y, x, label in ((40, 30, 1), (230, 100, 0), (150, 60, 2)):
        assert np.abs(picture[y, x] - covered(COLORS[label], before[y, x])).max() <= 1, label
    # Of the first box's side, in the middle of the line.
    assert np.abs(picture[150, 41].astype(int) - class_color(0)).max() < 40
    # A class without a color of its own has none of the objects' either.
    inside = covered(class_color(len(OBJECTS.names) + 3), before[112, 240])
    assert np.abs(picture[112, 240] - inside).max() <= 1
    found.save(tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as image:
        np.testing.assert_array_equal(np.asarray(image), picture)


def test_the_names_of_both_are_on_plates_of_their_own(monkeypatch):
    from dettoolkit.drawing import boxes, boxes_over_masks, masks

    placed, rects = [], []
    monkeypatch.setattr(masks.ImageDraw.ImageDraw, "rounded_rectangle", _noting(rects))
    label = boxes_over_masks.label_boxes

    def noting(*arguments, **named):
        picture, plates = label(*arguments, **named)
        placed.extend(plates)
        rects.clear()  # what comes now are the classes' names
        return picture, plates

    monkeypatch.setattr(boxes_over_masks, "label_boxes", noting)
    # A large box, whose plate is where the name of the class would be.
    label_map = np.zeros((240, 320), np.uint8)
    label_map[:70] = 1
    boxes_ = [[5, 5, 300, 60], [100, 155 - 6, 220, 200], [10, 80, 60, 230]]
    result(3, label_map=label_map, boxes_xyxy=boxes_).plot()
    assert len(placed) == 3
    assert rects
    for rect in rects:
        assert not boxes.intersections(rect, placed).any()


def _noting(rects):
    from PIL import ImageDraw

    draw = ImageDraw.ImageDraw.rounded_rectangle

    def rounded_rectangle(self, corners, *arguments, **named):
        rects.append(tuple(corners))
        return draw(self, corners, *arguments, **named)

    return rounded_rectangle


def test_nothing_and_void_are_drawn():
    image = photo(40, 60)
    void = np.full((40, 60), 255, np.uint8)
    picture = draw_boxes_over_segments(
        image,
        void,
        segment_names=PIXELS.names,
        colors=None,
        boxes_xyxy=np.zeros((0, 4)),
        labels=np.zeros(0, int),
        scores=np.zeros(0),
        class_names=OBJECTS.names,
    )
    np.testing.assert_array_equal(picture, image)
