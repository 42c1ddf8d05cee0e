"""report.html and the numbers behind it: what evaluation.json says, what the page shows, in a browser."""

import csv
import html
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dettoolkit import cli
from dettoolkit.evaluation.answer_details import answer_details, true_class_scores
from dettoolkit.evaluation.arrays import DetectionArrays, GroundTruthArrays
from dettoolkit.evaluation.box_details import box_details
from dettoolkit.evaluation.pixel_details import largest_confusions
from dettoolkit.evaluation.top_k import ClassificationArrays, evaluate_classification
from dettoolkit.reporting.run_page import write_report
from dettoolkit.reporting.scored_folder import open_folder
from dettoolkit.reporting.training_charts import training_advice

pytestmark = pytest.mark.usefixtures("alone")
RUNS = ("tiny_learnt_run", "tiny_segmentation_run", "tiny_classification_run")


def read(folder: Path) -> dict:
    return json.loads((folder / "evaluation.json").read_text())


def page_of(folder: Path) -> str:
    return (folder / "report.html").read_text()


def cells(page: str) -> list[str]:
    """Return the text of all cells of tables and of the numbers at the top."""
    return [html.unescape(text) for text in re.findall(r"<(?:td|dd)[^>]*>(.*?)</(?:td|dd)>", page)]


# ---- numbers


def test_a_detectors_numbers_are_those_of_pycocotools(shared_data):
    folder = shared_data / "cocoeval_reference"
    content = json.loads((folder / "instances_val2014_100.json").read_text())
    results = json.loads((folder / "instances_val2014_fakebbox100_results.json").read_text())
    found = DetectionArrays(
        image_ids=np.array([each["image_id"] for each in results]),
        category_ids=np.array([each["category_id"] for each in results]),
        boxes_xywh=np.array([each["bbox"] for each in results], np.float64),
        scores=np.array([each["score"] for each in results], np.float64),
    )
    truth = GroundTruthArrays.from_coco(content)
    details = box_details(truth, found, max_detections=100, threshold=0.5, count=5)
    api = COCO()
    api.dataset = content
    api.createIndex()
    official = COCOeval(api, api.loadRes(results), "bbox")
    official.evaluate()
    official.accumulate()
    precision = official.eval["precision"][0, :, :, 0, 2]  # IoU 0.5, all areas, 100 detections
    for number, curve in enumerate(details["curves"]):
        if precision[:, number].max() > -1:
            assert curve["precision"] == pytest.approx(precision[:, number].tolist(), abs=1e-6)
        else:
            assert curve["precision"] == []
    matrix = np.array(details["confusion"]["matrix"])
    assert matrix[:-1].sum() == sum(curve["objects"] for curve in details["curves"])
    assert matrix[:, :-1].sum() == (found.scores >= details["shown_from"]).sum()
    assert sum(details["objects_by_size"].values()) == matrix[:-1].sum()
    row = next(each for each in details["thresholds"] if each["threshold"] == 0.5)
    assert row["detections"] == (found.scores >= 0.5).sum()
    assert len(details["worst_images"]) == len(details["mistakes"]) == 5
    scores = [each["score"] for each in details["mistakes"]]
    assert scores == sorted(scores, reverse=True)


def test_a_segmenters_largest_confusions_by_hand():
    matrix = np.array([[90, 10, 0], [30, 10, 0], [0, 0, 0]])
    found = largest_confusions(matrix, ["road", "car", "sky"])
    assert found == [
        {"name": "car", "taken_for": "road", "pixels": 30, "fraction": 0.75},
        {"name": "road", "taken_for": "car", "pixels": 10, "fraction": 0.1},
    ]


def answers(labels: list[int], best: list[list[int]], scores: list[list[float]]) -> ClassificationArrays:
    ranks = [row.index(label) if label in row else len(row) for label, row in zip(labels, best, strict=True)]
    return ClassificationArrays(
        image_ids=np.arange(len(labels)),
        labels=np.array(labels, np.int64),
        ranks=np.array(ranks, np.int64),
        best=np.array(best, np.int64).reshape(len(labels), -1),
        scores=np.array(scores, np.float64).reshape(len(labels), -1),
    )


def test_a_classifiers_details_by_hand():
    names = ["cat", "dog"]
    given = answers([0, 0, 1], [[0, 1], [1, 0], [0, 1]], [[0.9, 0.1], [0.6, 0.4], [0.8, 0.2]])
    score = evaluate_classification(given, class_names=names)
    details = answer_details(given, score, class_names=names, count=1)
    assert details["matrix"] == [[1, 1], [1, 0]]
    assert [entry["top-1"] for entry in details["class_fractions"]] == [0.5, 0]
    assert details["mistakes"] == [{"image_id": 2, "class": "dog", "predicted": "cat", "score": 0.8}]
    assert true_class_scores(given) == {0: 0.9, 1: 0.4, 2: 0.2}
    none = ClassificationArrays.concatenate([])
    score = evaluate_classification(none, class_names=names)
    assert answer_details(none, score, class_names=names, count=1)["mistakes"] == []


# ---- the page of one run


@pytest.mark.parametrize("name", RUNS)
def test_a_training_ends_with_a_report_that_shows_the_numbers_of_evaluation_json(name, request):
    run = request.getfixturevalue(name)
    evaluation, page = read(run), page_of(run)
    assert len(page) < 3_000_000
    assert "<script" not in page
    shown = cells(page)
    for value in evaluation["numbers"].values():
        assert value is None or f"{value:.3f}" in shown
    for entry in evaluation["per_class"]:
        assert entry["name"] in shown
    monitor = evaluation["about"]["monitor"]
    assert f"<h1>tiny: {monitor} {evaluation['numbers'][monitor]:.3f}</h1>" in page
    for text in (evaluation["about"]["scored_on"], "Learning rate", "max_epochs", "Environment"):
        assert html.escape(text) in page
    assert page.count("<svg") >= 3


def test_a_detectors_page_has_curves_thresholds_errors_and_confusion(tiny_learnt_run):
    evaluation, shown = read(tiny_learnt_run), cells(page_of(tiny_learnt_run))
    for kind in evaluation["errors"]:
        place = shown.index(kind["meaning"])
        gain = "–" if kind["gain"] is None else f"{kind['gain']:.3f}"
        assert shown[place + 1 : place + 3] == [str(kind["count"]), gain]
    for row in evaluation["thresholds"]:
        place = shown.index(f"{row['threshold']:.2f}")
        assert shown[place + 1] == str(row["detections"])
    first = evaluation["per_class"][0]
    place = shown.index(first["name"])
    assert shown[place + 1 : place + 5] == [
        *(f"{first[key]:.3f}" for key in ("ap", "ap50", "ar100")),
        str(first["objects"]),
    ]
    matrix = np.array(evaluation["confusion"]["matrix"])
    assert matrix[:-1].sum() == 10  # of 5 images with two objects each


def test_pictures_are_drawn_and_listed(tiny_segmentation_run):
    evaluation = read(tiny_segmentation_run)
    drawn = [entry for entry in evaluation["worst_images"] if "picture" in entry]
    assert len(drawn) == 2  # evaluation.figures
    assert all((tiny_segmentation_run / entry["picture"]).is_file() for entry in drawn)
    assert page_of(tiny_segmentation_run).count("<img ") == 2
    scores = json.loads((tiny_segmentation_run / "image_scores.json").read_text())
    assert len(scores) == 5
    assert min(scores.values()) == pytest.approx(evaluation["worst_images"][0]["mIoU"])


def test_the_report_is_made_anew_and_nothing_else_is_overwritten(tiny_learnt_run, tmp_path, capsys):
    run = shutil.copytree(tiny_learnt_run, tmp_path / "run")
    before = page_of(run)
    (run / "report.html").unlink()
    assert cli.main(["report", str(run)]) == 0
    assert capsys.readouterr().out == f"{run}/report.html\n"
    assert page_of(run) == before.replace(str(tiny_learnt_run), str(run)) or len(page_of(run))
    write_report(run)  # ours is written over
    (run / "report.html").write_text("my notes")
    assert cli.main(["report", str(run)]) == 2
    assert "is not a report of dettoolkit" in capsys.readouterr().err
    assert (run / "report.html").read_text() == "my notes"
    out = tmp_path / "page.html"
    assert cli.main(["report", str(run), "--out", str(out)]) == 0
    assert cli.main(["report", str(run), "--out", str(out)]) == 2
    assert "not overwritten" in capsys.readouterr().err


def test_what_lies_beside_a_run_is_in_its_report(tiny_learnt_run, tmp_path):
    run = shutil.copytree(tiny_learnt_run, tmp_path / "run")
    finding = {"severity": "warning", "id": "box-tiny", "split": "train", "text": "3 boxes are tiny"}
    (run / "doctor.json").write_text(json.dumps({"findings": [finding | {"remedy": "enlarge"}]}))
    gate = {"images": 5, "errors": {"raw": 1e-6}, "tolerances": {"raw": 1e-4}, "failures": []}
    (run / "model.onnx.report.json").write_text(json.dumps(gate))
    problem = {"kind": "clipped", "image_id": 7, "annotation_id": 1, "text": "reaches out"}
    report = {"file": "a", "counts": {"clipped": 1}, "problems": [problem]}
    (run / "data_report.json").write_text(json.dumps({"train": report, "unreadable images": ["x.jpg: bad"]}))
    write_report(run)
    page = page_of(run)
    for text in ("3 boxes are tiny", "enlarge", "agrees with PyTorch", "1e-06 (at most 0.0001)"):
        assert text in page
    for text in ("clipped", "image 7: reaches out", "x.jpg: bad"):
        assert text in page


def test_a_resumed_run_knows_where_its_values_came_from_at_first(tiny, tmp_path, capsys):
    began = [f"data.root={tiny.data}", f"trainer.out={tmp_path}", "data.on_bad_image=skip"]
    assert cli.train([str(tiny.recipe), *began, "trainer.max_epochs=1"]) == 0
    (run,) = (tmp_path / "tiny").iterdir()
    first = read(run)["about"]["provenance"]
    assert first["optim.lr"].startswith(f"{tiny.recipe}:")
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("on_bad_image: skip", "on_bad_image: error"))
    for changed in (["trainer.max_epochs=2"], []):  # the second time it has its full length already
        assert cli.train(["--resume", str(run), *changed]) == 0
        after = read(run)["about"]["provenance"]
        assert after["trainer.max_epochs"] == "override 1 'trainer.max_epochs=2'"
        assert after["data.on_bad_image"].startswith(f"{run / 'config.yaml'}:")
        assert {key for key in first if first[key] != after[key]} == {
            "trainer.max_epochs",
            "data.on_bad_image",
        }
    (run / "origins.json").write_text("[]")  # damaged: less is known
    assert cli.train(["--resume", str(run)]) == 0
    assert read(run)["about"]["provenance"]["optim.lr"].startswith(f"{run / 'config.yaml'}:")
    capsys.readouterr()


def test_a_report_says_what_is_wrong_with_a_folder(tmp_path, tiny_run, capsys):
    assert cli.main(["report", str(tmp_path)]) == 2
    assert "has no evaluation.json" in capsys.readouterr().err
    old = tmp_path / "old"
    old.mkdir()
    (old / "evaluation.json").write_text('{"numbers": {}}')
    assert cli.main(["report", str(old)]) == 2
    assert "score the run once more" in capsys.readouterr().err
    (old / "evaluation.json").write_text("{")
    assert cli.main(["report", str(old)]) == 2
    assert "is damaged" in capsys.readouterr().err
    run = shutil.copytree(tiny_run, tmp_path / "run")
    content = read(run)
    for entry in content["mistakes"] + content["worst_images"]:
        entry["picture"] = "../../../../etc/passwd"
    (run / "evaluation.json").write_text(json.dumps(content))
    write_report(run)
    assert "<img" not in page_of(run)


def test_a_report_that_cannot_be_written_ends_no_training(tiny, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(
        "dettoolkit.reporting.run_page.write_report", lambda _: (_ for _ in ()).throw(OSError(28, "full"))
    )
    run, _ = tiny.train(tmp_path)
    assert (run / "evaluation.json").is_file()
    assert not (run / "report.html").exists()
    assert "no report was written" in caplog.text


# ---- what may be missing


def without_objects(data: Path) -> None:
    path = data / "annotations" / "val.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"annotations": []}))


def test_a_detector_that_finds_nothing(tiny, tiny_run, tmp_path):
    out = tmp_path / "out"
    options = [f"data.root={tiny.data}", "evaluation.score_threshold=0.9999", "trainer.accelerator=cpu"]
    assert cli.main(["evaluate", str(tiny_run), *options, "--out", str(out)]) == 0
    evaluation, page = read(out), page_of(out)
    assert evaluation["best_f1"] is None
    assert evaluation["mistakes"] == []
    assert "found nothing at all" in page
    assert np.array(evaluation["confusion"]["matrix"])[:, -1].sum() == 10


def test_a_validation_set_without_objects(tiny, tmp_path):
    data = tiny.write(tmp_path / "data")
    without_objects(data)
    run, _ = tiny.train(tmp_path / "runs", f"data.root={data}")
    assert all(value is None for value in read(run)["numbers"].values())
    page = page_of(run)
    assert "<h1>tiny: AP undefined</h1>" in page
    assert "has no objects" in page


def test_one_class(tiny, tmp_path):
    data = tiny.write(tmp_path / "data")
    for path in (data / "annotations").iterdir():
        content = json.loads(path.read_text())
        content["categories"] = content["categories"][:1]
        content["annotations"] = [each for each in content["annotations"] if each["category_id"] == 3]
        path.write_text(json.dumps(content))
    run, _ = tiny.train(tmp_path / "runs", f"data.root={data}")
    assert read(run)["confusion"]["names"] == ["box", "background"]
    assert "box" in cells(page_of(run))


def test_labels_of_nothing_but_void(tiny_segmentation, tmp_path):
    import cv2

    data = tiny_segmentation.write(tmp_path / "data")
    for path in (data / "gtFine" / "val").glob("*/*_labelIds.png"):
        cv2.imwrite(str(path), np.zeros_like(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)))
    run, _ = tiny_segmentation.train(tmp_path / "runs", f"data.root={data}", "trainer.max_epochs=1")
    page = page_of(run)
    assert "mIoU undefined" in page
    assert "no labeled pixel" in page


def test_advice_of_a_training():
    def rows(*scores: float) -> list[dict[str, float]]:
        return [{"step": 10 * number, "AP": score} for number, score in enumerate(scores)]

    assert training_advice(rows(0.1, 0.2), "AP") == []
    assert "still rising" in training_advice(rows(0.1, 0.2, 0.3), "AP")[0]
    assert "best after step 11" in training_advice(rows(0.1, 0.5, 0.4, 0.3, 0.3), "AP")[0]
    assert training_advice(rows(0.1, 0.3, 0.4, 0.39), "AP") == []
    waits = [{"data_wait_fraction": fraction} for fraction in (0.9, 0.3, 0.5)]
    (advice,) = training_advice(waits, "AP")
    assert advice.startswith("Training waited for images 40% of its time: raise data.workers")
    assert training_advice(waits[:1], "AP")
    assert training_advice([{"data_wait_fraction": fraction} for fraction in (0.9, 0.1, 0.2)], "AP") == []


# ---- several runs


@pytest.mark.parametrize("kind", ["tiny", "tiny_segmentation", "tiny_classification"])
def test_two_runs_side_by_side(kind, request, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = request.getfixturevalue(kind)
    learnt = request.getfixturevalue(RUNS[("tiny", "tiny_segmentation", "tiny_classification").index(kind)])
    other, _ = data.train(tmp_path / "runs", "trainer.max_epochs=1", "optim.lr=0.001")
    out = tmp_path / "comparison.html"
    assert cli.main(["report", str(learnt), str(other)]) == 0
    assert capsys.readouterr().out == "comparison.html\n"
    page, shown = out.read_text(), cells(out.read_text())
    assert len(page) < 3_000_000
    first, second = read(learnt)["numbers"], read(other)["numbers"]
    for name, value in first.items():
        if value is not None and second[name] is not None:
            place = shown.index(name)
            assert shown[place + 1 : place + 4] == [
                f"{value:.3f}",
                f"{second[name]:.3f}",
                f"{second[name] - value:+.3f}",
            ]
    assert "optim.lr" in shown
    assert page.count("<img ") % 2 == 0
    assert "<img " in page
    assert cli.main(["report", str(learnt), str(other)]) == 2
    assert "comparison.html exists already" in capsys.readouterr().err


def test_what_cannot_be_compared(tiny_run, tiny_segmentation_run, tmp_path, capsys):
    out = ["--out", str(tmp_path / "x.html")]
    assert cli.main(["report", str(tiny_run), str(tiny_segmentation_run), *out]) == 2
    assert "different tasks" in capsys.readouterr().err
    assert cli.main(["report", str(tiny_run), str(tiny_run), *out]) == 2
    assert "given twice" in capsys.readouterr().err


def test_runs_whose_data_are_gone_are_compared_without_pictures(tiny, tiny_run, tmp_path):
    data = shutil.copytree(tiny.data, tmp_path / "data")
    other, _ = tiny.train(tmp_path / "runs", f"data.root={data}", "optim.lr=0.001")
    shutil.rmtree(data)
    out = tmp_path / "x.html"
    assert cli.main(["report", str(tiny_run), str(other), "--out", str(out)]) == 0
    page = out.read_text()
    assert "Beware" in page
    assert "<img " not in page


def test_an_evaluation_shows_the_training_that_its_folder_is_in(tiny, tiny_run, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    out = run / "evaluation"
    options = [f"data.root={tiny.data}", "trainer.accelerator=cpu"]
    assert cli.main(["evaluate", str(run), *options]) == 0
    assert "Learning rate" in page_of(out)
    folder = open_folder(out / "report.html")
    assert folder.path == out
    with (run / "metrics.csv").open(newline="") as file:
        assert len(folder.metrics()) == len(list(csv.DictReader(file)))


# ---- in a browser


@pytest.fixture(scope="module")
def browser() -> Iterator:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
    names = ("chromium", "chromium-browser", "google-chrome")
    path = os.environ.get("DETTOOLKIT_TEST_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("no chromium; set DETTOOLKIT_TEST_CHROMIUM to one")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.parametrize("name", RUNS)
def test_a_report_fits_screens_without_javascript_and_fetches_nothing(browser, name, width, request):
    run = request.getfixturevalue(name)
    context = browser.new_context(viewport={"width": width, "height": 800}, offline=True)
    page = context.new_page()
    asked, problems = [], []
    page.on("request", lambda each: asked.append(each.url))
    page.on("console", lambda message: problems.append(message.text))
    page.goto((run / "report.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert all(url.startswith(("file:", "data:")) for url in asked)
    assert problems == []
    broken = "[...document.images].filter((each) => each.complete && !each.naturalWidth).length"
    assert page.evaluate(broken) == 0
    assert page.locator("h1").is_visible()
    assert page.locator("svg[role=img]").first.is_visible()
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()
    context.close()
