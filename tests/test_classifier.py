"""The classifier: torchvision's outputs with its weights, the papers' sizes, what starts from one."""

import logging

import pytest
import torch
import torchvision
from random_weights import randomize
from torch import nn

from dettoolkit.classification.build import build_network
from dettoolkit.complexity import count_madds, count_parameters
from dettoolkit.config import load_recipe
from dettoolkit.config.classification import ClassifierModel
from dettoolkit.config.recipe import ClassificationRecipe
from dettoolkit.heads.classifier import ClassifierHead
from dettoolkit.tasks import spec_of
from dettoolkit.weights.load import load_network, load_pretrained


def model_of(network="mobilenet_v3_small", head=None, weights=None, **backbone):
    return ClassifierModel.model_validate(
        {
            "type": "classifier",
            "backbone": {"type": network, **backbone},
            "head": head or {},
            "weights": weights,
        }
    )


def classifier(network="mobilenet_v3_small", *, classes=1000, head=None, **backbone):
    return build_network(
        ClassificationRecipe.model_construct(model=model_of(network, head, **backbone)), num_classes=classes
    )


def images(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def give_linear_layers_weight(module):
    """Draw the linear layers too, for `randomize` knows convolutions only."""
    generator = torch.Generator().manual_seed(1)
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            layer.weight.data.normal_(0, layer.in_features**-0.5, generator=generator)
            layer.bias.data.normal_(0, 0.1, generator=generator)
    return module


# Outputs


@pytest.mark.parametrize(
    ("network", "theirs", "eps"),
    [
        ("mobilenet_v3_large", "mobilenet_v3_large", 0.001),
        ("mobilenet_v3_small", "mobilenet_v3_small", 0.001),
        ("mobilenet_v2", "mobilenet_v2", 1e-5),
        ("mnasnet_b1", "mnasnet1_0", 1e-5),
    ],
)
def test_torchvisions_whole_networks_load_with_equal_logits(network, theirs, eps, tmp_path, caplog):
    reference = torchvision.models.get_model(theirs, weights=None, num_classes=17)
    give_linear_layers_weight(randomize(reference))
    torch.save(reference.state_dict(), tmp_path / "weights.pth")
    model = model_of(network, norm_eps=eps, weights=str(tmp_path / "weights.pth"))
    ours = build_network(
        ClassificationRecipe.model_construct(model=model), num_classes=17, pretrained=True, exact=True
    ).eval()
    assert not caplog.records  # nothing is missing, surplus or replaced
    assert count_parameters(ours, norm_affine=True) == sum(p.numel() for p in reference.parameters())
    for size in ((64, 64), (97, 65)):
        x = images(2, 3, *size)
        wanted = reference(x)
        assert wanted.std() > 0.01
        torch.testing.assert_close(ours(x) / wanted.std(), wanted / wanted.std(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("width", [0.75, 1.25])
def test_torchvisions_other_widths_load_too(width):
    config, last = torchvision.models.mobilenetv3._mobilenet_v3_conf("mobilenet_v3_small", width_mult=width)
    reference = torchvision.models.MobileNetV3(config, last, num_classes=5)
    give_linear_layers_weight(randomize(reference))
    ours = classifier(classes=5, head={"scale_hidden": True}, width=width).eval()
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in reference.parameters())


def test_class_layers_of_another_size_start_fresh_or_are_refused(tmp_path, caplog):
    source = tmp_path / "weights.pth"
    trained = classifier(classes=4)
    torch.save(trained.state_dict(), source)
    model = model_of(weights=str(source))
    fresh = build_network(ClassificationRecipe.model_construct(model=model), num_classes=3, pretrained=True)
    assert "heads.classification.classifier.weight (4, 1024) -> (3, 1024)" in caplog.text
    assert torch.equal(
        fresh.heads["classification"].hidden[0].weight, trained.heads["classification"].hidden[0].weight
    )
    with pytest.raises(
        ValueError, match=r"predicts a different number of classes than the 3 of the data set \(2 t"
    ):
        build_network(
            ClassificationRecipe.model_construct(model=model), num_classes=3, pretrained=True, exact=True
        )
    large = classifier("mobilenet_v3_large")
    with pytest.raises(ValueError, match=r"check the recipe's model against the network of that file"):
        load_network(large, str(source), torchvision_model="mobilenet_v3_large")


def test_the_head_alone_by_hand():
    head = ClassifierHead(
        in_channels=2,
        hidden_channels=None,
        activation=nn.ReLU,
        num_classes=2,
        dropout=0.5,
        init=nn.Identity(),
    ).eval()
    head.classifier.weight.data = torch.tensor([[1.0, 0.0], [1.0, -1.0]])
    head.classifier.bias.data = torch.tensor([0.5, 0.0])
    c5 = torch.tensor([[[[1.0, 3.0]], [[4.0, 6.0]]]])  # means 2 and 5
    assert head(c5).tolist() == [[2.5, -3.0]]
    assert {tuple(head.train()(c5)[0].tolist()) for _ in range(40)} == {
        (0.5, 0.0),  # what is dropped is 0, what is kept is doubled
        (4.5, 4.0),
        (0.5, -10.0),
        (4.5, -6.0),
    }


def test_hidden_layers_are_those_of_the_tables():
    hidden = {
        "mobilenet_v3_large": (1280, nn.Hardswish),
        "mobilenet_v3_small": (1024, nn.Hardswish),
        "mobilenet_v3_large_minimalistic": (1280, nn.ReLU),
    }
    with torch.device("meta"):
        for network, (channels, activation) in hidden.items():
            linear, after = classifier(network).heads["classification"].hidden
            assert (linear.out_features, type(after)) == (channels, activation)
        for network in ("mobilenet_v1", "mobilenet_v2", "mnasnet_a1", "mnasnet_b1"):
            assert isinstance(classifier(network).heads["classification"].hidden, nn.Identity)


@pytest.mark.parametrize("padding", ["symmetric", "same"])
def test_strict_export_takes_any_number_of_images(padding):
    network = classifier(width=0.35, classes=5, padding=padding).eval()
    batch = torch.export.Dim("batch", min=1, max=8)
    program = torch.export.export(network, (images(2, 3, 65, 97),), dynamic_shapes=({0: batch},), strict=True)
    for count in (1, 3):
        x = images(count, 3, 65, 97)
        torch.testing.assert_close(program.module()(x), network(x))


def test_initial_weights_are_tensorflows_or_torchvisions():
    torch.manual_seed(0)
    ours = classifier("mobilenet_v3_large")
    weight = ours.heads["classification"].hidden[0].weight
    assert weight.std().item() == pytest.approx(
        0.88 * 0.09, rel=0.01
    )  # of a normal cut off at two deviations
    assert weight.abs().max() <= 0.18
    assert not ours.heads["classification"].classifier.bias.any()
    theirs = classifier("mobilenet_v3_large", head={"init": "kaiming"})
    reference = torchvision.models.mobilenet_v3_large()
    for mine, other in (
        (theirs.heads["classification"].hidden[0], reference.classifier[0]),
        (theirs.backbone.last[0], reference.features[16][0]),
        (theirs.backbone.stem[0], reference.features[0][0]),
    ):
        assert mine.weight.std().item() == pytest.approx(other.weight.std().item(), rel=0.1)


# Sizes


@pytest.mark.parametrize(
    ("network", "width", "parameters", "madds"),
    [
        # Table 3: parameters, MAdds in millions.
        ("mobilenet_v3_large", 1.0, "5.5", 219),  # 5,483,032 are the 5.4M of the table: cut off, not rounded
        ("mobilenet_v3_small", 1.0, "2.5", 56),
        ("mobilenet_v3_small", 0.75, "2.0", None),
        ("mobilenet_v2", 1.0, "3.5", 300),  # 3.47M without normalization are the table's 3.4M
        ("mobilenet_v2", 0.35, "1.7", 59.2),
        ("mnasnet_a1", 1.0, "3.9", 315),
        # MobileNetV1's own paper, Table 8.
        ("mobilenet_v1", 1.0, "4.2", 569),
        # Table 9.
        ("mobilenet_v3_large", 0.5, "2.7", None),
        ("mobilenet_v3_large", 0.35, "2.1", None),
    ],
)
def test_networks_have_the_papers_size(network, width, parameters, madds):
    with torch.device("meta"):
        ours = classifier(network, width=width)
        assert f"{count_parameters(ours, norm_affine=True) / 1e6:.1f}" == parameters
        if madds is not None:
            assert count_madds(ours, (224, 224)) / 1e6 == pytest.approx(madds, rel=0.015)


def test_the_hidden_layer_is_whole_at_small_widths_as_the_published_sizes_have_it():
    with torch.device("meta"):
        whole, scaled = (
            count_parameters(
                classifier("mobilenet_v3_large", width=0.75, head={"scale_hidden": each}), norm_affine=True
            )
            / 1e6
            for each in (False, True)
        )
    assert whole == pytest.approx(4.0, abs=0.1)  # Table 3
    assert scaled == pytest.approx(3.4, abs=0.1)


# What starts from a classifier


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Return what Lightning saves of a classifier, and the classifier."""
    trained = give_linear_layers_weight(randomize(classifier(width=0.35, classes=3)))
    path = tmp_path_factory.mktemp("classifier") / "best.ckpt"
    state = {f"network.{key}": value for key, value in trained.state_dict().items()}
    torch.save({"state_dict": state}, path)
    return path, trained


@pytest.mark.parametrize(
    ("name", "tail"),
    [
        ("ssdlite_mnv3_small", "full"),
        ("ssdlite_mnv3_small", "reduced"),
        ("lraspp_mnv3_small", "full"),
        ("lraspp_mnv3_small", "reduced_c4"),
    ],
)
def test_a_classifiers_checkpoint_starts_a_detector_and_a_segmenter(checkpoint, name, tail, caplog):
    (path, trained), reduced = checkpoint, tail != "full"
    overrides = ("model.backbone.width=0.35", f"model.backbone.tail={tail}", f"model.backbone.weights={path}")
    recipe = load_recipe(name, overrides).recipe
    network = spec_of(recipe).build_network(recipe, num_classes=2)
    with caplog.at_level(logging.WARNING):
        load_pretrained(network, recipe.model, torchvision_model="", exact=None)
    ours, theirs = network.backbone.state_dict(), trained.backbone.state_dict()
    assert ours.keys() == theirs.keys()
    assert (
        "4 tensors of the file are not in the network: heads.classification.hidden.0.weight, " in caplog.text
    )
    tail = [key for key in ours if ours[key].shape != theirs[key].shape]
    assert bool(tail) == reduced
    assert all(key.startswith(("last.", *(f"blocks.{row}." for row in (8, 9, 10)))) for key in tail)
    assert ("newly initialized" in caplog.text) == reduced
    for key in ours.keys() - set(tail):
        if not key.endswith("num_batches_tracked"):
            assert torch.equal(ours[key], theirs[key]), key


def test_a_classifiers_checkpoint_starts_a_classifier_of_other_classes(checkpoint, caplog):
    path, trained = checkpoint
    model = model_of(width=0.35, weights=str(path))
    fresh = build_network(ClassificationRecipe.model_construct(model=model), num_classes=7, pretrained=True)
    assert torch.equal(
        fresh.heads["classification"].hidden[0].weight, trained.heads["classification"].hidden[0].weight
    )
    assert fresh.heads["classification"].classifier.weight.shape == (7, 1024)
    same = build_network(
        ClassificationRecipe.model_construct(model=model), num_classes=3, pretrained=True, exact=True
    ).eval()
    x = images(1, 3, 64, 64)
    assert torch.equal(same(x), trained.eval()(x))
