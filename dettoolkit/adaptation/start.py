"""The trained network that is adapted: its recipe and checkpoint, and the networks that come of it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch
from torch import nn

from dettoolkit.adaptation.milliseconds import Latency
from dettoolkit.adaptation.proposals import smallest, spaces, widths, with_channels
from dettoolkit.adaptation.settings import Settings
from dettoolkit.backbones.own_blocks import recipe_with, table_of
from dettoolkit.backbones.tables import Table
from dettoolkit.config import Recipe
from dettoolkit.loading import recipe_of
from dettoolkit.tasks import spec_of
from dettoolkit.training.finetune import Trial
from dettoolkit.training.run_folder import BEST, LAST, checkpoint_of
from dettoolkit.weights.read import read_checkpoint

LEARNED = (0.75, 0.5, 0.25)  # of each space: widths whose blocks are measured at the beginning


class Start:
    """A trained network, by its settings."""

    def __init__(self, settings: Settings, latency: Latency) -> None:
        self.settings, self.latency = settings, latency
        model = Path(settings.model)
        self.recipe: Recipe = recipe_of(model, settings.extras)
        self.checkpoint = checkpoint_of(model, names=(BEST, LAST))
        description, _ = read_checkpoint(self.checkpoint)
        self.name, self.classes = str(description["name"]), len(description["class_names"])
        self.table = table_of(self.recipe.model.backbone)
        self.milliseconds = cache(self._milliseconds)

    def network(self, recipe: Recipe, *, shapes_only: bool = False) -> nn.Module:
        """Build a recipe's network for the start's classes, with random weights or with shapes only."""
        with torch.device("meta" if shapes_only else "cpu"):
            return spec_of(recipe).build_network(recipe, num_classes=self.classes).eval()

    def _milliseconds(self, table: Table) -> float:
        return self.latency.predict(self.network(recipe_with(self.recipe, table), shapes_only=True))

    def trial(self, weights: Path, table: Table, *, steps: int, step: int, out: Path) -> Trial:
        """Return the short fine-tune of a table's network; trials of one step see the same images."""
        return Trial(
            name=self.name,
            recipe=recipe_with(self.recipe, table),
            start=weights,
            by=self.settings.by,
            steps=steps,
            lr_factor=self.settings.lr_factor,
            seed=self.settings.seed + step,
            out=out,
        )

    def measure(self) -> float:
        """Measure the network, and blocks that predictions of narrower ones need; return its milliseconds.

        Raises:
            ValueError: the target is none: no network reaches it, this one has it, or the steps end above it.
        """
        tables = dict.fromkeys([self.table, *self._samples()])
        self.latency.learn(self.network(recipe_with(self.recipe, table)) for table in tables)
        milliseconds = self.latency.anchor(self.network(recipe_with(self.recipe, self.table)))
        self._check_target(self.settings.target(milliseconds), milliseconds)
        return milliseconds

    def _samples(self) -> Iterator[Table]:
        """Yield networks whose blocks tell about those of narrower ones."""
        yield smallest(self.table, self.settings.divisor)
        for space in spaces(self.table):
            channels = space.channels(self.table)
            counts = widths(channels, self.settings.divisor)
            for fraction in LEARNED if counts else ():
                count = min(counts, key=lambda each: abs(each - fraction * channels))
                yield with_channels(self.table, space, count) or self.table

    def _check_target(self, target: float, start: float) -> None:
        least = self.milliseconds(smallest(self.table, self.settings.divisor))
        if target < least:
            raise ValueError(
                f"the target is {target:.3g} ms, but the smallest network of this form, with "
                f"{self.settings.divisor} channels or a few more everywhere, takes {least:.3g} ms "
                "(predicted): set a target above that, a smaller input size, or start from fewer blocks"
            )
        if target >= start:
            raise ValueError(
                f"the target is {target:.3g} ms, and the network takes {start:.3g} ms: nothing is to be done"
            )
        saved, decay = self.settings.reduction, self.settings.decay
        most = saved / (1 - decay) if decay < 1 else float("inf")
        if most <= 1 - target / start:
            raise ValueError(
                f"all steps together save {most:.0%} of the start's latency, but {1 - target / start:.0%} "
                "must be saved: set a larger --reduction, or a --decay nearer to 1"
            )
