"""Damaged and made-up files: readers of manifests, checkpoints and journals raise what they say, and no more.

What is tried is the same every time. Memory is bounded while it is, so that a file that promises much fails.
"""

import io
import json
import pickle
import resource
import sys
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_exports import FIXTURES, TASKS, tiny_model

from dettoolkit.config import load_recipe
from dettoolkit.formats.trailer import stamp
from dettoolkit.inference.jobs.journal import Journal, merge_records, read_records
from dettoolkit.inference.predictor import Predictor
from dettoolkit.loading import read_manifest
from dettoolkit.manifest import ManifestError, from_json
from dettoolkit.tasks import sections
from dettoolkit.training.run_folder import stored_recipe
from dettoolkit.weights.read import description_of, read_checkpoint

MEMORY = 1 << 30
"""Bytes that a test may add to what the process has."""

bounded = settings(
    max_examples=100,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 300),
    st.sampled_from([2**31, 2**63, 10**30, -(10**30), 1e300, -1e300, 1e-300, float("nan"), float("inf")]),
    st.floats(-2, 2),
    st.sampled_from(["", "\0", "\ud800", "..", "/etc/passwd", "a" * 300, "1", "null"]),
)
values = st.recursive(
    scalars, lambda each: st.lists(each, max_size=4) | st.dictionaries(st.text(max_size=4), each, max_size=3)
)


@pytest.fixture(autouse=True)
def memory_is_bounded():
    """Let what allocates much fail."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def places(data, here=()):
    """List the places of all values in plain data."""
    yield here
    pairs = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in pairs:
        yield from places(value, (*here, key))


@st.composite
def changed(draw, data):
    """Replace or remove some values of plain data."""
    data = pickle.loads(pickle.dumps(data))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from(list(places(data))[1:]))
        parent = data
        for key in place[:-1]:
            parent = parent[key]
        if draw(st.integers(0, 4)):
            parent[place[-1]] = draw(values)
        else:
            del parent[place[-1]]
        if len(list(places(data))) < 2:
            break
    return data


@st.composite
def damaged(draw, content):
    """Change, cut, repeat or insert bytes; most often near the end, where archives have their listing."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        far = draw(st.integers(0, min(len(content) - 1, draw(st.sampled_from([300, 4000, 10**9])))))
        place = len(content) - 1 - far
        kind = draw(st.sampled_from(["byte", "byte", "cut", "zeros", "insert", "remove"]))
        if kind == "byte":
            content[place] = draw(st.integers(0, 255))
        elif kind == "cut":
            del content[max(place, 1) :]
        elif kind == "zeros":
            content[place : place + 8] = draw(st.sampled_from([b"\0" * 8, b"\xff" * 8]))
        elif kind == "insert":
            content[place:place] = draw(st.binary(min_size=1, max_size=9))
        elif len(content) > 50:
            del content[place : place + draw(st.integers(1, 20))]
    return bytes(content)


# Manifests


class Engine:
    """Return what the network of a manifest would, unchanged by what is in it."""

    device = torch.device("cpu")

    def __init__(self, outputs):
        self.outputs = outputs

    def __call__(self, images):
        return tuple(output.expand(len(images), *output.shape[1:]) for output in self.outputs)


@pytest.fixture(scope="module")
def models(request, tmp_path_factory):
    """Return for each task a manifest, as data, and an engine."""
    folder, found = tmp_path_factory.mktemp("models"), {}
    for task, name in FIXTURES.items():
        network, manifest = tiny_model(request.getfixturevalue(name), folder, format="onnx", batch=None)
        with torch.inference_mode():
            outputs = network(torch.zeros(1, 3, *manifest.input_hw))
        found[task] = manifest, Engine((outputs,) if isinstance(outputs, torch.Tensor) else tuple(outputs))
    return found


@pytest.mark.parametrize("task", TASKS)
def test_changed_manifests(models, task):
    manifest, engine = models[task]
    image = np.zeros((40, 50, 3), np.uint8)
    read = [0, 0]

    @bounded
    @given(changed(json.loads(manifest.to_json())))
    def try_one(data):
        read[0] += 1
        try:
            found = from_json(json.dumps(data), source="model.onnx", sections=sections())
        except ManifestError as error:
            assert str(error).startswith("model.onnx ")  # noqa: PT017
            return
        read[1] += 1
        with suppress(ValueError):
            Predictor(found, engine, source="model.onnx").predict_batch([image])

    try_one()
    assert read[0] > 50  # all in all, and those that no type forbids
    assert read[1] > 5


def test_damaged_manifests(models):
    text = models["detection"][0].to_json()

    @bounded
    @given(damaged(text.encode()))
    def try_one(content):
        with suppress(ManifestError):
            from_json(content, source="model.onnx", sections=sections())

    try_one()


@pytest.mark.parametrize("ending", [".tflite", ".pt2"])
def test_damaged_archives(models, tmp_path, ending):
    path = tmp_path / f"model{ending}"
    if ending == ".pt2":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("model/extra/dettoolkit.json", models["detection"][0].to_json())
    else:
        path.write_bytes(bytes(range(256)) * 4)
        stamp(path, models["detection"][0])

    @bounded
    @given(damaged(path.read_bytes()))
    def try_one(content):
        path.write_bytes(content)
        with suppress(ValueError):  # a ManifestError, or of no archive at all
            read_manifest(path)

    try_one()


def test_manifests_in_onnx_files(models, tmp_path):
    onnx = pytest.importorskip("onnx", reason="the files are written with onnx")
    pytest.importorskip("onnxruntime", reason="and read with onnxruntime")
    kind = onnx.TensorProto.FLOAT
    ends = [onnx.helper.make_tensor_value_info(name, kind, [1]) for name in ("images", "logits")]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["images"], ["logits"])], "g", ends[:1], ends[1:]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    path = tmp_path / "model.onnx"
    data = json.loads(models["segmentation"][0].to_json())

    @settings(bounded, max_examples=40)
    @given(changed(data).map(json.dumps) | st.text(max_size=50))
    def try_one(text):
        del model.metadata_props[:]
        onnx.helper.set_model_props(model, {"dettoolkit": text.encode("utf-8", "replace").decode()})
        path.write_bytes(model.SerializeToString())
        with suppress(ManifestError):
            read_manifest(path)

    try_one()


# Checkpoints


def open_all(path: Path) -> None:
    """Read all that any command reads of a checkpoint, short of building its network."""
    with suppress(ValueError):
        description_of(path)
    with suppress(ValueError):
        read_checkpoint(path)
    with suppress(ValueError), stored_recipe(path, trainer={"devices": 1}) as config:
        assert config.parent != path.parent
        load_recipe(str(config))


@pytest.fixture(scope="module")
def checkpoint(tiny_run):
    """Return what a checkpoint holds, with few of its weights."""
    content = torch.load(tiny_run / "checkpoints" / "best.ckpt", weights_only=True)
    few = dict(list(content["state_dict"].items())[:3])
    return {"dettoolkit": content["dettoolkit"], "state_dict": few, "global_step": 3}


def saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def test_damaged_checkpoints(checkpoint, tmp_path):
    path = tmp_path / "folder" / "best.ckpt"
    path.parent.mkdir()

    @settings(bounded, max_examples=100)
    @given(damaged(saved(checkpoint)))
    def try_one(content):
        path.write_bytes(content)
        open_all(path)

    try_one()
    assert [each.name for each in tmp_path.rglob("*")] == ["folder", "best.ckpt"]


def test_checkpoints_of_other_content(checkpoint, tmp_path, monkeypatch):
    path = tmp_path / "folder" / "best.ckpt"
    path.parent.mkdir()
    monkeypatch.chdir(path.parent)
    others = st.sampled_from([torch.zeros(2), {1, 2}, b"bytes", 1j, {3: 4}, (1, 2)])
    description = changed({"dettoolkit": checkpoint["dettoolkit"]})

    @settings(bounded, max_examples=100)
    @given(description, st.none() | others, st.sampled_from(["recipe", "class_names", "name", "versions"]))
    def try_one(data, other, key):
        content = pickle.loads(pickle.dumps(checkpoint)) | data
        if other is not None and isinstance(content.get("dettoolkit"), dict):
            content["dettoolkit"][key] = other
        path.write_bytes(saved(content))
        open_all(path)

    try_one()
    assert [each.name for each in tmp_path.rglob("*")] == ["folder", "best.ckpt"]


# Journals

RECORDS = [
    {"name": "a.jpg", "index": 0, "height": 4, "width": 5, "objects": [{"name": "box", "score": 0.5}]},
    {"name": "b.mp4/000000", "index": 1, "video": "b.mp4", "seconds": 0.0, "objects": []},
    {"name": "b.mp4/000001", "index": 1, "video": "b.mp4", "seconds": 0.1, "objects": []},
    {"name": "c.jpg", "index": 2, "error": "file is empty"},
]


def read_journal(path: Path) -> None:
    for read in (read_records, lambda path: merge_records([path, path])):
        with suppress(ValueError):
            assert all(isinstance(record["name"], str) for record in read(path))
    try:
        with Journal(path, batch_size=2) as journal:
            assert all(isinstance(name, str) for name in journal.done)
            assert 0 <= journal.unreadable <= len(journal.done) or not journal.done
            journal.write({"name": "d.jpg", "index": 3})
    except ValueError as error:
        assert str(error).startswith(str(path))  # noqa: PT017
    else:
        assert [record["name"] for record in read_records(path)][-1] == "d.jpg"


def test_changed_journals(tmp_path):
    path = tmp_path / "results.jsonl"

    @bounded
    @given(changed(RECORDS), st.sampled_from(["", '{"name": "d', "[" * 5000, "1" * 5000]))
    def try_one(records, torn):
        path.write_text("".join(json.dumps(record) + "\n" for record in records) + torn)
        read_journal(path)

    try_one()


def test_damaged_journals(tmp_path):
    path = tmp_path / "results.jsonl"
    lines = "".join(json.dumps(record) + "\n" for record in RECORDS).encode()

    @bounded
    @given(
        damaged(lines) | st.binary(max_size=60) | st.sampled_from([b"[" * 9000 + b"\n", b"1" * 9000 + b"\n"])
    )
    def try_one(content):
        path.write_bytes(content)
        read_journal(path)

    try_one()
