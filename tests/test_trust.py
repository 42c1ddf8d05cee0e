"""Files that run code when they are opened: nothing opens them unless it is told to trust them.

Each of the files below makes a folder when PyTorch opens it, in one of the ways that programs of torch.export
have. That the folder appears with `trust` shows that the files are what they are meant to be.
"""

import io
import json
import os
import shutil
import zipfile
from contextlib import suppress
from functools import partial

import pytest
import torch
from PIL import Image
from test_export_pt2 import Toy, manifest_of
from tiny_exports import convert

from dettoolkit.cli.demo import export_demo
from dettoolkit.cli.exporting import export
from dettoolkit.cli.predicting import predict
from dettoolkit.cli.training import evaluate
from dettoolkit.formats import open_engine
from dettoolkit.inference.jobs.job import fingerprint
from dettoolkit.loading import load, read_manifest
from dettoolkit.ray import BatchPredictor

WAYS = ("sample inputs", "pickled weights", "expressions")


class Make:
    """Unpickled, it makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def pickled(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def poison(path, way, marker):
    """Change a program of torch.export so that it makes a folder when it is opened."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    (root,) = {name.partition("/")[0] for name in entries}
    if way == "sample inputs":
        entries[f"{root}/data/sample_inputs/model.pt"] = pickled((Make(marker),))
    elif way == "pickled weights":
        config = f"{root}/data/weights/model_weights_config.json"
        weights = json.loads(entries[config])
        first = next(iter(weights["config"].values()))
        first["use_pickle"] = True
        entries[config] = json.dumps(weights).encode()
        entries[f"{root}/data/weights/{first['path_name']}"] = pickled(Make(marker))
    else:
        model = json.loads(entries[f"{root}/models/model.json"])
        sizes = model["graph_module"]["graph"]["tensor_values"]["images"]["sizes"]
        code = f"__import__('os').mkdir({str(marker)!r}) or 2"
        sizes[0]["as_expr"]["expr_str"] = code
        entries[f"{root}/models/model.json"] = json.dumps(model).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def write_image(path):
    path.parent.mkdir()
    Image.new("RGB", (48, 32)).save(path)


@pytest.fixture(params=WAYS)
def evil(request, tmp_path):
    """Return a .pt2 file with a manifest that is in order, and the folder that it makes."""
    path, marker = tmp_path / "evil.pt2", tmp_path / "marker"
    convert(Toy(), manifest_of(), path)
    poison(path, request.param, marker)
    return path, marker


def test_opening_one_runs_code(evil):
    path, marker = evil
    with suppress(ValueError):  # what the program is good for afterwards does not matter
        load(path, trust=True)
    assert marker.is_dir()


def test_nothing_opens_one_without_trust(evil, tmp_path, monkeypatch):
    path, marker = evil
    for name in (path, shutil.copy(path, tmp_path / "EVIL.PT2")):
        for call in (load, BatchPredictor, partial(open_engine, outputs=())):
            with pytest.raises(ValueError, match=r"(?i)evil\.pt2 .*can run code.*trust=True.*--trust"):
                call(name)
    assert read_manifest(path).task == "segmentation"
    assert len(fingerprint(path)) == 64
    assert not marker.exists()


def test_no_command_opens_one_without_trust(evil, tmp_path, monkeypatch, capsys):
    path, marker = evil
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / "photos" / "1.png")
    for command, arguments, message in (
        (predict, [path, "photos"], "--trust"),
        (evaluate, [path], "is an exported file"),
        (export, [path, "--format", "pt2", "--out", "other.pt2"], "is an exported file"),
        (export_demo, [path, "--out", "demo"], "is an exported file"),
    ):
        assert command([str(each) for each in arguments]) == 2
        assert message in capsys.readouterr().err
        assert not marker.exists()


@pytest.mark.parametrize("ending", [".ckpt", ".pth", ".onnx", ".tflite"])
def test_another_ending_does_not_help(evil, tmp_path, ending):
    path, marker = evil
    renamed = path.rename(tmp_path / f"model{ending}")
    with pytest.raises(ValueError, match=rf"model\{ending}"):
        load(renamed)
    assert not marker.exists()


def test_a_command_that_trusts_is_told_to_resume_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    convert(Toy(), manifest_of(), tmp_path / "toy.pt2")
    write_image(tmp_path / "photos" / "1.png")
    assert predict(["toy.pt2", "photos", "--resume", "out", "--trust"]) == 0
    capsys.readouterr()
    assert predict(["--resume", "out"]) == 2
    assert "--trust" in capsys.readouterr().err
    assert predict(["--resume", "out", "--trust"]) == 0
