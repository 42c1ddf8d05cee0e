"""Files of fixed shapes against PyTorch, and what is refused, with and without their libraries."""

import sys
from dataclasses import replace

import pytest
import torch
from tiny_exports import (
    TASKS,
    assert_close,
    assert_same_result,
    convert,
    convert_all,
    normalized,
    opened,
    picture,
    reference,
    tiny_model,
    with_section,
)

from dettoolkit import load
from dettoolkit.export.command import export
from dettoolkit.export.request import Request
from dettoolkit.formats import NAMES, open_engine
from dettoolkit.formats.trailer import stamp
from dettoolkit.loading import read_manifest

RUNTIMES = {"executorch": "ExecuTorch", "litert": "LiteRT"}
ENDINGS = {"executorch": ".pte", "litert": ".tflite"}
CONVERTERS = {"executorch": "executorch", "litert": "litert_torch"}
each_format = pytest.mark.parametrize("format", RUNTIMES)
each_task = pytest.mark.parametrize("task", TASKS)


@pytest.fixture(scope="module", params=RUNTIMES)
def format(request):
    """Return the name of a format whose converter is installed."""
    name = CONVERTERS[request.param]
    pytest.importorskip(name, reason=f"{RUNTIMES[request.param]} is not installed: make test-exports")
    return request.param


@pytest.fixture(scope="module")
def models(format, request, tmp_path_factory):
    """Return for each task the network, the manifest and the file."""
    return convert_all(request, tmp_path_factory, format=format, ending=ENDINGS[format])


@each_task
def test_outputs_are_pytorchs(models, task):
    network, _, path = models[task]
    engine = opened(path)
    for seed in range(3):
        images = normalized(seed=seed)
        with torch.inference_mode():
            expected = network(images)
        first = engine(images)
        assert_close(first, expected)
        # Strides that are not those of the memory's order; the runtimes do not look at them.
        assert_close(engine(images.to(memory_format=torch.channels_last)), expected)
        engine(torch.zeros_like(images))
        assert_close(first, expected)  # not overwritten by the next run


@each_task
def test_results_are_pytorchs(models, task):
    network, manifest, path = models[task]
    expected = reference(network, manifest).predict_batch([picture()], threshold=None)
    assert_same_result(load(path).predict_batch([picture()], threshold=None)[0], expected[0])


def test_nothing_found_is_a_result_too(models):
    (result,) = load(models["detection"][2]).predict_batch([picture()], threshold=1.0)
    assert result.boxes_xyxy.shape == (0, 4)


@each_task
def test_the_manifest_is_replaced_and_all_else_stays(format, models, task, tmp_path):
    _, manifest, original = models[task]
    path = tmp_path / original.name
    path.write_bytes(original.read_bytes())
    assert read_manifest(path).to_json() == manifest.to_json()
    stamped = replace(manifest, export=replace(manifest.export, parity={"share": 1.0, "note": "x" * 5000}))
    NAMES[format].module("convert").stamp(path, stamped)
    assert read_manifest(path).to_json() == stamped.to_json()
    copied, written = (opened(each)(normalized()) for each in (path, original))
    for ours, theirs in zip(copied, written, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_images_of_another_size_are_refused(models):
    engine = opened(models["detection"][2])
    for images in (normalized(batch=2), normalized()[..., :32]):
        with pytest.raises(ValueError, match=r"expects images \(1, 3, 64, 64\), got"):
            engine(images)


def test_a_file_that_exists_is_kept(format, models):
    network, manifest, path = models["segmentation"]
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        convert(network, manifest, path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("run", ["tiny_segmentation_run", "tiny_classification_run"])
def test_a_trained_run_goes_through_the_gate(format, run, request, tmp_path):
    done = export(request.getfixturevalue(run), tmp_path / f"model{ENDINGS[format]}", Request(format=format))
    manifest = load(done.path).manifest
    assert manifest.export.format == format
    assert manifest.export.parity


@each_format
@pytest.mark.parametrize(
    ("wishes", "told"),
    [
        ({"batch": None}, "fixed batch size: set --batch to a number"),
        ({"preprocessing": True}, "fixed input size: omit --preprocessing"),
        ({"postprocessing": True}, "raw outputs: omit --postprocessing"),
    ],
)
def test_what_it_cannot_have_is_refused_before_any_work(tiny, format, wishes, told, tmp_path):
    network, manifest = tiny_model(tiny, tmp_path, format=format, **wishes)
    path = tmp_path / f"model{ENDINGS[format]}"
    with pytest.raises(ValueError, match=f"{RUNTIMES[format]}.*{told}"):
        convert(network, manifest, path)
    assert not path.exists()


@each_format
def test_windows_are_refused_too(tiny_segmentation, format, tmp_path):
    network, manifest = tiny_model(tiny_segmentation, tmp_path, format=format)
    slides = with_section(manifest, mode="slide", window_hw=(32, 32), stride_hw=(16, 16))
    with pytest.raises(ValueError, match=r"evaluation\.mode=whole"):
        convert(network, slides, tmp_path / "model")


@pytest.mark.parametrize(
    ("format", "package"),
    [("executorch", "executorch"), ("litert", "litert_torch"), ("openvino", "openvino")],
)
def test_without_its_converter_the_extra_is_named(tiny, format, package, monkeypatch, tmp_path):
    if format == "openvino":
        pytest.importorskip("onnx", reason="OpenVINO's files are made by way of ONNX")
    for module in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    network, manifest = tiny_model(tiny, tmp_path, format=format)
    with pytest.raises(ModuleNotFoundError, match=rf"pip install 'dettoolkit\[{format}\]'"):
        convert(network, manifest, tmp_path / "model")


@pytest.mark.parametrize(
    ("ending", "package"),
    [(".pte", "executorch"), (".tflite", "ai_edge_litert"), (".xml", "openvino")],
)
def test_without_its_runtime_the_extra_is_named(tiny, ending, package, monkeypatch, tmp_path):
    for module in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    path = tmp_path / f"model{ending}"
    path.write_bytes(b"model")
    path.with_suffix(".bin").write_bytes(b"weights")
    if ending != ".xml":
        stamp(path, tiny_model(tiny, tmp_path, format="litert")[1])
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'dettoolkit\["):
        open_engine(path, outputs=())
