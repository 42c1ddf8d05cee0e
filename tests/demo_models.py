"""Models for the demo's page, written by hand: their results are known without running them."""

from pathlib import Path

import numpy as np
from joint_models import joint_section

from dettoolkit.detection.spec import DetectionSection, Level
from dettoolkit.manifest import ExportFacts, Manifest, Section
from dettoolkit.segmentation.spec import SegmentationSection
from dettoolkit.tasks import spec_named

COLORS = ((200, 40, 30), (20, 160, 60), (40, 70, 210))
SEGMENTER_CLASSES = ("reddish", "greenish", "bluish")
DETECTOR_CLASSES = ("cup", "traffic light")
CLASSIFIER_CLASSES = (
    "reddish",
    "greenish",
    "bluish",
    "a name that is much too long for a phone's narrow screen",
)
# In fractions of width and height, best first; and one that pads.
BOXES = np.array(
    [[0.5, 0.25, 0.9, 0.75], [0.1, 0.1, 0.3, 0.9], [0.6, 0.8, 0.7, 0.95], [0, 0, 0, 0]], np.float32
)
SCORES = np.array([0.9, 0.6, 0.3, 0], np.float32)
LABELS = np.array([1, 0, 1, -1], np.int64)


def section_of(task: str):
    """Return a section of a manifest."""
    if task == "segmentation":
        names = SEGMENTER_CLASSES
        ids = tuple(range(len(names)))
        return SegmentationSection(class_names=names, class_ids=ids, align_corners=False, colors=COLORS)
    if task == "classification":
        ids = tuple(range(len(CLASSIFIER_CLASSES)))
        return Section(class_names=CLASSIFIER_CLASSES, class_ids=ids)
    if task == "joint":
        return joint_section(section_of("detection"), section_of("segmentation"))
    return DetectionSection(
        class_names=DETECTOR_CLASSES,
        class_ids=(0, 1),
        activation="sigmoid",
        background=True,
        coder="deltas",
        score_threshold=0.05,
        nms_iou=0.6,
        candidates_per_class=100,
        max_detections=100,
        threshold=0.4,
        levels=(Level(grid_hw=(1, 2), sizes=((0.5, 0.5), (0.9, 0.9))),),
    )


def manifest_of(task: str, **export) -> Manifest:
    """Return the manifest of an exported file; `export` changes what it says of the file."""
    facts = {"format": "onnx", "batch": 1, "preprocessing": True, "postprocessing": True} | export
    spec = spec_named(task)
    outputs = spec.final_outputs if facts["postprocessing"] else spec.raw_outputs
    return Manifest(
        name=f"handmade_{task}",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        input_hw=(64, 96),
        recipe={"data": {"root": "nowhere", "val": {"images": "val"}}},
        versions={},
        tasks={task: section_of(task)},
        export=ExportFacts(**{"outputs": outputs} | facts),
    )


def write_segmenter(path: Path, **export) -> Path:
    """Write a model that labels each pixel by its strongest channel, the first of equals."""
    nodes, outputs = _labeling("labels")
    return _write(path, nodes, outputs, [], manifest_of("segmentation", **export))


def write_detector(path: Path, **export) -> Path:
    """Write a model that finds BOXES in whatever it is shown."""
    return _write(path, *_finding(), manifest_of("detection", **export))


def write_joint(path: Path, **export) -> Path:
    """Write a model that does as the detector and as the segmenter."""
    nodes, outputs, weights = _finding()
    more_nodes, map_output = _labeling("label_map")
    manifest = manifest_of("joint", **export)
    return _write(path, nodes + more_nodes, outputs + map_output, weights, manifest)


def _labeling(name: str):
    """Return the segmenter's nodes and its output, of this name."""
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Cast", ["images"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("ArgMax", ["numbers"], ["strongest"], axis=3, keepdims=0),
        helper.make_node("Cast", ["strongest"], [name], to=TensorProto.UINT8),
    ]
    return nodes, [helper.make_tensor_value_info(name, TensorProto.UINT8, [1, "H", "W"])]


def _finding():
    """Return the detector's nodes, outputs and constants."""
    from onnx import TensorProto, helper, numpy_helper

    constants = {
        "fractions": BOXES[None],
        "scores_in": SCORES[None],
        "labels_in": LABELS[None],
        "counts_in": np.array([3], np.int64),
        "order": np.array([2, 1, 2, 1], np.int64),  # width, height, width, height
    }
    nodes = [
        helper.make_node("Shape", ["images"], ["shape"]),
        helper.make_node("Gather", ["shape", "order"], ["size"]),
        helper.make_node("Cast", ["size"], ["size_float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["fractions", "size_float"], ["boxes_xyxy"]),
        *(helper.make_node("Identity", [f"{name}_in"], [name]) for name in ("scores", "labels", "counts")),
    ]
    outputs = [
        helper.make_tensor_value_info("boxes_xyxy", TensorProto.FLOAT, [1, 4, 4]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 4]),
        helper.make_tensor_value_info("labels", TensorProto.INT64, [1, 4]),
        helper.make_tensor_value_info("counts", TensorProto.INT64, [1]),
    ]
    return nodes, outputs, [numpy_helper.from_array(value, name) for name, value in constants.items()]


def write_classifier(path: Path, **export) -> Path:
    """Write a model that scores the first classes by the channels' means, over 32, by softmax."""
    from onnx import TensorProto, helper, numpy_helper

    constants = {
        "axes": np.array([1, 2], np.int64),
        "scale": np.array(32, np.float32),
        "none": np.full((1, 1), -1, np.float32),
        "top": np.array([4], np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["images"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["numbers", "axes"], ["means"], keepdims=0),
        helper.make_node("Div", ["means", "scale"], ["scaled"]),
        helper.make_node("Concat", ["scaled", "none"], ["logits"], axis=1),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        helper.make_node("TopK", ["probabilities", "top"], ["scores", "labels"], axis=1),
    ]
    outputs = [
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 4]),
        helper.make_tensor_value_info("labels", TensorProto.INT64, [1, 4]),
    ]
    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    return _write(path, nodes, outputs, weights, manifest_of("classification", **export))


def _write(path, nodes, outputs, weights, manifest) -> Path:
    import onnx
    from onnx import TensorProto, helper

    images = helper.make_tensor_value_info("images", TensorProto.UINT8, [1, "H", "W", 3])
    graph = helper.make_graph(nodes, "handmade", [images], outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {"dettoolkit": manifest.to_json()})
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())
    return path
