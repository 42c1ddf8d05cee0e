"""`dettoolkit export` from the outside: files, sentences and exit statuses."""

import json
import subprocess
import sys

import pytest

from dettoolkit.cli.exporting import export
from dettoolkit.loading import read_manifest

pytest.importorskip("onnx", reason="exporting to ONNX needs the extra onnx")
pytest.importorskip("onnxruntime", reason="running ONNX files needs the extra onnx")
pytest.importorskip("onnxscript", reason="exporting to ONNX needs the extra onnx")

from command_line import refused


@pytest.fixture(scope="module")
def exported(tiny_segmentation_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "segmenter.onnx"
    arguments = ["--postprocessing", "--limit", "3", "--size", "32", "48", "--metric"]
    arguments += ["--tolerance", "metric=0.05"]  # of enlarging label maps to the images' size
    assert export([str(tiny_segmentation_run), "--out", str(out), *arguments]) == 0
    return out


@pytest.mark.learnt
def test_a_file_and_its_report_are_written(exported):
    report = json.loads((exported.parent / "segmenter.onnx.report.json").read_text())
    assert report["images"] == 3
    assert report["failures"] == []
    assert report["scores"]["pytorch"] > 0
    assert set(report["sha256"]) == {"segmenter.onnx"}
    assert sorted(each.name for each in exported.parent.iterdir()) == [
        "segmenter.onnx",
        "segmenter.onnx.report.json",
    ]


def test_the_file_is_loaded_in_three_lines(exported, tiny_segmentation):
    from dettoolkit import load

    image = next((tiny_segmentation.data / "leftImg8bit" / "val").rglob("*.png"))
    model = load(exported)
    assert model.manifest.input_hw == (32, 48)
    assert model(image).labels.shape == model(image).hw


def test_the_file_tells_no_folder_of_the_machine(exported, tiny_segmentation):
    recipe = read_manifest(exported).recipe
    assert recipe["data"]["root"] == tiny_segmentation.data.name
    assert recipe["data"]["val"]["images"] == "leftImg8bit/val"
    assert str(tiny_segmentation.data.parent).encode() not in exported.read_bytes()


def test_what_exists_is_not_overwritten(exported, tiny_segmentation_run, capsys):
    before = exported.read_bytes()
    assert export([str(tiny_segmentation_run), "--out", str(exported)]) == 2
    assert "already exists" in refused(capsys)
    assert exported.read_bytes() == before


def test_a_file_that_is_off_is_refused_with_the_figures(tiny_segmentation_run, tmp_path, capsys):
    out = tmp_path / "model.onnx"
    arguments = ["--out", str(out), "--limit", "2", "--preprocessing", "--tolerance", "raw=0"]
    assert export([str(tiny_segmentation_run), *arguments]) == 2
    told = refused(capsys)
    assert "more than the tolerance 0 (raw)" in told
    assert "compared with PyTorch on" in told
    assert "was not written" in told
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--out", "model.tflite"], "end in .onnx"),
        (["--tolerance", "pixles=0.1"], "did you mean pixels"),
        (["--images", "nowhere"], "nowhere does not exist"),
        (["data.root=nowhere"], "nowhere"),
        (["--score-threshold", "0.3"], "omit --score-threshold"),
        (["data.rot=1"], "did you mean 'root'"),
    ],
)
def test_errors_are_sentences(tiny_segmentation_run, tmp_path, capsys, arguments, sentence):
    out = [] if "--out" in arguments else ["--out", str(tmp_path / "model.onnx")]
    assert export([str(tiny_segmentation_run), *out, *arguments]) == 2
    assert sentence in refused(capsys)
    assert list(tmp_path.iterdir()) == []


def test_no_run_is_told(tmp_path, capsys):
    assert export([str(tmp_path), "--out", str(tmp_path / "model.onnx")]) == 2
    assert "neither a checkpoint nor a run" in refused(capsys)


def test_help_needs_no_torch(repository, tmp_path):
    code = (
        "import sys; from dettoolkit.cli.exporting import export\n"
        "try: export(['--help'])\n"
        "except SystemExit: print('torch' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert ran.stdout.endswith("False\n"), ran.stderr
    assert "--preprocessing" in ran.stdout
