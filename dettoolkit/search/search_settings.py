"""What a search was asked for, in its folder, so that it goes on as it began."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from dettoolkit.config import Recipe, ResolvedRecipe, load_recipe
from dettoolkit.latency.forecast import Forecast
from dettoolkit.latency.runtimes import Runtime
from dettoolkit.latency.subjects import Subject
from dettoolkit.search.objectives import Kind, Objective

SETTINGS, RECIPE, SPACE, JOURNAL = "search.json", "recipe.yaml", "space.yaml", "trials.log"
TABLE = "latency.json"  # what the latency table had when the search began: predictions stay as they are
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Side = Annotated[int, Meta(ge=32, le=8192)]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A search: all but its recipe and space, which have files of their own beside this one.

    Attributes:
        name: of the recipe.
        start: checkpoint whose weights trials inherit.
        target_ms: the latency to reach.
        runtime: in which, with so many threads.
        threads: see runtime.
        input_hw: height and width of the image.
        classes: of the start's data.
        factor: by which predictions are scaled, so that the start's own is right.
        sampler: name of the sampler.
        objective: kind of the objective, with exponents and weight.
        exponents: see objective.
        weight: see objective.
        trials: of the search, and as many of random search.
        steps: of a trial's training.
        best: networks of each that are trained in full.
        seed: of proposals and trainings.
        storage: Optuna's URL of a database; None for a file in the folder.
    """

    name: str
    start: str
    target_ms: Annotated[float, Meta(gt=0, le=1e7)]
    runtime: str
    threads: Count
    input_hw: tuple[Side, Side]
    classes: Count
    factor: float
    sampler: str
    objective: Kind
    exponents: tuple[float, float]
    weight: float
    trials: Count
    steps: Count
    best: Count
    seed: Annotated[int, Meta(ge=0, le=2**32 - 1)]
    storage: str | None = None

    @property
    def goal(self) -> Objective:
        """Return what is maximized."""
        return Objective(
            kind=self.objective, target_ms=self.target_ms, exponents=self.exponents, weight=self.weight
        )

    @property
    def studies(self) -> tuple[str, ...]:
        """Return the names of the search and, unless it is that itself, of random search."""
        return (self.sampler,) if self.sampler == "random" else (self.sampler, "random")

    def forecast(self, recipe: Recipe, folder: Path) -> Forecast:
        """Return what predicts the milliseconds of the recipe's networks, on any machine."""
        subject = Subject(recipe=recipe, classes=self.classes, input_hw=self.input_hw)
        found = Forecast(
            subject, Runtime(name=self.runtime, threads=self.threads), path=folder / TABLE, reuse=True
        )
        found.factor = self.factor
        return found

    def save(self, folder: Path) -> None:
        """Write them to a search's folder."""
        (folder / SETTINGS).write_bytes(msgspec.json.format(msgspec.json.encode(asdict(self)), indent=1))


def load_settings(folder: Path) -> tuple[Settings, Recipe]:
    """Read what a search was asked for, and its recipe.

    Raises:
        FileNotFoundError: the folder has no search.
        ValueError: its files were changed.
    """
    file = folder / SETTINGS
    if not file.is_file():
        raise FileNotFoundError(
            f"{folder} has no search ({SETTINGS}): give the folder of one, or omit --resume"
        )
    try:
        settings = msgspec.json.decode(file.read_bytes(), type=Settings)
    except ValueError as error:
        raise ValueError(f"{file} is not what a search wrote ({error}): begin a new one") from None
    return settings, load_recipe(str(folder / RECIPE)).recipe


def write_recipe(path: Path, recipe: Recipe) -> str:
    """Write a whole recipe as a file, and return its text."""
    text = ResolvedRecipe(path.stem, recipe, {}).to_yaml()
    path.write_text(text, encoding="utf-8")
    return text
