"""The end of an adaptation: the network is trained at length, and its recipe written."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from dettoolkit.adaptation.adapt import Adaptation, State
from dettoolkit.adaptation.records import Record
from dettoolkit.config import Recipe, ResolvedRecipe
from dettoolkit.inference.whole_files import whole
from dettoolkit.training import commands
from dettoolkit.training.run_folder import LAST

logger = logging.getLogger(__name__)

RECIPE = "recipe.yaml"
WARM_UP = 0.1  # of a shortened training, at most


def finish(adaptation: Adaptation, state: State) -> Record:
    """Write the recipe, train its network at length, and return the journal's last record.

    Interrupted, the training is resumed. The record has the folder of that run (None without a training), its
    score, and the network's milliseconds, measured.
    """
    recipe = adaptation.recipe(state)
    with whole(adaptation.folder / RECIPE) as part:
        part.write_text(written(adaptation.start.name, recipe))
    found = adaptation.journal.find("final")
    if found is not None:
        return found
    run, score = None, state.score
    if adaptation.settings.final_steps != 0:
        run, score = _trained(adaptation, state, recipe)
    milliseconds = adaptation.check(state)["measured"] or state.milliseconds
    return adaptation.journal.add("final", run=run, score=score, milliseconds=milliseconds)


def written(name: str, recipe: Recipe) -> str:
    """Return a recipe as YAML."""
    return ResolvedRecipe(name, recipe, {}).to_yaml()


def _trained(adaptation: Adaptation, state: State, recipe: Recipe) -> tuple[str, float]:
    recipe, name = lengthened(adaptation, state, recipe), adaptation.start.name
    logger.info("training the network at length")
    begun = sorted(Path(recipe.trainer.out, name).glob(f"*/checkpoints/{LAST}.ckpt"))
    resume = begun[-1].parent.parent if begun else None
    run, score = commands.train(name, recipe, config_yaml=written(name, recipe), resume=resume)
    monitor = adaptation.monitor
    return str(run), float(score.numbers[monitor])


def lengthened(adaptation: Adaptation, state: State, recipe: Recipe) -> Recipe:
    """Return the recipe of the last training: where it starts from, how long it is, and where it is kept."""
    settings = adaptation.settings
    trainer: dict[str, Any] = {"out": str(adaptation.folder / "final")}
    if settings.final_steps is not None:
        trainer |= {"max_steps": settings.final_steps, "max_epochs": None}
        most = int(WARM_UP * settings.final_steps)
        schedule = recipe.optim.schedule
        schedule = schedule.model_copy(update={"warmup_steps": min(schedule.warmup_steps, most)})
        recipe = recipe.model_copy(update={"optim": recipe.optim.model_copy(update={"schedule": schedule})})
    weights = None if settings.from_scratch else str(state.weights)
    return recipe.model_copy(
        update={
            "trainer": recipe.trainer.model_copy(update=trainer),
            "model": recipe.model.model_copy(update={"weights": weights}),
        }
    )
