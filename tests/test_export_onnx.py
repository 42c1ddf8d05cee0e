"""ONNX files against PyTorch: the network, and what may be put around it."""

# ruff: noqa: E402 - imports come after what skips the file where they are missing

import dataclasses
import itertools
import math
import sys

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package, reason=f"no {package}; pip install -e '.[onnx]'")

import onnx
import onnx_ir as ir
import onnxruntime
from tiny_exports import (
    assert_close,
    assert_same_result,
    convert,
    exporting,
    handmade,
    opened,
    picture,
    reference,
    tiny_model,
)

from dettoolkit import load
from dettoolkit.datasets.images import resize_image
from dettoolkit.detection.anchors import cell_sizes, default_boxes
from dettoolkit.detection.onnx import detections
from dettoolkit.detection.postprocess import postprocess
from dettoolkit.detection.spec import DetectionSection, Level
from dettoolkit.formats import open_engine
from dettoolkit.formats.onnx import convert as converter
from dettoolkit.formats.onnx.convert import OPSET, stamp
from dettoolkit.formats.onnx.nodes import Nodes
from dettoolkit.loading import read_manifest
from dettoolkit.manifest import ManifestError, Section
from dettoolkit.preprocessing import fit_image, normalize
from dettoolkit.segmentation.onnx import label_map
from dettoolkit.segmentation.spec import SegmentationSection
from dettoolkit.tasks import spec_for
from dettoolkit.training.trained import open_model

INPUT_HW = (32, 48)
GRIDS = ((4, 6), (2, 3))
SIZES = cell_sizes(
    levels=2, min_scale=0.2, max_scale=0.9, aspect_ratios=(2.0,), reduce_first_level=False, clip=False
)
LEVELS = tuple(Level(grid_hw=grid, sizes=sizes) for grid, sizes in zip(GRIDS, SIZES, strict=True))
BOXES = 30 * 4
CLASSES = 3
NAMES = {"class_names": ("a", "b", "c"), "class_ids": (1, 2, 3)}


def facts(**changes):
    values = {"activation": "sigmoid", "background": True, "coder": "deltas", "score_threshold": 0.3}
    values |= {"nms_iou": 0.5, "candidates_per_class": 100, "max_detections": 20, "threshold": 0.5}
    return DetectionSection(**(NAMES | values | {"levels": LEVELS} | changes))


def manifest_of(task, section=None, **changes):
    if section is None:
        section = {
            "detection": facts(),
            "segmentation": SegmentationSection(**NAMES, align_corners=False),
            "classification": Section(**NAMES),
        }[task]
    statistics = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    return handmade(section, **({"input_hw": INPUT_HW} | statistics | changes))


class ToyDetector(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.convolution = nn.Conv2d(3, 4 * (CLASSES + 5), 8, stride=8)

    def forward(self, images):
        fine = self.convolution(images)
        levels = (fine, F.avg_pool2d(fine, 2))
        flat = [each.permute(0, 2, 3, 1).reshape(each.shape[0], -1, CLASSES + 5) for each in levels]
        both = torch.cat(flat, dim=1)
        return 2 * both[..., : CLASSES + 1], both[..., CLASSES + 1 :]


class ToySegmenter(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.convolution = nn.Conv2d(3, CLASSES, 4, stride=4)

    def forward(self, images):
        return self.convolution(images)


class ToyClassifier(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(7)
        self.convolution = nn.Conv2d(3, CLASSES, 8, stride=8)

    def forward(self, images):
        return self.convolution(images).amax((2, 3))


class Same(nn.Module):
    """Return the images, so that a test sees what a network would."""

    def forward(self, images):
        return images * 1.0


TOYS = {"detection": ToyDetector, "segmentation": ToySegmenter, "classification": ToyClassifier}


def run_nodes(inputs, outputs_of):
    """Run nodes alone: arrays by name in, arrays out; every dimension is open."""
    values = [
        ir.Value(name=name, shape=ir.Shape([None] * array.ndim), type=ir.TensorType(ir.DataType.FLOAT))
        for name, array in inputs.items()
    ]
    g = Nodes("postprocess")
    outputs = outputs_of(g, *values)
    graph = ir.Graph(
        values, outputs, nodes=g.nodes, initializers=g.constants, name="nodes", opset_imports={"": OPSET}
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString(),
        options,
        providers=["CPUExecutionProvider"],
    )
    return [torch.from_numpy(each) for each in session.run(None, inputs)]


def run_detections(logits, deltas, how):
    inputs = {"class_logits": logits.numpy(), "box_deltas": deltas.numpy()}
    return run_nodes(inputs, lambda g, *raw: detections(g, *raw, facts=how, input_hw=INPUT_HW))


def expected_detections(logits, deltas, how):
    anchors = default_boxes(how.levels, input_hw=INPUT_HW)
    return postprocess(logits, deltas, anchors, how, input_hw=INPUT_HW)


def compare_detections(found, expected, how):
    boxes, scores, labels, counts = found
    images = len(boxes)
    assert boxes.shape == (images, how.max_detections, 4)
    assert scores.shape == labels.shape == (images, how.max_detections)
    assert torch.equal(counts, expected.counts)
    for image, count in enumerate(counts.tolist()):
        assert torch.equal(labels[image, :count], expected.labels[image, :count])
        torch.testing.assert_close(
            boxes[image, :count], expected.boxes_xyxy[image, :count], rtol=0, atol=1e-4
        )
        torch.testing.assert_close(scores[image, :count], expected.scores[image, :count], rtol=0, atol=1e-6)
        assert (labels[image, count:] == -1).all()
        assert not scores[image, count:].any()
        assert not boxes[image, count:].any()


def random_raw(images, seed=0, spread=2.0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, BOXES, CLASSES + 1, generator=generator) * spread - 1
    return logits, torch.randn(images, BOXES, 4, generator=generator)


@pytest.mark.parametrize("images", [1, 2, 5])
@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize(
    ("threshold", "candidates", "most"),
    [(1e-8, 100, 20), (0.05, 7, 20), (0.3, 100, 500), (0.6, 2, 3), (0.0, 100, 20)],
)
def test_detections_are_those_of_postprocess(images, activation, threshold, candidates, most):
    how = facts(
        activation=activation,
        score_threshold=threshold,
        candidates_per_class=candidates,
        max_detections=most,
    )
    raw = random_raw(images)
    expected = expected_detections(*raw, how)
    assert expected.counts.min() > 0
    compare_detections(run_detections(*raw, how), expected, how)


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize("threshold", [0.999999, 1.0])
def test_images_without_detections_give_padding_only(activation, threshold):
    how = facts(activation=activation, score_threshold=threshold)
    boxes, scores, labels, counts = run_detections(*random_raw(3), how)
    assert boxes.shape == (3, 20, 4)
    assert not counts.any()
    assert not boxes.any()
    assert not scores.any()
    assert (labels == -1).all()


def test_one_image_of_a_batch_may_have_nothing():
    logits, deltas = random_raw(2)
    logits[0] = -20
    found = run_detections(logits, deltas, facts())
    assert found[3][0] == 0
    compare_detections(found, expected_detections(logits, deltas, facts()), facts())


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_default_boxes_with_a_nan_are_left_out(activation):
    logits, deltas = random_raw(2)
    logits[0, :40, 2] = math.nan
    deltas[1, 30:90, 1] = math.nan
    how = facts(activation=activation)
    compare_detections(run_detections(logits, deltas, how), expected_detections(logits, deltas, how), how)


def test_of_equal_scores_as_many_enter_nms_as_in_pytorch():
    logits, deltas = random_raw(1)
    logits = logits.round()
    how = facts(candidates_per_class=5, nms_iou=1.0, max_detections=15)
    found, expected = run_detections(logits, deltas, how), expected_detections(logits, deltas, how)
    assert torch.equal(found[3], expected.counts)
    torch.testing.assert_close(found[1], expected.scores)


def run_labels(logits, out_hw, align_corners):
    def nodes(g, value):
        size = [g.integers(side) for side in out_hw]
        return [label_map(g, value, size, align_corners=align_corners)]

    return run_nodes({"logits": logits.numpy()}, nodes)[0]


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("out_hw", [(48, 64), (47, 61), (6, 8), (5, 3), (1, 1), (7, 64), (100, 9)])
@pytest.mark.parametrize("smooth", [False, True])
def test_labels_are_the_argmax_of_upsampled_logits(align_corners, images, out_hw, smooth):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(images, 4, 6, 8, generator=generator)
    if smooth:
        logits = F.avg_pool2d(logits, 5, stride=1, padding=2)
    upsampled = F.interpolate(logits, out_hw, mode="bilinear", align_corners=align_corners)
    labels = run_labels(logits, out_hw, align_corners)
    assert labels.dtype == torch.uint8
    assert labels.shape == (images, *out_hw)
    wrong = labels != upsampled.argmax(dim=1)
    best = upsampled.topk(2, dim=1).values
    assert (best[:, 0] - best[:, 1])[wrong].numel() == 0 or (best[:, 0] - best[:, 1])[wrong].max() < 1e-5


@pytest.mark.parametrize("best", [0, 2])
def test_an_image_of_one_class_has_no_border(best):
    logits = torch.zeros(2, 3, 4, 5)
    logits[:, best] = 1
    assert (run_labels(logits, (31, 40), False) == best).all()


def test_a_single_class_and_a_single_logit():
    assert not run_labels(torch.randn(1, 1, 3, 3), (12, 12), False).any()
    assert (run_labels(torch.tensor([1.0, 3.0, 2.0]).view(1, 3, 1, 1), (5, 7), True) == 1).all()


@pytest.mark.parametrize("task", TOYS)
@pytest.mark.parametrize("batch", [None, 2])
@pytest.mark.parametrize(("preprocessing", "postprocessing"), itertools.product([False, True], repeat=2))
def test_a_file_takes_and_gives_what_its_manifest_says(tmp_path, task, batch, preprocessing, postprocessing):
    manifest = exporting(
        manifest_of(task), batch=batch, preprocessing=preprocessing, postprocessing=postprocessing
    )
    network = TOYS[task]().eval()
    path = tmp_path / "toy.onnx"
    convert(network, manifest, path)
    assert read_manifest(path).to_json() == manifest.to_json()
    session = opened(path, threads=1).session
    assert [each.name for each in session.get_inputs()] == ["images"]
    assert tuple(each.name for each in session.get_outputs()) == manifest.export.outputs
    assert session.get_providers() == ["CPUExecutionProvider"]
    for images in (1, 2, 5) if batch is None else (batch,):
        for hw in ((32, 48), (57, 31)) if preprocessing else (INPUT_HW,):
            _compare_file(path, network, manifest, images=images, hw=hw)


def _compare_file(path, network, manifest, *, images, hw):
    """Compare a file with the network and what is around it elsewhere, on blurred noise."""
    rng = np.random.default_rng(images)
    pixels = np.stack(
        [cv2.GaussianBlur(each, (5, 5), 0) for each in rng.integers(0, 256, (images, *hw, 3), np.uint8)]
    )
    export = manifest.export
    inputs = np.stack([resize_image(each, INPUT_HW) for each in pixels])
    if export.preprocessing:  # as the file rounds; how far that is from resize_image, another test says
        exact = F.interpolate(torch.from_numpy(pixels).permute(0, 3, 1, 2).float(), INPUT_HW, mode="bilinear")
        inputs = (exact + 0.5).floor().permute(0, 2, 3, 1).to(torch.uint8).numpy()
    normalized = normalize(torch.from_numpy(inputs).permute(0, 3, 1, 2), manifest.mean, manifest.std)
    with torch.no_grad():
        raw = network(normalized)
    outputs = opened(path, threads=1)(torch.from_numpy(pixels) if export.preprocessing else normalized)
    if not export.postprocessing:
        assert_close(outputs, raw)
    elif manifest.task == "segmentation":
        (labels,) = outputs
        out_hw = hw if export.preprocessing else INPUT_HW
        expected = F.interpolate(raw, out_hw, mode="bilinear").argmax(dim=1)
        assert labels.shape == (images, *out_hw)
        assert (labels == expected).float().mean() > 0.999
    elif manifest.task == "classification":
        scores, labels = raw.softmax(1).sort(dim=1, descending=True)
        torch.testing.assert_close(outputs[0], scores, rtol=0, atol=1e-5)
        assert torch.equal(outputs[1], labels)
    else:
        expected = expected_detections(*raw, manifest.section)
        if export.preprocessing:
            height, width = hw
            ratio = torch.tensor([width / INPUT_HW[1], height / INPUT_HW[0]]).repeat(2)
            expected = expected._replace(boxes_xyxy=expected.boxes_xyxy * ratio)
        assert expected.counts.min() > 0
        compare_detections(outputs, expected, manifest.section)


@pytest.mark.parametrize("hw", [(64, 96), (57, 31), (32, 48), (20, 25)])
def test_images_are_resized_as_for_training(tmp_path, hw):
    manifest = exporting(manifest_of("segmentation"), preprocessing=True)
    convert(Same(), manifest, tmp_path / "same.onnx")
    image = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (*hw, 3), np.uint8), (5, 5), 0)
    (found,) = opened(tmp_path / "same.onnx", threads=1)(torch.from_numpy(image[None]))
    resized = torch.from_numpy(resize_image(image, INPUT_HW)).permute(2, 0, 1)[None]
    off = (found - normalize(resized, manifest.mean, manifest.std)).abs()
    step = 1 / 255 / torch.tensor(manifest.std).view(3, 1, 1)
    assert (off < 1.001 * step).all()  # a gray level
    # OpenCV weighs in steps of 1/2048, which seldom shows: three quarters of the pixels and more are equal.
    assert (off < 0.001 * step).float().mean() > (0.999 if hw == INPUT_HW else 0.75)


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("hw", [(64, 96), (57, 31), (200, 48), (20, 25)])
def test_images_are_cropped_as_for_evaluation(tmp_path, hw, antialias):
    how = {"fit": "crop", "crop_fraction": 0.8, "antialias": antialias, "input_hw": (32, 32)}
    manifest = exporting(manifest_of("segmentation", **how), preprocessing=True)
    convert(Same(), manifest, tmp_path / "same.onnx")
    image = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (*hw, 3), np.uint8), (5, 5), 0)
    (found,) = opened(tmp_path / "same.onnx", threads=1)(torch.from_numpy(image[None]))
    fitted = torch.from_numpy(fit_image(image, manifest)).permute(2, 0, 1)[None]
    off = (found - normalize(fitted, manifest.mean, manifest.std)).abs()
    step = 1 / 255 / torch.tensor(manifest.std).view(3, 1, 1)
    assert (off < 1.001 * step).all()  # a gray level
    assert (off < 0.001 * step).float().mean() > 0.7


def test_a_classifier_gives_its_best_classes(tiny_classification, tmp_path):
    wishes = {"batch": None, "preprocessing": True, "postprocessing": True}
    network, manifest = tiny_model(tiny_classification, tmp_path, format="onnx", **wishes)
    convert(network, manifest, tmp_path / "model.onnx")
    images = [picture((64, 64), seed) for seed in range(3)]
    found = load(tmp_path / "model.onnx").predict_batch(images)
    for ours, theirs in zip(found, reference(network, manifest).predict_batch(images), strict=True):
        assert_same_result(ours, theirs)


@pytest.mark.parametrize("run", ["tiny_run", "tiny_segmentation_run", "tiny_classification_run"])
def test_a_trained_network_gives_what_it_does_in_pytorch(run, request, tmp_path):
    manifest, network = open_model(request.getfixturevalue(run))
    manifest = exporting(dataclasses.replace(manifest, input_hw=(64, 64)))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    path = tmp_path / "run.onnx"
    convert(network, manifest, path)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    images = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        expected = network.eval()(images)
    assert_close(opened(path)(images), expected)
    model = onnx.load(path)
    assert [each.version for each in model.opset_import if not each.domain] == [OPSET]
    assert "BatchNormalization" not in {
        node.op_type for node in model.graph.node
    }  # it is in the convolutions
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    assert "backbone.stem.0/Conv" in names
    del model.metadata_props[:]  # the recipe names the user's own folders
    assert b".py" not in model.SerializeToString()


def test_the_manifest_is_replaced_and_nothing_else(tmp_path):
    manifest = exporting(manifest_of("segmentation"))
    path = tmp_path / "toy.onnx"
    convert(ToySegmenter(), manifest, path)
    before = onnx.load(path)
    manifest = exporting(manifest, parity={"labels": 1.0})
    stamp(path, manifest)
    assert read_manifest(path) == manifest
    after = onnx.load(path)
    assert after.graph == before.graph
    properties = {each.key: each.value for each in after.metadata_props}
    assert properties["class_names"] == "a, b, c"


def test_a_file_that_exists_is_kept(tmp_path):
    path = tmp_path / "toy.onnx"
    path.write_text("mine")
    with pytest.raises(FileExistsError):
        convert(ToySegmenter(), exporting(manifest_of("segmentation")), path)
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "slide", "window_hw": (8, 8), "stride_hw": (8, 8)}, "evaluation.mode=whole"),
        ({"scales": (0.5, 1.0)}, r"scales \[0.5, 1.0\]"),
        ({"flip": True}, "evaluation.flip=false"),
    ],
)
def test_what_one_input_size_cannot_do_is_refused(tmp_path, changes, message):
    section = SegmentationSection(**NAMES, align_corners=False, **changes)
    manifest = exporting(manifest_of("segmentation", section), postprocessing=True)
    with pytest.raises(ValueError, match=message):
        convert(ToySegmenter(), manifest, tmp_path / "toy.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"), [({"export": None}, "export section"), ({"input_hw": None}, "set input_hw")]
)
def test_a_manifest_must_say_what_to_export(tmp_path, changes, message):
    manifest = dataclasses.replace(exporting(manifest_of("segmentation")), **changes)
    with pytest.raises(ValueError, match=message):
        converter.convert(ToySegmenter(), manifest, tmp_path / "toy.onnx", spec_for(manifest))


def test_other_files_are_told_apart(tmp_path):
    path = tmp_path / "other.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(ValueError, match="ONNX Runtime cannot open"):
        open_engine(path, outputs=())
    convert(ToySegmenter(), exporting(manifest_of("segmentation")), tmp_path / "toy.onnx")
    model = onnx.load(tmp_path / "toy.onnx")
    del model.metadata_props[:]
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ManifestError, match="no dettoolkit manifest"):
        read_manifest(path)


def test_a_missing_runtime_names_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'dettoolkit\[onnx\]'"):
        open_engine(tmp_path / "toy.onnx", outputs=())
