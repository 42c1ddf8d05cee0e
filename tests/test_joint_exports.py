"""Exported files of one network for both tasks, in every format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dettoolkit import load
from dettoolkit.export.command import export
from dettoolkit.export.request import Request
from dettoolkit.loading import read_manifest

pytestmark = pytest.mark.usefixtures("alone")
ENDING = {"onnx": ".onnx", "pt2": ".pt2", "openvino": ".xml", "executorch": ".pte", "litert": ".tflite"}
RUNTIME = {"openvino": "OpenVINO", "executorch": "ExecuTorch", "litert": "LiteRT"}


@pytest.mark.parametrize(
    ("format", "library", "before", "after"),
    [
        ("onnx", "onnxruntime", True, True),
        ("onnx", "onnxruntime", False, False),
        ("pt2", "torch", True, False),
        ("openvino", "openvino", True, True),
        ("executorch", "executorch", False, False),
        ("litert", "ai_edge_litert", False, False),
    ],
)
def test_files_pass_the_gate(
    tiny_joint_run: Path, tmp_path: Path, format: str, library: str, before: bool, after: bool
) -> None:
    pytest.importorskip(library, reason=f"{RUNTIME.get(format, library)} is not installed: make test-exports")
    # One of the two dozen objects that are shown may have a score at the threshold itself.
    few = {"shown_detections": 0.1} if before else {}
    request = Request(
        format=format,
        batch=1,
        preprocessing=before,
        postprocessing=after,
        metric=True,
        limit=5,
        tolerances=few,
    )
    done = export(tiny_joint_run, tmp_path / f"model{ENDING[format]}", request)
    parity = read_manifest(done.path).export.parity["errors"]
    assert parity.keys() >= {"detections", "pixels", "worst_class"}
    assert done.report.scores is not None
    model, reference = load(done.path, trust=format == "pt2"), load(tiny_joint_run, device="cpu")
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    ours, theirs = reference(image), model(image)
    assert ours.segmentation.labels.shape == theirs.segmentation.labels.shape == (48, 64)
    assert (ours.segmentation.labels == theirs.segmentation.labels).mean() > 0.98
    assert len(ours.detection) == pytest.approx(len(theirs.detection), abs=1)


def test_an_int8_file_passes_the_gate(tiny_joint_run: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    loose = {"raw": 1.0, "metric": 1.0, "detections": 1.0, "shown_detections": 1.0, "pixels": 0.2}
    request = Request(
        format="onnx", precision="int8", batch=1, limit=5, tolerances={**loose, "worst_class": 1.0}
    )
    done = export(tiny_joint_run, tmp_path / "model.onnx", request)
    assert load(done.path).manifest.export.precision == "int8"
