"""Models by name: the shipped recipes whose weights torchvision publishes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dettoolkit.config import Recipe, RecipeError, find_recipe, load_recipe, shipped_folder
from dettoolkit.config.errors import closest, did_you_mean
from dettoolkit.run import Classes
from dettoolkit.tasks import spec_of
from dettoolkit.weights.published import TORCHVISION, Published, published
from dettoolkit.weights.read import description_of


def ready_models() -> dict[str, Recipe]:
    """Return every shipped recipe that names published weights of its whole network, by name."""
    recipes = {path.stem: load_recipe(path.stem).recipe for path in sorted(shipped_folder().glob("*.yaml"))}
    return {name: recipe for name, recipe in recipes.items() if is_published(recipe)}


def is_published(recipe: Recipe) -> bool:
    """Return whether a recipe names weights that torchvision publishes."""
    weights = recipe.model.weights
    return weights is not None and weights.startswith(TORCHVISION)


def published_of(recipe: Recipe) -> Published:
    """Return what torchvision says of the weights that a recipe names."""
    return published(str(recipe.model.weights), spec_of(recipe).torchvision_model(recipe))


def is_named(model: Path) -> bool:
    """Return whether a model is given by a recipe: the name of a shipped one, or a YAML file.

    What exists under that name is no recipe's name.

    Raises:
        FileNotFoundError: nothing is there, and no recipe has that name; the message has the closest ones.
    """
    if model.suffix in (".yaml", ".yml"):
        return True
    if model.exists() or model.suffix or model.parent != Path():
        return False
    try:
        find_recipe(str(model))
    except RecipeError:
        near = did_you_mean(closest(str(model), [path.stem for path in shipped_folder().glob("*.yaml")]))
        raise FileNotFoundError(
            f"there is no model '{model}'{near or '.'} Use a run folder, a checkpoint, an exported "
            "file, or a name that 'dettoolkit models' lists"
        ) from None
    return True


def named_recipe(model: Path, extras: Sequence[str] = ()) -> Recipe:
    """Load the recipe of a named model.

    Raises:
        ValueError: it names no weights.
    """
    recipe = load_recipe(str(model), extras).recipe
    if recipe.model.weights is None:
        raise ValueError(
            f"the recipe {model.stem} names no weights of a trained network: train it, or give some by "
            "model.weights=FILE; 'dettoolkit models' lists those that are ready"
        )
    return recipe


def named_classes(model: Path, recipe: Recipe) -> Classes:
    """Return the classes of a named model: its checkpoint's, or those that torchvision lists.

    Raises:
        ValueError: the weights are a file without class names, and the recipe itself names none either.
    """
    weights = str(recipe.model.weights)
    if not weights.startswith(TORCHVISION):
        description = description_of(Path(weights))
        if description is not None:
            return Classes(list(description["class_names"]), list(description["class_ids"]))
        recipe = load_recipe(str(model)).recipe  # a file in the place of the published weights
        if not is_published(recipe):
            raise ValueError(
                f"{weights} does not name its classes, and the recipe {model.stem} has no published ones: "
                "train or evaluate with it, or give a checkpoint of dettoolkit"
            )
    return spec_of(recipe).published_classes(recipe, published_of(recipe).categories)


def weights_file(recipe: Recipe) -> Path:
    """Return the file of the weights that a named model's recipe names, fetched or not."""
    return published_of(recipe).cached if is_published(recipe) else Path(str(recipe.model.weights))
