"""COCO evaluation against pycocotools itself, and where pycocotools has no answer."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_results import detections_of
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dettoolkit.evaluation.arrays import DetectionArrays, GroundTruthArrays
from dettoolkit.evaluation.coco_ap import CocoScores, evaluate_coco
from dettoolkit.evaluation.worst import worst_images

# As printed in cocoapi's demo; shared/data/README.md.
REFERENCE = {
    "AP": 0.505, "AP50": 0.697, "AP75": 0.573, "APs": 0.586, "APm": 0.519, "APl": 0.501,
    "AR1": 0.387, "AR10": 0.594, "AR100": 0.595, "ARs": 0.640, "ARm": 0.566, "ARl": 0.564,
}  # fmt: skip


def numbers_of_pycocotools(
    ground_truth: dict[str, Any], results: list[dict[str, Any]], max_detections: int = 100
) -> np.ndarray:
    """Run COCOeval on a copy that is renumbered from 1 and filled in; -1 stands for undefined."""
    truth = copy.deepcopy(ground_truth)
    truth.setdefault("info", {})
    for number, annotation in enumerate(truth["annotations"], start=1):
        annotation["id"] = number
        annotation.setdefault("iscrowd", 0)
        annotation.setdefault("area", annotation["bbox"][2] * annotation["bbox"][3])
    with contextlib.redirect_stdout(io.StringIO()):
        api = COCO()
        api.dataset = truth
        api.createIndex()
        evaluation = COCOeval(api, api.loadRes(copy.deepcopy(results)), "bbox")
        evaluation.params.maxDets = [1, 10, max_detections]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    if max_detections != 100:  # summarize() looks for maxDets=100 there, and prints -1
        precision = evaluation.eval["precision"][..., 0, 2]
        evaluation.stats[0] = precision[precision > -1].mean()
    return evaluation.stats


def assert_equal_numbers(result: CocoScores, wanted: np.ndarray) -> None:
    got = np.array([-1.0 if math.isnan(value) else value for value in result.numbers.values()])
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-12)


def random_case(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Make a small, nasty data set: crowds, ties of score and IoU, empty images, id gaps, ids from 0."""
    rng = np.random.default_rng(seed)
    image_ids = [int(i) for i in rng.permutation(40)[:12] * 7]
    categories = [{"id": int(i), "name": f"class {i}"} for i in rng.permutation(9)[:4]]

    def box() -> list[float]:
        low, size = rng.integers(0, 20, 2) * 8, 2.0 ** rng.integers(2, 9, 2)
        return [float(value) for value in (*low, *size)]

    def category() -> int:
        return int(rng.choice([entry["id"] for entry in categories[:3]]))  # one class without objects

    annotations, results = [], []
    for image_id in image_ids[:9]:
        for _ in range(rng.integers(0, 8)):
            annotations.append({"image_id": image_id, "category_id": category(), "bbox": box()})
            if rng.random() < 0.2:
                annotations[-1]["iscrowd"] = 1
            if rng.random() < 0.5:
                annotations[-1]["area"] = float(rng.integers(1, 20_000))
    for annotation in annotations:
        for _ in range(rng.integers(0, 4)):
            jitter = rng.integers(-1, 2, 4) * 2.0
            bbox = [max(1.0, float(value)) for value in np.array(annotation["bbox"]) + jitter]
            results.append({**annotation, "bbox": bbox, "score": float(rng.integers(0, 6)) / 5})
    for _ in range(20):
        image_id = int(rng.choice(image_ids))
        results.append(
            {"image_id": image_id, "category_id": category(), "bbox": box(), "score": rng.random()}
        )
    order = rng.permutation(len(results))
    keys = ("image_id", "category_id", "bbox", "score")
    results = [{key: results[index][key] for key in keys} for index in order]
    return {
        "images": [{"id": i} for i in image_ids],
        "categories": categories,
        "annotations": annotations,
    }, results


def number_annotations(truth: dict[str, Any], how: str) -> None:
    for number, annotation in enumerate(truth["annotations"]):
        if how == "from 0":
            annotation["id"] = number
        elif how == "duplicated":
            annotation["id"] = number % 3


@pytest.fixture(scope="module")
def reference(shared_data: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    folder = shared_data / "cocoeval_reference"
    return (
        json.loads((folder / "instances_val2014_100.json").read_text()),
        json.loads((folder / "instances_val2014_fakebbox100_results.json").read_text()),
    )


def test_the_published_numbers(reference: tuple[dict[str, Any], list[dict[str, Any]]]) -> None:
    truth, results = reference
    untouched = copy.deepcopy(truth)
    result = evaluate_coco(truth, detections_of(results), max_detections=100)
    assert {name: round(value, 3) for name, value in result.numbers.items()} == REFERENCE
    assert_equal_numbers(result, numbers_of_pycocotools(truth, results))
    assert truth == untouched
    assert result.note is None


def test_per_class_numbers(reference: tuple[dict[str, Any], list[dict[str, Any]]]) -> None:
    truth, results = reference
    result = evaluate_coco(truth, detections_of(results), max_detections=100)
    by_name = {entry.name: entry for entry in result.per_class}
    for name in ("person", "bird", "donut"):
        category = next(entry for entry in truth["categories"] if entry["name"] == name)
        alone = {**truth, "categories": [category]}
        wanted = numbers_of_pycocotools(alone, results)
        got = by_name[name]
        np.testing.assert_allclose(
            np.nan_to_num([got.ap, got.ap50, got.ar100], nan=-1), wanted[[0, 1, 8]], atol=1e-12
        )
        assert got.objects == sum(
            a["category_id"] == category["id"] and not a["iscrowd"] for a in truth["annotations"]
        )
    ranked = [entry.ap for entry in result.per_class if entry.objects]
    assert ranked == sorted(ranked, reverse=True)
    assert all(entry.objects == 0 for entry in result.per_class[len(ranked) :])


@pytest.mark.parametrize("max_detections", [100, 300])
def test_crowds_of_coco(shared_data: Path, max_detections: int) -> None:
    path = shared_data / "coco256/annotations/instances_val2017_100_crowd.json"
    truth = json.loads(path.read_text())
    assert sum(annotation["iscrowd"] for annotation in truth["annotations"]) == 5
    rng = np.random.default_rng(0)
    results = [
        {
            "image_id": annotation["image_id"],
            "category_id": annotation["category_id"],
            "bbox": (np.array(annotation["bbox"]) * rng.uniform(0.8, 1.25, 4)).tolist(),
            "score": float(rng.random()),
        }
        for annotation in truth["annotations"] * 12  # over 100 of a class in the fullest images
        if rng.random() < 0.8
    ]
    result = evaluate_coco(truth, detections_of(results), max_detections=max_detections)
    assert_equal_numbers(result, numbers_of_pycocotools(truth, results, max_detections))


@pytest.mark.parametrize("ids", ["missing", "from 0", "duplicated"])
@pytest.mark.parametrize("seed", range(8))
def test_random_cases(seed: int, ids: str) -> None:
    truth, results = random_case(seed)
    number_annotations(truth, ids)
    untouched = copy.deepcopy(truth)
    result = evaluate_coco(truth, detections_of(results), max_detections=100)
    assert_equal_numbers(result, numbers_of_pycocotools(truth, results))
    assert truth == untouched


def test_annotation_id_0_counts_as_matched() -> None:
    box = {"image_id": 4, "category_id": 0, "bbox": [0, 0, 50, 50]}
    truth = {"images": [{"id": 4}], "categories": [{"id": 0, "name": "a"}], "annotations": [{**box, "id": 0}]}
    result = evaluate_coco(truth, detections_of([{**box, "score": 0.9}]), max_detections=100)
    assert result.numbers["AP"] == pytest.approx(1)  # pycocotools says 0: its match is the id


@pytest.mark.parametrize("max_detections", [1, 5])
def test_fewer_detections_than_coco_scores(max_detections: int) -> None:
    truth, results = random_case(0)
    result = evaluate_coco(truth, detections_of(results), max_detections=max_detections)
    best: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for entry in sorted(results, key=lambda entry: -entry["score"]):
        best.setdefault((entry["image_id"], entry["category_id"]), []).append(entry)
    kept = [entry for entries in best.values() for entry in entries[:max_detections]]
    assert_equal_numbers(result, numbers_of_pycocotools(truth, kept))
    assert f"average recall, {max_detections} detection" in result.table()


def test_order_of_images_and_parts_does_not_matter() -> None:
    truth, results = random_case(1)
    whole = detections_of(results)
    odd = np.searchsorted(np.unique(whole.image_ids), whole.image_ids) % 2 == 1
    parts = [
        DetectionArrays(whole.image_ids[m], whole.category_ids[m], whole.boxes_xywh[m], whole.scores[m])
        for m in (odd, ~odd)
    ]
    joined = DetectionArrays.concatenate(parts)
    assert len(joined) == len(whole)
    got = evaluate_coco(truth, joined, max_detections=100)
    assert got.numbers == evaluate_coco(truth, whole, max_detections=100).numbers


def test_no_detections_score_0() -> None:
    truth, _ = random_case(2)
    result = evaluate_coco(truth, DetectionArrays.empty(), max_detections=100)
    assert result.numbers["AP"] == 0
    assert result.numbers["AR100"] == 0
    assert result.note is not None
    assert "no detections on any of the 12 images, so AP is 0" in result.note
    assert result.note in result.table()


@pytest.mark.parametrize("annotations", [None, [], "crowds"])
def test_no_objects_is_undefined(annotations: Any) -> None:
    truth, results = random_case(3)
    if annotations == "crowds":
        annotations = [{**annotation, "iscrowd": 1} for annotation in truth["annotations"]]
        assert set(numbers_of_pycocotools({**truth, "annotations": annotations}, results)) == {-1}
    result = evaluate_coco({**truth, "annotations": annotations}, detections_of(results), max_detections=100)
    assert all(math.isnan(value) for value in result.numbers.values())
    assert result.note is not None
    assert "has no objects" in result.note
    assert json.loads(json.dumps(result.to_json(), allow_nan=False))["numbers"]["AP"] is None
    assert "–" in result.table()


def test_no_images_is_undefined() -> None:
    result = evaluate_coco({"images": [], "categories": []}, DetectionArrays.empty(), max_detections=100)
    assert math.isnan(result.numbers["AP"])
    assert result.per_class == []
    assert result.table()


def test_annotations_that_cannot_be_scored_are_left_out() -> None:
    truth, results = random_case(4)
    detections = detections_of(results)
    broken = [
        {**truth["annotations"][0], "image_id": 10_000},
        {**truth["annotations"][0], "category_id": 10_000},
        {**truth["annotations"][0], "bbox": [0.0, 0.0, math.nan, 1.0]},
        {"image_id": truth["images"][0]["id"], "category_id": truth["categories"][0]["id"]},
    ]
    got = evaluate_coco(
        {**truth, "annotations": broken + truth["annotations"]}, detections, max_detections=100
    )
    assert got.numbers == evaluate_coco(truth, detections, max_detections=100).numbers


def test_detections_of_unlisted_categories_are_left_out_and_counted() -> None:
    truth, results = random_case(5)
    gaps = [{**entry, "category_id": 500} for entry in results[:3]]
    result = evaluate_coco(truth, detections_of(results + gaps), max_detections=100)
    assert_equal_numbers(result, numbers_of_pycocotools(truth, results))
    assert result.note is not None
    assert "3 detections of categories that are not in the ground truth were dropped." in result.note


def test_detections_of_unknown_images_are_refused() -> None:
    truth, results = random_case(6)
    strange = detections_of([*results, {**results[0], "image_id": 999_999}])
    message = "1 images that the ground truth does not list, image ids 999999; expected ids among its 12"
    with pytest.raises(ValueError, match=message):
        evaluate_coco(truth, strange, max_detections=100)
    with pytest.raises(ValueError, match=message):
        worst_images(GroundTruthArrays.from_coco(truth), strange, score_threshold=0.5, count=3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": math.nan}, "1 of 2 have a score that is not finite, first number 1 in image 3"),
        ({"bbox": [0, math.inf, 1, 1]}, "a box that is not finite"),
        ({"bbox": [30, 30, -10, 5]}, "negative width or height.*converted from corners"),
    ],
)
def test_bad_detections_are_refused(change: dict[str, Any], message: str) -> None:
    entry = {"image_id": 3, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 0.5}
    with pytest.raises(ValueError, match=message):
        detections_of([entry, {**entry, **change}])


def test_wrong_shapes_and_keys_are_refused() -> None:
    ids = np.zeros(2, np.int64)
    with pytest.raises(ValueError, match=r"boxes_xywh has the shape \(2, 5\), expected \(2, 4\)"):
        DetectionArrays(ids, ids, np.zeros((2, 5)), np.zeros(2))
    with pytest.raises(ValueError, match="no 'categories', got the keys"):
        evaluate_coco({"images": []}, DetectionArrays.empty(), max_detections=100)
    with pytest.raises(ValueError, match="max_detections is 0, expected at least 1"):
        evaluate_coco({"images": [], "categories": []}, DetectionArrays.empty(), max_detections=0)


def test_results_json_round_trip() -> None:
    _, results = random_case(7)
    detections = detections_of(results)
    assert json.loads(json.dumps(detections.to_results())) == results
    assert detections_of([]).to_results() == DetectionArrays.concatenate([]).to_results() == []


def test_table_is_aligned() -> None:
    truth, results = random_case(0)
    truth["categories"][0]["name"] = "自転車"  # six columns wide
    result = evaluate_coco(truth, detections_of(results), max_detections=100)
    lines = result.table().split("\n")
    assert lines[1].startswith(f"AP      {result.numbers['AP']:.3f}  average precision, IoU 0.50 to 0.95")
    *classes, absent = lines[lines.index("") + 2 :]
    assert len(classes) == 3
    assert len({len(line) + 3 * ("自" in line) for line in classes}) == 1
    assert absent == "1 class without objects"
    assert result.to_json()["per_class"][0].keys() == {"name", "ap", "ap50", "ar100", "objects"}


def test_worst_images_by_hand() -> None:
    box = [0.0, 0.0, 10.0, 10.0]
    far = [50.0, 50.0, 10.0, 10.0]
    truth = {
        "images": [{"id": i} for i in (5, 6, 7, 8, 9)],
        "categories": [{"id": 3, "name": "a"}, {"id": 4, "name": "b"}],
        "annotations": [
            {"image_id": 5, "category_id": 3, "bbox": box},
            {"image_id": 5, "category_id": 3, "bbox": far},
            {"image_id": 6, "category_id": 3, "bbox": box},
            {"image_id": 7, "category_id": 3, "bbox": box},
            {"image_id": 7, "category_id": 3, "bbox": [40.0, 40.0, 40.0, 40.0], "iscrowd": 1},
        ],
    }
    found = [
        (5, 3, box, 0.9),  # a hit, the other object is missed: F1 = 2 / 3
        (5, 3, far, 0.2),  # below the threshold
        (6, 4, box, 0.9),  # another class: F1 = 0
        (7, 3, box, 0.9),
        (7, 3, box, 0.8),  # the second on one object is wrong: F1 = 2 / 3
        (7, 3, far, 0.8),  # within the crowd: does not count
        (9, 3, box, 0.9),  # nothing is there: F1 = 0
    ]
    detections = detections_of(
        [dict(zip(("image_id", "category_id", "bbox", "score"), entry, strict=True)) for entry in found]
    )
    packed = GroundTruthArrays.from_coco(truth)
    got = worst_images(packed, detections, score_threshold=0.3, count=4)
    assert got == [(6, 0.0), (9, 0.0), (5, pytest.approx(2 / 3)), (7, pytest.approx(2 / 3))]
    assert worst_images(packed, detections, score_threshold=0.3, count=9)[-1] == (8, 1.0)
    empty = GroundTruthArrays.from_coco({**truth, "annotations": []})
    nothing = worst_images(empty, DetectionArrays.empty(), score_threshold=0, count=2)
    assert nothing == [(5, 1.0), (6, 1.0)]
