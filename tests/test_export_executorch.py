"""Files for ExecuTorch against PyTorch."""

from dataclasses import replace

import pytest
import torch
from tiny_exports import TASKS, assert_close, assert_same_answer, normalised, picture, reference, tiny_model

pytest.importorskip("executorch", reason="ExecuTorch is not installed: make test-exports")

from dettoolkit import load
from dettoolkit.engines import open_engine, read_manifest
from dettoolkit.export import executorch as converter
from dettoolkit.export.command import export
from dettoolkit.export.request import Request
from dettoolkit.manifest import ManifestError

each_task = pytest.mark.parametrize("task", TASKS)


@pytest.fixture(scope="module")
def models(tiny, tiny_segmentation, tmp_path_factory):
    """Return for each task the network, the manifest and the file."""
    made = {}
    for task, fixture in zip(TASKS, (tiny, tiny_segmentation), strict=True):
        folder = tmp_path_factory.mktemp(task)
        network, manifest = tiny_model(fixture, folder, format="executorch")
        converter.convert(network, manifest, folder / "model.pte")
        made[task] = (network, manifest, folder / "model.pte")
    return made


@each_task
def test_outputs_are_pytorchs(models, task):
    network, _, path = models[task]
    engine = open_engine(path)
    for seed in range(3):
        images = normalised(seed=seed)
        with torch.inference_mode():
            expected = network(images)
        first = engine(images)
        assert_close(first, expected)
        # Strides that are not those of the memory's order; ExecuTorch does not look at them.
        assert_close(engine(images.to(memory_format=torch.channels_last)), expected)
        engine(torch.zeros_like(images))
        assert_close(first, expected)  # not overwritten by the next answer


@each_task
def test_answers_are_pytorchs(models, task):
    network, manifest, path = models[task]
    expected = reference(network, manifest).predict_batch([picture()], threshold=None)
    assert_same_answer(load(path).predict_batch([picture()], threshold=None)[0], expected[0])


def test_nothing_found_is_an_answer_too(models):
    (answer,) = load(models["detection"][2]).predict_batch([picture()], threshold=1.0)
    assert answer.boxes_xyxy.shape == (0, 4)


@each_task
def test_the_manifest_is_replaced_and_all_else_stays(models, task, tmp_path):
    _, manifest, original = models[task]
    path = tmp_path / "copy.pte"
    path.write_bytes(original.read_bytes())
    assert read_manifest(path).to_json() == manifest.to_json()
    stamped = replace(manifest, export=replace(manifest.export, parity={"share": 1.0, "note": "x" * 5000}))
    converter.stamp(path, stamped)
    assert read_manifest(path).to_json() == stamped.to_json()
    for ours, theirs in zip(
        open_engine(path)(normalised()), open_engine(original)(normalised()), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_images_of_another_size_are_refused(models):
    engine = open_engine(models["detection"][2])
    for images in (normalised(batch=2), normalised()[..., :32]):
        with pytest.raises(ValueError, match=r"takes images \(1, 3, 64, 64\), got"):
            engine(images)


def test_threads_are_those_of_the_process(models):
    portable_lib = pytest.importorskip("executorch.extension.pybindings.portable_lib")
    path = models["detection"][2]
    engine = open_engine(path, threads=1)
    expected = engine(normalised())
    assert portable_lib._threadpool_get_thread_count() == 1
    with pytest.raises(ValueError, match="one pool of threads in a process"):
        open_engine(path, threads=2)
    del engine
    engine = open_engine(path, threads=2)
    assert portable_lib._threadpool_get_thread_count() == 2
    assert_close(engine(normalised()), expected)


def test_files_that_are_none_are_refused(models, tmp_path):
    path = tmp_path / "broken.pte"
    path.write_bytes(b"PK nothing of the kind" * 50)
    with pytest.raises(ManifestError, match="no description by dettoolkit"):
        load(path)
    with pytest.raises(ValueError, match=r"ExecuTorch cannot open .*broken\.pte"):
        open_engine(path)


def test_a_file_that_exists_is_kept(models):
    network, manifest, path = models["segmentation"]
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        converter.convert(network, manifest, path)
    assert path.read_bytes() == before


def test_a_trained_run_goes_through_the_gate(tiny_segmentation_run, tmp_path):
    done = export(tiny_segmentation_run, tmp_path / "model.pte", Request(format="executorch"))
    manifest = load(done.path).manifest
    assert manifest.export.format == "executorch"
    assert manifest.export.parity
