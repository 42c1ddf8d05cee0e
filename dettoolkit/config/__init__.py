"""The recipe of a run: its schema, and how files and the command line become one. Imports no torch."""

from __future__ import annotations

from dettoolkit.config.errors import RecipeError
from dettoolkit.config.files import ResolvedRecipe, json_schema, load_recipe, recipe_from_dict, recipe_to_dict
from dettoolkit.config.layers import find_overlay, find_recipe
from dettoolkit.config.recipe import ClassificationRecipe, DetectionRecipe, Recipe, SegmentationRecipe

__all__ = [
    "ClassificationRecipe",
    "DetectionRecipe",
    "Recipe",
    "RecipeError",
    "ResolvedRecipe",
    "SegmentationRecipe",
    "find_overlay",
    "find_recipe",
    "json_schema",
    "load_recipe",
    "recipe_from_dict",
    "recipe_to_dict",
]
