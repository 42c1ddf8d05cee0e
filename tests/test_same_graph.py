"""What changes only training leaves parameters, multiply-adds and the exported graph as they are.

So a recipe whose name ends in _plus has the network of the recipe without it, and its length and images too.
"""

import io

import onnx
import pytest
import torch

from dettoolkit.complexity import count_madds, count_parameters
from dettoolkit.config import load_recipe, shipped_folder
from dettoolkit.paper.zoo import PLUS
from dettoolkit.tasks import spec_of

TASK_ALIGNED = [
    "model.matcher.type=task_aligned",
    "model.loss={type: varifocal, box: giou}",
    "data.augment=strong",
]
PAIRS = [(path.stem.removesuffix(PLUS), path.stem) for path in sorted(shipped_folder().glob(f"*{PLUS}.yaml"))]
TRAINING_ONLY = ("model.matcher.", "model.loss.", "model.auxiliary", "data.augment")
REGIONS = ["model.auxiliary.weight=0.4", "model.loss.lovasz.weight=1", "model.loss.dice.weight=1"]


def built(name, *extras):
    """Build a recipe's network, with the same random weights whatever the recipe says of training."""
    torch.manual_seed(0)
    recipe = load_recipe(name, extras).recipe
    return spec_of(recipe).build_network(recipe, num_classes=5).eval()


def settings(name):
    """Return a recipe's values by dotted key."""

    def flat(value, key):
        if not isinstance(value, dict):
            return {key: value}
        return {each: leaf for name in value for each, leaf in flat(value[name], f"{key}.{name}").items()}

    recipe = load_recipe(name).recipe.model_dump(mode="json")
    return {each: leaf for name in recipe for each, leaf in flat(recipe[name], name).items()}


@pytest.mark.parametrize(("base", "plus"), PAIRS)
def test_a_plus_recipe_changes_nothing_but_its_parts_of_training(base, plus):
    before, after = settings(base), settings(plus)
    absent = object()
    changed = {
        key for key in before.keys() | after.keys() if before.get(key, absent) != after.get(key, absent)
    }
    assert changed
    assert all(key.startswith(TRAINING_ONLY) for key in changed)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(("ssdlite_mnv3_large",), ("ssdlite_mnv3_large", *TASK_ALIGNED), id="task_aligned"),
        pytest.param(("lraspp_mnv3_large",), ("lraspp_mnv3_large", *REGIONS), id="regions"),
        *(pytest.param((base,), (plus,), id=plus) for base, plus in PAIRS),
    ],
)
def test_the_exported_graph_is_the_same(before, after):
    size = ["model.input_hw=[64, 64]"] if before[0].startswith("ssdlite") else []
    before, after = built(*before, *size), built(*after, *size)
    assert count_parameters(before, norm_affine=True) == count_parameters(after, norm_affine=True)
    assert count_madds(before, (64, 64)) == count_madds(after, (64, 64))
    files = []
    for network in (before, after):
        program = torch.onnx.export(network, (torch.zeros(1, 3, 64, 64),), dynamo=True, verbose=False)
        files.append(io.BytesIO())
        program.save(files[-1])
    graphs = [onnx.load_from_string(file.getvalue()).graph for file in files]
    nodes = [[(node.op_type, list(node.input), list(node.output)) for node in graph.node] for graph in graphs]
    assert nodes[0] == nodes[1]
    assert files[0].getvalue() == files[1].getvalue()
