"""What only files for LiteRT have; test_export_fixed has the rest."""

import numpy as np
import pytest
import torch
from learning_margins import at_least
from tiny_exports import assert_close, convert, convert_all, normalized, opened, picture, tiny_model
from torch import nn

pytest.importorskip("litert_torch", reason="LiteRT is not installed: make test-exports")

from dettoolkit import load
from dettoolkit.export.command import export
from dettoolkit.export.report import GateError
from dettoolkit.export.request import Request
from dettoolkit.formats.float_layers import layer_of
from dettoolkit.formats.graph import for_export
from dettoolkit.formats.trailer import stamp
from dettoolkit.manifest import ManifestError
from dettoolkit.tasks import spec_for

quantizing = pytest.importorskip(
    "dettoolkit.formats.litert.quantize", reason="ai-edge-quantizer is not installed: make test-exports"
)


@pytest.fixture(scope="module")
def models(request, tmp_path_factory):
    """Return for each task the network, the manifest and the file."""
    return convert_all(request, tmp_path_factory, format="litert", ending=".tflite")


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_change_no_answer(models, threads):
    network, _, path = models["segmentation"]
    with torch.inference_mode():
        assert_close(opened(path, threads=threads)(normalized()), network(normalized()))


def test_inputs_and_outputs_have_names(models):
    interpreter = pytest.importorskip("ai_edge_litert.interpreter").Interpreter(
        model_path=str(models["detection"][2])
    )
    (signature,) = interpreter.get_signature_list().values()
    assert signature["inputs"] == ["images"]
    assert sorted(signature["outputs"]) == ["box_deltas", "class_logits"]


def test_files_that_are_none_are_refused(models, tmp_path):
    path = tmp_path / "broken.tflite"
    path.write_bytes(b"PK nothing of the kind" * 50)
    with pytest.raises(ManifestError, match="no dettoolkit manifest"):
        load(path)
    stamp(path, models["detection"][1])
    with pytest.raises(ValueError, match=r"LiteRT cannot open .*broken\.tflite"):
        opened(path)


def with_dead_channels(network):
    """Leave of some channels nothing but their bias, as weight decay does."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data[::4] = 1e-9
            module.bias.data[::4] = 1.0
    return network


@pytest.fixture(scope="module")
def made(tiny_segmentation, tmp_path_factory):
    """Return a network's quantizer, the network and its float32 file."""
    folder = tmp_path_factory.mktemp("float")
    network, manifest = tiny_model(tiny_segmentation, folder, format="litert", precision="int8")
    path = folder / "model.tflite"
    convert(with_dead_channels(network), manifest, path)
    images = [picture((48, 64), seed) for seed in range(4)]
    return quantizing.Quantizer(network, manifest, path, images, spec_for(manifest)), network, path


def float_weights(network, path):
    """Return how many weights of each layer a file has in float32, found by their bytes."""
    content, found = path.read_bytes(), {}
    for name, module in for_export(network).named_modules():
        if isinstance(module, nn.Conv2d):
            order = (1, 2, 3, 0) if module.groups > 1 else (0, 2, 3, 1)
            there = module.weight.permute(order).contiguous().numpy().tobytes() in content
            layer = layer_of(name)
            found[layer] = found.get(layer, 0) + there * module.weight.numel()
    return found


def test_every_layer_is_known_by_its_weights(made):
    quantizer, network, path = made
    assert quantizer.weights == float_weights(network, path)
    assert all(quantizer.weights.values())


def test_an_8_bit_file_is_small_and_listed_layers_stay_float(made, tmp_path):
    quantizer, network, path = made
    (all_8_bit, some_float) = (tmp_path / name for name in ("all.tflite", "some.tflite"))
    quantizer.write(all_8_bit, [])
    assert not any(float_weights(network, all_8_bit).values())
    saved = path.stat().st_size - all_8_bit.stat().st_size
    # Three bytes of four, less a scale and a zero for each channel, of which a tiny network has many.
    assert saved > 0.4 * 4 * sum(quantizer.weights.values())

    kept = list(quantizer.weights)[1:3]
    quantizer.write(some_float, kept)
    assert {layer for layer, count in float_weights(network, some_float).items() if count} == set(kept)


def test_channels_without_weights_keep_their_bias(made, monkeypatch):
    quantizer, _, _ = made
    error = quantizing.distance(
        quantizing._run(quantizer.model, quantizer.inputs),
        quantizing._run(quantizer._quantized(quantizer.weights), quantizer.inputs),
    )
    constants = {name for each in quantizer.operators for name in each.constants}
    activations = {name: each for name, each in quantizer.ranges.items() if name not in constants}
    monkeypatch.setattr(quantizer, "ranges", activations)  # the quantizer's own ranges of weights
    without = quantizing.distance(
        quantizing._run(quantizer.model, quantizer.inputs),
        quantizing._run(quantizer._quantized(quantizer.weights), quantizer.inputs),
    )
    assert error < 0.25, (error, without)
    assert without > 2 * error, (error, without)


def test_layers_are_ranked_by_how_much_they_err(made, monkeypatch):
    quantizer, _, _ = made
    few = dict(list(quantizer.weights.items())[:3])
    monkeypatch.setattr(quantizer, "weights", few)
    assert sorted(quantizer.ranked()) == sorted(few)


@pytest.mark.learnt
def test_an_8_bit_segmenter_still_sees(tiny_segmentation_run, tmp_path, capfd):
    request = Request(format="litert", precision="int8", tolerances={"metric": 0.05})
    done = export(tiny_segmentation_run, tmp_path / "model.tflite", request)
    assert {each.name for each in tmp_path.iterdir()} == {"model.tflite", done.report_path.name}
    before, after = done.report.scores
    at_least("segmenter in LiteRT: mIoU, exported", before, 0.1)
    at_least("segmenter in LiteRT: mIoU kept in 8 bits", after - before, -0.05)
    export_facts = load(done.path).manifest.export
    assert export_facts.precision == "int8"
    assert export_facts.parity["scores"]["exported"] == after
    printed = "".join(capfd.readouterr())
    assert "%|" not in printed  # progress bars
    assert "Warning" not in printed


def test_a_file_that_sees_nothing_is_refused(tiny_segmentation_run, tmp_path, monkeypatch):
    tried, write = [], quantizing.Quantizer.write

    def spoilt(self, path, layers):
        tried.append(len(layers))
        self.ranges = {name: narrowed(each) for name, each in self.ranges.items()}
        write(self, path, layers)

    def narrowed(limits):
        return {name: np.float32(0.01) * value for name, value in limits.items()}

    monkeypatch.setattr(quantizing.Quantizer, "write", spoilt)
    monkeypatch.setattr(quantizing.Quantizer, "ranked", lambda self: list(self.weights)[:2])
    with pytest.raises(GateError, match="mIoU"):
        export(tiny_segmentation_run, tmp_path / "model.tflite", Request(format="litert", precision="int8"))
    assert tried == [0, 1, 2]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("run", ["tiny_learnt_run", "tiny_classification_run", "tiny_joint_run"])
def test_other_tasks_pass_the_gate_in_8_bits(run, request, tmp_path):
    loose = {"metric": 1.0}
    done = export(
        request.getfixturevalue(run),
        tmp_path / "model.tflite",
        Request(format="litert", precision="int8", limit=5, tolerances=loose),
    )
    facts = load(done.path).manifest.export
    assert facts.precision == "int8"
    assert facts.float_layers == ()
    assert done.report.scores is not None
