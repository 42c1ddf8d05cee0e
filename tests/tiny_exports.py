"""What the tests of exported files share: tiny networks with random weights, and what is compared."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from random_weights import randomize

from dettoolkit.config import recipe_to_dict
from dettoolkit.formats import NAMES, open_engine
from dettoolkit.formats.pytorch import PytorchEngine
from dettoolkit.inference.predictor import Predictor
from dettoolkit.loading import read_manifest
from dettoolkit.manifest import ExportFacts, Manifest
from dettoolkit.run import Classes
from dettoolkit.tasks import TASKS as SPECS
from dettoolkit.tasks import spec_for, spec_of

FIXTURES = {"detection": "tiny", "segmentation": "tiny_segmentation", "classification": "tiny_classification"}
TASKS = tuple(FIXTURES)
INPUT_HW = (64, 64)


def handmade(section, **changes):
    """Return a manifest with one section; of an input of 8 x 16, unless changed."""
    (task,) = (spec.name for spec in SPECS if spec.section is type(section))
    values = {"name": "by hand", "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "input_hw": (8, 16)}
    return Manifest(**{**values, "recipe": {}, "versions": {}, "tasks": {task: section}, **changes})


def exporting(manifest, **wishes):
    """Return a manifest as that of an exported file; `wishes` are fields of ExportFacts."""
    spec = spec_for(manifest)
    outputs = spec.final_outputs if wishes.get("postprocessing") else spec.raw_outputs
    return replace(manifest, export=ExportFacts(**{"format": "onnx", "outputs": outputs, **wishes}))


def with_section(manifest, **changes):
    """Return a manifest with a changed section."""
    return manifest.with_section(replace(manifest.section, **changes))


def opened(path, **options):
    """Open an exported file with the outputs that it says it has."""
    return open_engine(path, outputs=read_manifest(path).export.outputs, **options)


def tiny_model(fixture, folder, *, format, **wishes):
    """Build a tiny recipe's network with random weights, and the manifest of a file of it.

    Args:
        fixture: tiny, tiny_segmentation or tiny_classification.
        folder: for the recipe's runs; nothing is written.
        format: of the file.
        wishes: further fields of ExportFacts.
    """
    recipe = fixture.load(folder).recipe
    spec = spec_of(recipe)
    names = [str(number) for number in range({"detection": 2, "segmentation": 19}.get(spec.name, 7))]
    classes = Classes(names, list(range(len(names))))
    network = randomize(spec.build_network(recipe, num_classes=len(names)))
    manifest = Manifest(
        name="tiny",
        mean=recipe.data.mean,
        std=recipe.data.std,
        input_hw=INPUT_HW,
        **spec.fitting(recipe),
        recipe=recipe_to_dict(recipe),
        versions={},
        tasks={spec.name: spec.describe(recipe, network, classes=classes)},
    )
    return network, exporting(manifest, format=format, **{"batch": 1, **wishes})


def convert(network, manifest, path):
    """Write a file of the format that a manifest names."""
    converter = NAMES[manifest.export.format].module("convert")
    converter.convert(network, manifest, path, spec_for(manifest))


def convert_all(request, tmp_path_factory, *, ending, **wishes):
    """Convert a tiny network of each task: the network, the manifest and the file, by task."""
    made = {}
    for task, name in FIXTURES.items():
        folder = tmp_path_factory.mktemp(task)
        network, manifest = tiny_model(request.getfixturevalue(name), folder, **wishes)
        convert(network, manifest, folder / f"model{ending}")
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


def assert_same_result(found, expected):
    """Compare results of a Predictor; of label maps at most 1 pixel in 500 may differ."""
    assert type(found) is type(expected)
    if not hasattr(expected, "scores"):
        assert found.labels.shape == expected.labels.shape
        assert len(np.unique(expected.labels)) > 1
        assert (found.labels != expected.labels).mean() <= 0.002
        return
    assert len(expected.scores)
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    if hasattr(expected, "boxes_xyxy"):
        np.testing.assert_allclose(found.boxes_xyxy, expected.boxes_xyxy, atol=1e-2)
