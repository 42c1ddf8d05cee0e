"""What only files for LiteRT have; test_export_fixed has the rest."""

import pytest
import torch
from tiny_exports import assert_close, convert_all, normalized, opened

pytest.importorskip("litert_torch", reason="LiteRT is not installed: make test-exports")

from dettoolkit import load
from dettoolkit.formats.trailer import stamp
from dettoolkit.manifest import ManifestError


@pytest.fixture(scope="module")
def models(request, tmp_path_factory):
    """Return for each task the network, the manifest and the file."""
    return convert_all(request, tmp_path_factory, format="litert", ending=".tflite")


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_change_no_answer(models, threads):
    network, _, path = models["segmentation"]
    with torch.inference_mode():
        assert_close(opened(path, threads=threads)(normalized()), network(normalized()))


def test_inputs_and_outputs_have_names(models):
    interpreter = pytest.importorskip("ai_edge_litert.interpreter").Interpreter(
        model_path=str(models["detection"][2])
    )
    (signature,) = interpreter.get_signature_list().values()
    assert signature["inputs"] == ["images"]
    assert sorted(signature["outputs"]) == ["box_deltas", "class_logits"]


def test_files_that_are_none_are_refused(models, tmp_path):
    path = tmp_path / "broken.tflite"
    path.write_bytes(b"PK nothing of the kind" * 50)
    with pytest.raises(ManifestError, match="no dettoolkit manifest"):
        load(path)
    stamp(path, models["detection"][1])
    with pytest.raises(ValueError, match=r"LiteRT cannot open .*broken\.tflite"):
        opened(path)
