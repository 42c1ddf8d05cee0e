"""What segmentation gives to every command: sections, decoding, comparison, and a prediction to score."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dettoolkit.manifest import ExportFacts, Manifest, ManifestError
from dettoolkit.run import Classes
from dettoolkit.segmentation.decode import FinalLabels
from dettoolkit.segmentation.result import SegmentationResult
from dettoolkit.segmentation.spec import SegmentationSection, SegmentationSpec

NAMES = ("road", "sky", "car")
SPEC = SegmentationSpec()


def section(**changes: Any) -> SegmentationSection:
    settings = {"class_names": NAMES, "class_ids": (7, 23, 26), "align_corners": False}
    return SegmentationSection(**{**settings, **changes})


def manifest(*, final: bool = False, **changes: Any) -> Manifest:
    export = ExportFacts(format="onnx", outputs=("labels",), postprocessing=True) if final else None
    return Manifest(
        name="tiny",
        mean=(0.5, 0.5, 0.5),
        std=(0.2, 0.2, 0.2),
        input_hw=(8, 12),
        recipe={},
        versions={},
        tasks={"segmentation": section(**changes)},
        export=export,
    )


def result(labels: Any) -> SegmentationResult:
    labels = np.asarray(labels, np.uint8)
    image = np.zeros((*labels.shape, 3), np.uint8)
    return SegmentationResult(
        path=None, image=image, class_names=NAMES, class_ids=(7, 23, 26), colors=None, labels=labels
    )


def test_the_spec_is_light() -> None:
    code = (
        "import sys, dettoolkit.segmentation.spec; sys.exit('torch' in sys.modules or 'cv2' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_colors_are_those_of_the_classes() -> None:
    with pytest.raises(ManifestError, match="3 class names and 2 colors"):
        section(colors=(None, (1, 2, 3)))
    colors = (None, (1, 2, 3), None)
    assert section(colors=colors).colors == colors


def test_the_section_of_a_recipe_has_its_classes_in_the_networks_order(
    tiny_segmentation: Any, tmp_path: Path
) -> None:
    own = "data.classes=[{name: ground, ids: [7], color: [1, 2, 3]}, {name: sky, ids: [23]}]"
    evaluation = "evaluation={mode: slide, window_hw: [64, 64], stride_hw: [32, 40], scales: [0.5, 1.0]}"
    recipe = tiny_segmentation.load(tmp_path, own, evaluation, "data.eval_hw=[64, 96]").recipe
    network = SPEC.build_network(recipe, num_classes=2)
    found = SPEC.describe(recipe, network, classes=Classes(["sky", "ground"], [23, 7]))
    assert found.class_names == ("sky", "ground")
    assert found.class_ids == (23, 7)
    assert found.colors == (None, (1, 2, 3))
    assert (found.mode, found.window_hw, found.stride_hw) == ("slide", (64, 64), (32, 40))
    assert found.scales == (0.5, 1.0)
    assert SPEC.input_hw(recipe) == (64, 96)
    assert SPEC.zoo_size(recipe) == (2, (64, 96))


def test_logits_and_labels_become_results_of_the_images_sizes() -> None:
    images = [np.zeros((*hw, 3), np.uint8) for hw in ((8, 12), (16, 5))]
    inputs = torch.zeros(2, 3, 8, 12)
    logits = torch.zeros(2, 3, 2, 3)
    logits[0, 1], logits[1, 2] = 1.0, 1.0
    decode = SPEC.decoder(manifest(), torch.device("cpu"))
    found = decode(lambda _: (logits,), inputs, images, min_score=0.0)
    assert [each.labels.shape for each in found] == [(8, 12), (16, 5)]  # type: ignore[attr-defined]
    assert [each.tally() for each in found] == [{"sky": 1.0}, {"car": 1.0}]
    assert SPEC.count_classes([logits], manifest()) == 3
    labels = FinalLabels(manifest())(logits, (8, 12))
    decode = SPEC.decoder(manifest(final=True), torch.device("cpu"))
    again = decode(lambda _: (labels,), inputs, images, min_score=0.0)
    for one, other in zip(found, again, strict=True):
        assert np.array_equal(one.labels, other.labels)  # type: ignore[attr-defined]
        assert other.image.shape[:2] == other.labels.shape  # type: ignore[attr-defined]
    assert SPEC.count_classes([labels], manifest(final=True)) == 3


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ({"mode": "slide", "window_hw": (8, 8), "stride_hw": (4, 4)}, "add evaluation.mode=whole"),
        ({"scales": (0.5, 1.0)}, r"evaluation.scales=\[1.0\]"),
        ({"flip": True}, "add evaluation.flip=false"),
    ],
)
def test_what_a_file_cannot_do_is_refused(changes: dict[str, Any], remedy: str) -> None:
    SPEC.check_export(manifest(final=True))
    with pytest.raises(ValueError, match=remedy):
        SPEC.check_export(manifest(final=True, **changes))
    SPEC.check_export(manifest(flip=True))


def test_comparison_counts_pixels_and_the_class_that_agrees_least() -> None:
    one, other = np.zeros((10, 20)), np.zeros((10, 20))
    one[:, 10:], other[:, 11:] = 1, 1
    found = SPEC.compare([(result(one), result(other))], section(), "exact")
    assert found.errors["pixels"] == pytest.approx(10 / 200)
    assert found.errors["worst_class"] == pytest.approx(1 - 90 / 100)
    assert found.details == {"classes_seen": 2, "worst_class_name": "sky", "pixels_compared": 200}
    assert found.doubts == ()
    assert found.errors.keys() == SPEC.errors.keys()


def test_comparison_that_proves_nothing() -> None:
    same = SPEC.compare([(result(np.zeros((4, 4))),) * 2], section(), "exact")
    assert same.errors == {"pixels": 0.0, "worst_class": 0.0}
    assert "predicts only road" in same.doubts[0]
    assert "no pixels" in SPEC.compare([], section(), "exact").doubts[0]
    sizes = SPEC.compare([(result(np.zeros((4, 4))), result(np.zeros((2, 2))))], section(), "exact")
    assert sizes.errors == {"pixels": 1.0}
    assert "should be (4, 4)" in sizes.doubts[0]


def test_entries_of_a_record_in_tables_and_coco() -> None:
    record = result([[0, 0, 1]]).record(masks=True)
    road, sky = record["classes"]
    assert SPEC.csv_row(road) == ("road", 7, 2, pytest.approx(2 / 3))
    assert len(SPEC.csv_columns) == len(SPEC.csv_row(road))
    assert {key for key, _ in SPEC.arrow_columns.values()} <= sky.keys()
    coded = SPEC.coco_entry(sky, record)
    assert coded == {"category_id": 23, "segmentation": {"size": [1, 3], "counts": sky["rle"]}}


def test_a_result_is_scored_as_validation_scores_it(tiny_segmentation: Any, tmp_path: Path) -> None:
    recipe = tiny_segmentation.load(tmp_path).recipe
    run = SPEC.training_run("x", recipe, pretrained=False)
    files = run.image_files()
    assert [each.path for each in files] == run.val.files.image_paths
    assert len(SPEC.training_images(recipe)) == 8
    batch = run.collate([run.val[1]])
    labels = batch["label_map"][0].numpy()
    perfect = replace(result(labels), image=files[1].read(), labels=np.where(labels == 255, 0, labels))
    counts = run.prediction_of(perfect, 1)
    numbers = run.task.score([counts]).numbers
    assert numbers["mIoU"] == numbers["iIoU"] == 1.0
    assert counts.image_ids.tolist() == [1]


def test_a_label_file_that_cannot_be_read_is_skipped_where_the_recipe_says_so(
    tiny_segmentation: Any, tmp_path: Path
) -> None:
    data = tiny_segmentation.write(tmp_path / "data")
    overrides = (f"data.root={data}", "data.on_bad_image=skip")
    run = SPEC.training_run("x", tiny_segmentation.load(tmp_path, *overrides).recipe, pretrained=False)
    run.val.files.label_paths[0].write_bytes(b"nonsense")
    assert run.prediction_of(result(np.zeros((48, 64))), 0) is None
    assert run.prediction_of(result(np.zeros((48, 64))), 2) is not None
