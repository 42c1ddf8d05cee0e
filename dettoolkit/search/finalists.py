"""The end of a search: its best networks, those of random search and the paper's are trained in full."""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from dettoolkit.config import Recipe
from dettoolkit.formats import requires
from dettoolkit.latency.correction import rank_correlation
from dettoolkit.search.search_settings import write_recipe
from dettoolkit.search.study import study_of
from dettoolkit.search.trials import MILLISECONDS, SCORE, Search
from dettoolkit.training import commands

with requires("search", what="a search"):
    from optuna.trial import FrozenTrial, TrialState

logger = logging.getLogger(__name__)

RESULTS, PAPER = "results.json", "paper"
WIDTHS = (0.1, 4.0)  # between which the paper's network is scaled
HALVINGS = 20  # of that range


@dataclass(frozen=True, kw_only=True)
class Finalist:
    """A network that was trained in full; milliseconds are predicted and measured."""

    name: str
    origin: str  # the sampler that found it, or the paper
    short: float | None  # the score of its short training; None where that diverged
    full: float  # the score of its full training
    predicted_ms: float
    measured_ms: float
    run: str  # the folder of its training


def finish(folder: Path) -> list[Finalist]:
    """Train the finalists in full, measure them in turns, and write `results.json`; go on where it was.

    Raises:
        ValueError: this is not the machine whose latency counts.
    """
    search = Search(folder)
    search.forecast.require_own_table()
    chosen = candidates(search)
    scores = {name: _full(search, name, recipe) for name, (_, recipe, _) in chosen.items()}
    subject = search.forecast.subject
    networks = [subject.network(recipe) for _, recipe, _ in chosen.values()]
    timings = search.forecast.measure(networks).timings
    found = [
        Finalist(
            name=name,
            origin=origin,
            short=short,
            full=scores[name][1],
            predicted_ms=search.milliseconds(recipe),
            measured_ms=timing.median,
            run=str(scores[name][0]),
        )
        for (name, (origin, recipe, short)), timing in zip(chosen.items(), timings, strict=True)
    ]
    content = {
        "target_ms": search.settings.target_ms,
        "trials": {name: _counts(search, name) for name in search.settings.studies},
        "rank_correlation": short_to_full(found),
        "front": [asdict(point) for point in front(search)],
        "networks": [asdict(each) for each in found],
    }
    (folder / RESULTS).write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    return found


def candidates(search: Search) -> dict[str, tuple[str, Recipe, float | None]]:
    """Return origin, recipe and short score of what is trained in full, by name."""
    chosen: dict[str, tuple[str, Recipe, float | None]] = {}
    for study in search.settings.studies:
        for place, trial in enumerate(best_of(search, study), start=1):
            recipe = search.recipe_of(trial.params)
            chosen[f"{study}_{place}"] = study, recipe, trial.user_attrs[SCORE]
    recipe = scaled(search)
    chosen[PAPER] = PAPER, recipe, _short_of(search, recipe)
    return chosen


def best_of(search: Search, study: str) -> list[FrozenTrial]:
    """Return a study's best trials, each of another network."""
    trials = study_of(search.folder, search.settings, study).get_trials(
        deepcopy=False, states=(TrialState.COMPLETE,)
    )
    goal = search.settings.goal
    ranked = sorted(
        trials, key=lambda each: -goal.reward(each.user_attrs[SCORE], each.user_attrs[MILLISECONDS])
    )
    different: list[FrozenTrial] = []
    for trial in ranked:
        if all(trial.params != other.params for other in different):
            different.append(trial)
    return different[: search.settings.best]


def scaled(search: Search) -> Recipe:
    """Return the recipe's network of the paper, at the width whose predicted latency is the target."""
    model = search.recipe.model
    named = model.backbone.model_copy(
        update={"blocks": None, "stem_channels": None, "last_channels": None, "weights": None}
    )

    def at(width: float) -> Recipe:
        backbone = named.model_copy(update={"width": width})
        return search.recipe.model_copy(
            update={"model": model.model_copy(update={"backbone": backbone, "weights": None})}
        )

    low, high = WIDTHS
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if search.milliseconds(at(middle)) > search.settings.target_ms:
            high = middle
        else:
            low = middle
    return at(round(low, 4))


def _short_of(search: Search, recipe: Recipe) -> float | None:
    """Train the paper's network for as long as a trial, and keep the score."""
    kept = search.folder / f"{PAPER}.json"
    if kept.is_file():
        score: float | None = json.loads(kept.read_text())["short"]
        return score
    out = search.folder / "trials" / PAPER / "last.safetensors"
    steps, start = search.settings.steps, Path(search.settings.start)
    _, score = search.short(recipe, start=start, steps=steps, out=out)
    shutil.rmtree(out.parent, ignore_errors=True)
    kept.write_text(json.dumps({"short": score}) + "\n")
    return score


def _full(search: Search, name: str, recipe: Recipe) -> tuple[Path, float]:
    """Train a network by its recipe, or go on with its training; return the run's folder and the score."""
    out = search.folder / "full"
    recipe = recipe.model_copy(update={"trainer": recipe.trainer.model_copy(update={"out": str(out)})})
    runs = sorted((out / name).glob("*")) if (out / name).is_dir() else []
    finished = next((run for run in runs if (run / "evaluation.json").is_file()), None)
    if finished is None:
        resumable = [run for run in runs if any((run / "checkpoints").glob("*.ckpt"))]
        (search.folder / "recipes").mkdir(exist_ok=True)
        text = write_recipe(search.folder / "recipes" / f"{name}.yaml", recipe)
        logger.info("%s: training in full", name)
        resume = resumable[-1] if resumable else None
        finished, _ = commands.train(name, recipe, config_yaml=text, resume=resume)
    content = json.loads((finished / "evaluation.json").read_text())
    return finished, float(content["numbers"][content["about"]["monitor"]])


def short_to_full(finalists: Sequence[Finalist]) -> float | None:
    """Return the rank correlation of short and full scores; None for fewer than three networks."""
    pairs = [(each.short, each.full) for each in finalists if each.short is not None]
    if len(pairs) < 3:
        return None
    return rank_correlation([short for short, _ in pairs], [full for _, full in pairs])


@dataclass(frozen=True, kw_only=True)
class Point:
    """A trial by which no other one is better in both score and latency."""

    study: str
    trial: int
    score: float
    milliseconds: float


def front(search: Search) -> list[Point]:
    """Return the Pareto front of all trials, the fastest first."""
    points = [
        Point(
            study=name,
            trial=each.number,
            score=each.user_attrs[SCORE],
            milliseconds=each.user_attrs[MILLISECONDS],
        )
        for name in search.settings.studies
        for each in study_of(search.folder, search.settings, name).get_trials(
            deepcopy=False, states=(TrialState.COMPLETE,)
        )
    ]
    kept: list[Point] = []
    best = -math.inf
    for point in sorted(points, key=lambda each: (each.milliseconds, -each.score)):
        if point.score > best:
            kept.append(point)
            best = point.score
    return kept


def _counts(search: Search, study: str) -> dict[str, int]:
    """Return how many trials of a study were finished, and given up early."""
    trials = study_of(search.folder, search.settings, study).get_trials(deepcopy=False)
    states = {"finished": TrialState.COMPLETE, "given_up": TrialState.PRUNED}
    return {name: sum(each.state == state for each in trials) for name, state in states.items()}
