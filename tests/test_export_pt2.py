"""Programs of torch.export against the networks that they were made of."""

from functools import partial

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_exports import assert_close, convert, exporting, handmade, opened
from torch import nn

from dettoolkit.datasets.images import resize_image
from dettoolkit.export.request import Request, check
from dettoolkit.formats import open_engine
from dettoolkit.formats.pt2 import stamp
from dettoolkit.loading import read_manifest
from dettoolkit.manifest import ManifestError
from dettoolkit.preprocessing import normalize
from dettoolkit.segmentation.spec import SegmentationSection
from dettoolkit.training.trained import open_model

INPUT_HW = (32, 48)


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.convolution = nn.Conv2d(3, 4, 4, stride=4)

    def forward(self, images):
        return self.convolution(images)


def manifest_of(**wishes):
    section = SegmentationSection(
        class_names=("a", "b", "c", "d"), class_ids=(1, 2, 3, 4), align_corners=True
    )
    statistics = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    return exporting(handmade(section, input_hw=INPUT_HW, **statistics), format="pt2", **wishes)


def test_an_exported_network_gives_what_it_does_in_pytorch(tiny_run, tmp_path):
    manifest, network = open_model(tiny_run)
    manifest = exporting(manifest, format="pt2")
    path = tmp_path / "run.pt2"
    convert(network, manifest, path)
    assert read_manifest(path).to_json() == manifest.to_json()
    engine = opened(path, threads=1, trust=True)
    for batch in (1, 2, 5):
        images = torch.randn(batch, 3, 64, 64)
        with torch.no_grad():
            expected = network.eval()(images)
        assert_close(engine(images), expected)
    assert b".py" not in path.read_bytes()  # no traces of the machine that exported


@pytest.mark.parametrize("batch", [None, 2])
@pytest.mark.parametrize("preprocessing", [False, True])
@pytest.mark.parametrize("postprocessing", [False, True])
def test_a_file_takes_and_gives_what_its_manifest_says(tmp_path, batch, preprocessing, postprocessing):
    manifest = manifest_of(batch=batch, preprocessing=preprocessing, postprocessing=postprocessing)
    network = Toy().eval()
    convert(network, manifest, tmp_path / "toy.pt2")
    engine = opened(tmp_path / "toy.pt2", threads=1, trust=True)
    for images in (1, 2, 5) if batch is None else (batch,):
        for hw in (INPUT_HW, (57, 31), (40, 40)) if preprocessing else (INPUT_HW,):
            noise = np.random.default_rng(images).integers(0, 256, (images, *hw, 3), np.uint8)
            pixels = np.stack([cv2.GaussianBlur(each, (5, 5), 0) for each in noise])
            resized = np.stack([resize_image(each, INPUT_HW) for each in pixels])
            inputs = normalize(torch.from_numpy(resized).permute(0, 3, 1, 2), manifest.mean, manifest.std)
            with torch.no_grad():
                logits = network(inputs)
            (found,) = engine(torch.from_numpy(pixels) if preprocessing else inputs)
            if not postprocessing:  # a gray level is up to 1 / 255 / 0.224 = 0.0175, times the weights
                assert (found - logits).abs().max() < (0.05 if preprocessing else 1e-4)
                continue
            out_hw = hw if preprocessing else INPUT_HW
            expected = F.interpolate(logits, out_hw, mode="bilinear", align_corners=True).argmax(dim=1)
            assert found.dtype == torch.uint8
            assert found.shape == (images, *out_hw)
            assert (found == expected).float().mean() > (0.95 if preprocessing else 0.999)


def test_a_detectors_answers_are_refused(tiny_run, tmp_path):
    manifest, network = open_model(tiny_run)
    manifest = exporting(manifest, format="pt2", postprocessing=True)
    with pytest.raises(ValueError, match=r"a detector.*omit it.*dettoolkit\.load does it"):
        convert(network, manifest, tmp_path / "run.pt2")
    assert not list(tmp_path.iterdir())


def test_8_bits_are_refused_before_any_work(tmp_path):
    with pytest.raises(ValueError, match=r"int8 is available only for onnx, .*omit --int8 for pt2"):
        check(tmp_path / "model.pt2", Request(format="pt2", precision="int8"))


def test_the_manifest_is_replaced_and_nothing_else(tmp_path):
    path = tmp_path / "toy.pt2"
    convert(Toy(), manifest_of(), path)
    images = torch.randn(3, 3, *INPUT_HW)
    before = opened(path, trust=True)(images)
    manifest = manifest_of(parity={"labels": 1.0})
    stamp(path, manifest)
    assert read_manifest(path) == manifest
    assert torch.equal(opened(path, trust=True)(images)[0], before[0])


def test_a_file_that_exists_is_kept(tmp_path):
    path = tmp_path / "toy.pt2"
    path.write_text("mine")
    with pytest.raises(FileExistsError):
        convert(Toy(), manifest_of(), path)
    assert path.read_text() == "mine"


def test_threads_are_those_asked_for_while_it_runs_only(tmp_path):
    convert(Toy(), manifest_of(), tmp_path / "toy.pt2")
    before = torch.get_num_threads()
    seen = []
    engine = opened(tmp_path / "toy.pt2", threads=before + 1, trust=True)
    program = engine.program
    engine.program = lambda images: (seen.append(torch.get_num_threads()), program(images))[1]
    engine(torch.randn(1, 3, *INPUT_HW))
    assert seen == [before + 1]
    assert torch.get_num_threads() == before


def test_other_files_are_told_apart(tmp_path):
    path = tmp_path / "other.pt2"
    path.write_bytes(b"no program")
    for read in (partial(open_engine, outputs=(), trust=True), read_manifest):
        with pytest.raises(ValueError, match="not a complete torch"):
            read(path)
    torch.export.save(torch.export.export(Toy(), (torch.randn(1, 3, 8, 8),)), path)
    with pytest.raises(ManifestError, match="no dettoolkit manifest"):
        read_manifest(path)
    torch.save({"a": 1}, path)
    with pytest.raises(ValueError, match="cannot open"):
        open_engine(path, outputs=(), trust=True)
