"""Weights and outputs that are not finite are an error wherever they are met; the first tensor is named."""

import shutil
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import refused
from demo_models import manifest_of
from training_runs import Killed, kill

from dettoolkit import cli, load
from dettoolkit.finite import NonFiniteError, require_finite
from dettoolkit.inference.predictor import Predictor
from dettoolkit.training import commands
from dettoolkit.weights.read import read_checkpoint

RUNS = ("tiny_run", "tiny_segmentation_run", "tiny_classification_run")


def spoil(run: Path, out: Path, change=lambda name: name.endswith("weight"), value=torch.nan) -> Path:
    """Write a run's checkpoint to a file, with a value of the tensors that `change` names replaced."""
    content = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    for name, tensor in content["state_dict"].items():
        if change(name):
            tensor[(0,) * tensor.dim()] = value
    torch.save(content, out)
    return out


@pytest.fixture(params=RUNS)
def run(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_any_such_value_is_found(dtype, value):
    whole = torch.full((3, 5), torch.finfo(dtype).max, dtype=dtype)  # whose sum is infinite
    counts = torch.arange(3)
    named = [("counts", counts), ("whole", whole), ("empty", torch.zeros(0, dtype=dtype))]
    require_finite(named, source="file", remedy="do this")
    bad = whole.clone()
    bad[1, 2:4] = value
    with pytest.raises(NonFiniteError, match=r"file: bad \(3, 5\) has 2 .*of 15; do this"):
        require_finite([*named, ("bad", bad), ("worse", bad)], source="file", remedy="do this")


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_checkpoint_s_weights_are_looked_at(run, tmp_path, capsys, monkeypatch, value):
    bad = spoil(run, tmp_path / "bad.ckpt", value=value)
    first = next(name for name in read_checkpoint(bad)[1] if name.endswith("weight"))
    message = rf"bad\.ckpt: {first.removeprefix('network.')} .*NaN or infinite.* an earlier checkpoint"
    with pytest.raises(NonFiniteError, match=message):
        load(bad)
    export = [bad, "--out", tmp_path / "m.onnx"]
    commands_ = {"evaluate": [bad], "predict": [bad, tmp_path], "export": export}
    (tmp_path / "photo.png").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    for name, arguments in commands_.items():
        assert cli.main([name, *map(str, arguments)]) == 2
        assert "NaN or infinite" in refused(capsys)
    assert not (tmp_path / "m.onnx").exists()


def test_a_training_does_not_start_from_such_weights(tiny, tiny_run, tmp_path, capsys):
    bad = spoil(tiny_run, tmp_path / "bad.ckpt")
    given = [str(tiny.recipe), f"data.root={tiny.data}", f"trainer.out={tmp_path / 'runs'}"]
    for key in ("model.weights", "model.backbone.weights"):
        for more in (["--check"], []):
            assert cli.main(["train", *given, f"{key}={bad}", *more]) == 2
            assert "NaN or infinite" in refused(capsys)
    assert not (tmp_path / "runs").exists()


def test_a_run_is_not_resumed_with_such_weights(tiny, tmp_path, monkeypatch, alone):
    kill(monkeypatch, 2, "on_train_epoch_start")
    with pytest.raises(Killed):
        tiny.train(tmp_path, "trainer.checkpoint_every_steps=1")
    (run,) = (tmp_path / "tiny").iterdir()
    last = run / "checkpoints" / "last.ckpt"
    shutil.copy(last, run / "checkpoints" / "best.ckpt")
    spoil(run, last)
    with pytest.raises(NonFiniteError, match=r"network\.backbone.* NaN or infinite"):
        tiny.train(tmp_path, "trainer.checkpoint_every_steps=1", resume=run)


def variances(name: str) -> bool:
    return name.endswith("running_var")


def test_outputs_are_looked_at_where_weights_are_finite(run, request, tmp_path, capsys, monkeypatch):
    """A negative variance, of which BN takes the root."""
    bad = spoil(run, tmp_path / "bad.ckpt", variances, -1.0)
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    assert cli.main(["evaluate", str(bad), "--out", str(out)]) == 2
    assert "NaN or infinite" in refused(capsys)
    assert not out.exists()
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    with pytest.raises(NonFiniteError, match=r"bad\.ckpt: (class_)?logits \(1, .*NaN or infinite"):
        load(bad, device="cpu")(image)


@pytest.mark.parametrize("fixture", ["tiny", "tiny_segmentation", "tiny_classification"])
def test_a_check_looks_at_outputs_and_loss(request, fixture, tmp_path, monkeypatch):
    recipe = request.getfixturevalue(fixture).load(tmp_path).recipe
    prepare = commands.prepare

    def spoilt(*arguments, **more):
        run = prepare(*arguments, **more)
        next(run.task.network.parameters()).data.fill_(torch.inf)
        return run

    monkeypatch.setattr(commands, "prepare", spoilt)
    with pytest.raises(NonFiniteError, match=r"logits \(\d, .*NaN or infinite"):
        commands.check("tiny", recipe)
    monkeypatch.setattr(commands, "prepare", prepare)
    task = type(prepare("tiny", recipe).task)
    monkeypatch.setattr(task, "losses", lambda *given: {"part": torch.tensor(torch.nan)})
    with pytest.raises(NonFiniteError, match=r"loss part .*NaN or infinite"):
        commands.check("tiny", recipe)


class Engine:
    device = torch.device("cpu")

    def __init__(self, *outputs):
        self.outputs = outputs

    def __call__(self, images):
        return self.outputs


def detections(**changes):
    good = {
        "boxes": torch.zeros(1, 3, 4),
        "scores": torch.full((1, 3), 0.9),
        "labels": torch.tensor([[0, 1, -1]]),
        "counts": torch.tensor([2]),
    }
    return tuple((good | changes).values())


IMAGE = np.zeros((64, 96, 3), np.uint8)


def test_final_answers_of_a_file_are_looked_at():
    def found(outputs, task="detection"):
        return Predictor(manifest_of(task), Engine(*outputs), source="m.onnx").predict_batch([IMAGE])

    assert len(found(detections())[0].scores) == 2
    for wrong, message in (
        (detections(boxes=torch.full((1, 3, 4), torch.nan)), "boxes_xyxy .*NaN or infinite"),
        (detections(scores=torch.full((1, 3), torch.inf)), "scores .*NaN or infinite"),
        (detections(labels=torch.tensor([[0, 1, 2]])), "predicts 3 classes.*names 2"),
        (detections()[:3], "3 outputs.*boxes_xyxy, scores, labels, counts"),
    ):
        with pytest.raises(ValueError, match=rf"m\.onnx.*{message}"):
            found(wrong)
    assert found([torch.full((1, 64, 96), 2, dtype=torch.uint8)], "segmentation")
    with pytest.raises(ValueError, match=r"m\.onnx.*predicts 4 classes.*names 3"):
        found([torch.full((1, 64, 96), 3, dtype=torch.uint8)], "segmentation")


@pytest.mark.parametrize("names", [1, 5])
@pytest.mark.parametrize("run", RUNS)
def test_a_manifest_with_other_classes_than_the_network_is_refused(request, run, names):
    model = load(request.getfixturevalue(run), device="cpu")
    own, section = len(model.class_names), model.manifest.section
    classes = {"class_names": tuple(map(str, range(names))), "class_ids": tuple(range(names))}
    colors = {"colors": None} if any(field.name == "colors" for field in fields(section)) else {}
    manifest = model.manifest.with_section(replace(section, **classes, **colors))
    with pytest.raises(ValueError, match=rf"m\.onnx predicts {own} classes.*names {names}"):
        Predictor(manifest, model.engine, source="m.onnx").predict_batch([IMAGE])
