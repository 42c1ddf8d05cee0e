"""8-bit forms of operators: against NumPy, against ONNX's own reference, and fused by the runtime."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="8-bit files need the extra onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="8-bit files need the extra onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

from dettoolkit.formats.onnx.eight_bits import can_be_8_bit, constants_of, in_8_bits  # noqa: E402
from dettoolkit.formats.onnx.open import open_session  # noqa: E402

RNG = np.random.default_rng(0)


def model_of(*nodes, constants=(), shape=(1, 4, 6, 5)):
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        list(nodes),
        "by hand",
        [value("x", TensorProto.FLOAT, shape)],
        [value("y", TensorProto.FLOAT, None)],
        initializer=[numpy_helper.from_array(np.asarray(v), n) for n, v in constants],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    model.ir_version = 10
    return model.SerializeToString()


def node(kind, *inputs, output="y", **attributes):
    return helper.make_node(kind, list(inputs), [output], name=f"{output}/{kind}", **attributes)


def kinds_run(content, tmp_path):
    """Return the operators that ONNX Runtime makes of a model."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "run.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return [each.op_type for each in onnx.load(tmp_path / "run.onnx").graph.node]


def names(content):
    return [each.name for each in onnx.load_from_string(content).graph.node]


@pytest.mark.parametrize(
    ("kind", "attributes", "exact"),
    [
        ("HardSwish", {}, lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
        ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}, lambda x: np.clip(x / 6 + 0.5, 0, 1)),
        ("HardSigmoid", {}, lambda x: np.clip(x / 5 + 0.5, 0, 1)),
    ],
)
def test_what_has_no_8_bit_kernel_is_made_of_what_has(kind, attributes, exact, tmp_path):
    made = model_of(node(kind, "x", **attributes))
    ranges = {"x": (np.float32(-3), np.float32(4)), "y": (np.float32(-0.375), np.float32(4))}
    content = in_8_bits(made, names(made), ranges)
    x = np.linspace(-4, 4, 120, dtype=np.float32).reshape(1, 4, 6, 5)
    (y,) = open_session(content).run(None, {"x": x})
    np.testing.assert_allclose(y, exact(x), atol=0.04)  # steps are 0.027 and 0.017
    (reference,) = ReferenceEvaluator(onnx.load_from_string(content)).run(None, {"x": x})
    np.testing.assert_allclose(y, reference, atol=0.018)
    run = kinds_run(content, tmp_path)
    assert kind not in run
    assert {each for each in run if "Linear" not in each} == set()


def test_a_convolution_and_the_clipping_behind_it_are_one_operator(tmp_path):
    weight = RNG.normal(size=(3, 4, 1, 1)).astype(np.float32)
    weight[1] = 0  # a channel of the bias alone
    weight[2] *= 1e-12
    bias = np.array([0.1, -0.2, 2.5], np.float32)
    made = model_of(
        node("Conv", "x", "w", "b", output="a"), node("Relu", "a"), constants=(("w", weight), ("b", bias))
    )
    ranges = {
        "x": (np.float32(-1), np.float32(1)),
        "a": (np.float32(-4), np.float32(4)),
        "y": (np.float32(0), np.float32(4)),
    }
    content = in_8_bits(made, names(made), ranges)
    x = RNG.uniform(-1, 1, (1, 4, 6, 5)).astype(np.float32)
    (y,) = open_session(content).run(None, {"x": x})
    exact = np.maximum(np.einsum("oi,bihw->bohw", weight[:, :, 0, 0], x) + bias[:, None, None], 0)
    np.testing.assert_allclose(y, exact, atol=0.05)
    run = kinds_run(content, tmp_path)
    assert "QLinearConv" in run
    assert not {"Conv", "Relu"} & set(run)
    sizes = {each.name: each.data_type for each in onnx.load_from_string(content).graph.initializer}
    assert TensorProto.INT8 in sizes.values()
    assert "w" not in sizes


def test_what_is_not_chosen_gets_exact_values_and_stays(tmp_path):
    made = model_of(
        node("Neg", "x", output="a"), node("Add", "a", "x", output="b"), node("Mul", "a", "b", output="y")
    )
    ranges = {name: (np.float32(-2), np.float32(2)) for name in "xab"}
    content = in_8_bits(made, ["b/Add"], ranges)
    proto = onnx.load_from_string(content)
    (last,) = [each for each in proto.graph.node if each.op_type == "Mul"]
    assert list(last.input) == ["a", "b"]  # a as it is, b rounded
    x = RNG.uniform(-1, 1, (1, 4, 6, 5)).astype(np.float32)
    np.testing.assert_allclose(open_session(content).run(None, {"x": x})[0], 0, atol=0.02)
    assert in_8_bits(made, [], {}) == onnx.load_from_string(made).SerializeToString()


@pytest.mark.parametrize(
    ("made", "able"),
    [
        (node("ReduceMean", "x", "axes"), True),
        (node("ReduceMean", "x", "channels"), False),
        (node("ReduceMean", "x", "axes", keepdims=0), False),
        (node("ReduceMean", "x"), False),
        (node("Mul", "x", "x"), True),
        (node("Mul", "x", "half"), False),
        (node("Resize", "x"), False),
    ],
)
def test_not_all_can_be_in_8_bits(made, able):
    constants = (("axes", np.array([-1, -2])), ("channels", np.array([1])), ("half", np.float32(0.5)))
    proto = onnx.load_from_string(model_of(made, constants=constants))
    assert can_be_8_bit(proto.graph.node[0], constants_of(proto)) is able


def test_a_mean_over_rows_and_columns(tmp_path):
    made = model_of(node("ReduceMean", "x", "axes"), constants=(("axes", np.array([-1, -2])),))
    ranges = {"x": (np.float32(0), np.float32(1)), "y": (np.float32(0), np.float32(1))}
    content = in_8_bits(made, names(made), ranges)
    x = RNG.uniform(0, 1, (1, 4, 6, 5)).astype(np.float32)
    (y,) = open_session(content).run(None, {"x": x})
    np.testing.assert_allclose(y, x.mean(axis=(2, 3), keepdims=True), atol=0.008)
    assert "ReduceMean" not in kinds_run(content, tmp_path)
