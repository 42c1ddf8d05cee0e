"""Files for OpenVINO against PyTorch."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from learning_margins import at_least
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

from dettoolkit.formats.openvino import library

try:
    library()
except ModuleNotFoundError:
    pytest.skip("OpenVINO is not installed: make test-exports", allow_module_level=True)

from dettoolkit import load
from dettoolkit.export.command import export
from dettoolkit.export.request import Request
from dettoolkit.formats import NAMES, open_engine
from dettoolkit.formats import openvino as converter
from dettoolkit.loading import read_manifest
from dettoolkit.manifest import ManifestError
from dettoolkit.tasks import spec_for

each_task = pytest.mark.parametrize("task", TASKS)


@pytest.fixture(scope="module")
def models(request, tmp_path_factory):
    """Return for each task and kind of file (raw, whole) the network, the manifest and the file.

    Raw files take a normalized image; whole ones any number of images as they are, and give results.
    """
    kinds = {"raw": {}, "whole": {"batch": None, "preprocessing": True, "postprocessing": True}}
    made = {}
    for kind, wishes in kinds.items():
        models = convert_all(request, tmp_path_factory, format="openvino", ending=".xml", **wishes)
        made |= {(task, kind): model for task, model in models.items()}
    return made


@each_task
def test_outputs_are_pytorchs(models, task):
    network, _, path = models[task, "raw"]
    for threads in (None, 1, 2):
        engine = opened(path, threads=threads)
        images = normalized(seed=threads or 0)
        with torch.inference_mode():
            expected = network(images)
        first = engine(images)
        assert_close(first, expected)
        assert_close(engine(images.to(memory_format=torch.channels_last)), expected)
        engine(torch.zeros_like(images))
        assert_close(first, expected)  # not overwritten by the next run


def test_weights_are_not_rounded(models):
    network, _, path = models["detection", "raw"]
    weights = sum(each.numel() for each in network.parameters()) * 4
    # Batch normalization is folded into the convolutions, which leaves a little less.
    assert path.with_suffix(".bin").stat().st_size > 0.9 * weights


@each_task
@pytest.mark.parametrize("kind", ["raw", "whole"])
def test_results_are_pytorchs(models, task, kind):
    network, manifest, path = models[task, kind]
    image = picture((64, 64))  # not resized, which may differ by one of 255 when it is inside
    expected = reference(network, manifest).predict_batch([image], threshold=None)
    assert_same_result(load(path).predict_batch([image], threshold=None)[0], expected[0])


@pytest.mark.parametrize("hw", [(48, 80), (131, 70)])
def test_images_of_other_sizes_several_at_once(models, hw):
    path = models["segmentation", "whole"][2]
    network, manifest, _ = models["segmentation", "raw"]
    images = [picture(hw, seed) for seed in range(3)]
    expected = reference(network, manifest).predict_batch(images, threshold=None)
    (labels,) = opened(path)(torch.from_numpy(np.stack(images)))
    assert labels.dtype == torch.uint8
    assert labels.shape == (3, *hw)
    for ours, theirs in zip(labels.numpy(), expected, strict=True):
        assert (ours == theirs.labels).mean() > 0.97  # of random weights, whose borders are everywhere


def test_nothing_found_is_a_result_too(tiny, models, tmp_path):
    (result,) = load(models["detection", "raw"][2]).predict_batch([picture()], threshold=1.0)
    assert result.boxes_xyxy.shape == (0, 4)
    network, manifest = tiny_model(tiny, tmp_path, format="openvino", preprocessing=True, postprocessing=True)
    nothing = with_section(manifest, score_threshold=1.0)
    convert(network, nothing, tmp_path / "model.xml")
    boxes, scores, labels, counts = opened(tmp_path / "model.xml")(torch.from_numpy(picture())[None])
    assert counts.tolist() == [0]
    assert set(labels.flatten().tolist()) == {-1}
    assert not boxes.any()
    assert not scores.any()


@each_task
def test_the_manifest_is_replaced_and_all_else_stays(models, task, tmp_path):
    _, manifest, original = models[task, "raw"]
    path, files_of = tmp_path / "copy.xml", NAMES["openvino"].files_of
    for source, place in zip(files_of(original), files_of(path), strict=True):
        place.write_bytes(source.read_bytes())
    assert read_manifest(path).to_json() == manifest.to_json()
    note = '<"&> ä\n\t' * 99
    stamped = replace(manifest, export=replace(manifest.export, parity={"share": 1.0, "note": note}))
    converter.stamp(path, stamped)
    assert read_manifest(path).to_json() == stamped.to_json()
    assert path.with_suffix(".bin").read_bytes() == original.with_suffix(".bin").read_bytes()
    for ours, theirs in zip(opened(path)(normalized()), opened(original)(normalized()), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_files_that_are_none_are_refused(models, tmp_path):
    path = tmp_path / "broken.xml"
    path.write_text("<net")
    with pytest.raises(ManifestError, match=r"broken\.xml is not an OpenVINO file"):
        load(path)
    path.write_text("<net/>")
    with pytest.raises(ManifestError, match="exported by another program"):
        load(path)
    with pytest.raises(ValueError, match=r"broken\.bin is missing"):
        open_engine(path, outputs=())
    path.with_suffix(".bin").touch()
    with pytest.raises(ValueError, match=r"OpenVINO cannot open .*broken\.xml"):
        open_engine(path, outputs=())


def test_an_xml_that_grows_or_reads_other_files_is_refused(models, tmp_path):
    whole = models["detection", "raw"][2]
    secret = tmp_path / "secret"
    secret.write_text("of others")
    laughs = "".join(f"<!ENTITY l{n} '{f'&l{n - 1};' * 10}'>" for n in range(1, 10))
    for declared, used in (
        (f"<!ENTITY l0 'ha'>{laughs}", "&l9;"),
        (f"<!ENTITY other SYSTEM '{secret.as_uri()}'>", "&other;"),
        ("", ""),
    ):
        head, body = whole.read_text().split("<net", 1)
        path = tmp_path / "model.xml"
        path.write_text(f"{head}<!DOCTYPE net [{declared}]><net{body}".replace("<layers>", f"{used}<layers>"))
        path.with_suffix(".bin").write_bytes(whole.with_suffix(".bin").read_bytes())
        for read in (read_manifest, load, lambda path: converter.stamp(path, models["detection", "raw"][1])):
            with pytest.raises(ManifestError, match=r"model\.xml is not an OpenVINO file: .*DTD"):
                read(path)


def test_files_that_exist_are_kept(models, tmp_path):
    network, manifest, path = models["segmentation", "raw"]
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        convert(network, manifest, path)
    assert path.read_bytes() == before


@pytest.fixture(scope="module")
def quantizer(models):
    network, manifest, path = models["segmentation", "raw"]
    images = [picture((48, 64), seed) for seed in range(4)]
    return converter.Quantizer(network, manifest, path, images, spec_for(manifest)), path


def kinds(path):
    """Return the operators of a file, and the types of numbers that its weights have."""
    root = converter.parse(path).getroot()
    layers = root.iter("layer")
    found = [(each.get("name"), each.get("type"), each.find("data")) for each in layers]
    types = {data.get("element_type") for _, kind, data in found if kind == "Const" and data is not None}
    return {name for name, kind, _ in found if kind == "FakeQuantize"}, types


def test_an_8_bit_file_has_8_bit_weights_and_is_smaller(quantizer, tmp_path):
    made, original = quantizer
    path = tmp_path / "model.xml"
    made.write(path, [])
    rounded, types = kinds(path)
    assert rounded
    assert "i8" in types
    size = path.with_suffix(".bin").stat().st_size
    assert size < 0.5 * original.with_suffix(".bin").stat().st_size
    made.write(path, list(made.weights)[1:])  # a layer alone
    alone, _ = kinds(path)
    assert 0 < len(alone) < len(rounded)


def test_layers_are_ranked_by_how_much_they_err(quantizer):
    made, _ = quantizer
    few = dict(list(made.weights.items())[:3])
    made.weights, everything = few, made.weights
    ranked = made.ranked()
    made.weights = everything
    assert sorted(ranked) == sorted(few)
    assert all(size > 0 for size in everything.values())


@pytest.mark.learnt
@pytest.mark.parametrize("inside", [False, True])
def test_an_8_bit_segmenter_still_sees(tiny_segmentation_run, tmp_path, inside):
    request = Request(
        format="openvino",
        precision="int8",
        preprocessing=inside,
        postprocessing=inside,
        tolerances={"metric": 0.05},
    )
    done = export(tiny_segmentation_run, tmp_path / "model.xml", request)
    assert {each.name for each in tmp_path.iterdir()} == {"model.xml", "model.bin", done.report_path.name}
    before, after = done.report.scores
    at_least("segmenter in OpenVINO: mIoU, exported", before, 0.1)
    at_least("segmenter in OpenVINO: mIoU kept in 8 bits", after - before, -0.05)
    assert load(done.path).manifest.export.precision == "int8"


def test_nothing_is_reported_to_anybody(models, tmp_path):
    code = (
        "import sys; from pathlib import Path; from dettoolkit import load\n"
        "load(sys.argv[1])\n"
        "import nncf\n"
        "print([name for name, module in sys.modules.items() if 'openvino_telemetry' in name and module])"
    )
    home = {"HOME": str(tmp_path), "PATH": "", "NO_ALBUMENTATIONS_UPDATE": "1"}
    command = [sys.executable, "-c", code, str(models["detection", "raw"][2])]
    ran = subprocess.run(command, capture_output=True, text=True, env=home)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1] == "[]"
    assert not (tmp_path / "intel").exists()  # where it keeps a number by which it knows the user


@pytest.mark.parametrize("run", ["tiny_segmentation_run", "tiny_classification_run"])
def test_a_trained_run_goes_through_the_gate(run, request, tmp_path):
    done = export(request.getfixturevalue(run), tmp_path / "model.xml", Request(format="openvino"))
    assert {each.name for each in tmp_path.iterdir()} == {"model.xml", "model.bin", done.report_path.name}
    manifest = load(done.path).manifest
    assert manifest.export.format == "openvino"
    assert manifest.export.parity
