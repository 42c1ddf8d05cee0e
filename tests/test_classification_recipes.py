"""The shipped classification recipes: the paper's settings, a step of each, what is refused."""

import pytest
import torch
from torchvision.models import MobileNet_V3_Large_Weights

from dettoolkit.classification.build import build_network
from dettoolkit.classification.run import build_task, training_transform
from dettoolkit.complexity import count_madds, count_parameters
from dettoolkit.config import ClassificationRecipe, RecipeError, load_recipe
from dettoolkit.datasets.classification_augment import TrainTransform
from dettoolkit.datasets.samples import to_tensor
from dettoolkit.training.optimizers import RMSpropTF, build_optimizer, rate_factor, scaled_rate

RECIPES = ("imagenet_mnv3_large", "imagenet_mnv3_small", "imagenet_mnv3_large_torchvision")


def recipe_of(name, *overrides):
    recipe = load_recipe(name, overrides).recipe
    assert isinstance(recipe, ClassificationRecipe)
    return recipe


def refused(*overrides):
    with pytest.raises(RecipeError) as caught:
        load_recipe("imagenet_mnv3_large", overrides)
    return str(caught.value)


@pytest.mark.parametrize(("name", "parameters", "madds"), [(RECIPES[0], 5.4, 219), (RECIPES[1], 2.5, 56)])
def test_recipes_have_the_size_of_table_3(name, parameters, madds):
    with torch.device("meta"):
        network = build_network(recipe_of(name), num_classes=1000)
        assert count_parameters(network, norm_affine=True) / 1e6 == pytest.approx(parameters, rel=0.02)
        assert count_madds(network, (224, 224)) / 1e6 == pytest.approx(madds, rel=0.015)


def test_the_torchvision_recipe_has_torchvisions_size_and_score():
    meta = MobileNet_V3_Large_Weights.IMAGENET1K_V1.meta
    network = build_network(recipe_of(RECIPES[2]), num_classes=1000)
    assert count_parameters(network, norm_affine=True) == meta["num_params"] == 5_483_032
    assert f"{count_madds(network, (224, 224)) / 1e9:.3f}" == f"{meta['_ops']:.3f}"
    assert meta["_metrics"]["ImageNet-1K"] == {"acc@1": 74.042, "acc@5": 91.34}


@pytest.mark.parametrize("name", RECIPES[:2])
def test_settings_are_those_of_section_6_1_1(name):
    recipe = recipe_of(name)
    rate = scaled_rate(recipe.optim, 16 * recipe.data.batch_size)
    assert rate == 0.1
    optimizer = build_optimizer(torch.nn.Linear(2, 2), recipe.optim, lr=rate)
    assert isinstance(optimizer, RMSpropTF)
    settings = optimizer.param_groups[0]
    assert (settings["momentum"], settings["weight_decay"]) == (0.9, 1e-5)
    epochs = [0, 2, 3, 5, 6, 300]
    found = [
        rate_factor(epoch * 313, total_steps=600 * 313, epoch_steps=313, schedule=recipe.optim.schedule)
        for epoch in epochs
    ]
    assert found == pytest.approx([1, 1, 0.99, 0.99, 0.9801, 0.99**100])
    assert recipe.model.head.dropout == 0.2
    assert recipe.model.backbone.norm_momentum == 0.01
    assert recipe.trainer.ema.decay == 0.9999
    assert recipe.data.augment.type == "inception"


@pytest.mark.parametrize("overlay", [(), ("finetune_classification.yaml", "model.weights=null")])
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_takes_a_step(name, overlay):
    recipe = recipe_of(name, *overlay)
    network = build_network(recipe, num_classes=5)
    task = build_task(recipe, network, list("abcde"))
    transform = training_transform(recipe.data)
    assert isinstance(transform, TrainTransform)
    image = torch.randint(0, 256, (80, 90, 3), dtype=torch.uint8).numpy()
    batch = {
        "images": torch.stack([to_tensor(transform(image, seed))[:, ::4, ::4] for seed in range(2)]),
        "class_labels": torch.tensor([0, 3]),
    }
    optimizer = build_optimizer(network, recipe.optim, lr=recipe.optim.lr)
    images, targets = task.training_inputs(batch)
    (loss,) = task.losses(network.train()(images), targets).values()
    assert torch.isfinite(loss)
    loss.backward()
    optimizer.step()
    assert all(torch.isfinite(parameter).all() for parameter in network.parameters())


def test_the_overlay_is_for_images_of_ones_own():
    recipe = recipe_of("imagenet_mnv3_small", "finetune_classification.yaml", "data.root=mine")
    assert recipe.model.weights == "torchvision:DEFAULT"
    assert (recipe.optim.type, recipe.optim.schedule.type) == ("adamw", "cosine")
    assert recipe.data.augment.policy == "randaugment"
    assert not hasattr(recipe.data.augment, "color")  # inception's went with its type


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        (
            "model.backbone.tail=reduced",
            "a classifier needs the backbone's full tail at stride 32: set backb",
        ),
        ("model.backbone.output_stride=16", "a classifier needs the backbone's full tail at stride 32"),
        (
            "data.eval_resize=200",
            "eval_resize 200 is less than input_hw [224, 224]: the center crop would exceed",
        ),
        (
            "data.eval_hw=[320, 320]",
            "is less than eval_hw [320, 320]: the center crop would exceed the image; "
            "raise eval_resize to 366",
        ),
        ("data.augment.area=[1.0, 0.1]", "data.augment.area: [1.0, 0.1] must be [min, max]: swap them"),
        ("data.augment.area=[0.1, 1.5]", "data.augment.area[1]: must be at most 1, got 1.5"),
        ("data.augment.erasing=0.2", "a key of type 'torchvision', not of 'inception'"),
        ("data.augment.type=torchvison", "did you mean 'torchvision'?"),
        ("model.loss.mixp=0.2", "unknown key; did you mean 'mixup'?"),
        ("model.head.droput=0.2", "unknown key; did you mean 'dropout'?"),
        ("optim.type=rmspropp", "did you mean 'rmsprop'?"),
        ("optim.schedule.type=exponental", "did you mean 'exponential'?"),
        ("evaluation.figure=3", "unknown key; did you mean 'figures'?"),
        ("evaluation.flip=true", "not a key of this model.type"),
        ("model.weights=a.pth model.backbone.weights=b.pth", "set one of them to null"),
    ],
)
def test_contradictions_and_typos_are_told(override, sentence):
    overrides = override.split(" ") if override.startswith("model.weights") else [override]
    assert sentence in refused(*overrides)
