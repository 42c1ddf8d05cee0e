"""What the report says of a detector, against pycocotools, TIDE's own program and hand-made cases."""

import json
import math

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dettoolkit.evaluation.arrays import DetectionArrays, GroundTruthArrays
from dettoolkit.evaluation.box_errors import error_kinds
from dettoolkit.evaluation.box_matches import confusion, curves, match, overall, threshold_table

CATEGORIES = [{"id": 3, "name": "car"}, {"id": 7, "name": "bus"}]


def truth_of(*objects, images=2):
    """Objects are (image, category, box, crowd)."""
    annotations = [
        {"id": number, "image_id": image, "category_id": category, "bbox": box, "iscrowd": crowd, "area": 1.0}
        for number, (image, category, box, crowd) in enumerate(objects, start=1)
    ]
    content = {"images": [{"id": each} for each in range(1, images + 1)], "annotations": annotations}
    return GroundTruthArrays.from_coco(content | {"categories": CATEGORIES})


def detections_of(*found):
    """Found are (image, category, box, score)."""
    return DetectionArrays(
        image_ids=np.array([each[0] for each in found], np.int64),
        category_ids=np.array([each[1] for each in found], np.int64),
        boxes_xywh=np.array([each[2] for each in found], np.float64).reshape(-1, 4),
        scores=np.array([each[3] for each in found], np.float64),
    )


def counts_of(truth, found):
    return {kind.name: kind.count for kind in error_kinds(truth, match(truth, found)) if kind.count}


def test_each_kind_of_error_by_hand():
    truth = truth_of(
        (1, 3, [0, 0, 10, 10], 0),
        (1, 3, [50, 0, 10, 10], 0),
        (2, 7, [0, 0, 10, 10], 0),
        (2, 7, [90, 90, 5, 5], 0),
    )
    found = detections_of(
        (1, 3, [0, 0, 10, 10], 0.9),  # right
        (1, 3, [1, 0, 10, 10], 0.8),  # the same object again: IoU 9 / 11
        (1, 3, [54, 0, 10, 10], 0.7),  # IoU 6 / 14
        (2, 3, [0, 0, 10, 10], 0.6),  # a bus
        (2, 3, [5, 0, 10, 10], 0.5),  # a bus, IoU 1 / 3
        (2, 3, [40, 40, 10, 10], 0.4),  # nothing there
    )
    assert counts_of(truth, found) == {
        "class": 1,
        "location": 1,
        "both": 1,
        "duplicate": 1,
        "background": 1,
        "missed": 1,  # the small bus: the other one would be found with the right class
    }


def test_what_the_repair_of_an_error_brings():
    truth = truth_of((1, 3, [0, 0, 10, 10], 0), (2, 3, [0, 0, 10, 10], 0))
    found = detections_of((1, 3, [0, 0, 10, 10], 0.9), (2, 3, [4, 0, 10, 10], 0.8))
    gains = {kind.name: kind.gain for kind in error_kinds(truth, match(truth, found))}
    assert gains["location"] == pytest.approx(1 - 51 / 101)  # recall 0.5 until then: 51 of COCO's 101 points
    assert gains["background"] == 0


def reference(shared_data):
    folder = shared_data / "cocoeval_reference"
    content = json.loads((folder / "instances_val2014_100.json").read_text())
    results = json.loads((folder / "instances_val2014_fakebbox100_results.json").read_text())
    found = detections_of(*((r["image_id"], r["category_id"], r["bbox"], r["score"]) for r in results))
    return content, results, found


def test_ap50_of_each_class_is_pycocotools(shared_data):
    content, results, found = reference(shared_data)
    truth = GroundTruthArrays.from_coco(content)
    own = {
        int(id_): curve.ap
        for id_, curve in zip(truth.category_ids, curves(truth, match(truth, found)), strict=True)
    }
    api = COCO()
    api.dataset = content
    api.createIndex()
    official = COCOeval(api, api.loadRes(results), "bbox")
    official.evaluate()
    official.accumulate()
    precision = official.eval["precision"][0, :, :, 0, 2]  # IoU 0.5, all areas, 100 detections
    for number, id_ in enumerate(official.params.catIds):
        expected = np.ascontiguousarray(precision[:, number])
        if expected.max() > -1:
            assert own[id_] == pytest.approx(np.mean(expected), rel=1e-14)  # sums in another order
        else:
            assert math.isnan(own[id_])


def test_kinds_of_error_are_those_of_tides_program(shared_data):
    # tidecv 1.0.1 on the same files. It counts what meets a crowd as an error; there is none here.
    content, _, found = reference(shared_data)
    counts = {"class": 83, "location": 1, "duplicate": 1, "missed": 97}
    assert counts_of(GroundTruthArrays.from_coco(content), found) == counts


def test_curves_thresholds_and_the_best_f1_by_hand():
    truth = truth_of((1, 3, [0, 0, 10, 10], 0), (1, 3, [50, 0, 10, 10], 0), (2, 3, [0, 0, 10, 10], 0))
    found = detections_of(
        (1, 3, [0, 0, 10, 10], 0.9),
        (1, 3, [80, 0, 10, 10], 0.8),
        (1, 3, [50, 0, 10, 10], 0.7),
        (2, 3, [80, 0, 1, 1], 0.1),
    )
    curve = overall(truth, match(truth, found))
    assert curve.precision.tolist() == [1, 1 / 2, 2 / 3, 1 / 2]
    assert curve.recall.tolist() == [1 / 3, 1 / 3, 2 / 3, 2 / 3]
    assert curve.best() == {"threshold": 0.7, "precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3}
    table = threshold_table(curve, np.array([0.05, 0.7, 0.75, 0.95]))
    assert [row["detections"] for row in table] == [4, 3, 2, 0]
    assert [row["recall"] for row in table] == [2 / 3, 2 / 3, 1 / 3, 0]
    assert math.isnan(table[3]["precision"])
    assert table[3]["f1"] == 0


def test_confusion_by_hand():
    truth = truth_of((1, 3, [0, 0, 10, 10], 0), (1, 7, [50, 0, 10, 10], 0), (2, 7, [0, 0, 10, 10], 0))
    found = detections_of(
        (1, 3, [0, 0, 10, 10], 0.9),
        (1, 3, [50, 0, 10, 10], 0.8),  # a bus
        (2, 3, [80, 0, 10, 10], 0.8),  # nothing
        (2, 7, [0, 0, 10, 10], 0.2),  # below the threshold
    )
    matrix = confusion(truth, match(truth, found), threshold=0.5)
    assert matrix.tolist() == [[1, 0, 0], [1, 0, 1], [1, 0, 0]]


def test_crowds_are_neither_right_nor_wrong():
    truth = truth_of((1, 3, [0, 0, 100, 100], 1), (1, 3, [0, 0, 10, 10], 0))
    found = detections_of((1, 3, [0, 0, 10, 10], 0.9), (1, 3, [30, 30, 10, 10], 0.8))
    matches = match(truth, found)
    assert matches.ignored.tolist() == [False, True]
    assert counts_of(truth, found) == {}
    assert confusion(truth, matches, threshold=0.0).sum() == 1
    assert overall(truth, matches).ap == 1


def test_nothing_found_and_nothing_to_find():
    empty, truth = detections_of(), truth_of((1, 3, [0, 0, 10, 10], 0))
    assert counts_of(truth, empty) == {"missed": 1}
    curve = overall(truth, match(truth, empty))
    assert (curve.ap, curve.best()) == (0, None)
    assert confusion(truth, match(truth, empty), threshold=0.5).tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]
    nothing, found = truth_of(), detections_of((1, 3, [0, 0, 10, 10], 0.9))
    assert counts_of(nothing, found) == {"background": 1}
    curve = overall(nothing, match(nothing, found))
    assert math.isnan(curve.ap)
    assert curve.best() is None
    assert all(math.isnan(kind.gain) for kind in error_kinds(nothing, match(nothing, found)))
    assert counts_of(nothing, empty) == {}


def test_at_most_so_many_detections_of_an_image_and_class():
    truth = truth_of((1, 3, [0, 0, 10, 10], 0))
    found = detections_of(
        *((1, 3, [40, 40, 10, 10], 0.9 - number / 100) for number in range(5)), (1, 7, [0, 0, 9, 9], 0.1)
    )
    assert len(match(truth, found, max_detections=3).scores) == 4
