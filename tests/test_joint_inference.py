"""One forward with both heads: its results are those of the two single models with the same weights."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from joint_models import FLAT, joint_model, joint_section
from tiny_exports import assert_same_result, exporting, picture

from dettoolkit.export.comparison import compare
from dettoolkit.formats.pytorch import PytorchEngine
from dettoolkit.inference.predictor import Predictor
from dettoolkit.joint.single_tasks import part
from dettoolkit.loading import load
from dettoolkit.network import Network
from dettoolkit.tasks import spec_for

PARTS = ("detection", "segmentation")
IMAGES = [picture(hw, seed) for seed, hw in enumerate([(48, 80), (64, 64), (40, 96)], start=1)]


@pytest.fixture(scope="module")
def model(tiny, tiny_segmentation, tmp_path_factory):
    return joint_model(tiny, tiny_segmentation, tmp_path_factory.mktemp("joint"))


class Counting:
    """An engine that counts its forwards."""

    def __init__(self, network):
        self.engine = PytorchEngine(network, torch.device("cpu"))
        self.device, self.forwards = self.engine.device, 0

    def __call__(self, inputs):
        self.forwards += 1
        return self.engine(inputs)


def singles(network, manifest):
    """Return a predictor of each head alone, with the joint network's weights."""
    return [
        Predictor(
            part(manifest, name),
            PytorchEngine(
                Network(backbone=network.backbone, heads={name: network.heads[name]}), torch.device("cpu")
            ),
            source=name,
        )
        for name in PARTS
    ]


def assert_same(found, expected):
    """Compare a joint result with those of the two single models."""
    for name, single in zip(PARTS, expected, strict=True):
        own = getattr(found, name)
        assert_same_result(own, single)
        assert (own.class_names, own.class_ids) == (single.class_names, single.class_ids)
        assert own.path == found.path


@pytest.mark.parametrize("threshold", [0.0, 0.3])
def test_one_forward_gives_both_answers(model, threshold):
    engine = Counting(model[0])
    predictor = Predictor(model[1], engine, source="joint")
    found = predictor.predict_batch(IMAGES, threshold=threshold)
    assert engine.forwards == 1
    objects, classes = singles(*model)
    wanted = zip(
        objects.predict_batch(IMAGES, threshold=threshold), classes.predict_batch(IMAGES), strict=True
    )
    for each, expected in zip(found, wanted, strict=True):
        assert_same(each, expected)
        assert each.class_names == tuple(FLAT.names)
        assert each.class_ids == tuple(FLAT.ids)
    assert predictor(IMAGES[0]).summary() == (
        f"{objects(IMAGES[0]).summary()}; {classes(IMAGES[0]).summary()}"
    )


def test_a_mirrored_forward_is_of_the_label_map_alone(model):
    network, manifest = model
    section = manifest.section
    manifest = manifest.with_section(replace(section, segmentation=replace(section.segmentation, flip=True)))
    engine = Counting(network)
    (found,) = Predictor(manifest, engine, source="joint").predict_batch(IMAGES[:1], threshold=0.0)
    assert engine.forwards == 2
    expected = [single.predict_batch(IMAGES[:1]) for single in singles(network, manifest)[1:]]
    np.testing.assert_array_equal(found.segmentation.labels, expected[0][0].labels)


@pytest.mark.parametrize("name", PARTS)
def test_a_head_with_other_classes_is_refused(model, name):
    network, manifest = model
    section = manifest.section
    own = getattr(section, name)
    changed = {"class_names": own.class_names[:-1], "class_ids": own.class_ids[:-1]}
    if own.colors:
        changed["colors"] = own.colors[:-1]
    parts = {each: getattr(section, each) for each in PARTS} | {name: replace(own, **changed)}
    predictor = Predictor(manifest.with_section(joint_section(**parts)), Counting(network), source="x")
    count = len(own.class_names)
    with pytest.raises(ValueError, match=rf"predicts {count} classes, but its manifest names {count - 1}"):
        predictor.predict_batch(IMAGES[:1])


def test_no_images_give_no_results(model):
    assert Predictor(model[1], Counting(model[0]), source="joint").predict_batch([]) == []


# ---- exported files and the gate


def write(model, path, **wishes):
    """Write an ONNX file and open it as a user would."""
    from dettoolkit.formats.onnx.convert import convert

    network, manifest = model
    manifest = exporting(manifest, **wishes)
    convert(network, manifest, path, spec_for(manifest))
    return load(path)


@pytest.mark.parametrize(
    "inside", [(False, False), (False, True), (True, True)], ids=["raw", "final", "whole"]
)
def test_an_onnx_file_answers_as_both_single_models(model, tmp_path, inside):
    pytest.importorskip("onnxruntime")
    preprocessing, postprocessing = inside
    file = write(model, tmp_path / "model.onnx", preprocessing=preprocessing, postprocessing=postprocessing)
    outputs = file.manifest.export.outputs
    assert outputs[-1] == ("label_map" if postprocessing else "segmentation_logits")
    # What resizing does to images is not what is compared here.
    images = [picture((64, 64), seed) for seed in (1, 2, 3)]
    found = file.predict_batch(images, threshold=0.0)
    objects, classes = (single.predict_batch(images, threshold=0.0) for single in singles(*model))
    for each, *expected in zip(found, objects, classes, strict=True):
        assert_same(each, expected)
    assert file.predict_batch(IMAGES, threshold=0.0)[0].segmentation.labels.shape == IMAGES[0].shape[:2]


@pytest.mark.parametrize("final", [False, True])
def test_the_gate_sees_a_mistake_in_either_head(model, tmp_path, final):
    pytest.importorskip("onnxruntime")
    network, manifest = model
    reference = Predictor(manifest, PytorchEngine(network, torch.device("cpu")), source="PyTorch")
    images = [picture((64, 64), seed) for seed in (1, 2, 3, 4)]
    errors = spec_for(manifest).errors
    good = compare(reference, write(model, tmp_path / "good.onnx", postprocessing=final), images)
    assert good.doubts == ()
    assert set(good.errors) == set(errors) | ({"raw"} if not final else set())
    assert all(good.errors[name] <= kind.max["exact"] for name, kind in errors.items())
    assert {"compared_detections", "pixels_compared"} <= set(good.details)
    for name, broken in (
        ("detection", {"detections", "shown_detections"}),
        ("segmentation", {"pixels", "worst_class"}),
    ):
        bent = Network(backbone=network.backbone, heads=dict(network.heads))
        state = {key: value.clone() for key, value in network.heads[name].state_dict().items()}
        try:
            for parameter in network.heads[name].parameters():
                parameter.data *= 1.1
            file = write((bent, manifest), tmp_path / f"{name}.onnx", postprocessing=final)
        finally:
            network.heads[name].load_state_dict(state)
        found = compare(reference, file, images)
        failed = {key for key, kind in errors.items() if not found.errors[key] <= kind.max["exact"]}
        assert failed
        assert failed <= broken
