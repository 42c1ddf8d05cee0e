"""Fused networks against the networks themselves."""

import pytest
import torch
from random_weights import randomize
from torch import nn

from dettoolkit.config import load_recipe
from dettoolkit.formats.pytorch import Pointwise, PytorchEngine, fused, with_products
from dettoolkit.tasks import spec_of

RECIPES = ["ssdlite_mnv3_large", "ssdlite_mnv3_large_torchvision", "lraspp_mnv3_large", "lraspp_mnv3_small"]


@pytest.mark.parametrize("name", RECIPES)
def test_a_network_gives_the_same_without_its_normalization(name):
    recipe = load_recipe(name).recipe
    network = randomize(spec_of(recipe).build_network(recipe, num_classes=5))
    state = {key: value.clone() for key, value in network.state_dict().items()}
    images = torch.randn(2, 3, 96, 128, generator=torch.Generator().manual_seed(1))
    engine = PytorchEngine(network, torch.device("cpu"))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in engine.network.modules())
    with torch.no_grad():
        wanted = network(images)
    for mine, theirs in zip(engine(images), [wanted] if name.startswith("lraspp") else wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4 * float(theirs.std()))
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


def test_a_network_in_training_is_left_so():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).train()
    copy = fused(network)
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert not any(module.training for module in copy.modules())
    images = torch.randn(2, 3, 5, 5)
    torch.testing.assert_close(copy(images), network.eval()(images))


def test_only_plain_1x1_convolutions_become_products():
    convolutions = [
        nn.Conv2d(4, 6, 1),
        nn.Conv2d(4, 6, 1, bias=False),
        nn.Conv2d(4, 6, 1, stride=2),
        nn.Conv2d(4, 6, 1, padding=1),
        nn.Conv2d(4, 6, 1, groups=2),
        nn.Conv2d(4, 6, (1, 3)),
    ]
    images = torch.randn(2, 4, 5, 7)
    for number, convolution in enumerate(convolutions):
        network = nn.Sequential(convolution, nn.ReLU())
        copy = with_products(fused(network))
        assert isinstance(copy[0], Pointwise) == (number < 2)
        torch.testing.assert_close(copy(images), network(images))


def test_normalization_of_anything_else_stays():
    for network in (
        nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.BatchNorm2d(3)),
        nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)),
        nn.ModuleList([nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)]),  # in no order that is known
    ):
        randomize(network)
        assert sum(isinstance(module, nn.BatchNorm2d) for module in fused(network).modules()) == 1
