"""The begin of a search: everything that can be refused is, and predictions of latency are made ready."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dettoolkit.backbones.own_blocks import recipe_with, table_of
from dettoolkit.config import Recipe
from dettoolkit.config.space import load_space
from dettoolkit.destinations import check_free
from dettoolkit.latency.forecast import Forecast
from dettoolkit.latency.runtimes import Runtime
from dettoolkit.latency.subjects import Subject, subject_of
from dettoolkit.search.networks import NetworkSpace, check_space
from dettoolkit.search.objectives import Kind
from dettoolkit.search.search_settings import RECIPE, SPACE, TABLE, Settings, write_recipe
from dettoolkit.tasks import spec_of
from dettoolkit.training.run_folder import BEST, LAST, checkpoint_of
from dettoolkit.training.trained import open_model

SAMPLE = 24  # random networks of the space whose blocks are measured, as far as `blocks` goes


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is wanted of a search; see `Settings` for what is not explained here.

    Attributes:
        recipe: whose data, head and schedule all networks have.
        name: of the recipe.
        space: file of the space.
        start: a trained run of the recipe's network, or a checkpoint.
        table: file of the latency table; None for the user's cache folder.
        blocks: most blocks that are measured for it.
    """

    recipe: Recipe
    name: str
    space: Path
    start: Path
    target_ms: float
    runtime: Runtime
    table: Path | None
    blocks: int
    sampler: str
    objective: Kind
    exponents: tuple[float, float]
    weight: float
    trials: int
    steps: int
    best: int
    seed: int
    storage: str | None = None


def begin(request: Request, folder: Path, *, tell: Callable[[str], None]) -> Settings:
    """Check what is wanted, measure blocks, and write the folder of a new search.

    Raises:
        FileExistsError: the folder has something in it.
        RecipeError: the space is wrong.
        ValueError: not even the smallest network of the space reaches the target.
    """
    check_free(folder)
    request.runtime.check()
    table = table_of(request.recipe.model.backbone)
    file = load_space(request.space)
    check_space(file, table)
    space = NetworkSpace(table, file.space)
    start = checkpoint_of(request.start, names=(BEST, LAST)).resolve()
    known = subject_of(start)
    subject = Subject(recipe=request.recipe, classes=known.classes, input_hw=_input_hw(request, known))
    forecast = Forecast(subject, request.runtime, path=request.table)
    chance = random.Random(request.seed)
    sample = [space.smallest(), *(space.random(chance) for _ in range(SAMPLE))]
    _, trained = open_model(start)
    forecast.learn([trained], tell=tell)
    networks = [subject.network(recipe_with(request.recipe, space.network(each))) for each in sample]
    forecast.learn(networks, most=request.blocks, tell=tell)
    forecast.anchor(trained, tell=tell)
    least = forecast.predict(networks[0]).milliseconds
    if least > request.target_ms:
        raise ValueError(
            f"--target-ms {request.target_ms:g}: the smallest network of {request.space} takes "
            f"{least:.3f} ms; set a target of at least that, add smaller widths, or use a smaller input size"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_recipe(folder / RECIPE, request.recipe)
    (folder / SPACE).write_bytes(request.space.read_bytes())
    settings = Settings(
        name=request.name,
        start=str(start),
        target_ms=request.target_ms,
        runtime=request.runtime.name,
        threads=request.runtime.threads,
        input_hw=subject.input_hw,
        classes=subject.classes,
        factor=forecast.factor,
        sampler=request.sampler,
        objective=request.objective,
        exponents=request.exponents,
        weight=request.weight,
        trials=request.trials,
        steps=request.steps,
        best=request.best,
        seed=request.seed,
        storage=request.storage,
    )
    forecast.table.save(folder / TABLE)
    settings.save(folder)  # the last: a folder with it has a search
    return settings


def _input_hw(request: Request, known: Subject) -> tuple[int, int]:
    """Return the size of the recipe's input; of one that takes any size, the start's."""
    hw = spec_of(request.recipe).input_hw(request.recipe)
    return known.input_hw if hw is None else (hw[0], hw[1])
