"""Only a file that does what the model does is written: exports that are wrong in many ways are refused."""

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tiny_exports import exporting, handmade, with_section

from dettoolkit.export.comparison import evenly, read, views
from dettoolkit.export.report import GateError, Report, tolerances_of
from dettoolkit.export.request import Request
from dettoolkit.formats import Format
from dettoolkit.run import ImageFile
from dettoolkit.segmentation.spec import SegmentationSection
from dettoolkit.spec import Comparison
from dettoolkit.tasks import spec_for


def manifest(**export):
    section = SegmentationSection(class_names=("road", "car"), class_ids=(0, 1), align_corners=False)
    return exporting(handmade(section), **export)


def tolerances(described, own=()):
    return tolerances_of(spec_for(described), described, dict(own))


GOOD = {"raw": 1e-6, "pixels": 0.0, "worst_class": 0.0}


def report(errors=None, *, scores=None, doubts=(), own=None, described=None, **more):
    described = manifest() if described is None else described
    return Report(
        manifest=described,
        images=4,
        comparison=Comparison(errors=GOOD if errors is None else errors, doubts=doubts),
        tolerances=tolerances(described, own or {}),
        monitor="mIoU",
        scores=scores,
        milliseconds=(2.0, 1.0),
        sizes=(1000, 2000),
        **more,
    )


def test_scores_by_size_and_the_float32_file_are_told():
    said = report(
        scores=(0.5, 0.5),
        size_scores={"APs": (0.25, 0.2), "APl": (math.nan, math.nan)},
        float32=(4.0, 3000),
        described=manifest(precision="int8"),
    )
    text, data = said.table(), said.to_dict()
    assert "APs" in text
    assert "float32 file 4.0 ms, ratio 0.25" in text
    assert data["size_scores"] == {
        "APs": {"pytorch": 0.25, "exported": 0.2},
        "APl": {"pytorch": None, "exported": None},
    }
    assert data["float32"] == {"milliseconds": 4.0, "bytes": 3000}
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    slow = report(scores=(0.5, 0.5), float32=(0.9, 3000), described=manifest(precision="int8"))
    assert not said.remarks
    assert "offered for its size only" in slow.table()
    assert slow.to_dict()["notes"] == list(slow.remarks)


def test_agreement_passes_and_is_told():
    good = report(scores=(0.5, 0.5))
    assert good.failures == []
    assert "compared with PyTorch on 4 images" in good.table()
    assert "mIoU" in good.table()
    data = good.to_dict()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert data["scores"] == {"pytorch": 0.5, "exported": 0.5}
    assert data["errors"] == GOOD


@pytest.mark.parametrize("name", ["raw", "pixels", "worst_class"])
@pytest.mark.parametrize("value", [0.5, math.nan, math.inf])
def test_every_error_counts_and_nan_is_no_agreement(name, value):
    (failure,) = report({**GOOD, name: value}).failures
    assert f"({name})" in failure
    assert "more than the tolerance" in failure


@pytest.mark.parametrize("name", list(GOOD))
def test_an_error_that_was_not_measured_is_no_agreement(name):
    (failure,) = report({key: value for key, value in GOOD.items() if key != name}).failures
    assert f"'{name}' could not be measured" in failure


def test_doubts_are_no_agreement():
    (failure,) = report(doubts=("there are no images",)).failures
    assert failure == "the comparison proves nothing: there are no images"


@pytest.mark.parametrize(
    ("scores", "sentence"),
    [
        ((0.5, 0.49), "the loss of mIoU"),
        ((0.5, 0.51), "the loss of mIoU"),  # other answers, too
        ((0.5, math.nan), "the loss of mIoU"),
        ((math.nan, math.nan), "which cannot get worse"),
        ((0.0, 0.0), "which cannot get worse"),
    ],
)
def test_scores_count(scores, sentence):
    assert any(sentence in each for each in report(scores=scores).failures)


def test_an_int8_file_is_judged_by_its_score_and_without_one_by_its_answers():
    described = manifest(precision="int8")
    apart = {"raw": 0.3, "pixels": 0.2, "worst_class": 0.9}
    assert report(apart, described=described).failures
    assert report(apart, described=described, scores=(0.5, 0.495)).failures == []
    assert report(apart, described=described, scores=(0.5, 0.7)).failures == []  # better is no loss
    assert report(apart, described=described, scores=(0.5, 0.48)).failures
    assert "not judged" in report(apart, described=described, scores=(0.5, 0.5)).table()


def test_strictness_depends_on_the_kind_of_file():
    exact, resized, quantized = (
        tolerances(manifest(**wishes))
        for wishes in ({}, {"preprocessing": True}, {"preprocessing": True, "precision": "int8"})
    )
    assert exact.keys() == resized.keys() == {"raw", "pixels", "worst_class", "metric"}
    assert exact["raw"] < resized["raw"]
    assert exact["pixels"] < resized["pixels"] < quantized["pixels"]
    assert "raw" not in quantized
    assert tolerances(manifest(), {"raw": 0.5})["raw"] == 0.5


def test_errors_that_no_person_may_judge_are_none_of_json():
    told = report({**GOOD, "raw": math.nan}, scores=(math.nan, 0.5)).to_dict()
    assert told["errors"]["raw"] is None
    assert told["scores"] == {"pytorch": None, "exported": 0.5}


@pytest.mark.parametrize(
    ("own", "sentence"),
    [
        ({"pixel": 0.1}, "did you mean pixels"),
        ({"raw": math.nan}, "between 0 and 1"),
        ({"raw": math.inf}, "between 0 and 1"),
        ({"raw": -1}, "between 0 and 1"),
    ],
)
def test_a_tolerance_that_means_nothing_is_refused(own, sentence):
    with pytest.raises(ValueError, match=sentence):
        tolerances(manifest(), own)


def test_images_are_spread_evenly():
    assert evenly(range(10), 4) == [0, 3, 6, 9]
    assert evenly(range(3), 5) == [0, 1, 2]
    assert evenly([], 5) == []


def test_no_image_or_none_that_can_be_read_is_refused(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"none of the images .* can be read"):
        read([])
    with pytest.raises(ValueError, match=r"broken\.png"):
        read([ImageFile(tmp_path / "broken.png")])


def test_resizing_inside_is_tried_with_sizes_that_are_not_the_networks():
    images = [np.zeros((8, 16, 3), np.uint8)] * 3
    sizes = {image.shape[:2] for image in views(images, manifest(preprocessing=True))}
    assert (8, 16) in sizes
    assert len(sizes) == 2
    assert len({image.shape for image in views(images[:1], manifest(preprocessing=True))}) == 2
    final = views([np.zeros((20, 20, 3), np.uint8)], manifest(postprocessing=True))
    assert final[0].shape == (8, 16, 3)


# From here on whole exports, of trained networks and real files.

onnx = pytest.importorskip("onnx", reason="exporting to ONNX needs the extra onnx")
pytest.importorskip("onnxruntime", reason="running ONNX files needs the extra onnx")
pytest.importorskip("onnxscript", reason="exporting to ONNX needs the extra onnx")


@pytest.fixture(scope="module")
def converted(tmp_path_factory, tiny_segmentation_run, tiny_learnt_run):
    """Return a converter that makes each file once: exporting is slow, breaking what came out is not."""
    from dettoolkit.formats.onnx import convert as converter

    made = {}

    def convert(network, described, path, spec):
        key = described.to_json()
        if key not in made:
            made[key] = tmp_path_factory.mktemp("converted") / "model.onnx"
            converter.convert(network, described, made[key], spec)
        path.write_bytes(made[key].read_bytes())

    return convert


@pytest.fixture
def attempt(monkeypatch, converted, tmp_path):
    """Return a function that exports a run by a converter which breaks what it made."""
    from dettoolkit.export import command, verify
    from dettoolkit.formats.onnx import convert as converter

    module = Format.module

    def export(run, break_it=lambda network, described, path: None, stamp=converter.stamp, **wishes):
        def convert(network, described, path, spec):
            converted(network, described, path, spec)
            break_it(network, described, path)

        fake = SimpleNamespace(convert=convert, stamp=stamp)
        monkeypatch.setattr(
            Format, "module", lambda kind, name: fake if name == "convert" else module(kind, name)
        )
        monkeypatch.setattr(verify, "TIMES", 1)
        return command.export(run, tmp_path / "out" / "model.onnx", Request(**wishes))

    export.folder = tmp_path / "out"
    return export


def edited(change):
    """Make a converter's last step of a change to the file's graph."""

    def break_it(network, described, path):
        proto = onnx.load(path)
        change(proto)
        path.write_bytes(proto.SerializeToString())

    return break_it


def weights(proto, index):
    """Return a weight of a convolution, as an array that can be changed, and what puts it back."""
    convolutions = [node for node in proto.graph.node if node.op_type == "Conv"]
    name = convolutions[index].input[1]
    (tensor,) = (each for each in proto.graph.initializer if each.name == name)
    values = onnx.numpy_helper.to_array(tensor).copy()
    return values, lambda: tensor.CopyFrom(onnx.numpy_helper.from_array(values, name))


def perturb(proto):
    values, put = weights(proto, 0)
    values.flat[0] += 0.2
    put()


def swap_red_and_blue(proto):
    values, put = weights(proto, 0)
    values[:] = values[:, ::-1].copy()
    put()


def poison(proto):
    values, put = weights(proto, -1)
    values.flat[0] = math.nan
    put()


def swap_classes(proto):
    (name,) = {each.name for each in proto.graph.output}
    (last,) = (node for node in proto.graph.node if name in node.output)
    last.output[0] = "in order"
    order = onnx.numpy_helper.from_array(np.array([1, 0, *range(2, 19)]), "order")
    proto.graph.initializer.append(order)
    proto.graph.node.append(onnx.helper.make_node("Gather", ["in order", "order"], [name], axis=1))


@pytest.mark.learnt
def test_a_good_file_is_written_with_its_report(attempt, tiny_segmentation_run):
    done = attempt(tiny_segmentation_run)
    files = sorted(each.name for each in attempt.folder.iterdir())
    assert files == ["model.onnx", "model.onnx.report.json"]
    assert done.report.failures == []
    from dettoolkit.loading import read_manifest

    described = read_manifest(done.path)
    assert described.export.parity["failures"] == []
    assert described.export.parity["errors"].keys() == {"raw", "pixels", "worst_class"}
    told = json.loads(done.report_path.read_text())
    assert told["errors"] == described.export.parity["errors"]
    assert told["images"] == 5
    assert any("48 x 64" in note for note in told["notes"])  # images of 45 x 61 are resized
    with pytest.raises(FileExistsError, match="already exists"):
        attempt(tiny_segmentation_run)


@pytest.mark.parametrize("change", [perturb, swap_red_and_blue, swap_classes])
def test_a_wrong_segmenter_is_not_written(attempt, tiny_segmentation_run, change):
    with pytest.raises(GateError, match="was not written") as refused:
        attempt(tiny_segmentation_run, edited(change))
    assert "(raw)" in str(refused.value)
    assert list(attempt.folder.iterdir()) == []


@pytest.mark.parametrize("run", ["tiny_segmentation_run", "tiny_learnt_run"])
def test_a_file_whose_outputs_are_not_finite_is_not_written(attempt, request, run):
    with pytest.raises(GateError, match=r"(?s)nothing was written.*NaN or infinite"):
        attempt(request.getfixturevalue(run), edited(poison))
    assert list(attempt.folder.iterdir()) == []


@pytest.mark.parametrize("change", [perturb, swap_red_and_blue])
def test_a_wrong_detector_is_not_written(attempt, tiny_learnt_run, change):
    with pytest.raises(GateError, match="was not written"):
        attempt(tiny_learnt_run, edited(change))
    assert list(attempt.folder.iterdir()) == []


@pytest.mark.learnt
def test_a_good_classifier_is_written_and_a_wrong_one_is_not(attempt, tiny_classification_run):
    for wishes in ({"metric": True}, {"preprocessing": True, "postprocessing": True, "batch": None}):
        errors = attempt(tiny_classification_run, **wishes).report.errors
        assert errors["top1"] == 0
        assert ("metric" in errors) == ("metric" in wishes)
        for path in attempt.folder.iterdir():
            path.unlink()
    with pytest.raises(GateError, match=r"\(raw\)"):
        attempt(tiny_classification_run, edited(perturb))
    with pytest.raises(ValueError, match="--score-threshold"):
        attempt(tiny_classification_run, score_threshold=0.1)
    assert list(attempt.folder.iterdir()) == []


@pytest.mark.learnt
def test_a_good_detector_is_written(attempt, tiny_learnt_run):
    errors = attempt(tiny_learnt_run, batch=None).report.errors
    assert errors["detections"] == 0


def shift_the_mean(proto):
    """Break the constant that normalizing subtracts."""
    for tensor in proto.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.shape == (1, 3, 1, 1) and values.max() > 100:
            tensor.CopyFrom(onnx.numpy_helper.from_array(values + np.float32(12), tensor.name))
            return
    for node in proto.graph.node:
        for attribute in node.attribute if node.op_type == "Constant" else ():
            values = onnx.numpy_helper.to_array(attribute.t)
            if values.shape == (1, 3, 1, 1) and values.max() > 100:
                attribute.t.CopyFrom(onnx.numpy_helper.from_array(values + np.float32(12)))
                return
    raise AssertionError("there is no mean in the graph")


@pytest.mark.learnt
def test_another_normalization_inside_is_not_written(attempt, tiny_segmentation_run):
    inside = {"preprocessing": True, "postprocessing": True}
    done = attempt(tiny_segmentation_run, **inside)
    for path in attempt.folder.iterdir():
        path.unlink()
    assert done.report.errors.keys() == {"pixels", "worst_class"}
    with pytest.raises(GateError, match=r"\(pixels\)"):
        attempt(tiny_segmentation_run, edited(shift_the_mean), **inside)
    assert list(attempt.folder.iterdir()) == []


def test_a_converter_that_changes_the_network_itself_is_found_out(attempt, converted, tiny_segmentation_run):
    from dettoolkit.formats.onnx import convert as converter

    def break_it(network, described, path):
        next(network.parameters()).data.mul_(1.5)  # both the network at hand and the file
        path.unlink()
        converter.convert(network, described, path, spec_for(described))

    with pytest.raises(GateError, match=r"\(raw\)"):
        attempt(tiny_segmentation_run, break_it)


def test_a_file_that_describes_itself_otherwise_is_not_written(attempt, tiny_segmentation_run):
    from dettoolkit.formats.onnx import convert as converter

    def other_classes(network, described, path):
        converter.stamp(path, with_section(described, class_names=described.class_names[::-1]))

    with pytest.raises(GateError, match="no complete manifest"):
        attempt(tiny_segmentation_run, other_classes)

    def damage(path, described):
        converter.stamp(path, described)
        edited(perturb)(None, described, path)

    with pytest.raises(GateError, match="after the manifest was added"):
        attempt(tiny_segmentation_run, stamp=damage)
    assert list(attempt.folder.iterdir()) == []


def test_a_file_that_does_not_run_is_not_written(attempt, tiny_segmentation_run):
    def cut_short(network, described, path):
        path.write_bytes(path.read_bytes()[:-1000])

    with pytest.raises(GateError, match="does not run"):
        attempt(tiny_segmentation_run, cut_short)

    def only_one(network, described, path):  # says that it takes any number of images
        from dettoolkit.formats.onnx import convert as converter

        path.unlink()
        fixed = replace(described, export=replace(described.export, batch=1))
        converter.convert(network, fixed, path, spec_for(fixed))
        converter.stamp(path, described)

    with pytest.raises(GateError, match="does not run"):
        attempt(tiny_segmentation_run, only_one, batch=None)
    assert list(attempt.folder.iterdir()) == []


def test_a_file_in_two_pieces_of_which_one_would_stay_behind_is_not_written(attempt, tiny_segmentation_run):
    def in_pieces(network, described, path):
        onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=0)

    with pytest.raises(GateError, match=r"weights\.bin"):
        attempt(tiny_segmentation_run, in_pieces)
    assert list(attempt.folder.iterdir()) == []


def test_what_came_to_exist_meanwhile_is_not_overwritten(attempt, tiny_segmentation_run):
    def interfere(network, described, path):
        (attempt.folder / "model.onnx").write_text("precious")

    with pytest.raises(FileExistsError, match="another process has written"):
        attempt(tiny_segmentation_run, interfere)
    assert [each.name for each in attempt.folder.iterdir()] == ["model.onnx"]
    assert (attempt.folder / "model.onnx").read_text() == "precious"


@pytest.mark.parametrize(
    ("wishes", "sentence"),
    [
        ({"format": "coreml"}, "no format 'coreml'"),
        ({"format": "pt2"}, "end in .pt2"),
        ({"batch": 0}, "batch size must be at least 1"),
        ({"limit": 0}, "at least one image"),
        ({"score_threshold": 0.1}, "omit --score-threshold"),
        ({"tolerances": {"pixel": 0.1}}, "did you mean"),
        ({"images": Path("nowhere")}, "does not exist"),
    ],
)
def test_wishes_that_cannot_be_are_refused(attempt, tiny_segmentation_run, wishes, sentence):
    with pytest.raises((ValueError, OSError), match=sentence):
        attempt(tiny_segmentation_run, **wishes)
    assert not attempt.folder.exists() or list(attempt.folder.iterdir()) == []


def test_a_detector_keeps_its_size(attempt, tiny_run):
    with pytest.raises(ValueError, match=r"\(64, 64\).*omit --size"):
        attempt(tiny_run, input_hw=(96, 96))


def test_a_missing_library_is_told_before_any_work(attempt, tiny_run, monkeypatch):
    from dettoolkit.export import request

    monkeypatch.setattr(request, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"dettoolkit\[onnx\]"):
        attempt(tiny_run)
