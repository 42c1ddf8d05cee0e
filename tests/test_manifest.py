"""Manifests that others wrote: what is wrong is named by its key, and nothing large is made of it."""

import json
import zipfile

import pytest
from tiny_exports import FIXTURES, tiny_model

from dettoolkit.formats.trailer import ENTRY
from dettoolkit.loading import read_manifest
from dettoolkit.manifest import MAX_BYTES, ManifestError, from_json
from dettoolkit.tasks import sections, spec_for


@pytest.fixture(scope="module")
def written(request, tmp_path_factory):
    """Return a manifest of each task as plain data."""
    folder, found = tmp_path_factory.mktemp("written"), {}
    for task, name in FIXTURES.items():
        _, manifest = tiny_model(request.getfixturevalue(name), folder, format="onnx")
        found[task] = json.loads(manifest.to_json())
    return found


def parsed(text):
    return from_json(text, source="model.onnx", sections=sections())


def changed(data, key, value):
    data = json.loads(json.dumps(data))
    *parents, last = key.split(".")
    section = data
    for each in parents:
        section = section[each]
    if value is ...:
        del section[last]
    else:
        section[last] = value
    return json.dumps(data)


def levels(*grid_hw, sizes=((1, 1),), count=1):
    return [{"grid_hw": grid_hw, "sizes": sizes}] * count


@pytest.mark.parametrize(
    ("task", "key", "value", "message"),
    [
        ("detection", "tasks.detection.class_names", ["box"], "1 class names and 2 class ids"),
        ("detection", "tasks.detection.class_names", [], "class_names"),
        ("detection", "tasks.detection.class_names", "boxes", "class_names"),
        ("detection", "tasks.detection.class_names", ["box", 7], r"class_names\[1\]"),
        ("detection", "tasks.detection.class_ids", [3, "7"], r"class_ids\[1\]"),
        ("detection", "tasks.detection.class_ids", [3, 10**30], "class_ids"),
        ("detection", "mean", [0.5, 0.5], "mean"),
        ("detection", "std", [0.5, 0.0, 0.5], r"std\[1\]"),
        ("detection", "input_hw", [0, 64], r"input_hw\[0\]"),
        ("detection", "input_hw", [64, 10**9], r"input_hw\[1\]"),
        ("detection", "input_hw", [64.5, 64], r"input_hw\[0\]"),
        ("detection", "recipe", [], "recipe"),
        ("detection", "name", 5, "name"),
        ("detection", "name", ..., "name"),
        ("detection", "tasks", {}, "no task section"),
        ("detection", "tasks.detection", ..., "no task section"),
        ("detection", "tasks.counting", {}, "no task 'counting', only detection"),
        ("detection", "tasks.detection.activation", "tanh", "activation"),
        ("detection", "tasks.detection.max_detections", 10**12, "max_detections"),
        ("detection", "tasks.detection.max_detections", True, "max_detections"),
        ("detection", "tasks.detection.score_threshold", "low", "score_threshold"),
        ("detection", "tasks.detection.nms_iou", -1, "nms_iou"),
        ("detection", "tasks.detection.coder", "corners", "coder"),
        ("detection", "tasks.detection.levels", [], "levels"),
        (
            "detection",
            "tasks.detection.levels",
            levels(9000, 9000),
            "default boxes",
        ),
        ("detection", "tasks.detection.levels", levels(1, 1, count=1000), "levels"),
        ("detection", "tasks.detection.levels", levels(1, 1, sizes=((1, -2),)), "levels"),
        ("detection", "export.batch", 10**9, r"export\.batch"),
        ("detection", "export.precision", "int4", r"export\.precision"),
        ("detection", "export.outputs", [], r"export\.outputs"),
        ("detection", "export", [], "export"),
        ("segmentation", "tasks.segmentation.mode", "halves", "mode"),
        ("segmentation", "tasks.segmentation.scales", [1e9], "scales"),
        ("segmentation", "tasks.segmentation.scales", [], "scales"),
        ("segmentation", "tasks.segmentation.window_hw", [10**7, 10**7], "window_hw"),
        ("segmentation", "tasks.segmentation.align_corners", "yes", "align_corners"),
        ("segmentation", "tasks.segmentation.colors", [[0, 0, 0]], "1 colors"),
        ("segmentation", "tasks.segmentation.colors", [[0, 0, 999]] * 19, "colors"),
        ("classification", "fit", "squeeze", "fit"),
        ("classification", "crop_fraction", 0, "crop_fraction"),
        ("classification", "crop_fraction", 1e-6, "cannot be cropped"),
        ("classification", "manifest", "1", "manifest"),
        ("classification", "manifest", ..., "manifest"),
        ("classification", "manifest", 99, "a later version.*update"),
        ("classification", "manifest", 1, "an earlier version.*: export it again"),
    ],
)
def test_what_is_wrong_is_named(written, task, key, value, message):
    text = changed(written[task], key, value)
    with pytest.raises(ManifestError, match=rf"(?s)^model\.onnx .*{message}"):
        parsed(text)


@pytest.mark.parametrize("text", ["", "null", "5", "[]", '"text"', "{", "[" * 100_000, '{"manifest": 1}'])
def test_other_json_is_no_manifest(text):
    with pytest.raises(ManifestError, match=r"model\.onnx has no manifest that dettoolkit can read"):
        parsed(text)


def test_a_manifest_comes_back_as_it_was(written):
    for task, data in written.items():
        manifest = parsed(json.dumps(data))
        assert manifest.task == spec_for(manifest).name == task
        assert json.loads(manifest.to_json()) == data


def test_numbers_that_are_none_are_refused(written):
    for value in ("NaN", "Infinity", "1e999"):
        text = json.dumps(written["detection"]).replace('"nms_iou": 0.6', f'"nms_iou": {value}')
        assert value in text
        with pytest.raises(ManifestError):
            parsed(text)


@pytest.mark.parametrize("ending", [".tflite", ".pt2"])
def test_an_archive_that_unpacks_to_gigabytes_is_refused(tmp_path, ending):
    path = tmp_path / f"model{ending}"
    name = ENTRY if ending == ".tflite" else f"model/extra/{ENTRY}"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, b" " * (MAX_BYTES + 1))
    assert path.stat().st_size < 1e6
    with pytest.raises(ManifestError, match=rf"model\{ending} .*limit is"):
        read_manifest(path)


@pytest.mark.parametrize("ending", [".tflite", ".pt2"])
@pytest.mark.parametrize("broken", ["method", "encrypted", "text", "crc"])
def test_an_archive_that_cannot_be_read_is_refused(tmp_path, ending, broken):
    path = tmp_path / f"model{ending}"
    name = ENTRY if ending == ".tflite" else f"model/extra/{ENTRY}"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, b"\xff\xfe" if broken == "text" else b"{}")
    data = bytearray(path.read_bytes())
    directory = data.index(b"PK\x01\x02")
    if broken == "method":
        data[8] = data[directory + 10] = 77
    elif broken == "encrypted":
        data[6] |= 1
        data[directory + 8] |= 1
    elif broken == "crc":
        data[directory + 16] ^= 1
    path.write_bytes(data)
    with pytest.raises(ManifestError, match=rf"model\{ending} has no .*manifest"):
        read_manifest(path)
