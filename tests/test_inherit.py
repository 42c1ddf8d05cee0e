"""Weights of a trained network in one with other blocks: what stays the same to the last bit, what is cut."""

import copy
from dataclasses import replace

import pytest
import torch
import torch_pruning
from random_weights import randomize
from torch import nn

from dettoolkit.adaptation.proposals import Space, with_channels
from dettoolkit.backbones.own_blocks import recipe_with, table_of
from dettoolkit.backbones.tables import make_divisible
from dettoolkit.complexity import count_parameters
from dettoolkit.config import load_recipe
from dettoolkit.tasks import spec_of
from dettoolkit.weights.inherit import inherit, matching_rows

BACKBONES = {
    "mobilenet_v3_large": (),
    "mobilenet_v3_small": ("model.backbone.tail=reduced",),
    "mobilenet_v3_small_minimalistic": (),
    "mobilenet_v3_large_minimalistic": (),
    "mobilenet_v2": ("model.backbone.last_conv=none",),
    "mobilenet_v1": (),
    "mnasnet_a1": (),
    "mnasnet_b1": (),
}
HEADS = {  # a recipe with each, and its input
    "ssdlite": ("ssdlite_mnv3_small", ("model.input_hw=[64,96]",)),
    "lraspp": ("lraspp_mnv3_small", ()),
    "lraspp_output": ("lraspp_mnv3_small", ("model.head.low=output", "model.backbone.output_stride=32")),
    "raspp": ("raspp_mnv3_large", ()),
    "classifier": ("imagenet_mnv3_small", ()),
    "joint": ("joint_scenes", ("model.input_hw=[64,96]",)),
}
PAIRS = [("mobilenet_v3_large", head) for head in HEADS] + [
    (backbone, head) for backbone in list(BACKBONES)[1:] for head in ("ssdlite", "lraspp")
]


def recipe_of(backbone, head, width=0.5):
    name, overrides = HEADS[head]
    tail = () if head == "classifier" else BACKBONES[backbone]
    base = ("model.backbone.tail=full", f"model.backbone.type={backbone}", f"model.backbone.width={width}")
    return load_recipe(name, [*base, *overrides, *tail]).recipe


def network_of(recipe, table=None):
    if table is not None:
        recipe = recipe_with(recipe, table)
    return spec_of(recipe).build_network(recipe, num_classes=25).eval()


def outputs_of(network):
    images = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = network(images)
    return (found,) if isinstance(found, torch.Tensor) else found


def narrowed(table, fraction=0.75):
    """Remove a part of every space; channels that a residual adds up are one space."""

    def fewer(channels):
        return max(1, int(channels * fraction))

    rows, before = [], fewer(table.stem_channels)
    for row, inputs in zip(table.rows, table.inputs, strict=False):
        expansion = before if row.expansion == inputs else fewer(row.expansion)
        rows.append(replace(row, expansion=expansion, channels=fewer(row.channels)))
        before = rows[-1].channels
    last = table.last_channels and fewer(table.last_channels)
    return replace(table, stem_channels=fewer(table.stem_channels), rows=tuple(rows), last_channels=last)


@pytest.mark.parametrize(("backbone", "head"), PAIRS)
@pytest.mark.parametrize("by", ["norm", "scale"])
def test_with_nothing_removed_outputs_are_the_same_to_the_last_bit(backbone, head, by):
    recipe = recipe_of(backbone, head)
    start = randomize(network_of(recipe), seed=1)
    copy = network_of(recipe, table_of(recipe.model.backbone))
    inherit(copy, start, by=by)
    for ours, theirs in zip(outputs_of(copy), outputs_of(start), strict=True):
        assert torch.equal(ours, theirs)
    assert all(torch.equal(value, start.state_dict()[key]) for key, value in copy.state_dict().items())


def silence(network, table):
    """Make the outputs of every channel beyond a smaller table's counts zero, after every layer that has it.

    Which ones those are is drawn, so that what is kept is no prefix.
    """
    generator, backbone = torch.Generator().manual_seed(3), network.backbone

    def drawn(channels, kept):
        return torch.randperm(channels, generator=generator)[kept:]

    def mute(module, dead):
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d):
                layer.weight.data[dead] = 0
                if layer.bias is not None:
                    layer.bias.data[dead] = 0
            if isinstance(layer, nn.BatchNorm2d):
                for tensor in (layer.weight.data, layer.bias.data, layer.running_mean):
                    tensor[dead] = 0

    old, outputs = backbone.table, {}
    for number, (group, channels) in enumerate(zip(old.groups, old.inputs, strict=True)):
        kept = table.inputs[number]
        dead = outputs.setdefault(group, drawn(channels, kept))
        outputs[number] = dead
        mute(backbone.stem if number == 0 else backbone.blocks[number - 1].project, dead)
    inside = {}
    for number, (row, new) in enumerate(zip(old.rows, table.rows, strict=True), start=1):
        block = backbone.blocks[number - 1]
        own = isinstance(block.expand, nn.Identity)
        dead = inside[number] = outputs[number - 1] if own else drawn(row.expansion, new.expansion)
        mute(block.expand, dead)
        mute(block.depthwise, dead)
    dead_last = outputs[len(old.rows)]
    if old.last_channels is not None:
        dead_last = drawn(old.last_channels, table.last_channels)
        mute(backbone.last, dead_last)
    _, _, c4 = old.taps
    for name, head in network.heads.items():
        if name == "detection":  # whose first layers are depthwise, with a normalization that adds an offset
            for predictors in (head.class_predictors, head.box_predictors):
                mute(predictors[0][0], inside[c4])
                mute(predictors[1][0], dead_last)
    return network


def silence_squeezes(network, smaller):
    for block, fewer in zip(network.backbone.blocks, smaller.backbone.blocks, strict=True):
        if not isinstance(block.squeeze, nn.Identity):
            kept = fewer.squeeze.fc1.out_channels
            block.squeeze.fc1.weight.data[kept:] = 0
            block.squeeze.fc1.bias.data[kept:] = 0


@pytest.mark.parametrize(("backbone", "head"), PAIRS)
@pytest.mark.parametrize("by", ["norm", "scale"])
def test_without_channels_whose_outputs_are_zero_outputs_stay(backbone, head, by):
    recipe = recipe_of(backbone, head)
    start = randomize(network_of(recipe), seed=1)
    table = narrowed(start.backbone.table)
    smaller = network_of(recipe, table)
    silence(start, table)
    silence_squeezes(start, smaller)
    inherit(smaller, start, by=by)
    ours, theirs = (count_parameters(each.backbone, norm_affine=True) for each in (smaller, start))
    assert ours < 0.7 * theirs
    for ours, theirs in zip(outputs_of(smaller), outputs_of(start), strict=True):
        assert theirs.abs().max() > 1e-2
        assert ((ours - theirs).abs() / theirs.abs().max()).max() < 1e-5


def test_the_largest_filters_are_kept_in_their_order():
    recipe = recipe_of("mobilenet_v3_small", "ssdlite")
    start = randomize(network_of(recipe), seed=1)
    table = start.backbone.table
    rows = list(table.rows)
    rows[1] = replace(rows[1], expansion=24)
    smaller = network_of(recipe, replace(table, rows=tuple(rows)))
    inherit(smaller, start, by="norm")
    old, new = start.backbone.blocks[1], smaller.backbone.blocks[1]
    norms = [float(each.norm()) for each in old.expand[0].weight.detach()]
    kept = sorted(sorted(range(len(norms)), key=lambda i: -norms[i])[:24])
    assert torch.equal(new.expand[0].weight, old.expand[0].weight[kept])
    assert torch.equal(new.depthwise[1].running_var, old.depthwise[1].running_var[kept])
    assert torch.equal(new.project[0].weight, old.project[0].weight[:, kept])
    inherit(smaller, start, by="scale")
    scales = old.expand[1].weight.abs() + old.depthwise[1].weight.abs()
    kept = sorted(scales.argsort(descending=True)[:24].tolist())
    assert torch.equal(new.project[0].weight, old.project[0].weight[:, kept])


def test_another_kernel_keeps_the_middle_and_more_channels_come_after_those_of_the_start():
    recipe = recipe_of("mobilenet_v3_small", "lraspp")
    start = randomize(network_of(recipe), seed=1)
    table = start.backbone.table
    rows = list(table.rows)
    rows[1] = replace(rows[1], kernel=5, expansion=rows[1].expansion + 8)
    rows[4] = replace(rows[4], kernel=3)
    other = network_of(recipe, replace(table, rows=tuple(rows)))
    fresh = other.backbone.blocks[1].depthwise[0].weight.clone()
    inherit(other, start)
    grown, old = other.backbone.blocks[1].depthwise[0].weight, start.backbone.blocks[1].depthwise[0].weight
    assert torch.equal(grown[: len(old), :, 1:-1, 1:-1], old)
    assert float(grown[: len(old)].detach().abs().sum()) == pytest.approx(float(old.detach().abs().sum()))
    assert torch.equal(grown[len(old) :], fresh[len(old) :])
    cut, old = other.backbone.blocks[4].depthwise[0].weight, start.backbone.blocks[4].depthwise[0].weight
    assert torch.equal(cut, old[:, :, 1:-1, 1:-1])


def test_a_new_block_that_adds_its_input_starts_as_the_identity():
    recipe = recipe_of("mobilenet_v3_small", "ssdlite", width=1.0)
    start = randomize(network_of(recipe), seed=1)
    table = start.backbone.table
    rows = (*table.rows[:3], table.rows[2], *table.rows[3:])
    deeper = network_of(recipe, replace(table, rows=rows))
    assert matching_rows(deeper.backbone.table, table) == [1, 2, 3, None, 4, 5, 6, 7, 8, 9, 10, 11]
    inherit(deeper, start)
    for ours, theirs in zip(outputs_of(deeper), outputs_of(start), strict=True):
        torch.testing.assert_close(ours, theirs)
    shallower = network_of(recipe, replace(table, rows=(*table.rows[:5], *table.rows[6:])))
    inherit(shallower, start)
    assert torch.equal(
        shallower.backbone.blocks[5].project[0].weight, start.backbone.blocks[6].project[0].weight
    )
    inherit(shallower, start, ancestors=[1, 2, 3, 4, 6, *range(7, 12)])
    assert torch.equal(
        shallower.backbone.blocks[4].project[0].weight, start.backbone.blocks[5].project[0].weight
    )


def test_fused_blocks_and_other_squeezes_take_what_fits():
    recipe = recipe_of("mobilenet_v3_small", "ssdlite")
    start = randomize(network_of(recipe), seed=1)
    table = start.backbone.table
    rows = [
        replace(row, fused=number in (1, 2, 3), squeeze=number % 2 == 0)
        for number, row in enumerate(table.rows, 1)
    ]
    other = network_of(recipe, replace(table, rows=tuple(rows)))
    inherit(other, start)
    block, old = other.backbone.blocks[1], start.backbone.blocks[1]
    assert isinstance(block.depthwise, nn.Identity)
    assert torch.equal(block.expand[0].weight[:, :, 1, 1], old.expand[0].weight[:, :, 0, 0])
    assert [tuple(each.shape) for each in outputs_of(other)] == [tuple(e.shape) for e in outputs_of(start)]


def test_what_differs_beside_the_blocks_is_refused(monkeypatch):
    recipe = recipe_of("mobilenet_v3_small", "ssdlite")
    start = network_of(recipe)
    other = load_recipe("lraspp_mnv3_small", ["model.backbone.width=0.5"]).recipe
    with pytest.raises(ValueError, match=r"heads for segmentation, the start for detection: only blocks may"):
        inherit(network_of(other), start)
    fewer_classes = spec_of(recipe).build_network(recipe, num_classes=3)
    with pytest.raises(ValueError, match=r"heads.detection.class_predictors.0.1: weight is .*Only blocks"):
        inherit(fewer_classes, start)
    smaller = network_of(recipe, narrowed(start.backbone.table))
    monkeypatch.setattr(type(smaller.heads["detection"]), "feature_layers", {})
    with pytest.raises(ValueError, match=r"feature_layers must name the layers that read"):
        inherit(smaller, start)
    with pytest.raises(ValueError, match="ancestors must have 11 rows, got 1"):
        inherit(network_of(recipe), start, ancestors=[1])


def test_a_squeeze_follows_its_expansion():
    table = narrowed(network_of(recipe_of("mobilenet_v3_large", "ssdlite")).backbone.table)
    network = network_of(recipe_of("mobilenet_v3_large", "ssdlite"), table)
    assert network.backbone.blocks[3].squeeze.fc1.out_channels == make_divisible(table.rows[3].expansion // 4)


@pytest.mark.parametrize(
    ("backbone", "head"),
    [("mobilenet_v3_small", "ssdlite"), ("mobilenet_v3_large", "lraspp"), ("mobilenet_v2", "classifier")],
)
def test_the_same_channels_go_as_by_torch_pruning(backbone, head):
    recipe = recipe_of(backbone, head)
    start = randomize(network_of(recipe), seed=1)
    table, images = start.backbone.table, torch.rand(1, 3, 64, 96)
    for space in (Space("expansion", 2), Space("outputs", 2), Space("last")):
        cut = with_channels(table, space, space.channels(table) - 4)
        ours, theirs = network_of(recipe, cut), copy.deepcopy(start)
        inherit(ours, start)
        rows = zip(theirs.backbone.blocks, table.groups[1:], strict=True)
        writers = [block.project for block, group in rows if group == 2]
        layers = {"expansion": [theirs.backbone.blocks[1].expand], "outputs": writers}
        layers = [layer[0] for layer in layers.get(space.kind, [theirs.backbone.last])]
        squares = sum(layer.weight.detach().flatten(1).square().sum(1) for layer in layers)
        graph = torch_pruning.DependencyGraph().build_dependency(theirs, example_inputs=images)
        prune, out = squares.argsort()[:4].tolist(), torch_pruning.prune_conv_out_channels
        graph.get_pruning_group(layers[0], out, idxs=prune).prune()
        for one, other in zip(outputs_of(ours), outputs_of(theirs), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
