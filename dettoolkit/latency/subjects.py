"""What latency is asked of: a model's recipe, the networks that it says, and random ones like them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from dettoolkit.backbones.own_blocks import recipe_with, table_of
from dettoolkit.backbones.tables import Bneck, Table, make_divisible
from dettoolkit.config import Recipe, load_recipe
from dettoolkit.formats import FORMATS
from dettoolkit.loading import recipe_of
from dettoolkit.named_models import is_named
from dettoolkit.tasks import spec_of
from dettoolkit.training.run_folder import BEST, LAST, checkpoint_of
from dettoolkit.weights.read import read_checkpoint

# Of random networks, beside the recipe's: widths of the whole and of each stage, expansions over a block's
# input, and how often a block is left out, fused, or has squeeze-and-excite.
WIDTHS, STAGE_WIDTHS, EXPANSIONS, SHORTER = (0.4, 1.2), (0.7, 1.3), (1.0, 6.0), (0.0, 0.5)
FUSED, SQUEEZED = 0.1, 0.4


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Networks of one recipe: its own, and others with another backbone."""

    recipe: Recipe
    classes: int
    input_hw: tuple[int, int]

    @property
    def kind(self) -> str:
        """Return what networks must share for one correction to serve them: model and input size."""
        return f"{self.recipe.model.type} at {self.input_hw[0]}x{self.input_hw[1]}"

    def network(self, recipe: Recipe | None = None, *, shapes_only: bool = False) -> nn.Module:
        """Build the network of a recipe, by default the subject's own, with random weights or none at all."""
        recipe = self.recipe if recipe is None else recipe
        with torch.device("meta" if shapes_only else "cpu"):
            return spec_of(recipe).build_network(recipe, num_classes=self.classes).eval()

    def varied(self, count: int, *, seed: int) -> list[Recipe]:
        """Return recipes of random networks, whose stages halve the image as the recipe's."""
        chance, table = random.Random(seed), table_of(self.recipe.model.backbone)
        return [recipe_with(self.recipe, _random_table(table, chance)) for _ in range(count)]


def subject_of(
    model: Path, extras: Sequence[str] = (), *, input_hw: tuple[int, int] | None = None
) -> Subject:
    """Return what a recipe, a named model, a run's folder or a checkpoint says; weights do not matter.

    `input_hw` takes the place of the recipe's input size, and must be given for none.

    Raises:
        ValueError: an exported file, whose blocks cannot be told apart.
    """
    if model.suffix.lower() in FORMATS:
        raise ValueError(
            f"{model} is an exported file, in which blocks cannot be told apart: use the run folder, the "
            "checkpoint or the recipe that it was exported from"
        )
    if is_named(model):
        recipe = load_recipe(str(model), extras).recipe
        classes, image_hw = spec_of(recipe).zoo_size(recipe)
    else:
        recipe = recipe_of(model, extras)
        description, _ = read_checkpoint(checkpoint_of(model, names=(BEST, LAST)))
        classes, (_, image_hw) = len(description["class_names"]), spec_of(recipe).zoo_size(recipe)
    hw = input_hw or spec_of(recipe).input_hw(recipe) or image_hw
    return Subject(recipe=recipe, classes=classes, input_hw=(hw[0], hw[1]))


def _random_table(table: Table, chance: random.Random) -> Table:
    """Draw another network of as many stages: rows are changed, and those that keep the size left out."""
    width, shorter = chance.uniform(*WIDTHS), chance.uniform(*SHORTER)
    rows: list[Bneck] = []
    before, channels, last_halving = table.stem_channels, 0, table.taps[-1]
    for number, row in enumerate(table.rows, start=1):
        begins = not rows or row.stride == 2
        if not begins and chance.random() < shorter:
            continue
        if begins or row.channels != table.rows[number - 2].channels:
            channels = make_divisible(row.channels * width * chance.uniform(*STAGE_WIDTHS))
        fused = number != last_halving and chance.random() < FUSED
        rows.append(
            replace(
                row,
                kernel=3 if fused else chance.choice((3, 5)),
                expansion=make_divisible(before * chance.uniform(*EXPANSIONS)),
                channels=channels,
                squeeze=chance.random() < SQUEEZED,
                factor=None,
                fused=fused,
                activation=chance.choice(("relu", "hardswish")),
            )
        )
        before = channels
    return replace(table, rows=tuple(rows))
