"""The shipped segmentation recipes: sizes as printed, overlays that fit, a step of each, their schema."""

import json

import pytest
import torch
from torchvision.models.segmentation import LRASPP_MobileNet_V3_Large_Weights

from dettoolkit.complexity import count_madds, count_parameters
from dettoolkit.config import RecipeError, SegmentationRecipe, load_recipe
from dettoolkit.segmentation.build import build_loss, build_network

RECIPES = ("lraspp_mnv3_large", "lraspp_mnv3_small", "lraspp_mnv3_large_torchvision", "lraspp_scenes")
# Table 7, rows 8, 11, 7, 6 and 5: parameters in millions, multiply-adds in billions.
TABLE_7 = [
    ("lraspp_mnv3_large", (), "1.51", 9.74),
    ("lraspp_mnv3_small", (), "0.47", 2.90),
    ("lraspp_mnv3_large", ("model.head.filters=256",), "1.63", 10.33),
    ("lraspp_mnv3_large", ("model.type=raspp", "model.head.filters=256"), "1.76", 11.24),
    (
        "lraspp_mnv3_large",
        ("model.type=raspp", "model.head.filters=256", "model.backbone.tail=full"),
        "3.60",
        18.43,
    ),
    # Table 8's output stride 32; parameters are those of stride 16.
    ("lraspp_mnv3_large", ("model.backbone.output_stride=32",), "1.51", 7.74),
    ("lraspp_mnv3_small", ("model.backbone.output_stride=32",), "0.47", 2.06),
]


def recipe_of(name, *overrides):
    recipe = load_recipe(name, overrides).recipe
    assert isinstance(recipe, SegmentationRecipe)
    return recipe


def refused(name, *overrides):
    with pytest.raises(RecipeError) as caught:
        load_recipe(name, overrides)
    return str(caught.value)


def test_multiples_are_for_networks_without_aligned_corners():
    message = refused("lraspp_mnv3_large", "data.eval_multiple=16")
    assert "data.eval_multiple=16 is for model.align_corners=false" in message
    assert recipe_of("lraspp_mnv3_large", "finetune_segmentation.yaml").data.eval_multiple == 16


@pytest.mark.parametrize(("name", "overrides", "parameters", "madds"), TABLE_7)
def test_recipes_have_the_size_of_tables_7_and_8(name, overrides, parameters, madds):
    with torch.device("meta"):
        network = build_network(recipe_of(name, *overrides), num_classes=19)
        assert f"{count_parameters(network, norm_affine=True) / 1e6:.2f}" == parameters
        assert count_madds(network, (1025, 2049)) / 1e9 == pytest.approx(madds, rel=0.05)


def test_the_torchvision_recipe_has_torchvisions_size():
    published = LRASPP_MobileNet_V3_Large_Weights.COCO_WITH_VOC_LABELS_V1.meta
    recipe = recipe_of("lraspp_mnv3_large_torchvision")
    names = ["__background__", *(each.name for each in recipe.data.classes[1:])]
    assert names == published["categories"]
    network = build_network(recipe, num_classes=len(names))
    assert count_parameters(network, norm_affine=True) == published["num_params"] == 3_221_538


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_takes_a_step(name):
    recipe = recipe_of(name)
    network = build_network(recipe, num_classes=5).train()
    loss_of = build_loss(recipe.model.loss, list("abcde"), align_corners=recipe.model.align_corners)
    labels = torch.randint(0, 5, (2, 65, 97), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    loss = loss_of(network(torch.rand(2, 3, 65, 97)), labels)
    assert torch.isfinite(loss)
    loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


@pytest.mark.parametrize("name", RECIPES)
def test_overlays_fit_every_segmentation_recipe(name):
    tuned = recipe_of(name, "finetune_segmentation.yaml", "camvid.yaml", "model.weights=null")
    assert [each.name for each in tuned.data.classes][:2] == ["sky", "building"]
    assert tuned.trainer.max_epochs == 50
    scenes = recipe_of(name, "scenes_segmentation.yaml", "model.weights=null")
    assert scenes.data.type == "scenes"
    assert scenes.data.classes is None


def test_the_models_type_decides_the_task():
    assert "expected 'ssdlite', 'lraspp', 'raspp', 'classifier' or 'joint', got 'unet'" in refused(
        "lraspp_scenes", "model.type=unet"
    )
    assert "did you mean 'lraspp'?" in refused("lraspp_scenes", "model.type=lrasppp")
    for name, override in (
        ("ssdlite_mnv3_large", "data.crop_hw=[64, 64]"),
        ("lraspp_scenes", "evaluation.threshold=0.5"),
        ("lraspp_scenes", "model.head.class_bias=-4.6"),
    ):
        key = override.partition("=")[0]
        assert f"{key}: not a key of this model.type" in refused(name, override)
    assert "did you mean 'filters'?" in refused("lraspp_scenes", "model.head.filtres=64")


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("data={type: folders, classes: null}", "type folders needs classes, a list such as"),
        ("evaluation={mode: slide, window_hw: [64, 64], stride_hw: [64, 65]}", "pixels between the windows"),
        ("data.augment.scale=[2, 1]", "must be [min, max]: swap them"),
        ("data.augment.erasing=0.1", "data.augment.erasing: not a key of this model.type"),
        ("data.extra=[{imges: a, labels: b}]", "data.extra[0].imges: unknown key; did you mean 'images'?"),
        (
            "data.classes=[{name: road}]",
            "data.classes[0].ids: missing; required: Values in the label files",
        ),
        ("data.classes=[{name: road, ids: [1], colour: [1, 2, 3]}]", "did you mean 'color'?"),
        ("data.augment.scale_step=-1", "data.augment.scale_step: must be at least 0, got -1"),
        ("data.augment.max_class_fraction=75", "data.augment.max_class_fraction: must be at most 1, got 75"),
        (
            "data.classes=[{name: a, ids: [1, 2]}, {name: b, ids: [2]}]",
            "id 2 belongs to two classes, a and b",
        ),
        ("data.classes=[{name: a, ids: [1]}, {name: a, ids: [2]}]", "two classes have the same name"),
        ("data.classes=[{name: a, ids: []}]", "data.classes[0].ids: expected at least 1 value, got 0"),
        ("data.classes=[{name: a, ids: [65536]}]", "data.classes[0].ids[0]: must be at most 65535"),
        ("data.ignore=[-1]", "data.ignore[0]: must be at least 0, got -1"),
        (
            f"data.classes={json.dumps([{'name': str(label), 'ids': [label]} for label in range(255)])}",
            "data.classes: expected at most 254 values, got 255",
        ),
        ("model.loss.ohem.threshold=1.5", "model.loss.ohem.threshold: must be at most 1, got 1.5"),
        ("model.backbone.output_stride=8", "expected 16 or 32, got 8"),
    ],
)
def test_contradictions_and_wrong_values_are_told(override, sentence):
    assert sentence in refused("lraspp_scenes", override)


def test_one_source_of_weights():
    both = ("model.weights=a.pth", "model.backbone.weights=b.pth")
    for name in ("lraspp_scenes", "ssdlite_scenes"):
        assert "set one of them to null" in refused(name, *both)
