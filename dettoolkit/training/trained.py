"""A trained model as a network: from its name, a run's folder, a checkpoint or a published folder."""

from __future__ import annotations

from pathlib import Path

import torchvision

from dettoolkit.config import Recipe, load_recipe, recipe_to_dict
from dettoolkit.manifest import Manifest
from dettoolkit.named_models import is_named, named_classes, named_recipe
from dettoolkit.network import Network
from dettoolkit.run import Classes
from dettoolkit.tasks import spec_of
from dettoolkit.training.run_folder import BEST, LAST, checkpoint_of, stored_recipe
from dettoolkit.weights.load import load_trained
from dettoolkit.weights.read import read_checkpoint


def open_model(model: Path, recipe: Recipe | None = None) -> tuple[Manifest, Network]:
    """Build the network of a model, load its weights and describe it.

    Args:
        model: a run's folder, of which the best checkpoint is taken, a checkpoint, a published folder, or a
            named model.
        recipe: takes the place of the model's own.
    """
    if is_named(model):
        recipe = recipe or named_recipe(model)
        classes, name = named_classes(model, recipe), model.stem
        spec = spec_of(recipe)
        network = spec.build_network(recipe, num_classes=len(classes.names), pretrained=True, exact=True)
        versions = {"weights": str(recipe.model.weights), "torchvision": str(torchvision.__version__)}
        return _described(name, recipe, network, classes, versions), network
    checkpoint = checkpoint_of(model, names=(BEST, LAST))
    description, state = read_checkpoint(checkpoint)
    if recipe is None:
        with stored_recipe(checkpoint) as config:
            recipe = load_recipe(str(config)).recipe
    classes = Classes(description["class_names"], description["class_ids"])
    network = spec_of(recipe).build_network(recipe, num_classes=len(classes.names))
    load_trained(network, state, source=str(checkpoint))
    return _described(description["name"], recipe, network, classes, description["versions"]), network


def _described(
    name: str, recipe: Recipe, network: Network, classes: Classes, versions: dict[str, str]
) -> Manifest:
    spec = spec_of(recipe)
    return Manifest(
        name=name,
        mean=recipe.data.mean,
        std=recipe.data.std,
        input_hw=spec.input_hw(recipe),
        **spec.fitting(recipe),
        recipe=recipe_to_dict(recipe),
        versions=versions,
        tasks={spec.name: spec.describe(recipe, network, classes=classes)},
    )
