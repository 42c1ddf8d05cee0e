"""A trained classifier on images and in files: results, tables, exports, and how images are fitted."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_exports import handmade

from dettoolkit import cli, load
from dettoolkit.classification.decode import best_classes
from dettoolkit.classification.result import ClassificationResult, compare
from dettoolkit.classification.spec import ClassificationSpec
from dettoolkit.config import load_recipe
from dettoolkit.datasets.classification_augment import EvalTransform
from dettoolkit.export.command import export
from dettoolkit.export.request import Request
from dettoolkit.export.verify import score, validation_run
from dettoolkit.loading import read_manifest
from dettoolkit.manifest import Manifest, ManifestError, Section
from dettoolkit.preprocessing import fit_image, fit_planes
from dettoolkit.training.run_folder import stored_recipe

NAMES = ("bar", "box", "disc")


def photo(height: int, width: int) -> Any:
    coarse = np.random.default_rng(height).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    return coarse.repeat(8, 0).repeat(8, 1)[:height, :width].copy()


def result(scores: list[float], labels: list[int], image: Any = None) -> ClassificationResult:
    return ClassificationResult(
        path=None,
        image=photo(60, 80) if image is None else image,
        class_names=NAMES,
        class_ids=(7, 8, 9),
        labels=np.array(labels),
        scores=np.array(scores, np.float32),
    )


@pytest.fixture(scope="module")
def cropping() -> Manifest:
    """Return the manifest of a classifier whose images are cropped."""
    section = Section(class_names=NAMES, class_ids=(0, 1, 2))
    return handmade(section, input_hw=(64, 96), fit="crop", crop_fraction=64 / 110, antialias=True)


# Fitting

SIZES = [(50, 70), (131, 67), (481, 641), (30, 1000), (1000, 30), (64, 96), (1, 1)]


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("hw", SIZES)
def test_images_are_fitted_as_in_evaluation(cropping: Manifest, hw: tuple[int, int], antialias: bool) -> None:
    image, manifest = photo(*hw), replace(cropping, antialias=antialias)
    assert manifest.short_side == 110
    evaluated = EvalTransform(input_hw=(64, 96), resize=110, antialias=antialias)(image, 0)
    fitted = fit_image(image, manifest)
    np.testing.assert_array_equal(fitted, evaluated)
    planes = fit_planes(torch.from_numpy(image).permute(2, 0, 1)[None], manifest)
    # torchvision resizes whole numbers, a file floating-point ones.
    assert (planes[0].permute(1, 2, 0) - torch.from_numpy(fitted)).abs().max() <= 1


def test_a_manifest_that_crops_more_than_there_is_is_refused(cropping: Manifest) -> None:
    for changes in ({"crop_fraction": 1.0}, {"crop_fraction": 1e-4}, {"input_hw": None}):
        with pytest.raises(ManifestError, match="cannot be cropped"):
            replace(cropping, **changes)


def test_a_recipe_says_how_images_are_fitted(tiny_classification: Any, tmp_path: Path) -> None:
    spec = ClassificationSpec()
    keys = ("data.eval_hw=[96, 64]", "data.eval_resize=100", "data.antialias=false")
    recipe = tiny_classification.load(tmp_path, *keys).recipe
    section = Section(class_names=NAMES, class_ids=(0, 1, 2))
    manifest = handmade(section, input_hw=spec.input_hw(recipe), **spec.fitting(recipe))
    assert (manifest.input_hw, manifest.fit, manifest.short_side) == ((96, 64), "crop", 100)
    assert not manifest.antialias
    for name in ("imagenet_mnv3_large", "imagenet_mnv3_small", "imagenet_mnv3_large_torchvision"):
        shipped = load_recipe(name).recipe
        manifest = handmade(section, input_hw=spec.input_hw(shipped), **spec.fitting(shipped))
        assert manifest.short_side == shipped.data.eval_resize


# Results


def test_best_classes_are_five_at_most_and_of_equal_ones_the_lower_comes_first() -> None:
    logits = torch.tensor([[0.0, 2.0, 2.0, -1.0, 0.0, 1.0, 2.0]])
    scores, labels = best_classes(logits)
    assert labels.tolist() == [[1, 2, 6, 5, 0]]
    torch.testing.assert_close(scores, logits.softmax(1)[:, [1, 2, 6, 5, 0]])
    assert best_classes(logits[:, :2])[1].tolist() == [[1, 0]]


def test_a_result_lists_its_classes() -> None:
    found = result([0.7, 0.2, 0.1], [2, 0, 1])
    assert len(found) == 3
    assert [(each.name, pytest.approx(each.score)) for each in found] == [
        ("disc", 0.7),
        ("bar", 0.2),
        ("box", 0.1),
    ]
    assert repr(found) == "<ClassificationResult 80 x 60 pixels: disc 70.0%, bar 20.0%, box 10.0%>"
    content = found.to_dict()
    assert (content["task"], content["height"], content["width"]) == ("classification", 60, 80)
    assert content["best"][0] == {
        "rank": 1,
        "name": "disc",
        "label": 2,
        "class_id": 9,
        "score": pytest.approx(0.7),
    }
    json.dumps(content)
    with pytest.raises(ValueError, match="classification"):
        found.only([0])


@pytest.mark.parametrize("hw", [(60, 80), (480, 640), (3, 5), (1, 1), (400, 20)])
def test_the_best_class_is_drawn_on_any_image(hw: tuple[int, int]) -> None:
    image = np.zeros((*hw, 3), np.uint8)
    drawn = result([0.7, 0.2, 0.1], [2, 0, 1], image).plot()
    assert drawn.shape == image.shape
    assert not image.any()
    assert drawn.any()


def test_comparison_counts_other_best_classes_but_not_ties() -> None:
    same = result([0.7, 0.2, 0.1], [2, 0, 1])
    tied = result([0.40003, 0.4, 0.19997], [0, 1, 2]), result([0.4, 0.39999, 0.2], [1, 0, 2])
    other = same, result([0.5, 0.4, 0.1], [0, 2, 1])
    found = compare([(same, same), tied, other, (same, same)], None, "exact")
    assert found.errors == {"top1": 0.25}
    assert found.details["ties"] == 1
    assert found.details["largest_score_difference"] == pytest.approx(0.3, abs=1e-4)
    assert not found.doubts
    assert "the class disc for every image" in compare([(same, same), (same, same)], None, "exact").doubts[0]
    assert np.isnan(compare([], None, "exact").errors["top1"])


# A trained classifier


def test_predictions_are_evaluations(tiny_classification_run: Path) -> None:
    """Best classes and scores are those of the run's predictions.json, which its evaluation wrote."""
    predictor = load(tiny_classification_run, device="cpu")
    answers = json.loads((tiny_classification_run / "predictions.json").read_text())
    root = Path(predictor.manifest.recipe["data"]["root"]) / "val"
    found = predictor([root / each["file"] for each in answers])
    for each, answer in zip(found, answers, strict=True):
        assert list(each.names) == answer["predicted"]
        np.testing.assert_allclose(each.scores, answer["scores"], atol=2e-6)
    with stored_recipe(tiny_classification_run) as config:
        recipe = load_recipe(str(config), ["trainer.accelerator=cpu"]).recipe
    run = validation_run(recipe, predictor.manifest, what="the run")
    report = json.loads((tiny_classification_run / "evaluation.json").read_text())
    assert score(predictor, run) == ("top-1", {"top-1": report["numbers"]["top-1"]})


def test_predict_writes_tables_and_figures(
    tiny_classification_run: Path, tiny_classification: Any, tmp_path: Path
) -> None:
    out, images = tmp_path / "out", tiny_classification.data / "val"
    command = ["predict", str(tiny_classification_run), str(images), "--out", str(out)]
    assert cli.main([*command, "--save", "figures,json,csv"]) == 0
    (table,) = out.glob("*.csv")
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["name", "rank", "class", "class_id", "score"]
    assert len(rows) == 7 * 3
    assert [row["rank"] for row in rows[:3]] == ["1", "2", "3"]
    first = load(tiny_classification_run, device="cpu")(images / rows[0]["name"])
    assert [row["class"] for row in rows[:3]] == list(first.names)
    assert sum(path.suffix in (".jpg", ".png") for path in out.rglob("*")) == 7
    with Image.open(next(path for path in out.rglob("*") if path.suffix in (".jpg", ".png"))) as figure:
        assert figure.size == first.hw[::-1]


@pytest.mark.parametrize(
    ("format", "library", "inside"),
    [
        ("onnx", "onnxruntime", True),
        ("onnx", "onnxruntime", False),
        ("pt2", "torch", True),
        ("pt2", "torch", False),
        ("openvino", "openvino", True),
        ("executorch", "executorch", False),
        ("litert", "ai_edge_litert", False),
    ],
)
def test_files_pass_the_gate(
    tiny_classification_run: Path, tmp_path: Path, format: str, library: str, inside: bool
) -> None:
    runtime = {"openvino": "OpenVINO", "executorch": "ExecuTorch", "litert": "LiteRT"}.get(format, library)
    pytest.importorskip(library, reason=f"{runtime} is not installed: make test-exports")
    ending = {"onnx": ".onnx", "pt2": ".pt2", "openvino": ".xml", "executorch": ".pte", "litert": ".tflite"}
    request = Request(
        format=format, batch=1, preprocessing=inside, postprocessing=inside, metric=True, limit=7
    )
    done = export(tiny_classification_run, tmp_path / f"model{ending[format]}", request)
    assert done.report.errors["top1"] == 0
    assert read_manifest(done.path).export.parity["errors"]["top1"] == 0
    model = load(done.path, trust=format == "pt2")
    reference = load(tiny_classification_run, device="cpu")
    for image in (photo(90, 130), photo(200, 64)):
        ours, theirs = reference(image), model(image)
        assert ours.names[0] == theirs.names[0]
        scores = [dict(zip(each.names, each.scores.tolist(), strict=True)) for each in (ours, theirs)]
        assert scores[0] == pytest.approx(scores[1], abs=0.02)  # those of unlikely classes may change places


def test_an_int8_file_passes_the_gate(tiny_classification_run: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    request = Request(
        format="onnx", precision="int8", batch=1, limit=7, tolerances={"raw": 1.0, "metric": 1.0}
    )
    done = export(tiny_classification_run, tmp_path / "model.onnx", request)
    assert done.report.errors["top1"] <= 0.1
    assert load(done.path).manifest.export.precision == "int8"
