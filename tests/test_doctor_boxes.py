"""The doctor's checks of boxes, classes and default boxes: each finds what is planted, and only that."""

import copy
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from coco_results import detections_of

from dettoolkit.config import load_recipe
from dettoolkit.datasets.coco_annotations import CocoAnnotations
from dettoolkit.detection.anchors import default_boxes
from dettoolkit.detection.box_checks import same_objects
from dettoolkit.detection.box_coding import pairwise_iou
from dettoolkit.detection.box_problems import KINDS
from dettoolkit.detection.default_box_checks import best_iou, layout_of, objects_of
from dettoolkit.detection.matching import Objects, match
from dettoolkit.detection.run import ground_truth_of
from dettoolkit.detection.splits import load_annotations, load_splits
from dettoolkit.doctor.examination import silent
from dettoolkit.doctor.findings import Finding
from dettoolkit.evaluation.coco_ap import evaluate_coco
from dettoolkit.tasks import spec_of

SIDE = 640  # twice the input; a cell of the finest level is then 32 pixels
NAN = float("nan")


def clean() -> dict[str, dict]:
    """Two splits of 12 images with a cat and a dog each, as large as default boxes and on their centers."""
    images = [{"id": id_, "file_name": f"{id_}.jpg", "height": SIDE, "width": SIDE} for id_ in range(1, 13)]
    boxes = [(1, [112, 112, 64, 64]), (2, [400, 272, 64, 64])]
    annotations = [
        {"id": 100 * image["id"] + label, "image_id": image["id"], "category_id": label, "bbox": box,
         "area": 4096, "iscrowd": 0}
        for image in images
        for label, box in boxes
    ]  # fmt: skip
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    split = {"images": images, "annotations": annotations, "categories": categories}
    return {"train": split, "val": copy.deepcopy(split)}


def write(root: Path, data: dict[str, dict]) -> None:
    for split, document in data.items():
        (root / f"{split}2017").mkdir(parents=True, exist_ok=True)
        (root / "annotations").mkdir(exist_ok=True)
        (root / f"annotations/instances_{split}2017.json").write_text(json.dumps(document))


def recipe_at(root: Path, *values: str):
    return load_recipe("ssdlite_mnv3_large", [f"data.root={root}", *values]).recipe


def findings(root: Path, data: dict[str, dict], *values: str) -> list[Finding]:
    write(root, data)
    recipe = recipe_at(root, *values)
    return list(spec_of(recipe).examine(recipe, deep=True, progress=silent).findings)


def add(split: str, box: list[float], label: int = 1, image: int = 3, **changes):
    """Return what adds an annotation 7 to a split."""

    def change(data):
        entry = {"id": 7, "image_id": image, "category_id": label, "bbox": box, "area": 9, "iscrowd": 0}
        data[split]["annotations"].append({**entry, **changes})

    return change


def in_classes(split: str, names: dict[int, str]):
    def change(data):
        data[split]["categories"] = [{"id": id_, "name": name} for id_, name in names.items()]

    return change


def both(*changes):
    def change(data):
        for each in changes:
            each(data)

    return change


def only(split: str, label: int, count: int):
    """Return what leaves so many boxes of a class in a split."""

    def change(data):
        mine = [each for each in data[split]["annotations"] if each["category_id"] == label]
        for each in mine[count:]:
            data[split]["annotations"].remove(each)

    return change


def as_corners(data):
    for each in data["train"]["annotations"]:
        x, y, width, height = each["bbox"]
        each["bbox"] = [x, y, x + width, y + height]


def crowded(data):
    for number in range(101):
        add("val", [float(number), 0, 64, 64], label=1 + number % 2, id=1000 + number)(data)


def no_size(data):
    del data["train"]["images"][2]["width"]


def repeated_image(data):
    data["train"]["images"].append({**data["train"]["images"][0], "file_name": "again.jpg"})


def without_area(data):
    del data["val"]["annotations"][0]["area"]


def third_class(split_counts: dict[str, int], name: str = "cow"):
    """Return what adds a class to both splits and boxes of it."""

    def change(data):
        for split, count in split_counts.items():
            data[split]["categories"].append({"id": 3, "name": name})
            for number in range(count):
                add(split, [240, 240, 64, 64], label=3, image=1 + number % 12, id=1000 + number)(data)

    return change


def many_cats(data):
    """Add 1300 images with a cat each, which are more than a hundred times the 12 dogs."""
    for number in range(1300):
        data["train"]["images"].append(
            {"id": 100 + number, "file_name": f"{number}.jpg", "height": SIDE, "width": SIDE}
        )
        add("train", [112, 112, 64, 64], image=100 + number, id=10_000 + number)(data)


FAULTS = {
    "box-clipped": ("note", "train", add("train", [500, 300, 200, 200])),
    "box-without-area": ("warning", "train", add("train", [20, 20, 0, 30])),
    "box-outside-image": ("warning", "val", add("val", [700, 20, 40, 30])),
    "box-degenerate": ("warning", "train", add("train", [20, 20, 0.001, 30])),
    "box-not-finite": ("warning", "train", add("train", [20, 20, NAN, 30])),
    "box-missing": ("warning", "train", add("train", [20, 20])),
    "box-of-unknown-image": ("warning", "train", add("train", [20, 20, 64, 64], image=99)),
    "box-of-unknown-category": ("error", "train", add("train", [20, 20, 64, 64], label=9)),
    "image-id-repeated": ("warning", "train", repeated_image),
    "image-size-unknown": ("warning", "train", no_size),
    "area-missing": ("note", "val", without_area),
    "box-whole-image": ("note", "train", add("train", [0, 0, SIDE, SIDE])),
    "box-duplicate": ("warning", "train", add("train", [113, 112, 64, 64])),
    "box-two-classes": ("note", "train", add("train", [112, 112, 64, 64], label=2)),
    "box-extreme-aspect": ("note", "val", add("val", [20, 20, 400, 20])),
    "box-fractions": ("warning", "val", add("val", [0.25, 0.5, 0.125, 0.25])),
    "box-corners": ("error", "train", as_corners),
    "class-empty": ("warning", None, third_class({"train": 0, "val": 0})),
    "class-not-in-train": ("warning", "train", third_class({"train": 0, "val": 12})),
    "class-not-in-val": ("note", "val", third_class({"train": 12, "val": 0})),
    "class-few": ("warning", "train", only("train", 2, 9)),
    "class-imbalance": ("note", "train", many_cats),
    "classes-differ": ("error", None, in_classes("val", {1: "cat", 2: "hound"})),
    "class-names-alike": ("warning", None, third_class({"train": 12, "val": 12}, name="CAT ")),
    "class-ids-differ": ("note", None, in_classes("val", {2: "cat", 1: "dog"})),
    "class-root-like": ("warning", None, third_class({"train": 0, "val": 0}, name="Objects")),
    "objects-over-max-detections": ("warning", "val", crowded),
    "object-smaller-than-cell": ("note", "train", add("train", [300, 300, 31, 31])),
    "object-without-default-box": ("note", "train", add("train", [300, 300, 20, 64])),
}
ALSO = {  # what follows from the fault itself
    "box-corners": {"box-clipped"},
    "box-duplicate": {"object-not-learnt"},
    "box-two-classes": {"object-not-learnt"},
    "classes-differ": {"class-not-in-val"},
    "class-root-like": {"class-empty"},
    "object-smaller-than-cell": {"object-without-default-box"},
    "objects-over-max-detections": {"box-duplicate", "box-two-classes"},
}


def test_clean_data_are_silent(tmp_path):
    assert findings(tmp_path, clean()) == []


@pytest.mark.parametrize("id_", FAULTS)
def test_planted(tmp_path, id_):
    severity, split, fault = FAULTS[id_]
    data = clean()
    fault(data)
    found = {finding.id: finding for finding in findings(tmp_path, data)}
    assert set(found) == {id_} | ALSO.get(id_, set())
    finding = found[id_]
    assert (finding.severity, finding.split) == (severity, split)
    assert finding.remedy
    assert len(finding.examples) == min(finding.count, 3)
    assert "{" not in finding.text
    mine = [example for example in finding.examples if example.annotation_id == 7]
    if any(each["id"] == 7 for each in data[split or "train"]["annotations"]):
        (example,) = mine
        assert (finding.count, example.image_id) == (1, 99 if id_ == "box-of-unknown-image" else 3)
        wanted = f"instances_{split}2017.json" if id_ == "box-of-unknown-image" else "3.jpg"
        assert Path(example.file).name == wanted


def test_every_kind_that_loading_reports_is_tried_or_changes_nothing():
    assert {kind.id for kind in KINDS.values()} - set(FAULTS) == {"class-root", "image-size-missing"}


def test_a_size_from_the_file_is_a_note(tmp_path):
    from PIL import Image

    data = clean()
    no_size(data)
    write(tmp_path, data)
    Image.new("RGB", (SIDE, SIDE)).save(tmp_path / "train2017/3.jpg")
    (finding,) = findings(tmp_path, data)
    assert (finding.id, finding.severity, finding.count) == ("image-size-missing", "note", 1)


def test_a_file_of_fractions_only_is_refused_with_the_remedy(tmp_path):
    data = clean()
    for each in data["train"]["annotations"]:
        each["bbox"] = [value / SIDE for value in each["bbox"]]
    with pytest.raises(ValueError, match=r"a fraction of the image.*multiply x and width"):
        findings(tmp_path, data)


def test_clipping_and_problems_show_the_box(tmp_path):
    data = clean()
    add("train", [500, 300, 200, 200])(data)
    (finding,) = findings(tmp_path, data)
    (example,) = finding.examples
    assert example.boxes_xyxy == ((500.0, 300.0, 700.0, 500.0),)
    assert example.hw == (SIDE, SIDE)
    assert "bbox [500, 300, 200, 200] in an image of 640 x 640" in example.text


def test_crowds_are_no_duplicates_and_no_objects(tmp_path):
    data = clean()
    add("train", [112, 112, 64, 64], iscrowd=1)(data)
    add("val", [0, 0, SIDE, SIDE], iscrowd=1)(data)
    assert findings(tmp_path, data) == []


def test_candidates_of_a_class(tmp_path):
    data = clean()
    for number in range(12):
        add("val", [40.0 * number, 500, 30, 64], id=number)(data)
    found = findings(tmp_path, data, "model.postprocess.candidates_per_class=12")
    assert [(each.id, each.count, each.examples[0].text) for each in found] == [
        ("objects-over-candidates", 1, "'cat'")
    ]


def test_pairs_equal_those_of_all_boxes(tmp_path):
    rng = np.random.default_rng(0)
    boxes = np.round(np.hstack([rng.uniform(0, 400, (150, 2)), rng.uniform(5, 200, (150, 2))]), 1)
    boxes = np.vstack([boxes, boxes[:40] + rng.uniform(-1, 1, (40, 4))])
    data = clean()
    data["train"]["annotations"] = [
        {"id": number, "image_id": 1 + number % 2, "category_id": 1 + (number >= 170), "bbox": box}
        for number, box in enumerate(boxes.tolist())
    ]
    write(tmp_path, data)
    root = tmp_path / "annotations/instances_train2017.json"
    loaded = CocoAnnotations.load(root, images=tmp_path / "train2017", label_map="contiguous")
    again, two = same_objects(loaded)
    xyxy = torch.tensor(
        np.hstack([loaded.boxes_xywh[:, :2], loaded.boxes_xywh[:, :2] + loaded.boxes_xywh[:, 2:]])
    )
    iou = pairwise_iou(xyxy[None], xyxy)[0].numpy()
    same_image = loaded.rows[:, None] == loaded.rows
    same_class = loaded.labels[:, None] == loaded.labels
    later = np.triu(np.ones_like(same_image), 1)
    for pairs, wanted in (
        (again, (iou >= 0.9) & same_image & same_class & later),
        (two, (iou >= 0.95) & same_image & ~same_class & later),
    ):
        assert {pair.second for pair in pairs} == set(np.flatnonzero(wanted.any(axis=0)).tolist())
        assert pairs


@pytest.mark.parametrize("recipe", ["ssdlite_mnv3_large", "ssdlite_mnv3_large_torchvision"])
def test_default_boxes_are_those_of_matching(tmp_path, recipe):
    """The best default box of each object, and who gets none, equal what training's own matcher does."""
    rng = np.random.default_rng(1)
    data = clean()
    data["train"]["annotations"] = [
        {"id": number, "image_id": 1, "category_id": 1, "bbox": box}
        for number, box in enumerate(
            np.round(np.hstack([rng.uniform(0, 500, (300, 2)), rng.uniform(2, 139, (300, 2))]), 2).tolist()
        )
    ]
    write(tmp_path, data)
    recipe = load_recipe(recipe, [f"data.root={tmp_path}"]).recipe
    found = {
        finding.id: finding
        for finding in spec_of(recipe).examine(recipe, deep=True, progress=silent).findings
    }
    loaded = CocoAnnotations.load(
        tmp_path / "annotations/instances_train2017.json", images=tmp_path / "train2017",
        label_map="contiguous",
    )  # fmt: skip
    objects, levels = objects_of(loaded), layout_of(recipe.model)(recipe.model)
    anchors = default_boxes(levels, input_hw=recipe.model.input_hw)
    boxes = torch.tensor(objects.boxes_xyxy * recipe.model.input_hw[0])
    iou = pairwise_iou(boxes[None], anchors.double())[0]
    best = iou.max(dim=1).values
    np.testing.assert_allclose(best_iou(levels, objects.boxes_xyxy), best, atol=1e-6)
    assert found["object-without-default-box"].count == int((best < 0.5).sum())
    batch = Objects(boxes[None].float(), torch.zeros(1, len(boxes), dtype=torch.int64))
    given = match(None, anchors, batch, iou_threshold=0.5, force_match=True).matched.unique()
    assert found["object-not-learnt"].count == int((~torch.isin(torch.arange(len(boxes)), given)).sum()) > 5


def test_what_would_cure_small_objects_is_what_it_says(tmp_path):
    data = clean()
    for number in range(6):
        add("train", [300, 300, 20, 20], image=1 + number, id=number)(data)
    write(tmp_path, data)
    found = {each.id: each for each in findings(tmp_path, data)}
    small = found["object-smaller-than-cell"]
    assert small.severity == "warning"
    assert "6 of 30 objects (20.0%)" in small.text
    assert "16 x 16 pixels, at 320x320" in small.text
    # 20 pixels of 640 are a cell of 16 from 512 on; 640 is the first size above it that is tried.
    assert "model.input_hw=[640, 640], for 4.0 times the multiply-adds, about 0 of them" in small.remedy
    cured = findings(tmp_path, data, "model.input_hw=[640, 640]")
    assert "object-smaller-than-cell" not in {each.id for each in cured}


def test_without_forced_matches_such_objects_are_not_learnt_at_all(tmp_path):
    data = clean()
    add("train", [300, 300, 20, 64])(data)
    (finding,) = findings(tmp_path, data, "model.matcher.force_match=false")
    assert (finding.id, finding.severity) == ("object-without-default-box", "warning")
    assert "not learnt at all" in finding.text


def test_no_boxes_at_all(tmp_path):
    data = clean()
    for split in data.values():
        split["annotations"] = []
    assert [each.id for each in findings(tmp_path, data)] == ["class-empty"]


# What labeling services add above the classes


def roboflow(root_name: str = "pieces") -> dict[str, dict]:
    """Write the splits as Roboflow exports them: id 0 is the root, ids of all others follow."""
    data = clean()
    for split in data.values():
        split["categories"] = [
            {"id": 0, "name": root_name, "supercategory": "none"},
            {"id": 1, "name": "cat", "supercategory": root_name},
            {"id": 2, "name": "dog", "supercategory": root_name},
        ]
    return data


@pytest.mark.parametrize("name", ["pieces", "cat"])
def test_a_root_category_is_no_class(tmp_path, name, caplog):
    """Roboflow names the root after the project, which may be the name of a class too."""
    with caplog.at_level(logging.WARNING):
        found = findings(tmp_path, roboflow(name))
    assert {(each.id, each.severity, each.count) for each in found} == {("class-root", "note", 1)}
    assert f"category id 0, '{name}', has no annotation" in found[0].examples[0].text
    assert "no class; data.keep_root_category=true makes it one" in caplog.text


def test_the_switch_keeps_it(tmp_path):
    found = findings(tmp_path, roboflow(), "data.keep_root_category=true")
    assert [(each.id, each.examples[0].text) for each in found] == [("class-empty", "'pieces'")]


def test_a_root_that_has_boxes_in_one_split_is_a_class_in_both(tmp_path):
    data = roboflow()
    add("val", [240, 240, 64, 64], label=0)(data)
    write(tmp_path, data)
    for split in load_splits(recipe_at(tmp_path).data):
        assert (split.class_names, split.roots) == (["pieces", "cat", "dog"], [])


def test_a_root_is_left_out_by_either_label_map_and_moves_no_id(tmp_path):
    data = roboflow()
    for split in data.values():
        split["categories"][2]["id"] = 5
        for each in split["annotations"]:
            each["category_id"] = {1: 1, 2: 5}[each["category_id"]]
    write(tmp_path, data)
    train, _ = load_splits(recipe_at(tmp_path).data)
    assert (train.class_names, train.category_ids, train.roots) == (["cat", "dog"], [1, 5], ["pieces"])
    train, _ = load_splits(recipe_at(tmp_path, "data.label_map=ids").data)
    assert train.class_names == ["cat", "N/A", "N/A", "N/A", "dog"]
    assert np.unique(train.labels).tolist() == [0, 4]


def test_a_checkpoint_that_has_the_root_as_a_class_is_scored_with_it(tmp_path):
    write(tmp_path, roboflow())
    data = recipe_at(tmp_path).data
    assert load_annotations(data, "val", classes=["pieces", "cat", "dog"]).class_names[0] == "pieces"
    assert load_annotations(data, "val", classes=["cat", "dog"]).class_names == ["cat", "dog"]


@pytest.mark.parametrize(
    "above",
    [
        ["person", "animal"],  # COCO's: the first is its own, the second no category
        [None, 7],
        ["dog", "cat"],  # each above the other: no root
    ],
)
def test_other_supercategories_make_no_root(tmp_path, above):
    data = clean()
    for split in data.values():
        split["categories"][0]["name"] = "person" if above[0] == "person" else "cat"
        for category, each in zip(split["categories"], above, strict=True):
            category["supercategory"] = each
    assert findings(tmp_path, data) == []
    for split in data.values():
        split["annotations"] = []
    write(tmp_path, data)
    assert len(load_splits(recipe_at(tmp_path).data)[0].class_names) == 2


def test_scores_are_pycocotools_whether_the_root_is_a_class(tmp_path):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    data = roboflow()
    write(tmp_path, data)
    path = tmp_path / "annotations/instances_val2017.json"
    results = [
        {"image_id": each["image_id"], "category_id": each["category_id"], "score": 0.5 + each["id"] / 1e4,
         "bbox": (np.array(each["bbox"]) + each["image_id"]).tolist()}
        for each in data["val"]["annotations"]
    ]  # fmt: skip
    truth = COCO(str(path))
    theirs = COCOeval(truth, truth.loadRes(results), "bbox")
    theirs.evaluate()
    theirs.accumulate()
    theirs.summarize()
    for keep in ("false", "true"):
        val = load_splits(recipe_at(tmp_path, f"data.keep_root_category={keep}").data)[1]
        ours = evaluate_coco(ground_truth_of(val), detections_of(results), max_detections=100)
        assert ours.numbers["AP"] == pytest.approx(theirs.stats[0], abs=1e-12)
        assert 0 < ours.numbers["AP"] < 1
