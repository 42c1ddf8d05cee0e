"""`load`: folders, checkpoints and exported files become predictors; all else is refused with a reason."""

import dataclasses
import io
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import dettoolkit
from dettoolkit import formats as engines
from dettoolkit import loading
from dettoolkit.loading import load, read_manifest
from dettoolkit.manifest import ExportFacts, ManifestError, from_json
from dettoolkit.tasks import sections
from dettoolkit.training.trained import open_model
from dettoolkit.weights.read import read_checkpoint


def test_a_folder_and_its_checkpoint_give_the_same(tiny_run):
    folder, file = load(tiny_run), load(str(tiny_run / "checkpoints" / "best.ckpt"))
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    first, second = (model(image, threshold=0) for model in (folder, file))
    assert len(first) > 10
    np.testing.assert_array_equal(first.boxes_xyxy, second.boxes_xyxy)
    assert folder.source == str(tiny_run)


def test_the_network_has_the_checkpoint_s_weights(tiny_run):
    manifest, network = open_model(tiny_run)
    description, state = read_checkpoint(tiny_run / "checkpoints" / "best.ckpt")
    own = network.state_dict()
    assert own
    for name, values in own.items():
        assert torch.equal(values, state[name]), name
    assert list(manifest.class_names) == description["class_names"]
    assert manifest.section.class_ids == (3, 7)
    assert manifest.input_hw == (64, 64)


@pytest.mark.parametrize("run", ["tiny_run", "tiny_segmentation_run", "tiny_classification_run"])
def test_a_manifest_survives_being_written(run, request):
    manifest, _ = open_model(request.getfixturevalue(run))
    again = from_json(manifest.to_json(), source="here", sections=sections())
    assert again.to_json() == manifest.to_json()
    assert again.section == manifest.section
    assert again.input_hw == manifest.input_hw


def test_a_recipe_in_the_place_of_the_stored_one(tiny, tiny_run, tmp_path):
    recipe = tiny.load(tmp_path, "evaluation.score_threshold=0.2", "model.postprocess.nms_iou=0.3").recipe
    manifest, _ = open_model(tiny_run, recipe)
    assert manifest.section.score_threshold == 0.2
    assert manifest.section.nms_iou == 0.3
    other = tiny.load(tmp_path, "model.backbone.width=0.5").recipe
    with pytest.raises(ValueError, match="overrides must not change its tensors"):
        open_model(tiny_run, other)


def test_anchors_of_the_manifest_are_those_of_the_network(tiny_run):
    from dettoolkit.detection.anchors import default_boxes

    manifest, network = open_model(tiny_run)
    section = from_json(manifest.to_json(), source="", sections=sections()).section
    boxes = default_boxes(section.levels, input_hw=manifest.input_hw)
    assert torch.equal(boxes, network.heads["detection"].anchors_xyxy)


def test_what_is_not_there_is_named(tmp_path, tiny_run):
    with pytest.raises(FileNotFoundError, match="neither a checkpoint nor a run folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"runs with checkpoints: .*tiny"):
        load(tiny_run.parent)
    with pytest.raises(FileNotFoundError, match=r"model.onnx does not exist: use an exported file"):
        load(tmp_path / "model.onnx")


@pytest.mark.parametrize(
    "model",
    [
        None,
        7,
        0.5,
        b"best.ckpt",
        bytearray(b"zip"),
        {"state_dict": {}},
        ["best.ckpt"],
        io.BytesIO(b""),
        nn.Identity(),
    ],
    ids=lambda model: type(model).__name__,
)
def test_what_is_no_path_is_refused(model):
    name = type(model).__name__
    with pytest.raises(TypeError, match=rf"load expects the path of .*, not .*{name}"):
        load(model)


@pytest.mark.parametrize("model", ["", "\0", "best\0.ckpt", "\udcff", "a" * 5000])
def test_a_path_that_cannot_be_is_refused(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        (ValueError, OSError), match=r"(?i)neither a checkpoint|no model|path is empty|name too long"
    ):
        load(model)


def test_a_bare_state_dict_is_refused(tmp_path):
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="not a dettoolkit checkpoint: recipe and class names are missing"):
        load(tmp_path / "weights.pth")


def test_an_image_is_no_model(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "photo.png")
    with pytest.raises(ValueError, match=r"photo.png"):
        load(tmp_path / "photo.png")


class FakeFormat:
    """An engine's module whose files hold a manifest and nothing else."""

    threads = None

    def read_text(self, path):
        return path.read_text()

    def Engine(self, path, *, outputs, threads):
        self.outputs, self.threads = outputs, threads
        return self

    device = torch.device("cpu")

    def __call__(self, images):
        boxes = torch.tensor([[[0.0, 0.0, 32.0, 64.0]]]).repeat(len(images), 1, 1)
        one = torch.ones(len(images), 1)
        return boxes, one, one.long(), one[:, 0].long()


@pytest.fixture
def exported(monkeypatch, tiny_run, tmp_path):
    module = FakeFormat()
    monkeypatch.setattr(engines.Format, "module", lambda _format, _part: module)
    manifest, _ = open_model(tiny_run)
    outputs = ("boxes_xyxy", "scores", "labels", "counts")
    facts = ExportFacts(format="onnx", outputs=outputs, postprocessing=True)
    path = tmp_path / "model.onnx"
    path.write_text(dataclasses.replace(manifest, export=facts).to_json())
    return path, module


def test_an_exported_file_runs_in_its_own_runtime(exported):
    path, module = exported
    model = load(path, threads=2)
    assert (module.threads, module.outputs) == (2, model.manifest.export.outputs)
    assert read_manifest(path) == model.manifest
    found = model(np.zeros((128, 32, 3), np.uint8))
    assert found.boxes_xyxy.tolist() == [[0, 0, 16, 128]]  # of an input of 64 x 64
    assert found.names == ("bar",)
    assert load(path, device="cpu").manifest.export.format == "onnx"


def test_an_exported_file_stays_on_the_cpu(exported):
    with pytest.raises(ValueError, match="only on the CPU; omit device='cuda'"):
        load(exported[0], device="cuda")


def test_a_file_of_another_tool_is_refused(exported):
    exported[0].write_text("{}")
    with pytest.raises(ManifestError, match=r"model.onnx has no manifest that dettoolkit can read"):
        load(exported[0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("run", ["tiny_run", "tiny_segmentation_run"])
def test_a_gpu_gives_the_same(run, request):
    folder = request.getfixturevalue(run)
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    here, there = (load(folder, device=device) for device in ("cpu", "cuda"))
    assert load(folder).engine.device.type == "cuda"
    (first,), (second,) = (model.predict_batch([image], threshold=0) for model in (here, there))
    if here.task == "segmentation":
        assert (first.labels == second.labels).mean() > 0.99
    else:
        np.testing.assert_allclose(first.scores[:5], second.scores[:5], atol=1e-2)


def test_the_package_gives_load_and_imports_nothing_before_it_is_asked(tmp_path):
    code = (
        "import sys, dettoolkit; print('torch' in sys.modules); dettoolkit.load; "
        "print('torch' in sys.modules, *({'lightning', 'albumentations'} & sys.modules.keys()))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["False", "True"]
    assert dettoolkit.load is loading.load
    with pytest.raises(AttributeError, match="has no attribute 'lode'"):
        dettoolkit.lode  # noqa: B018


@pytest.mark.parametrize("threads", [0, -1, 100_000, 1.5, "2", True, 10**30])
def test_threads_that_no_machine_starts_are_refused(tmp_path, threads):
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(ValueError, match=rf"threads={threads!r}: expected an integer from 1 to \d+"):
        engines.open_engine(tmp_path / "model.onnx", outputs=(), threads=threads)
    assert engines.check_threads(2) == 2
