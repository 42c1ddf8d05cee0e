"""Manifests that others wrote: what is wrong is named by its key, and nothing large is made of it."""

import json
import zipfile

import pytest
from tiny_exports import tiny_model

from dettoolkit.formats import read_manifest
from dettoolkit.formats.trailer import ENTRY
from dettoolkit.manifest import LARGEST, ManifestError, from_json


@pytest.fixture(scope="module")
def written(tiny, tiny_segmentation, tmp_path_factory):
    """Return a detector's and a segmenter's manifest as plain data."""
    folder = tmp_path_factory.mktemp("written")
    models = (tiny_model(each, folder, format="onnx") for each in (tiny, tiny_segmentation))
    detector, segmenter = (json.loads(manifest.to_json()) for _, manifest in models)
    return {"detection": detector, "segmentation": segmenter}


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


@pytest.mark.parametrize(
    ("task", "key", "value", "message"),
    [
        ("detection", "class_names", ["box"], "1 class names and 2 class ids"),
        ("detection", "class_names", [], "class_names"),
        ("detection", "class_names", "boxes", "class_names"),
        ("detection", "class_names", ["box", 7], r"class_names\[1\]"),
        ("detection", "class_ids", [3, "7"], r"class_ids\[1\]"),
        ("detection", "class_ids", [3, 10**30], "class_ids"),
        ("detection", "mean", [0.5, 0.5], "mean"),
        ("detection", "std", [0.5, 0.0, 0.5], r"std\[1\]"),
        ("detection", "input_hw", None, "a detector needs input_hw"),
        ("detection", "input_hw", [0, 64], r"input_hw\[0\]"),
        ("detection", "input_hw", [64, 10**9], r"input_hw\[1\]"),
        ("detection", "input_hw", [64.5, 64], r"input_hw\[0\]"),
        ("detection", "recipe", [], "recipe"),
        ("detection", "name", 5, "name"),
        ("detection", "name", ..., "name"),
        ("detection", "detection", None, "either a detector or a segmenter"),
        ("detection", "detection.activation", "tanh", r"detection\.activation"),
        ("detection", "detection.max_detections", 10**12, r"detection\.max_detections"),
        ("detection", "detection.max_detections", True, r"detection\.max_detections"),
        ("detection", "detection.score_threshold", "low", r"detection\.score_threshold"),
        ("detection", "detection.nms_iou", -1, r"detection\.nms_iou"),
        ("detection", "detection.anchors", {}, r"detection\.anchors"),
        ("detection", "detection.anchors.grids_hw", [[10000, 10000]], "default boxes"),
        ("detection", "detection.anchors.grids_hw", [[1, 1]] * 1000, r"anchors\.grids_hw"),
        ("detection", "detection.anchors.aspect_ratios", [-2.0], r"anchors\.aspect_ratios"),
        ("detection", "export", {"format": "onnx", "batch": 10**9}, r"export\.batch"),
        ("detection", "export", {"format": "onnx", "precision": "int4"}, r"export\.precision"),
        ("detection", "export", [], "export"),
        ("segmentation", "segmentation.mode", "halves", r"segmentation\.mode"),
        ("segmentation", "segmentation.scales", [1e9], r"segmentation\.scales"),
        ("segmentation", "segmentation.scales", [], r"segmentation\.scales"),
        ("segmentation", "segmentation.window_hw", [10**7, 10**7], r"segmentation\.window_hw"),
        ("segmentation", "segmentation.align_corners", "yes", r"segmentation\.align_corners"),
        ("segmentation", "segmentation.colors", [[0, 0, 0]], "1 colors"),
        ("segmentation", "segmentation.colors", [[0, 0, 999]] * 19, r"segmentation\.colors"),
        ("segmentation", "manifest", "1", "manifest"),
        ("segmentation", "manifest", ..., "manifest"),
        ("segmentation", "manifest", 99, "a later dettoolkit"),
    ],
)
def test_what_is_wrong_is_named(written, task, key, value, message):
    text = changed(written[task], key, value)
    with pytest.raises(ManifestError, match=rf"(?s)^model\.onnx .*{message}"):
        from_json(text, source="model.onnx")


@pytest.mark.parametrize("text", ["", "null", "5", "[]", '"text"', "{", "[" * 100_000, '{"manifest": 1}'])
def test_other_json_is_no_manifest(text):
    with pytest.raises(ManifestError, match=r"model\.onnx holds no description that dettoolkit can read"):
        from_json(text, source="model.onnx")


def test_numbers_that_are_none_are_refused(written):
    for value in ("NaN", "Infinity", "1e999"):
        text = json.dumps(written["detection"]).replace('"nms_iou": 0.6', f'"nms_iou": {value}')
        assert value in text
        with pytest.raises(ManifestError):
            from_json(text, source="model.onnx")


@pytest.mark.parametrize("ending", [".tflite", ".pt2"])
def test_an_archive_that_unpacks_to_gigabytes_is_refused(tmp_path, ending):
    path = tmp_path / f"model{ending}"
    name = ENTRY if ending == ".tflite" else f"model/extra/{ENTRY}"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, b" " * (LARGEST + 1))
    assert path.stat().st_size < 1e6
    with pytest.raises(ManifestError, match=rf"model\{ending} .*at most"):
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
    with pytest.raises(ManifestError, match=rf"model\{ending} holds no description"):
        read_manifest(path)
