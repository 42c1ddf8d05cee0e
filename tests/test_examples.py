"""The examples in docstrings run, and say what comes out."""

import doctest

import pytest

from dettoolkit.classification.result import ClassificationResult
from dettoolkit.config import load_recipe
from dettoolkit.detection.result import DetectionResult
from dettoolkit.evaluation.coco_ap import evaluate_coco
from dettoolkit.evaluation.miou import evaluate_segmentation
from dettoolkit.inference.predictor import Predictor
from dettoolkit.loading import load
from dettoolkit.segmentation.result import SegmentationResult


def run(documented, **known):
    found = [
        each
        for each in doctest.DocTestFinder(recurse=False).find(documented, extraglobs=known)
        if each.examples
    ]
    assert found, f"{documented.__name__} has no example"
    runner = doctest.DocTestRunner()
    for each in found:
        runner.run(each)
    assert not runner.summarize(verbose=False).failed


@pytest.mark.parametrize(
    "documented",
    [
        load_recipe,
        evaluate_coco,
        evaluate_segmentation,
        DetectionResult,
        SegmentationResult,
        ClassificationResult,
    ],
)
def test_an_example_runs(documented):
    run(documented)


@pytest.mark.parametrize("documented", [load, Predictor])
def test_an_example_of_a_model_runs(documented, tiny, tiny_run):
    folder = tiny.data / "val"
    image = min(folder.iterdir())
    run(documented, load=load, run=tiny_run, image=str(image), folder=str(folder))
