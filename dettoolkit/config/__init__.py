"""The recipe of a run: its schema, and how files and the command line become one. Imports no torch."""

from dettoolkit.config.errors import RecipeError
from dettoolkit.config.files import ResolvedRecipe, find_recipe, load_recipe, recipe_to_dict, shipped_folder
from dettoolkit.config.recipe import (
    ClassificationRecipe,
    DetectionRecipe,
    JointRecipe,
    Recipe,
    SegmentationRecipe,
)

__all__ = [
    "ClassificationRecipe",
    "DetectionRecipe",
    "JointRecipe",
    "Recipe",
    "RecipeError",
    "ResolvedRecipe",
    "SegmentationRecipe",
    "find_recipe",
    "load_recipe",
    "recipe_to_dict",
    "shipped_folder",
]
