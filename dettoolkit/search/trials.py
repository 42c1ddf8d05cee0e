"""One trial of a search: a network is proposed, its latency predicted, and trained for a short while."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dettoolkit.backbones.own_blocks import recipe_with, table_of
from dettoolkit.config import Recipe
from dettoolkit.config.space import load_space
from dettoolkit.formats import requires
from dettoolkit.search.networks import Choice, NetworkSpace
from dettoolkit.search.search_settings import SPACE, load_settings
from dettoolkit.training.finetune import Trial, finetune

with requires("search", what="a search"):
    import optuna
    from optuna.trial import FrozenTrial, TrialState

logger = logging.getLogger(__name__)

EARLY = 0.25  # fraction of a trial's steps after which a bad one is given up
MILLISECONDS, SCORE, EARLY_SCORE, MONITOR = "milliseconds", "score", "early_score", "monitor"


class Search:
    """What the trials of a search share; opened once in each process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings, self.recipe = load_settings(folder)
        self.space = NetworkSpace(table_of(self.recipe.model.backbone), load_space(folder / SPACE).space)
        self.forecast = self.settings.forecast(self.recipe, folder)

    def recipe_of(self, chosen: Mapping[str, Choice]) -> Recipe:
        """Return the recipe of a network of the space."""
        return recipe_with(self.recipe, self.space.network(chosen))

    def milliseconds(self, recipe: Recipe) -> float:
        """Predict the latency of a recipe's network."""
        network = self.forecast.subject.network(recipe, shapes_only=True)
        return self.forecast.predict(network).milliseconds

    def short(self, recipe: Recipe, *, start: Path, steps: int, out: Path) -> tuple[str, float | None]:
        """Train a recipe's network for some steps; return the score's name and the score; see `Tried`."""
        out.parent.mkdir(parents=True, exist_ok=True)
        return finetune(
            Trial(
                name=self.settings.name,
                recipe=recipe,
                start=start,
                by="norm",
                steps=steps,
                lr_factor=1.0,
                seed=self.settings.seed,  # the same for all: what differs is the network
                out=out,
            )
        )

    def run(self, trial: optuna.Trial) -> tuple[float, ...]:
        """Run a trial and return the objective's values.

        Raises:
            optuna.TrialPruned: it was worse than the others after a fraction of its steps, or diverged.
        """
        chosen: dict[str, Any] = {
            name: trial.suggest_categorical(name, options) for name, options in self.space.parameters.items()
        }
        recipe = self.recipe_of(chosen)
        milliseconds = self.milliseconds(recipe)
        trial.set_user_attr(MILLISECONDS, milliseconds)
        others = trial.study.get_trials(deepcopy=False)
        known = self._same(others, trial)
        if known is not None:
            for name, value in known.user_attrs.items():
                trial.set_user_attr(name, value)
            return tuple(known.values)
        place = self.folder / "trials" / f"{trial.study.study_name}_{trial.number}"
        try:
            score = self._train(trial, recipe, milliseconds, others, place)
        finally:
            shutil.rmtree(place, ignore_errors=True)
        return self.settings.goal.values(score, milliseconds)

    def _train(
        self,
        trial: optuna.Trial,
        recipe: Recipe,
        milliseconds: float,
        others: list[FrozenTrial],
        place: Path,
    ) -> float:
        """Train in two parts, the first of which may be the last; return the score."""
        first = max(1, round(EARLY * self.settings.steps))
        weights = place / "early.safetensors"
        monitor, early = self.short(recipe, start=Path(self.settings.start), steps=first, out=weights)
        trial.set_user_attr(MONITOR, monitor)
        if early is None:
            raise optuna.TrialPruned("the loss was not finite")
        trial.set_user_attr(EARLY_SCORE, early)
        before = [
            (each.user_attrs[EARLY_SCORE], each.user_attrs[MILLISECONDS])
            for each in others
            if each.number < trial.number and EARLY_SCORE in each.user_attrs
        ]
        if self.settings.goal.is_bad((early, milliseconds), before):
            raise optuna.TrialPruned(f"after {first} steps worse than the trials before")
        left = self.settings.steps - first
        score: float | None = early
        if left:
            _, score = self.short(recipe, start=weights, steps=left, out=place / "last.safetensors")
        if score is None:
            raise optuna.TrialPruned("the loss was not finite")
        trial.set_user_attr(SCORE, score)
        return score

    @staticmethod
    def _same(others: list[FrozenTrial], trial: optuna.Trial) -> FrozenTrial | None:
        """Return a finished trial of the same network."""
        same = (
            each
            for each in others
            if each.number != trial.number
            and each.state == TrialState.COMPLETE
            and each.params == dict(trial.params)
        )
        return next(same, None)


def told(trial: FrozenTrial | optuna.Trial, state: str) -> str:
    """Return a line about a trial that has ended."""
    attributes: dict[str, Any] = trial.user_attrs
    score = attributes.get(SCORE, attributes.get(EARLY_SCORE))
    shown = "no score" if score is None else f"{attributes[MONITOR]} {score:.4f}"
    return f"trial {trial.number}: {shown}, {attributes.get(MILLISECONDS, 0.0):.3f} ms, {state}"
