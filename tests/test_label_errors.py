"""Labels that a model doubts: planted ones are ranked first, by predictions that are written by hand."""

import json
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from torch import nn

from dettoolkit.cli import main
from dettoolkit.doctor.findings import SUSPECTS, Example
from dettoolkit.doctor.findings import suspects as finding_of
from dettoolkit.evaluation.arrays import DetectionArrays
from dettoolkit.tasks import spec_of

pytestmark = pytest.mark.usefixtures("alone")
needs_cleanlab = pytest.mark.skipif(find_spec("cleanlab") is None, reason="cleanlab is not installed")


def run_of(tiny, data, out, *values):
    """Return the run that scores a tiny data set, and its batches."""
    recipe = tiny.load(out, f"data.root={data}", *values).recipe
    run = spec_of(recipe).evaluation_run("tiny", recipe, own=None, what="tiny")
    return run, [run.collate([run.val[(row, 0)] for row in range(len(run.val))])]


class Answers(nn.Module):
    """Answer with a table, whatever the images are."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, images):
        return self.logits


def truth_of(content):
    """Return the objects of a COCO json as detections of score 0.9."""
    entries = content["annotations"]
    return DetectionArrays(
        image_ids=np.array([each["image_id"] for each in entries], np.int64),
        category_ids=np.array([each["category_id"] for each in entries], np.int64),
        boxes_xywh=np.array([each["bbox"] for each in entries], np.float64).reshape(-1, 4),
        scores=np.full(len(entries), 0.9),
    )


@pytest.fixture
def swapped(tiny, tmp_path, monkeypatch):
    """Return a run of a detector that knows better: a class is swapped, a box is shifted, one is missing."""
    data = tiny.write(tmp_path / "data")
    path = data / "annotations/val.json"
    right = json.loads(path.read_text())
    wrong = json.loads(path.read_text())
    wrong["annotations"][0]["category_id"] = {3: 7, 7: 3}[wrong["annotations"][0]["category_id"]]
    wrong["annotations"][3]["bbox"][0] += 22
    del wrong["annotations"][5]
    path.write_text(json.dumps(wrong))
    run, batches = run_of(tiny, data, tmp_path)
    monkeypatch.setattr(type(run.task), "predict", lambda *_: truth_of(right))
    return run, batches, right["annotations"]


@needs_cleanlab
def test_a_detectors_doubts(swapped):
    run, batches, right = swapped
    (finding,) = spec_of(run.recipe).suspects(run, split="val", batches=batches)
    assert (finding.id, finding.severity, finding.split) == ("label-suspect", "note", "val")
    by_id = {example.annotation_id: example for example in finding.examples}
    assert set(by_id) == {right[0]["id"], right[3]["id"], None}
    assert finding.count == 3
    assert by_id[right[0]["id"]].text.startswith("bar, where the model sees box 0.90; score ")
    assert by_id[right[3]["id"]].text.startswith("bar, which the model sees in another place; score ")
    missing = by_id[None]
    assert missing.text == "no annotation, where the model sees bar 0.90; score 0.10"
    assert missing.image_id == right[5]["image_id"]
    x, y, w, h = right[5]["bbox"]
    assert missing.boxes_xyxy == ((x, y, x + w, y + h),)


@needs_cleanlab
@pytest.mark.parametrize("found", ["the truth", "nothing"])
def test_a_detector_that_agrees_doubts_nothing(found, tiny, tmp_path, monkeypatch):
    run, batches = run_of(tiny, tiny.data, tmp_path)
    content = json.loads((tiny.data / "annotations/val.json").read_text())
    arrays = truth_of(content if found == "the truth" else {"annotations": []})
    monkeypatch.setattr(type(run.task), "predict", lambda *_: arrays)
    assert list(spec_of(run.recipe).suspects(run, split="val", batches=batches)) == []


@needs_cleanlab
def test_a_classifiers_doubts(tiny_classification, tmp_path):
    run, (batch,) = run_of(tiny_classification, tiny_classification.data, tmp_path)
    labels = batch["class_labels"].repeat(6)  # confident learning needs more than seven images
    batch |= {"class_labels": labels, "image_ids": batch["image_ids"].repeat(6)}
    right = labels.clone()
    right[2] = (right[2] + 1) % 3
    run.task.network = Answers(4.0 * nn.functional.one_hot(right, 3).float())
    spec = spec_of(run.recipe)
    (finding,) = spec.suspects(run, split="train", batches=[batch])
    (example,) = finding.examples
    names = run.classes.names
    assert example.text.startswith(
        f"{names[labels[2]]}, where the model says {names[right[2]]} 0.96; score 0.0"
    )
    assert example.file == str(run.val.files.image_path(int(batch["image_ids"][2])))
    run.task.network = Answers(4.0 * nn.functional.one_hot(labels, 3).float())
    assert spec.suspects(run, split="train", batches=[batch]) == []
    assert spec.suspects(run, split="train", batches=[]) == []


@needs_cleanlab
def test_a_segmenters_doubts(tiny_segmentation, tmp_path):
    run, (batch,) = run_of(tiny_segmentation, tiny_segmentation.data, tmp_path, "data.eval_hw=[48, 64]")
    whole = (batch["label_map_hw"] == batch["label_map_hw"].new_tensor([48, 64])).all(dim=1)  # not padded
    batch = {key: batch[key][whole] for key in ("images", "image_ids", "label_map", "label_map_hw")}
    seen = batch["label_map"].clone()
    seen[seen == 255] = 0
    logits = 6.0 * nn.functional.one_hot(seen.long(), 19).permute(0, 3, 1, 2).float()
    run.task.network = Answers(logits)
    spec = spec_of(run.recipe)
    assert spec.suspects(run, split="val", batches=[batch]) == []
    names = run.classes.names
    batch["label_map"][1, 30:40, 20:40] = names.index("sky")  # on the road
    batch["label_map"][0, 30:31] = names.index("sky")  # a line, as along an edge
    (finding,) = spec.suspects(run, split="val", batches=[batch])
    (example,) = finding.examples
    assert example.image_id == int(batch["image_ids"][1])
    assert example.text.startswith("sky, where the model sees road, 6.5% of the image; score 0.00")
    np.testing.assert_allclose(example.boxes_xyxy, [(20, 30, 40, 40)], atol=1.5)


def test_the_worst_are_listed():
    (finding,) = finding_of("val", [(number / 100, Example(text="x")) for number in range(50, 0, -1)])
    assert (finding.count, len(finding.examples)) == (50, SUSPECTS)
    assert [example.text for example in finding.examples[:2]] == ["x; score 0.01", "x; score 0.02"]
    assert finding.text == "50 annotations are doubted by the model (score: 0 wrong, 1 right), worst first"


@needs_cleanlab
def test_the_command_lists_them(tiny, tiny_learnt_run, tmp_path, capsys):
    data = tiny.write(tmp_path / "data")
    path = data / "annotations/train.json"
    content = json.loads(path.read_text())
    for each in content["annotations"][:2]:
        each["category_id"] = {3: 7, 7: 3}[each["category_id"]]
    path.write_text(json.dumps(content))
    files = ["--json", str(tmp_path / "found.json"), "--html", str(tmp_path / "found.html")]
    recipe = str(tiny_learnt_run / "config.yaml")
    main(["doctor", recipe, f"data.root={data}", "--quick", "--label-errors", str(tiny_learnt_run), *files])
    assert capsys.readouterr().err == ""
    found = json.loads((tmp_path / "found.json").read_text())["findings"]
    assert all(each["severity"] == "note" for each in found if each["id"] == "label-suspect")


def test_without_the_extra_a_sentence_says_how_to_get_it(tiny, tiny_run, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "cleanlab", None)
    command = ["doctor", str(tiny_run / "config.yaml"), "--label-errors", str(tiny_run)]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert error == (
        "error: --label-errors needs the Python package 'cleanlab', which is not installed: "
        "pip install 'dettoolkit[cleanlab]'\n"
    )
