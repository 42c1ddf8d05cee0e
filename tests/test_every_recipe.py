"""Every file in configs/ is built and takes a step; its header says what is published and what measured."""

from itertools import takewhile

import pytest
import torch
from torch import nn

from dettoolkit.classification import run as classification
from dettoolkit.config import ClassificationRecipe, DetectionRecipe, JointRecipe, load_recipe, shipped_folder
from dettoolkit.datasets.cityscapes_labels import CLASSES
from dettoolkit.datasets.label_classes import LabelClasses
from dettoolkit.detection import run as detection
from dettoolkit.joint import run as joint
from dettoolkit.joint.single_tasks import detection_recipe, segmentation_recipe
from dettoolkit.paper.counts import TABLES, published_rows
from dettoolkit.paper.zoo import PLUS, measured_scores
from dettoolkit.segmentation import run as segmentation
from dettoolkit.tasks import spec_of
from dettoolkit.training.optimizers import build_optimizer, scaled_rate

SHIPPED = sorted(shipped_folder().glob("*.yaml"))
each_recipe = pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
NAMES = ["one", "two", "three"]
UNTRAINED = ("Not yet reproduced here", "not run here", "Not trained or scored here")
PUBLISHED = {}
for row in published_rows(list(TABLES)):
    if row.recipe is not None and not row.overrides:
        PUBLISHED.setdefault(row.recipe, row)  # Table 7 before 8


def task_of(recipe):
    """Build a recipe's task for three classes, from random weights."""
    spec = spec_of(recipe)
    if isinstance(recipe, JointRecipe):
        boxes, maps = task_of(detection_recipe(recipe)), task_of(segmentation_recipe(recipe))
        mapped = len(recipe.data.segmentation.classes or CLASSES)
        network = spec.build_network(recipe, num_classes=len(NAMES) + mapped)
        return joint.build_task(recipe, network, boxes=boxes, maps=maps)
    network = spec.build_network(recipe, num_classes=len(NAMES))
    if isinstance(recipe, DetectionRecipe):
        return detection.build_task(recipe, network, category_ids=[1, 2, 3], ground_truth=None)
    if isinstance(recipe, ClassificationRecipe):
        return classification.build_task(recipe, network, NAMES)
    table = [(name, [number], None) for number, name in enumerate(NAMES)]
    task = segmentation.build_task(recipe, network, LabelClasses.from_table(table, ignore=[255]))
    task.auxiliary = segmentation.build_auxiliary(recipe, network, num_classes=len(NAMES))
    return task


def batch_of(recipe):
    """Make two images, as small as the network allows, with their labels."""
    random = torch.Generator().manual_seed(0)
    size = recipe.model.input_hw if isinstance(recipe, DetectionRecipe | JointRecipe) else (65, 97)
    boxes = torch.tensor(
        [[[40.0, 30.0, 150.0, 120.0], [0.0, 8.0, 60.0, 90.0]], [[8.0, 8.0, 120.0, 88.0], [0.0] * 4]]
    )
    return {
        "images": torch.randint(0, 256, (2, 3, *size), generator=random, dtype=torch.uint8),
        "boxes_xyxy": boxes,
        "box_labels": torch.tensor([[0, 2], [1, -1]]),
        "label_map": torch.randint(0, 3, (2, *size), generator=random, dtype=torch.uint8),
        "class_labels": torch.tensor([0, 2]),
        "box_rows": torch.arange(2),
        "map_rows": torch.arange(2),
    }


@each_recipe
def test_a_recipe_is_built_and_takes_a_step(path):
    torch.manual_seed(0)
    recipe = load_recipe(path.stem).recipe
    task, batch = task_of(recipe), batch_of(recipe)
    network = task.network.train()
    trained = nn.ModuleList([network, task.auxiliary])
    rate = scaled_rate(recipe.optim, len(batch["images"]))
    optimizer = build_optimizer(trained, recipe.optim, lr=rate)
    before = [parameter.detach().clone() for parameter in trained.parameters()]
    images, targets = task.training_inputs(batch)
    outputs, features = network.with_features(images)
    loss = sum((task.losses(outputs, targets) | task.auxiliary_losses(features, targets)).values())
    assert torch.isfinite(loss)
    loss.backward()
    assert all(each.grad is not None and torch.isfinite(each.grad).all() for each in trained.parameters())
    optimizer.step()
    after = list(trained.parameters())
    assert all(torch.isfinite(each).all() for each in after)
    assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))


def header_of(path):
    lines = takewhile(lambda line: line[:1] == "#", path.read_text(encoding="utf-8").splitlines())
    return " ".join(line.lstrip("# ") for line in lines)


def says_what_was_measured(name, header, scores):
    """Return whether a header says that the recipe is not reproduced yet, or where its listed score is."""
    untrained = any(sentence in header for sentence in UNTRAINED)
    return untrained != ("measured: " in header) and (untrained or name in scores)


@each_recipe
def test_a_header_says_what_is_published_and_what_was_measured(path, repository):
    header = header_of(path)
    assert says_what_was_measured(path.stem, header, measured_scores(repository / "docs" / "logs"))
    if path.stem in PUBLISHED:
        row = PUBLISHED[path.stem]
        assert f"Table {row.table}" in header
        assert f"{row.score} {TABLES[row.table].score}" in header
        assert row.parameters is None or f"{row.parameters}M parameters" in header
        unit = "M" if row.table == "3" else "B"
        assert f"{row.madds}{unit} MAdds" in header
    elif path.stem.endswith("_torchvision"):
        assert "Published" in header
    elif path.stem.endswith(PLUS):
        base = PUBLISHED[path.stem.removesuffix(PLUS)]
        assert f"The network is that of {base.recipe}.yaml" in header
        assert f"no score of this training is published; {base.score} {TABLES[base.table].score}" in header
        assert "docs/accuracy.md measures its parts" in header
        assert f"Differs from {base.recipe}.yaml in " in header


def test_a_recipe_that_was_trained_says_so():
    trained = "# expect: 22.0 mAP is the paper's # measured: 21.7 AP on val2017, 8 GPUs, 2 days"
    assert says_what_was_measured("ssdlite_mnv3_large", trained, {"ssdlite_mnv3_large": ["21.7 AP"]})
    assert not says_what_was_measured("ssdlite_mnv3_large", trained, {})
    assert not says_what_was_measured(
        "ssdlite_mnv3_large", f"{trained} {UNTRAINED[0]}", {"ssdlite_mnv3_large": []}
    )
    assert not says_what_was_measured("ssdlite_mnv3_large", "# expect: 22.0 mAP", {})


def test_every_row_that_a_user_would_train_has_a_recipe():
    shipped = {path.stem for path in SHIPPED}
    for row in published_rows(["6", "7", "8"]):
        assert row.recipe in shipped or row.name in {"ESPNetv2", "CCC2", "ESPNetv1"}
