"""One forward with both heads: its results are those of the two single models with the same weights."""

import csv
import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from joint_models import FLAT, OBJECTS, PIXELS, joint_model, joint_section
from PIL import Image
from pycocotools import mask as coder
from tiny_exports import assert_same_result, exporting, picture

from dettoolkit.cli import main
from dettoolkit.export.comparison import compare
from dettoolkit.formats.pytorch import PytorchEngine
from dettoolkit.inference.jobs.journal import read_records
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
    total = len(FLAT.names)
    with pytest.raises(ValueError, match=rf"predicts {total} classes, but its manifest names {total - 1}"):
        predictor.predict_batch(IMAGES[:1])


def test_no_images_give_no_results(model):
    assert Predictor(model[1], Counting(model[0]), source="joint").predict_batch([]) == []


# ---- exported files and the gate


INSIDE = {"raw": (False, False), "final": (False, True), "whole": (True, True)}
"""Of a file: whether resizing, and whether post-processing, are inside."""


@pytest.fixture(scope="module")
def file_of(model, tmp_path_factory):
    """Return a function to an ONNX file of each kind, which is written once."""
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    from dettoolkit.formats.onnx.convert import convert

    network, manifest = model
    folder = tmp_path_factory.mktemp("files")

    @cache
    def written(kind):
        preprocessing, postprocessing = INSIDE[kind]
        described = exporting(manifest, preprocessing=preprocessing, postprocessing=postprocessing)
        convert(network, described, folder / f"{kind}.onnx", spec_for(manifest))
        return folder / f"{kind}.onnx"

    return written


@pytest.mark.parametrize("kind", INSIDE)
def test_an_onnx_file_answers_as_both_single_models(model, file_of, kind):
    file = load(file_of(kind))
    outputs = file.manifest.export.outputs
    assert outputs[-1] == ("segmentation_logits" if kind == "raw" else "label_map")
    # What resizing does to images is not what is compared here.
    images = [picture((64, 64), seed) for seed in (1, 2, 3)]
    found = file.predict_batch(images, threshold=0.3)
    objects, classes = singles(*model)
    wanted = zip(objects.predict_batch(images, threshold=0.3), classes.predict_batch(images), strict=True)
    for each, expected in zip(found, wanted, strict=True):
        assert_same(each, expected)
    assert file.predict_batch(IMAGES)[0].segmentation.labels.shape == IMAGES[0].shape[:2]


def bend(source, path, head):
    """Copy an ONNX file with the weights of a head 10 % too large."""
    import onnx
    from onnx import numpy_helper

    proto = onnx.load(source)
    bent = 0
    for tensor in proto.graph.initializer:
        if f"heads.{head}." in tensor.name and tensor.data_type == onnx.TensorProto.FLOAT:
            value = numpy_helper.to_array(tensor) * np.float32(1.1)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
            bent += 1
    assert bent
    onnx.save(proto, path)
    return load(path)


@pytest.mark.parametrize("kind", ["raw", "final"])
def test_the_gate_sees_a_mistake_in_either_head(model, file_of, tmp_path, kind):
    network, manifest = model
    reference = Predictor(manifest, PytorchEngine(network, torch.device("cpu")), source="PyTorch")
    images = [picture((64, 64), seed) for seed in (1, 2, 3, 4)]
    errors = spec_for(manifest).errors
    good = compare(reference, load(file_of(kind)), images)
    assert good.doubts == ()
    assert set(good.errors) == set(errors) | ({"raw"} if kind == "raw" else set())
    assert all(good.errors[name] <= kind_.max["exact"] for name, kind_ in errors.items())
    assert {"compared_detections", "pixels_compared"} <= set(good.details)
    for head, broken in (
        ("detection", {"detections", "shown_detections"}),
        ("segmentation", {"pixels", "worst_class"}),
    ):
        found = compare(reference, bend(file_of(kind), tmp_path / f"{head}.onnx", head), images)
        failed = {name for name, kind_ in errors.items() if not found.errors[name] <= kind_.max["exact"]}
        assert failed
        assert failed <= broken
        assert kind == "final" or found.errors["raw"] > 0.01


# ---- jobs


@pytest.fixture(scope="module")
def job(file_of, tmp_path_factory):
    """Return an ONNX file and a folder with images."""
    folder = tmp_path_factory.mktemp("job")
    for number, image in enumerate(IMAGES):
        Image.fromarray(image).save(folder / f"{number}.png")
    return file_of("raw"), folder


def test_a_job_writes_both_kinds(job, tmp_path, capsys):
    (file, images), out = job, tmp_path / "out"
    kinds = "figures,masks,crops,coco,csv"
    arguments = ["predict", str(file), str(images), "--out", str(out), "--save", kinds, "--threshold", "0.3"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "detection/" in shown
    assert "segmentation/" in shown
    wanted = load(file)(str(images / "*.png"), threshold=0.3)
    for record, result in zip(read_records(out / "results.jsonl"), wanted, strict=True):
        assert [each["name"] for each in record["objects"]] == list(result.detection.names)
        boxes = [each["box_xyxy"] for each in record["objects"]]
        np.testing.assert_allclose(boxes, result.detection.boxes_xyxy, rtol=1e-5)
        assert [each["pixels"] for each in record["classes"]] == [
            each["pixels"] for each in result.segmentation.to_dict()["classes"]
        ]
        assert len(list((out / "crops").rglob(f"{record['name']}_*.jpg"))) == len(record["objects"])
        with Image.open(out / "masks" / record["name"]) as mask:
            ids = np.asarray(PIXELS.ids)[result.segmentation.labels]
            np.testing.assert_array_equal(np.asarray(mask), ids)
        assert (out / "figures" / record["name"]).is_file()
    with (out / "results.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    objects = [row for row in rows if row["score"]]
    assert len(objects) == sum(len(result.detection) for result in wanted)
    assert all(row["left"] and not row["pixels"] for row in objects)
    assert all(row["pixels"] and not row["left"] for row in rows if not row["score"])
    check_coco(out, wanted)


def check_coco(out, wanted):
    """Compare COCO's files, one for each kind: ids of the two may be equal."""
    for name, classes, part_ in (("coco", OBJECTS, "detection"), ("coco_classes", PIXELS, "segmentation")):
        table = json.loads((out / f"{name}_images.json").read_text())
        assert {each["id"]: each["name"] for each in table["categories"]} == dict(
            zip(classes.ids, classes.names, strict=True)
        )
        results = json.loads((out / f"{name}.json").read_text())
        expected = [
            entry
            for number, result in enumerate(wanted, start=1)
            for entry in getattr(result, part_).to_coco(number)
        ]
        assert [each["category_id"] for each in results] == [each["category_id"] for each in expected]
        if part_ == "segmentation":
            assert results == expected
        else:
            boxes = [each["bbox"] for each in results]
            np.testing.assert_allclose(boxes, [each["bbox"] for each in expected], rtol=1e-6)


def test_a_jobs_parquet_has_both_lists(job, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    (file, images), out = job, tmp_path / "out"
    given = ["predict", str(file), str(images), "--out", str(out), "--threshold", "0.3"]
    assert main([*given, "--save", "parquet"]) == 0
    wanted = load(file)(str(images / "*.png"), threshold=0.3)
    for row, result in zip(parquet.read_table(out / "results.parquet").to_pylist(), wanted, strict=True):
        assert row["objects_class_names"] == list(result.detection.names)
        np.testing.assert_allclose(row["objects_boxes_xyxy"], result.detection.boxes_xyxy, rtol=1e-6)
        assert row["classes_class_names"] == list(result.segmentation.fractions)
        size = {"size": [row["height"], row["width"]]}
        masks = [coder.decode({**size, "counts": each}) for each in row["classes_rle"]]
        assert [int(mask.sum()) for mask in masks] == row["classes_pixels"]


def test_a_job_keeps_the_objects_of_chosen_classes(job, tmp_path, capsys):
    file, images = job
    arguments = ["predict", str(file), str(images), "--save", "json", "--threshold", "0", "--classes"]
    assert main([*arguments, "segmentation/road", "--out", str(tmp_path / "refused")]) == 2
    assert "no objects are of class 'segmentation/road': choose from detection/car, detection/person" in (
        capsys.readouterr().err
    )
    assert main([*arguments, "detection/person", "--out", str(tmp_path / "out")]) == 0
    records = list(read_records(tmp_path / "out" / "results.jsonl"))
    assert {each["name"] for record in records for each in record["objects"]} == {"person"}
    assert all(sum(each["fraction"] for each in record["classes"]) == pytest.approx(1) for record in records)


def test_ray_data_gets_both_kinds(job):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'dettoolkit[ray]'")
    from dettoolkit.ray import BatchPredictor

    file, path = job[0], str(job[1] / "0.png")
    table = BatchPredictor(str(file), threshold=0.3)({"path": np.array([path, "nowhere.png"], object)})
    row, missing = table.to_pylist()
    result = load(file)(path, threshold=0.3)
    assert row["objects_scores"] == pytest.approx(result.detection.scores.tolist())
    assert row["classes_class_ids"] == [each["class_id"] for each in result.to_dict()["classes"]]
    assert (missing["objects_scores"], missing["classes_rle"]) == ([], [])
    assert missing["error"].endswith("file does not exist")
