"""`model.backbone.blocks`: a network that no table has, from the recipe to the exported file."""

from dataclasses import replace

import pytest
import torch
from random_weights import randomize
from tiny_exports import INPUT_HW, assert_close, convert, exporting, normalized, opened
from torch import nn

from dettoolkit.backbones.mobilenet import build_backbone
from dettoolkit.backbones.own_blocks import table_of, with_table
from dettoolkit.backbones.tables import TABLES
from dettoolkit.config import RecipeError, load_recipe, recipe_to_dict
from dettoolkit.config.model import Backbone
from dettoolkit.loading import read_manifest
from dettoolkit.training import commands
from dettoolkit.training.trained import open_model

pytestmark = pytest.mark.usefixtures("alone")

ROWS = """\
{kernel: 3, expansion: 16, out: 16, activation: relu, stride: 2, squeeze_excite: true}
{kernel: 3, expansion: 24, out: 24, activation: relu, stride: 2, fused: true}
{kernel: 5, expansion: 40, out: 24, activation: hardswish}
{kernel: 3, expansion: 32, out: 32, activation: hardswish, stride: 2, squeeze_excite: true}
{kernel: 7, expansion: 64, out: 40, activation: hardswish, stride: 2}
{kernel: 3, expansion: 56, out: 40, activation: relu, squeeze_excite: true}
""".splitlines()


def blocks(*rows):
    return f"model.backbone.blocks=[{', '.join(rows)}]"


OVERRIDES = (
    blocks(*ROWS),
    "model.backbone.width=1",
    "model.backbone.tail=full",
    "model.backbone.stem_channels=8",
    "model.backbone.last_channels=96",
)


@pytest.mark.parametrize("network", TABLES)
@pytest.mark.parametrize("tail", ["full", "reduced"])
def test_every_table_written_out_is_the_same_network(network, tail):
    for settings in ({"width": 0.35}, {"last_conv": "none"}, {"width": 1.4, "rounding": "tensorflow"}):
        section = Backbone.model_validate({"type": network, "tail": tail, **settings})
        written = with_table(section, table_of(section))
        assert (len(written.blocks), written.width, written.tail) == (len(TABLES[network].rows), 1, "full")
        assert Backbone.model_validate(written.model_dump()) == written
        with torch.device("meta"):
            ours, theirs = build_backbone(written), build_backbone(section)
        assert str(ours) == str(theirs)
        assert (ours.channels, ours.strides) == (theirs.channels, theirs.strides)
        assert [block.adds_input for block in ours.blocks] == [block.adds_input for block in theirs.blocks]


def test_a_network_has_the_rows_of_its_recipe(tiny, tmp_path):
    recipe = tiny.load(tmp_path, *OVERRIDES).recipe
    backbone = build_backbone(recipe.model.backbone)
    assert backbone.channels == {"low_first": 24, "low_depthwise": 40, "low": 24, "c4": 64, "c5": 96}
    assert len(backbone.blocks) == 6
    assert (backbone.stem[0].out_channels, backbone.last[0].out_channels) == (8, 96)
    first, fused, third, *_ = backbone.blocks
    assert first.expand[0].weight.shape == (16, 8, 1, 1)
    assert first.squeeze.fc1.out_channels == 8
    assert fused.expand[0].weight.shape == (24, 16, 3, 3)
    assert isinstance(fused.depthwise, nn.Identity)
    assert third.depthwise[0].kernel_size == (5, 5)
    assert isinstance(third.depthwise[2], nn.Hardswish)
    assert [block.adds_input for block in backbone.blocks] == [False, False, True, False, False, True]
    features = backbone.eval()(torch.zeros(1, 3, 64, 96))
    sizes = {name: (96 // each.shape[3], each.shape[1]) for name, each in features.items()}
    assert sizes == {name: (backbone.strides[name], count) for name, count in backbone.channels.items()}


@pytest.mark.parametrize("kind", ["tiny", "tiny_segmentation", "tiny_classification", "tiny_joint"])
def test_it_trains_evaluates_loads_and_exports_as_any_other(kind, request, tmp_path):
    model = request.getfixturevalue(kind)
    resolved = model.load(tmp_path / "runs", *OVERRIDES, "trainer.max_epochs=1")
    assert "6 blocks of its own (mobilenet_v3_small)" in commands.check("own", resolved.recipe)
    run, score = commands.train("own", resolved.recipe, config_yaml=resolved.to_yaml())
    again = load_recipe(str(run / "config.yaml")).recipe
    assert again.model == resolved.recipe.model
    _, second = commands.evaluate(run, recipe=resolved.recipe, out=None)
    assert second.numbers == pytest.approx(score.numbers, nan_ok=True)
    manifest, network = open_model(run)
    rows = manifest.recipe["model"]["backbone"]["blocks"]
    assert [row["expansion"] for row in rows] == [16, 24, 40, 32, 64, 56]
    assert network.backbone.table == table_of(resolved.recipe.model.backbone)
    file = tmp_path / "own.onnx"
    described = exporting(replace(manifest, input_hw=INPUT_HW), format="onnx", batch=1)
    convert(randomize(network), described, file)
    assert [row["out"] for row in read_manifest(file).recipe["model"]["backbone"]["blocks"]][-1] == 40
    assert_close(opened(file)(normalized()), network(normalized()))


def refusal(tiny, tmp_path, *overrides):
    with pytest.raises(RecipeError) as caught:
        tiny.load(tmp_path, *OVERRIDES[1:], *overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    ("row", "change", "told"),
    [
        (2, ("kernel: 5", "kernel: 4"), "blocks[2].kernel: expected 3, 5 or 7, got 4 (row 3)"),
        (0, ("expansion: 16", "expansion: 0"), "blocks[0].expansion: must be at least 1, got 0 (row 1)"),
        (4, ("out: 40, ", ""), "blocks[4].out: missing; required: Output channels (row 5)"),
        (
            5,
            ("squeeze_excite", "squeeze"),
            "unknown key; did you mean 'squeeze_excite'? (row 6)",
        ),
        (1, ("relu", "swish"), "blocks[1].activation: expected 'relu', 'relu6' or 'hardswish', got 'swish'"),
        (
            0,
            ("stride: 2", "stride: 1"),
            "4 rows must have stride 2, so that C5 has stride 32, got 3 (rows 2,",
        ),
        (
            2,
            ("hardswish", "relu, stride: 2"),
            "got 5 (rows 1, 2, 3, 4 and 5): change the stride of 1",
        ),
        (
            4,
            ("stride: 2", "stride: 2, fused: true"),
            "row 5, the last one of stride 2, cannot be fused:",
        ),
    ],
)
def test_a_wrong_row_is_named(tiny, tmp_path, row, change, told):
    rows = list(ROWS)
    assert change[0] in rows[row]
    rows[row] = rows[row].replace(*change)
    assert told in refusal(tiny, tmp_path, blocks(*rows))


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (("model.backbone.blocks=null",), "stem_channels and last_channels without blocks: set width"),
        ((blocks(*ROWS), "model.backbone.width=0.5"), "blocks and width are both set, but blocks are the"),
        ((blocks(*ROWS), "model.backbone.tail=reduced"), "blocks and tail are both set"),
        ((blocks(*ROWS), "model.backbone.last_conv=none"), "last_channels is set, but last_conv is none"),
        ((blocks(*ROWS[:2]),), "blocks: expected at least 4 values, got 2"),
    ],
)
def test_contradictions_are_refused(tiny, tmp_path, overrides, told):
    assert told in refusal(tiny, tmp_path, *overrides)


def test_a_recipe_without_blocks_stays_as_it_was(tiny, tmp_path):
    values = recipe_to_dict(tiny.load(tmp_path).recipe)["model"]["backbone"]
    assert (values["blocks"], values["stem_channels"], values["last_channels"]) == (None, None, None)
