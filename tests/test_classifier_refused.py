"""What a classifier cannot do yet is refused by one sentence, which says what it can do."""

import re

import pytest
from command_line import refused

from dettoolkit import load
from dettoolkit.cli import export, export_demo, predict
from dettoolkit.training.run_folder import checkpoint_of

SENTENCE = (
    "is a classifier, and only detectors and segmenters are run on images or exported: `dettoolkit "
    "evaluate` gives its top-1 and top-5, and model.backbone.weights=<its checkpoint> starts a detector or "
    "segmenter from it"
)


@pytest.fixture
def checkpoint(tiny_classification_run):
    return checkpoint_of(tiny_classification_run, names=("best",))


def test_by_load(tiny_classification_run, checkpoint):
    for model in (tiny_classification_run, checkpoint):
        with pytest.raises(ValueError, match=f"^{re.escape(f'{model} {SENTENCE}')}$"):
            load(model)


def test_by_predict(checkpoint, tiny_classification, tmp_path, capsys):
    out = tmp_path / "out"
    assert predict([str(checkpoint), str(tiny_classification.data / "val"), "--out", str(out)]) == 2
    assert refused(capsys) == f"error: {checkpoint} {SENTENCE}\n"
    assert not out.exists()


def test_by_export(checkpoint, tmp_path, capsys):
    for name in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(name, reason="exporting to ONNX needs the extra onnx")
    assert export([str(checkpoint), "--out", str(tmp_path / "model.onnx")]) == 2
    assert refused(capsys) == f"error: {checkpoint} {SENTENCE}\n"
    assert list(tmp_path.iterdir()) == []


def test_by_export_demo_before_it_fetches_anything(checkpoint, tmp_path, monkeypatch, capsys):
    def fetched(*_):
        raise AssertionError("ONNX Runtime Web was asked for")

    monkeypatch.setattr("dettoolkit.demo.ort_web.read_files", fetched)
    assert export_demo([str(checkpoint), "--out", str(tmp_path / "demo")]) == 2
    assert refused(capsys) == f"error: {checkpoint} {SENTENCE}\n"
    assert list(tmp_path.iterdir()) == []
