"""What changes only training leaves parameters, multiply-adds and the exported graph as they are."""

import io

import onnx
import pytest
import torch

from dettoolkit.complexity import count_madds, count_parameters
from dettoolkit.config import load_recipe
from dettoolkit.tasks import spec_of

TASK_ALIGNED = [
    "model.matcher.type=task_aligned",
    "model.loss={type: varifocal, box: giou}",
    "data.augment=strong",
]
REGIONS = ["model.auxiliary.weight=0.4", "model.loss.lovasz.weight=1", "model.loss.dice.weight=1"]


def built(name, *extras):
    """Build a recipe's network, with the same random weights whatever the recipe says of training."""
    torch.manual_seed(0)
    recipe = load_recipe(name, extras).recipe
    return spec_of(recipe).build_network(recipe, num_classes=5).eval()


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("ssdlite_mnv3_large", TASK_ALIGNED),
        ("lraspp_mnv3_large", REGIONS),
    ],
)
def test_the_exported_graph_is_the_same(name, changes):
    size = ["model.input_hw=[64, 64]"] if name.startswith("ssdlite") else []
    before, after = built(name, *size), built(name, *size, *changes)
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
