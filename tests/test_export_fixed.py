"""Files of fixed shapes: what is refused, with and without their libraries."""

import sys
from dataclasses import replace
from importlib import import_module

import pytest
from tiny_exports import tiny_model

from dettoolkit.engines import open_engine
from dettoolkit.engines.trailer import write_manifest

RUNTIMES = {"executorch": "ExecuTorch", "litert": "LiteRT"}
ENDINGS = {"executorch": ".pte", "litert": ".tflite"}
each_format = pytest.mark.parametrize("format", RUNTIMES)


@each_format
@pytest.mark.parametrize(
    ("wishes", "told"),
    [
        ({"batch": None}, "takes a fixed number of images at once: give --batch a number"),
        ({"preprocessing": True}, "cannot take images of any size: leave --preprocessing out"),
        ({"postprocessing": True}, "gives raw outputs: leave --postprocessing out"),
        ({"precision": "int8"}, "made in float32 only, not in int8"),
    ],
)
def test_what_it_cannot_have_is_refused_before_any_work(tiny, format, wishes, told, tmp_path):
    network, manifest = tiny_model(tiny, tmp_path, format=format, **wishes)
    path = tmp_path / f"model{ENDINGS[format]}"
    with pytest.raises(ValueError, match=f"{RUNTIMES[format]}.*{told}"):
        import_module(f"dettoolkit.export.{format}").convert(network, manifest, path)
    assert not path.exists()


@each_format
def test_windows_are_refused_too(tiny_segmentation, format, tmp_path):
    network, manifest = tiny_model(tiny_segmentation, tmp_path, format=format)
    slides = replace(manifest, segmentation=replace(manifest.segmentation, mode="slide"))
    with pytest.raises(ValueError, match=r"evaluation\.mode=whole"):
        import_module(f"dettoolkit.export.{format}").convert(network, slides, tmp_path / "model")


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
        import_module(f"dettoolkit.export.{format}").convert(network, manifest, tmp_path / "model")


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
    if ending != ".xml":
        write_manifest(path, tiny_model(tiny, tmp_path, format="litert")[1])
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'dettoolkit\["):
        open_engine(path)
