"""How far the results of two models are apart: sets of detections and label maps made by hand."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_exports import exporting, handmade

from dettoolkit.detection.compare import SAME, match_detections
from dettoolkit.detection.compare import compare as compare_detections
from dettoolkit.detection.result import DetectionResult
from dettoolkit.export.comparison import GROUPS, compare, groups, raw_outputs
from dettoolkit.finite import NonFiniteError
from dettoolkit.inference.predictor import Predictor
from dettoolkit.preprocessing import network_input
from dettoolkit.segmentation.result import SegmentationResult
from dettoolkit.segmentation.result import compare as compare_maps
from dettoolkit.segmentation.spec import SegmentationSection

SECTION = SimpleNamespace(score_threshold=0.1, threshold=0.5, max_detections=100)
BOXES = [[0, 0, 10, 10], [20, 20, 40, 40], [50, 0, 60, 30]]


def found(boxes=BOXES, scores=(0.9, 0.6, 0.3), labels=(0, 1, 0)):
    count = len(scores)
    return DetectionResult(
        path=None,
        image=np.zeros((60, 80, 3), np.uint8),
        class_names=("box", "bar"),
        class_ids=(3, 7),
        boxes_xyxy=np.asarray(boxes, np.float32).reshape(count, 4),
        scores=np.asarray(scores, np.float32),
        labels=np.asarray(labels, np.int64),
    )


NOTHING = found([], [], [])


@pytest.fixture(autouse=True)
def same(monkeypatch):
    """Take detections for the same whose scores differ by 0.01 at most, and whose IoU is 0.5 at least."""
    monkeypatch.setitem(SAME, "exact", (0.01, 0.5))


def errors(reference, candidate, **changes):
    section = SimpleNamespace(**{**vars(SECTION), **changes})
    return compare_detections([(reference, candidate)], section, "exact")


def test_the_same_detections_in_another_order_are_the_same():
    order = [2, 0, 1]
    one = found()
    other = found(one.boxes_xyxy[order], one.scores[order], one.labels[order])
    comparison = errors(one, other)
    assert comparison.errors == {"detections": 0, "shown_detections": 0}
    assert comparison.doubts == ()
    assert comparison.details["largest_score_difference"] == 0
    assert comparison.details["compared_detections"] == 6  # both sides
    np.testing.assert_array_equal(match_detections(one, other, score=0.01, iou=0.5), [1, 2, 0])


def test_two_equal_scores_on_one_place_find_each_their_own():
    one = found([BOXES[0], BOXES[0]], (0.5, 0.5), (0, 1))
    other = found([BOXES[0], BOXES[0]], (0.5, 0.5), (1, 0))
    np.testing.assert_array_equal(match_detections(one, other, score=0.01, iou=0.5), [1, 0])


def test_boxes_without_an_area_are_the_same_too():
    flat = found([[0, 10, 0, 30], [5, 5, 5, 5]], (0.9, 0.8), (0, 0))
    assert errors(flat, flat).errors["detections"] == 0


def test_one_detection_is_no_partner_of_two():
    twice = found([BOXES[0], BOXES[0]], (0.9, 0.9), (0, 0))
    once = found([BOXES[0]], (0.9,), (0,))
    assert errors(twice, once).errors["detections"] == pytest.approx(1 / 3)
    assert errors(once, twice).errors["detections"] == pytest.approx(1 / 3)  # one too many is as bad


@pytest.mark.parametrize(
    "other",
    [
        found(labels=(1, 0, 1)),  # classes swapped
        found(scores=(0.8, 0.5, 0.2)),
        found(np.asarray(BOXES) + 15),
        found([[b, a, d, c] for a, b, c, d in BOXES[1:]] + [[0, 50, 30, 60]], labels=(1, 0, 0)),  # x for y
        NOTHING,
        found(scores=(math.nan,) * 3),
        found(np.full((3, 4), math.nan)),
    ],
    ids=["classes", "scores", "boxes", "x for y", "nothing", "NaN scores", "NaN boxes"],
)
def test_other_detections_are_errors(other):
    assert errors(found(), other).errors["detections"] > 0.5
    assert not errors(other, found()).errors["detections"] <= 0.5


def test_what_is_just_above_the_threshold_may_be_missing_and_nothing_else():
    edge = found(scores=(0.9, 0.6, 0.105))
    without = found(BOXES[:2], (0.9, 0.6), (0, 1))
    assert errors(edge, without).errors["detections"] == 0
    assert errors(without, edge).errors["detections"] == 0
    assert errors(found(scores=(0.9, 0.6, 0.12)), without).errors["detections"] == pytest.approx(1 / 5)


def test_where_an_image_is_full_its_weakest_detection_is_the_threshold():
    full = found(BOXES[:2], (0.9, 0.6), (0, 1))
    other = found([BOXES[0], BOXES[2]], (0.9, 0.605), (0, 0))
    assert errors(full, other, max_detections=2).errors["detections"] == 0
    assert errors(full, other, max_detections=3).errors["detections"] == pytest.approx(2 / 4)


def test_nothing_on_both_sides_is_a_doubt_and_no_agreement():
    for pairs in ([(NOTHING, NOTHING)], []):
        comparison = compare_detections(pairs, SECTION, "exact")
        assert math.isnan(comparison.errors["detections"])
        assert "neither" in comparison.doubts[0]
    only_edge = found(BOXES[:1], (0.105,), (0,))  # all of it is excused, so nothing was compared
    assert errors(only_edge, NOTHING).doubts


def test_differences_of_matched_detections_are_told():
    other = found(np.asarray(BOXES) + 0.5, (0.9, 0.605, 0.3))
    details = errors(found(), other).details
    assert details["largest_score_difference"] == pytest.approx(0.005, abs=1e-6)
    assert details["largest_box_difference"] == pytest.approx(0.5)


def maps(*labels):
    return [
        SegmentationResult(
            path=None,
            image=np.zeros((*np.shape(each), 3), np.uint8),
            class_names=NAMES,
            class_ids=(0, 1, 2),
            colors=None,
            labels=np.asarray(each, np.uint8),
        )
        for each in labels
    ]


NAMES = ("road", "car", "sky")


def compare_labels(pairs):
    section = SegmentationSection(class_names=NAMES, class_ids=(0, 1, 2), align_corners=False)
    return compare_maps(pairs, section, "exact")


def test_label_maps_are_compared_by_pixel_and_by_class():
    one = np.zeros((10, 10), np.uint8)
    one[:2] = 1
    other = one.copy()
    other[0, :5] = 0  # 5 of the car's 20 pixels
    comparison = compare_labels(zip(maps(one, one), maps(one, other), strict=True))
    assert comparison.errors["pixels"] == pytest.approx(5 / 200)
    assert comparison.errors["worst_class"] == pytest.approx(1 - 35 / 40)  # of the car, over both images
    assert comparison.details["worst_class_name"] == "car"
    assert comparison.details["classes_seen"] == 2


def test_two_rare_classes_swapped_show_though_few_pixels_differ():
    one = np.zeros((100, 100), np.uint8)
    one[0, :30], one[1, :30] = 1, 2
    other = one.copy()
    other[0, :30], other[1, :30] = 2, 1
    found = compare_labels(zip(maps(one), maps(other), strict=True)).errors
    assert found["pixels"] == pytest.approx(0.006)
    assert found["worst_class"] == 1


def test_a_value_that_is_no_class_is_an_error():
    one = np.zeros((4, 4), np.uint8)
    one[0] = 1
    errors = compare_labels(zip(maps(one), maps(np.full((4, 4), 255)), strict=True)).errors
    assert errors == {"pixels": 1, "worst_class": 1}


def test_one_class_all_over_is_a_doubt():
    road = np.zeros((4, 4), np.uint8)
    comparison = compare_labels(zip(maps(road), maps(road), strict=True))
    assert comparison.errors["pixels"] == 0
    assert "predicts only road" in comparison.doubts[0]


def test_no_maps_and_maps_of_another_size_are_doubts():
    assert compare_labels([]).doubts
    one = np.eye(4, dtype=np.uint8)
    assert "size" in compare_labels(zip(maps(one), maps(one[:2]), strict=True)).doubts[0]


def manifest(**export):
    section = SegmentationSection(class_names=NAMES, class_ids=(0, 1, 2), align_corners=False)
    return exporting(handmade(section), **export) if export else handmade(section)


class ByHand:
    """Red, green and blue as logits, perhaps changed; checks what it is given."""

    device = torch.device("cpu")

    def __init__(self, batch=None, change=lambda logits: logits):
        self.batch, self.change, self.seen = batch, change, []

    def __call__(self, images):
        self.seen.append(len(images))
        assert images.shape[1:] == (3, 8, 16)
        assert self.batch in (None, len(images))
        return (self.change(images.clone()),)


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    small = rng.integers(0, 255, (5, 4, 5, 3), np.uint8)
    return [np.kron(each, np.ones((4, 4, 1), np.uint8)) for each in small]


def compared(images, engine, **export):
    reference = Predictor(manifest(), ByHand(), source="reference")
    candidate = Predictor(manifest(**{"batch": 1, **export}), engine, source="candidate")
    return compare(reference, candidate, images)


def test_the_same_network_agrees_whatever_the_batch(images):
    for batch in (1, 2, None):
        engine = ByHand(batch)
        comparison = compared(images, engine, batch=batch)
        assert comparison.errors == {"raw": 0, "pixels": 0, "worst_class": 0}
        assert comparison.doubts == ()
        assert set(engine.seen) == {batch} if batch else set(engine.seen) == {1, 2}  # 1 + 2 + the last 2


def test_any_batch_is_tried_in_several_sizes():
    predictor = Predictor(manifest(batch=None), ByHand(), source="any")
    sizes = [rows.stop - rows.start for rows in groups(predictor, 12)]
    assert sizes == [*GROUPS, *GROUPS]


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x + 0.01,
        lambda x: x.flip(1),  # classes in another order
        lambda x: x.roll(1, 0) if len(x) > 1 else x,  # answers in another order, in batches only
        lambda x: x.mean(0, keepdim=True).expand_as(x),  # images of a batch mixed
    ],
    ids=["shift", "classes", "order", "mixed"],
)
def test_what_a_network_does_otherwise_is_in_its_raw_outputs(images, change):
    raw = compared(images, ByHand(change=change), batch=None).errors["raw"]
    assert not raw <= 0.001


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_outputs_that_are_not_finite_are_an_error(images, value):
    engine = ByHand(change=lambda x: torch.where(x > 0.9, torch.full_like(x, value), x))
    with pytest.raises(NonFiniteError, match=r"candidate: logits .*NaN or infinite"):
        compared(images, engine)


def test_raw_outputs_of_another_shape_are_a_doubt(images):
    comparison = compared(images, ByHand(change=lambda x: x[..., ::2]))
    assert "shapes" in comparison.doubts[0]
    assert "raw" not in comparison.errors


def test_a_network_that_sees_nothing_is_a_doubt(images):
    def dead(logits):
        return torch.zeros_like(logits)

    reference = Predictor(manifest(), ByHand(change=dead), source="reference")
    candidate = Predictor(manifest(batch=1), ByHand(change=dead), source="candidate")
    comparison = compare(reference, candidate, images)
    assert math.isnan(comparison.errors["raw"])
    assert any("same for every image" in doubt for doubt in comparison.doubts)
    assert any("predicts only road" in doubt for doubt in comparison.doubts)


def test_no_images_and_one_image_many_times_are_doubts(images):
    assert "there are no images" in compared([], ByHand()).doubts
    assert "all images are identical" in compared([images[0]] * 3, ByHand()).doubts


def test_the_networks_input_is_what_the_predictor_makes_of_an_image(images):
    engine = ByHand()
    seen = []
    engine.change = lambda x: seen.append(x) or x
    predictor = Predictor(manifest(), engine, source="any")
    predictor.predict_batch(images[:1])
    torch.testing.assert_close(network_input(images[0], predictor.manifest), seen[0], rtol=0, atol=0)
    inside = manifest(batch=1, preprocessing=True)
    assert network_input(images[0], inside).shape == (1, *images[0].shape)
    assert len(raw_outputs(predictor, images)) == 5
