"""One image or many, of any kind, through any engine: the same answers as evaluation gives."""

import dataclasses
import json
import re

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from tiny_exports import exporting, handmade

from dettoolkit import load
from dettoolkit.datasets.cityscapes_labels import CLASSES
from dettoolkit.datasets.data_report import BadImageError
from dettoolkit.datasets.images import read_image
from dettoolkit.detection.result import DetectionResult
from dettoolkit.detection.spec import DetectionSection, Level
from dettoolkit.inference.predictor import Predictor
from dettoolkit.manifest import Section
from dettoolkit.preprocessing import normalize
from dettoolkit.segmentation.predict import predict_labels
from dettoolkit.segmentation.result import SegmentationResult
from dettoolkit.segmentation.spec import SegmentationSection
from dettoolkit.training import commands


@pytest.fixture(scope="module")
def detector(tiny_run):
    return load(tiny_run, device="cpu")


@pytest.fixture(scope="module")
def segmenter(tiny_segmentation_run):
    return load(tiny_segmentation_run, device="cpu")


@pytest.fixture(scope="module")
def classifier(tiny_classification_run):
    return load(tiny_classification_run, device="cpu")


@pytest.fixture(scope="module")
def image(tiny):
    return read_image(tiny.data / "val" / "1.png")


class FakeEngine:
    """Record inputs and answer them by a function."""

    device = torch.device("cpu")

    def __init__(self, answer):
        self.answer = answer
        self.inputs = []

    def __call__(self, images):
        self.inputs.append(images)
        return self.answer(images)


CLASSES_OF = {"class_names": ("box", "bar"), "class_ids": (3, 7)}
SECTIONS = {
    "detection": DetectionSection(
        **CLASSES_OF,
        activation="sigmoid",
        background=True,
        coder="deltas",
        score_threshold=0.01,
        nms_iou=0.5,
        candidates_per_class=10,
        max_detections=5,
        threshold=0.5,
        levels=(Level(grid_hw=(1, 2), sizes=((0.5, 0.5), (0.7, 0.7))),),
    ),
    "segmentation": SegmentationSection(**CLASSES_OF, align_corners=False),
    "classification": Section(**CLASSES_OF),
}


def fake(task, answer, **export):
    """Return a predictor of two classes, of an input of 8 x 16, and its engine."""
    manifest, engine = handmade(SECTIONS[task]), FakeEngine(answer)
    return Predictor(
        exporting(manifest, **export) if export else manifest, engine, source="fake.onnx"
    ), engine


def final_detections(images):
    """Find a box and, in bright images, a bar in each image; rows are padded."""
    count = len(images)
    boxes = torch.tensor([[[1.0, 2.0, 8.0, 4.0], [0.0, 0.0, 16.0, 8.0], [0, 0, 0, 0]]]).repeat(count, 1, 1)
    scores = torch.tensor([[0.75, 0.25, 0.0]]).repeat(count, 1)
    labels = torch.tensor([[1, 0, -1]]).repeat(count, 1)
    return boxes, scores, labels, torch.full((count,), 2)


def gray(height, width, value=100):
    return np.full((height, width, 3), value, np.uint8)


# The same as evaluation


@pytest.mark.parametrize("batch_size", [1, 5])
def test_detections_are_those_of_evaluation(tiny, tiny_run, detector, batch_size):
    expected = json.loads((tiny_run / "predictions.json").read_text())
    truth = json.loads((tiny.data / "annotations" / "val.json").read_text())
    paths = [tiny.data / "val" / each["file_name"] for each in truth["images"]]
    predictions = detector(paths, threshold=0, batch_size=batch_size)
    found = [
        each
        for entry, prediction in zip(truth["images"], predictions, strict=True)
        for each in prediction.to_coco(entry["id"])
    ]
    assert len(found) == len(expected) > 100
    for key in ("image_id", "category_id", "bbox", "score"):
        ours, theirs = (np.array([each[key] for each in some]) for some in (found, expected))
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-4)


def test_label_maps_are_those_of_evaluation(tiny_segmentation, tiny_segmentation_run, segmenter, tmp_path):
    recipe = tiny_segmentation.load(tmp_path).recipe
    commands.evaluate(tiny_segmentation_run, recipe=recipe, out=tmp_path / "out", keep=True)
    images = sorted(tiny_segmentation.data.glob("leftImg8bit/val/*/*.png"))
    assert len({Image.open(path).size for path in images}) == 2
    for path in images:
        name = path.name.replace("leftImg8bit", "predLabelIds")
        expected = np.asarray(Image.open(tmp_path / "out" / "predictions" / name))
        ids = np.asarray(Image.open(segmenter(path).to_png(tmp_path / name)))
        np.testing.assert_array_equal(ids, expected)


def test_images_of_several_sizes_in_a_batch_come_back_in_order(tiny_segmentation, segmenter):
    images = sorted(tiny_segmentation.data.glob("leftImg8bit/val/*/*.png"))
    together = segmenter(images, batch_size=4)
    assert [each.path for each in together] == images
    for path, prediction in zip(images, together, strict=True):
        assert prediction.hw == prediction.labels.shape == Image.open(path).size[::-1]
        assert (prediction.labels == segmenter(path).labels).mean() > 0.999


@pytest.mark.parametrize(
    "facts",
    [
        {"mode": "slide", "window_hw": (32, 32), "stride_hw": (16, 16)},
        {"scales": (0.5, 1.0), "flip": True},
    ],
)
def test_windows_scales_and_mirroring_are_those_of_the_manifest(segmenter, tiny_segmentation, facts):
    section = dataclasses.replace(segmenter.manifest.section, **facts)
    manifest = segmenter.manifest.with_section(section)
    path = min(tiny_segmentation.data.glob("leftImg8bit/val/*/*.png"))
    found = Predictor(manifest, segmenter.engine, source="")(path)
    pixels = torch.from_numpy(read_image(path)).permute(2, 0, 1)[None]
    with torch.inference_mode():
        expected = predict_labels(
            lambda images: segmenter.engine(images)[0],
            normalize(pixels, manifest.mean, manifest.std),
            sizes_hw=[(48, 64)],
            options=section,
        )
    np.testing.assert_array_equal(found.labels, expected[0])
    assert (found.labels != segmenter(path).labels).any()


# What it is called on


def test_three_lines(tiny, tiny_run, monkeypatch):
    monkeypatch.chdir(tiny.data / "val")

    from dettoolkit import load

    model = load(tiny_run)
    result = model("1.png")

    assert isinstance(result, DetectionResult)
    assert result.image.shape == (48, 64, 3)


def test_every_kind_of_image_gives_the_same(detector, tiny, image):
    path = tiny.data / "val" / "1.png"
    expected = detector(str(path), threshold=0)
    assert expected.path == path
    assert len(expected) > 10
    kinds = [path, path.read_bytes(), Image.open(path), image, np.dstack([image, image[..., :1]])]
    for kind in kinds:
        found = detector(kind, threshold=0)
        assert found.path == (path if kind is path else None)
        np.testing.assert_array_equal(found.image, image)
        np.testing.assert_array_equal(found.boxes_xyxy, expected.boxes_xyxy)
        np.testing.assert_array_equal(found.scores, expected.scores)
        np.testing.assert_array_equal(found.labels, expected.labels)


def test_gray_images_have_three_equal_channels(detector, image):
    plane = image[..., 0]
    expected = np.dstack([plane] * 3)
    for kind in (plane, plane[..., None], Image.fromarray(plane)):
        np.testing.assert_array_equal(detector(kind).image, expected)


def test_photos_are_turned_upright(detector, image, tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6  # turn right to see it as it was
    Image.fromarray(image).save(tmp_path / "phone.png", exif=turned)
    expected = np.rot90(image, -1)
    for kind in (tmp_path / "phone.png", Image.open(tmp_path / "phone.png")):
        np.testing.assert_array_equal(detector(kind).image, expected)


def test_a_list_a_folder_and_a_pattern_give_lists_in_order(detector, image, tmp_path):
    for name in ("10.png", "2.png", "deep/1.png", ".hidden.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")

    def names(found):
        assert isinstance(found, list)
        return [each.path.relative_to(tmp_path).as_posix() for each in found]

    assert names(detector(tmp_path)) == ["2.png", "10.png", "deep/1.png"]
    assert names(detector(str(tmp_path / "*.png"), batch_size=4)) == ["2.png", "10.png"]
    assert names(detector(tmp_path / "**" / "1*.png")) == ["10.png", "deep/1.png"]
    assert names(detector((tmp_path / "10.png", tmp_path / "2.png"))) == ["10.png", "2.png"]
    assert detector([]) == []


def test_stream_reads_as_results_are_asked_for(detector, image):
    taken = []

    def frames():
        for number in range(100):
            taken.append(number)
            yield image

    stream = detector.stream(frames(), batch_size=2)
    assert taken == []
    next(stream)
    assert taken == [0, 1]
    assert len(list(detector.stream(image))) == 1
    assert list(detector.stream(iter(()))) == []


@pytest.mark.parametrize(
    ("source", "error", "text"),
    [
        ("nowhere.jpg", FileNotFoundError, "nowhere.jpg does not exist: use an image file, a folder"),
        ("nowhere/*.jpg", FileNotFoundError, "no file matches nowhere/\\*.jpg"),
        ("empty", ValueError, "empty contains no images .files ending in .jpg"),
        ("damaged.png", BadImageError, "damaged.png: file is truncated"),
        ("clip.mp4", ValueError, "clip.mp4 is a video: .*dettoolkit predict"),
        (["damaged.png"], ValueError, "damaged.png: file is truncated"),
        (["nowhere.jpg"], ValueError, "nowhere.jpg: file does not exist"),
        ("", ValueError, "the path is empty"),
        (b"", BadImageError, "the bytes of an image: file is empty"),
        (b"text", BadImageError, "not an image"),
        (5, TypeError, "a Pillow image or a uint8 array .* got int 5"),
        ([None], TypeError, "got NoneType None"),
        (torch.zeros(3, 8, 8), TypeError, "got torch.Tensor"),
        (np.zeros((8, 8, 3)), ValueError, r"uint8 \(H, W, 3\) RGB.*got float64 \(8, 8, 3\): scale to 0..255"),
        (np.zeros((3, 8, 8), np.uint8), ValueError, r"got uint8 \(3, 8, 8\)"),
        (np.zeros((2, 8, 8, 3), np.uint8), ValueError, "pass several images as a list"),
        (np.zeros((0, 8, 3), np.uint8), ValueError, r"got uint8 \(0, 8, 3\)"),
        (Image.new("I;16", (8, 8)), ValueError, "mode 'I;16' has more than 8 bits"),
        (Image.new("F", (8, 8)), ValueError, "mode 'F' has more than 8 bits"),
    ],
)
def test_what_cannot_be_predicted_on_is_named(detector, tmp_path, monkeypatch, image, source, error, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "clip.mp4").write_bytes(b"frames")
    whole = cv2.imencode(".png", image)[1].tobytes()
    (tmp_path / "damaged.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(error, match=text):
        detector(source)


def test_options_are_checked_before_anything_is_read(detector, segmenter, classifier, image):
    for size in (0, -1, 1.5, "4", None, True, [2], float("nan")):
        with pytest.raises(
            ValueError, match=rf"batch_size must be a whole number, 1 or more, got {re.escape(repr(size))}"
        ):
            detector.stream(image, batch_size=size)
    for threshold in (-0.1, 1.5, float("nan"), "0.5", True, [0.5], 1j):
        with pytest.raises(
            ValueError, match=rf"threshold must be a number from 0 to 1, got {re.escape(repr(threshold))}"
        ):
            detector.stream(image, threshold=threshold)
    assert len(list(detector.stream([image] * 3, batch_size=np.int64(2), threshold=np.float32(0.5)))) == 3
    for model, noun in ((segmenter, "segmenter"), (classifier, "classifier")):
        with pytest.raises(ValueError, match=f"a {noun} has no threshold: omit threshold=0.5"):
            model(image, threshold=0.5)
        assert model(image, threshold=0).task == model.task


# Thresholds


def test_threshold_leaves_out_what_is_below(detector, image):
    everything = detector(image, threshold=0)
    least = float(everything.scores[len(everything) // 2])
    some = detector(image, threshold=least)
    keep = everything.scores >= np.float32(least)
    assert 0 < len(some) == keep.sum() < len(everything)
    np.testing.assert_array_equal(some.boxes_xyxy, everything.boxes_xyxy[keep])
    np.testing.assert_array_equal(some.labels, everything.labels[keep])
    assert (np.diff(everything.scores) <= 0).all()
    nothing = detector(image, threshold=1)
    assert len(nothing) == 0
    assert nothing.boxes_xyxy.shape == (0, 4)


def test_no_threshold_takes_the_one_that_is_shown(detector, image):
    everything = detector(image, threshold=0)
    middle = float(np.median(everything.scores))
    section = dataclasses.replace(detector.manifest.section, threshold=middle)
    manifest = detector.manifest.with_section(section)
    shown = Predictor(manifest, detector.engine, source="")(image)
    assert 0 < len(shown) == (everything.scores >= np.float32(middle)).sum() < len(everything)
    assert len(detector(image)) == (everything.scores >= detector.manifest.section.threshold).sum()


# Engines of every kind


def test_raw_outputs_are_decoded_and_scaled():
    """A box of the first default box, whose deltas are 0, on an image twice as high and half as wide."""

    def answer(images):
        logits = torch.full((len(images), 4, 3), -10.0)
        logits[:, 0, 2] = 2.0
        return logits, torch.zeros(len(images), 4, 4)

    model, engine = fake("detection", answer)
    (found,) = model.predict_batch([gray(16, 8)])
    assert isinstance(found, DetectionResult)
    assert found.path is None
    np.testing.assert_allclose(engine.inputs[0].numpy(), np.full((1, 3, 8, 16), 100 / 127.5 - 1), atol=1e-6)
    # Of scale 0.5 at the middle of the left cell: x 0..8 and y 2..6 of 16 x 8; x halves and y doubles.
    np.testing.assert_allclose(found.boxes_xyxy, [[0, 4, 4, 12]], atol=1e-5)
    np.testing.assert_allclose(found.scores, [1 / (1 + np.exp(-2))], atol=1e-6)
    assert found.labels.tolist() == [1]


def test_a_fixed_batch_is_filled_up_and_the_surplus_dropped():
    model, engine = fake("detection", final_detections, batch=2, postprocessing=True)
    found = model.predict_batch([gray(8, 16, value) for value in (0, 51, 102)])
    assert [len(inputs) for inputs in engine.inputs] == [2, 2]
    assert len(found) == 3
    last = engine.inputs[1]
    assert torch.equal(last[0], last[1])


def test_final_detections_are_scaled_to_the_image_unless_resizing_is_inside():
    model, _ = fake("detection", final_detections, postprocessing=True)
    (found,) = model.predict_batch([gray(16, 8)], threshold=0)
    np.testing.assert_allclose(found.boxes_xyxy, [[0.5, 4, 4, 8], [0, 0, 8, 16]])
    assert found.labels.tolist() == [1, 0]
    (shown,) = model.predict_batch([gray(16, 8)])
    assert shown.scores.tolist() == [0.75]
    model, _ = fake("detection", final_detections, postprocessing=True, preprocessing=True)
    (found,) = model.predict_batch([gray(16, 8)], threshold=0)
    np.testing.assert_allclose(found.boxes_xyxy, [[1, 2, 8, 4], [0, 0, 16, 8]])


def test_preprocessing_inside_gets_the_pixels_as_they_are_one_size_at_a_time():
    model, engine = fake("detection", final_detections, preprocessing=True, postprocessing=True)
    images = [gray(9, 5, 1), gray(7, 5, 2), gray(9, 5, 3)]
    assert len(model.predict_batch(images)) == 3
    assert [tuple(inputs.shape) for inputs in engine.inputs] == [(2, 9, 5, 3), (1, 7, 5, 3)]
    assert all(inputs.dtype == torch.uint8 for inputs in engine.inputs)
    assert [int(image.max()) for image in engine.inputs[0]] == [1, 3]


def test_nothing_found_is_empty():
    def answer(images):
        none = torch.zeros(len(images), 0)
        return none.reshape(len(images), 0, 4), none, none.long(), torch.zeros(len(images)).long()

    model, _ = fake("detection", answer, postprocessing=True)
    assert [len(each) for each in model([gray(8, 16)] * 2, batch_size=2)] == [0, 0]
    assert model.predict_batch([]) == []


def test_raw_and_final_label_maps_have_the_size_of_the_image():
    """Left half box, right half bar, whatever the file gives."""

    def logits(images):
        raw = torch.zeros(len(images), 2, 2, 4)
        raw[:, 0, :, :2] = raw[:, 1, :, 2:] = 1.0
        return (raw,)

    def labels(images):
        final = torch.zeros(len(images), 8, 16, dtype=torch.uint8)
        final[:, :, 8:] = 1
        return (final,)

    expected = np.repeat([[0] * 6 + [1] * 6], 20, axis=0)
    for answer, options in ((logits, {"batch": 3}), (labels, {"batch": 1, "postprocessing": True})):
        model, engine = fake("segmentation", answer, **options)
        found = model.predict_batch([gray(20, 12), gray(8, 16)])
        assert all(isinstance(each, SegmentationResult) for each in found)
        np.testing.assert_array_equal(found[0].labels, expected)
        assert found[1].labels.shape == (8, 16)
        assert found[0].labels.dtype == np.uint8
        assert {len(inputs) for inputs in engine.inputs} == {options["batch"]}


def test_final_classes_and_raw_logits_of_a_classifier():
    logits = torch.tensor([[0.0, 2.0]])

    def final(images):
        return logits.softmax(dim=1)[:, [1, 0]].repeat(len(images), 1), torch.tensor([[1, 0]] * len(images))

    for answer, options in (
        (lambda images: (logits.repeat(len(images), 1),), {"batch": 2}),
        (final, {"postprocessing": True}),
    ):
        model, _ = fake("classification", answer, **options)
        (found,) = model.predict_batch([gray(20, 12)])
        assert (found.path, found.hw) == (None, (20, 12))
        assert [(each.name, round(each.score, 3)) for each in found] == [("bar", 0.881), ("box", 0.119)]


def test_a_file_that_describes_other_outputs_is_refused():
    with pytest.raises(ValueError, match=r"fake.onnx has the outputs logits, but a detector has class"):
        fake("detection", final_detections, outputs=("logits",))
    model, _ = fake("detection", final_detections, batch=1)
    with pytest.raises(ValueError, match=r"fake.onnx returns 4 outputs .* manifest lists class_logits, box"):
        model.predict_batch([gray(8, 16)])


# For people


def test_a_predictor_says_what_it_is(detector, segmenter, classifier):
    assert detector.task == "detection"
    assert detector.class_names == ("box", "bar")
    assert "detection, 2 classes (box, bar), PyTorch on cpu" in repr(detector)
    assert segmenter.class_names == tuple(each.name for each in CLASSES)
    assert "19 classes (road, sidewalk, building, wall, …)" in repr(segmenter)
    assert "classification, " in repr(classifier)
    assert "onnx float32 on cpu, from fake.onnx" in repr(
        fake("detection", final_detections, postprocessing=True)[0]
    )
