"""What the tests of exported files share: tiny networks with random weights, and what is compared."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module

import numpy as np
import torch
from random_weights import randomize

from dettoolkit.deploy import build_network, manifest_of
from dettoolkit.formats.pytorch import PytorchEngine
from dettoolkit.inference.predictor import Predictor
from dettoolkit.manifest import ExportFacts

TASKS = ("detection", "segmentation")
INPUT_HW = (64, 64)


def tiny_model(fixture, folder, *, format, **wishes):
    """Build a tiny recipe's network with random weights, and the manifest of a file of it.

    Args:
        fixture: tiny or tiny_segmentation.
        folder: for the recipe's runs; nothing is written.
        format: of the file.
        wishes: further fields of ExportFacts.
    """
    recipe = fixture.load(folder).recipe
    names = ["box", "bar"] if recipe.model.type == "ssdlite" else [str(number) for number in range(19)]
    network = randomize(build_network(recipe, num_classes=len(names)))
    described = {"name": "tiny", "class_names": names, "category_ids": range(len(names)), "versions": {}}
    export = ExportFacts(format=format, **{"batch": 1, **wishes})
    return network, replace(manifest_of(recipe, network, described), input_hw=INPUT_HW, export=export)


def convert_both(tiny, tiny_segmentation, tmp_path_factory, *, format, ending):
    """Convert a tiny network of each task: the network, the manifest and the file, by task."""
    converter = import_module(f"dettoolkit.formats.{format}.convert")
    made = {}
    for task, fixture in zip(TASKS, (tiny, tiny_segmentation), strict=True):
        folder = tmp_path_factory.mktemp(task)
        network, manifest = tiny_model(fixture, folder, format=format)
        converter.convert(network, manifest, folder / f"model{ending}")
        made[task] = (network, manifest, folder / f"model{ending}")
    return made


def reference(network, manifest):
    """Return a network in PyTorch as a Predictor, to compare a file's with."""
    engine = PytorchEngine(network, torch.device("cpu"))
    return Predictor(replace(manifest, export=None), engine, source="PyTorch")


def normalized(batch=1, seed=1):
    """Draw a network's input."""
    return torch.randn(batch, 3, *INPUT_HW, generator=torch.Generator().manual_seed(seed))


def picture(hw=(48, 80), seed=1):
    """Draw an image of blocks, uint8 (H, W, 3)."""
    blocks = np.random.default_rng(seed).integers(0, 256, (hw[0] // 8 + 1, hw[1] // 8 + 1, 3), np.uint8)
    return np.ascontiguousarray(blocks.repeat(8, 0).repeat(8, 1)[: hw[0], : hw[1]])


def assert_close(found, expected, atol=2e-4):
    """Compare raw outputs."""
    expected = (expected,) if isinstance(expected, torch.Tensor) else expected
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=atol, rtol=1e-4)


def assert_same_answer(found, expected):
    """Compare answers of a Predictor; of segmentation at most 1 pixel in 500 may differ."""
    if hasattr(expected, "scores"):
        assert len(expected.scores)
        np.testing.assert_array_equal(found.labels, expected.labels)
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
        np.testing.assert_allclose(found.boxes_xyxy, expected.boxes_xyxy, atol=1e-2)
    else:
        assert found.labels.shape == expected.labels.shape
        assert len(np.unique(expected.labels)) > 1
        assert (found.labels != expected.labels).mean() <= 0.002
