"""The report of several runs side by side."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dettoolkit.config.yaml12 import write_lines
from dettoolkit.pages.comparisons import difference
from dettoolkit.pages.html import render
from dettoolkit.pages.parts import Block, Cell, Points, Section, Series, Table
from dettoolkit.reporting.disagreements import LISTED, disagreement_blocks
from dettoolkit.reporting.run_page import write_page
from dettoolkit.reporting.scored_folder import ScoredFolder, open_folder
from dettoolkit.reporting.training_charts import over_steps, series_of

Folders = Mapping[str, ScoredFolder]


def write_comparison(paths: Sequence[Path], out: Path) -> Path:
    """Write the page that compares some folders of trainings and evaluations to a new file.

    Raises:
        FileExistsError: `out` exists already.
        ValueError: runs of different tasks, a folder given twice, or what `write_report` refuses.
    """
    folders = named([open_folder(path) for path in paths])
    tasks = {folder.spec.name for folder in folders.values()}
    if len(tasks) > 1:
        raise ValueError(f"runs of different tasks cannot be compared: {', '.join(sorted(tasks))}")
    return write_page(comparison_page(folders), out, beside=out.parent)


def named(folders: Sequence[ScoredFolder]) -> dict[str, ScoredFolder]:
    """Return folders by the shortest ends of their paths that tell them apart."""
    paths = [folder.path.resolve() for folder in folders]
    if len(set(paths)) < len(paths):
        raise ValueError("a run is given twice: name different ones to compare them")
    for length in range(1, max(len(path.parts) for path in paths) + 1):
        names = [os.sep.join(path.parts[-length:]) for path in paths]
        if len(set(names)) == len(names):
            break
    return dict(zip(names, folders, strict=True))


def comparison_page(folders: Folders) -> str:
    """Return the comparison as HTML."""
    first = next(iter(folders.values()))
    report, monitor = first.spec.report(), first.about["monitor"]
    evaluations = {name: folder.evaluation for name, folder in folders.items()}
    doubts = _doubts(folders)
    scores: list[Block] = [_scores(evaluations)]
    if doubts:
        scores.append(Points(title="Beware", sentences=doubts))
    sections = [
        Section(title="Scores", blocks=scores),
        Section(title="Classes", blocks=report.compared(evaluations) if report else []),
        Section(title="Training", blocks=list(_curves(folders, monitor))),
        Section(
            title=f"Where they disagree most, {LISTED} images", blocks=list(disagreement_blocks(folders))
        ),
        Section(title="Recipes", blocks=[_settings(folders)]),
    ]
    best = max(folders, key=lambda name: evaluations[name]["numbers"].get(monitor) or 0.0)
    return render(f"{len(folders)} runs compared: best {monitor} by {best}", sections)


def _scores(evaluations: Mapping[str, Mapping[str, Any]]) -> Table:
    first, *others = evaluations
    rows: list[list[Cell]] = []
    for name in evaluations[first]["numbers"]:
        values = [each["numbers"].get(name) for each in evaluations.values()]
        rows.append([name, *values, *(difference(values[0], value) for value in values[1:])])
    return Table(
        title="Side by side",
        columns=["score", *evaluations, *(f"{other} − {first}" for other in others)],
        rows=rows,
    )


def _doubts(folders: Folders) -> list[str]:
    measured = {(folder.about["scored_on"], folder.about["images"]) for folder in folders.values()}
    if len(measured) == 1:
        return []
    each = (
        f"{name} on {folder.about['scored_on']} ({folder.about['images']} images)"
        for name, folder in folders.items()
    )
    return [
        f"They were not scored on the same images, so the data may make the difference: {'; '.join(each)}."
    ]


def _curves(folders: Folders, monitor: str) -> Iterator[Block]:
    rows = {name: folder.metrics() for name, folder in folders.items()}
    for title, column in (
        (f"{monitor} on the validation set", monitor),
        ("Loss", "loss"),
        ("Learning rate", "lr"),
    ):
        series: list[Series] = [series_of(each, column, name) for name, each in rows.items()]
        if any(each.y for each in series):
            yield over_steps(title, series)


def _settings(folders: Folders) -> Table:
    """List the settings in which the recipes differ."""
    recipes = [
        {key: line.strip() for line, key in write_lines(folder.about["recipe"]) if key}
        for folder in folders.values()
    ]
    keys = dict.fromkeys(key for recipe in recipes for key in recipe)
    rows: list[list[Cell]] = [
        [key, *(recipe.get(key, "–").partition(": ")[2] or recipe.get(key, "–") for recipe in recipes)]
        for key in keys
        if len({recipe.get(key) for recipe in recipes}) > 1
    ]
    return Table(title="Settings in which they differ", columns=["setting", *folders], rows=rows)
