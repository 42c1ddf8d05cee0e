"""8-bit files: ranges of values made by hand, layers left in float32, and whole files that still see."""

import numpy as np
import pytest
from learning_margins import at_least

onnx = pytest.importorskip("onnx", reason="8-bit files need the extra onnx")
pytest.importorskip("onnxruntime", reason="8-bit files need the extra onnx")
pytest.importorskip("onnxscript", reason="8-bit files need the extra onnx")

from dettoolkit import load  # noqa: E402
from dettoolkit.export import command  # noqa: E402
from dettoolkit.export.comparison import own_images, read  # noqa: E402
from dettoolkit.export.report import GateError  # noqa: E402
from dettoolkit.export.request import Request, manifest_for  # noqa: E402
from dettoolkit.formats.float_layers import fewest, layer_of  # noqa: E402
from dettoolkit.formats.onnx import convert as converter  # noqa: E402
from dettoolkit.formats.onnx.calibrate import find_ranges  # noqa: E402
from dettoolkit.formats.onnx.quantize import Quantizer  # noqa: E402
from dettoolkit.formats.ranges import best_range  # noqa: E402
from dettoolkit.tasks import spec_for  # noqa: E402
from dettoolkit.training.trained import open_model  # noqa: E402


def test_a_range_holds_what_there_is():
    assert best_range(np.array([0.0, 1.0, 2.55], np.float32)) == (0, np.float32(2.55))
    assert best_range(np.array([3.0, 4.0], np.float32)) == (0, 4)  # 0 is always in it
    assert best_range(np.zeros(3, np.float32)) == (0, 0)


def test_a_few_far_values_do_not_make_the_steps_coarse_for_all():
    values = np.random.default_rng(0).uniform(-1, 1, 1_000_000).astype(np.float32)
    low, high = best_range(np.append(values, np.float32(40)))
    assert -1.01 < low < -0.9
    assert high < 30


def graph_of(*nodes, constants=()):
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        list(nodes),
        "by hand",
        [value("x", onnx.TensorProto.FLOAT, [None])],
        [value("y", onnx.TensorProto.FLOAT, [None])],
        initializer=[onnx.numpy_helper.from_array(np.float32(v), n) for n, v in constants],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])
    model.ir_version = 10  # onnx writes one that ONNX Runtime does not know yet
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("node", "constants", "low", "high"),
    [
        ({"op_type": "HardSwish", "inputs": ["x"]}, (), -3, 10),
        ({"op_type": "Relu", "inputs": ["x"]}, (), 0, 10),
        ({"op_type": "HardSigmoid", "inputs": ["x"], "alpha": 1 / 6, "beta": 0.5}, (), -3, 3),
        ({"op_type": "HardSigmoid", "inputs": ["x"]}, (), -2.5, 2.5),
        ({"op_type": "Clip", "inputs": ["x", "a", "b"]}, (("a", 0), ("b", 6)), 0, 6),
        ({"op_type": "Clip", "inputs": ["x", "", "b"]}, (("b", 6),), -10, 6),
        ({"op_type": "Neg", "inputs": ["x"]}, (), -10, 10),
    ],
    ids=lambda value: value["op_type"] if isinstance(value, dict) else None,
)
def test_no_steps_are_spent_on_what_the_next_operator_cuts_off(node, constants, low, high):
    made = onnx.helper.make_node(outputs=["y"], name="node", **node)
    x = np.linspace(-10, 10, 2001, dtype=np.float32)
    ranges = find_ranges(graph_of(made, constants=constants), [{"x": x}], ["node"])
    assert ranges.keys() == {"x", "y"}
    assert ranges["x"] == pytest.approx((low, high), abs=0.6)  # narrower where that loses less
    assert ranges["x"][0] >= low
    assert ranges["x"][1] <= high


@pytest.mark.parametrize(
    ("node", "layer"),
    [
        ("backbone.blocks.10.depthwise.0/Conv", "backbone.blocks.10"),
        ("backbone.blocks.1/Add", "backbone.blocks.1"),
        ("backbone.stem.0/Conv", "backbone.stem"),
        ("backbone.stem.2/HardSwish", "backbone.stem"),
        ("heads.detection.class_predictors.2.1/Conv", "heads.detection.class_predictors.2"),
        ("heads.segmentation.high.0/Conv", "heads.segmentation.high"),
    ],
)
def test_operators_belong_to_blocks(node, layer):
    assert layer_of(node) == layer


@pytest.fixture(scope="module")
def quantizer(tiny_segmentation_run, tiny_segmentation, tmp_path_factory):
    described, network = open_model(tiny_segmentation_run)
    manifest = manifest_for(described, Request(precision="int8", batch=2), first_hw=(48, 64))
    path = tmp_path_factory.mktemp("float") / "model.onnx"
    spec = spec_for(manifest)
    converter.convert(network, manifest, path, spec)
    images = read(own_images(tiny_segmentation.data / "leftImg8bit" / "train"))
    return Quantizer(network, manifest, path, images, spec), manifest, images


def test_weights_have_a_scale_for_each_channel_and_float_layers_none(quantizer, tmp_path):
    made, _, _ = quantizer
    made.write(tmp_path / "all.onnx", [])
    proto = onnx.load(tmp_path / "all.onnx")
    arrays = {each.name: onnx.numpy_helper.to_array(each) for each in proto.graph.initializer}
    scales = [
        arrays[node.input[1]]
        for node in proto.graph.node
        if node.op_type == "DequantizeLinear" and arrays.get(node.input[0], np.zeros(1)).dtype == np.int8
    ]
    convolutions = [node for node in proto.graph.node if node.op_type == "Conv"]
    assert len(scales) == len(convolutions)
    assert all(scale.ndim == 1 and len(scale) > 1 for scale in scales)
    assert len({len(set(scale.tolist())) for scale in scales}) > 1

    left = list(made.weights)[:3]
    made.write(tmp_path / "some.onnx", left)
    some = onnx.load(tmp_path / "some.onnx")
    weights = {each.name: each.data_type for each in some.graph.initializer}
    kept = {
        node.name
        for node in some.graph.node
        if node.op_type == "Conv" and weights.get(node.input[1]) == onnx.TensorProto.FLOAT
    }
    assert kept
    assert {layer_of(name) for name in kept} <= set(left)


def test_layers_are_left_in_float_by_how_much_they_err(quantizer, monkeypatch):
    made, _, _ = quantizer
    ranked = made.ranked()
    assert sorted(ranked) == sorted(made.weights)
    monkeypatch.setattr(made, "ranked", lambda: ranked)
    assert fewest(made, lambda layers: True) == []
    for few in range(4):
        assert fewest(made, lambda layers, few=few: len(layers) >= few) == ranked[:few]
    most = fewest(made, lambda layers: False)
    assert 0 < sum(made.weights[layer] for layer in most) <= sum(made.weights.values()) / 2


@pytest.mark.learnt
def test_an_8_bit_segmenter_still_sees_and_says_what_is_float(tiny_segmentation_run, tmp_path):
    request = Request(precision="int8", preprocessing=True, postprocessing=True, tolerances={"metric": 0.05})
    done = command.export(tiny_segmentation_run, tmp_path / "model.onnx", request)
    assert done.report.scores is not None
    before, after = done.report.scores
    at_least("segmenter: mIoU, exported", before, 0.1)
    at_least("segmenter: mIoU kept in 8 bits", after - before, -0.05)
    manifest = load(done.path).manifest
    assert manifest.export.precision == "int8"
    assert manifest.export.parity["scores"]["exported"] == after
    assert isinstance(manifest.export.float_layers, tuple)


@pytest.mark.learnt
def test_layers_go_back_to_float_until_the_score_holds_or_the_file_is_refused(
    tiny_segmentation_run, tmp_path, monkeypatch
):
    tried = []
    write = Quantizer.write

    def spoilt(self, path, layers):
        tried.append(len(layers))
        write(self, path, layers)
        if len(layers) < 2:  # as if two layers could not bear it
            proto = onnx.load(path)
            for each in proto.graph.initializer:
                if each.data_type == onnx.TensorProto.FLOAT:
                    values = onnx.numpy_helper.to_array(each)
                    each.CopyFrom(onnx.numpy_helper.from_array(values * np.float32(1.5), each.name))
            path.write_bytes(proto.SerializeToString())

    monkeypatch.setattr(Quantizer, "write", spoilt)
    request = Request(precision="int8", tolerances={"metric": 0.1})
    done = command.export(tiny_segmentation_run, tmp_path / "model.onnx", request)
    assert tried == [0, 1, 2]  # there is none between 1 and 2
    assert len(done.manifest.export.float_layers) == 2

    monkeypatch.setattr(Quantizer, "ranked", lambda self: [])
    with pytest.raises(GateError, match="mIoU"):
        command.export(tiny_segmentation_run, tmp_path / "second.onnx", request)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["model.onnx", "model.onnx.report.json"]


def test_a_file_of_two_images_is_calibrated_with_each_image_twice(quantizer):
    made, _, images = quantizer
    feeds = [feed["images"] for feed in made.feeds]
    assert len(feeds) == len(images)
    assert all(feed.shape == (2, 3, 48, 64) for feed in feeds)
    np.testing.assert_array_equal(feeds[0][0], feeds[0][1])
