"""What only files for ExecuTorch have; test_export_fixed has the rest."""

import pytest
import torch
from learning_margins import at_least
from tiny_exports import assert_close, convert_all, normalized, opened, picture, tiny_model

pytest.importorskip("executorch", reason="ExecuTorch is not installed: make test-exports")

from dettoolkit import load
from dettoolkit.export.command import export
from dettoolkit.export.request import Request
from dettoolkit.formats import open_engine
from dettoolkit.formats.executorch import Quantizer
from dettoolkit.manifest import ManifestError
from dettoolkit.tasks import spec_for


@pytest.fixture(scope="module")
def models(request, tmp_path_factory):
    """Return for each task the network, the manifest and the file."""
    return convert_all(request, tmp_path_factory, format="executorch", ending=".pte")


def test_threads_are_those_of_the_process(models):
    portable_lib = pytest.importorskip("executorch.extension.pybindings.portable_lib")
    path = models["detection"][2]
    engine = opened(path, threads=1)
    expected = engine(normalized())
    assert portable_lib._threadpool_get_thread_count() == 1
    with pytest.raises(ValueError, match="one thread pool per process"):
        opened(path, threads=2)
    del engine
    engine = opened(path, threads=2)
    assert portable_lib._threadpool_get_thread_count() == 2
    assert_close(engine(normalized()), expected)


def test_files_that_are_none_are_refused(models, tmp_path):
    path = tmp_path / "broken.pte"
    path.write_bytes(b"PK nothing of the kind" * 50)
    with pytest.raises(ManifestError, match="no dettoolkit manifest"):
        load(path)
    with pytest.raises(ValueError, match=r"ExecuTorch cannot open .*broken\.pte"):
        open_engine(path, outputs=())


@pytest.fixture(scope="module")
def quantizer(tiny_segmentation, tmp_path_factory):
    folder = tmp_path_factory.mktemp("quantizer")
    network, manifest = tiny_model(tiny_segmentation, folder, format="executorch", precision="int8")
    images = [picture((48, 64), seed) for seed in range(4)]
    return Quantizer(network, manifest, folder / "none.pte", images, spec_for(manifest)), network


def test_an_8_bit_file_is_small_and_float_layers_are_pytorchs(quantizer, tmp_path):
    made, network = quantizer
    with torch.inference_mode():
        expected = network(normalized())
    everything = list(made.weights)
    errors, sizes = [], []
    for few in ([], everything[1:], everything):
        path = tmp_path / f"{len(few)}.pte"
        made.write(path, few)
        (found,) = open_engine(path, outputs=())(normalized())
        errors.append(float((found - expected).square().mean().sqrt() / expected.std()))
        sizes.append(path.stat().st_size)
    assert errors[2] < 1e-5 < errors[1] < errors[0]
    assert sizes[0] < 0.65 * sizes[2]  # of so few weights; what else is in a file does not get smaller


def test_layers_are_ranked_by_how_much_they_err(quantizer, monkeypatch):
    made, _ = quantizer
    assert {"backbone.stem", "backbone.blocks.1"} <= made.weights.keys()
    few = dict(list(made.weights.items())[:3])
    monkeypatch.setattr(made, "weights", few)
    assert sorted(made.ranked()) == sorted(few)


@pytest.mark.learnt
@pytest.mark.timeout(900)  # each file takes a minute to convert
def test_a_spoilt_file_is_refused_and_one_with_a_float_layer_still_sees(
    tiny_segmentation_run, tmp_path, monkeypatch
):
    tried = []
    write = Quantizer.write

    def spoilt(self, path, layers):
        tried.append(list(layers))
        ranges = self.ranges
        if not layers:  # as if the layer could not bear it
            self.ranges = {name: (low / 30, high / 30) for name, (low, high) in ranges.items()}
        write(self, path, layers)
        self.ranges = ranges

    monkeypatch.setattr(Quantizer, "write", spoilt)
    monkeypatch.setattr(Quantizer, "ranked", lambda self: ["backbone.stem"])
    request = Request(format="executorch", precision="int8", tolerances={"metric": 0.05})
    done = export(tiny_segmentation_run, tmp_path / "model.pte", request)
    assert tried == [[], ["backbone.stem"]]
    before, after = done.report.scores
    at_least("segmenter in ExecuTorch: mIoU, exported", before, 0.1)
    at_least("segmenter in ExecuTorch: mIoU kept in 8 bits", after - before, -0.05)
    facts = load(done.path).manifest.export
    assert facts.precision == "int8"
    assert facts.float_layers == ("backbone.stem",)
    assert {each.name for each in tmp_path.iterdir()} == {"model.pte", done.report_path.name}
