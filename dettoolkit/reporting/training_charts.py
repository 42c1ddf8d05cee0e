"""Loss, learning rate and score over the steps of a training, and what they show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dettoolkit.pages.parts import Chart, Series
from dettoolkit.wording import SLOW_DATA, slow_data

SCORES = 3  # that are drawn: the one by which the best checkpoint is chosen, and the first of the others
Rows = Sequence[Mapping[str, float]]


def series_of(rows: Rows, name: str, label: str = "") -> Series:
    """Return a column of metrics.csv over the step, which is counted from 1."""
    points = [(row["step"] + 1, row[name]) for row in rows if name in row and "step" in row]
    return Series(label or name, [step for step, _ in points], [value for _, value in points])


def training_charts(rows: Rows, monitor: str, numbers: Sequence[str]) -> list[Chart]:
    """Return the charts of one training; those without a point are left out.

    Args:
        rows: of metrics.csv.
        monitor: name of the score that says which checkpoint is best.
        numbers: names of all scores.
    """
    parts = sorted({key for row in rows for key in row if key.startswith("loss/")})
    losses = ["loss", *(parts if len(parts) > 1 else [])]
    scores = [monitor, *(name for name in numbers if name != monitor)][:SCORES]
    charts = [
        ("Loss", [series_of(rows, name, name.removeprefix("loss/")) for name in losses]),
        ("Learning rate", [series_of(rows, "lr", "learning rate")]),
        ("Score on the validation set", [series_of(rows, name) for name in scores]),
    ]
    return [over_steps(title, series) for title, series in charts if any(each.y for each in series)]


def over_steps(title: str, series: Sequence[Series]) -> Chart:
    """Return a chart over the steps, from 0; lines without a point are left out."""
    shown = [each for each in series if each.y]
    highest, last = max(max(each.y) for each in shown), max(each.x[-1] for each in shown)
    low = min(0.0, *(min(each.y) for each in shown))
    return Chart(
        title=title,
        x_label="step",
        y_label="",
        series=shown,
        x_range=(0, last),
        y_range=(low, 1.05 * highest) if highest > low else None,
    )


def training_advice(rows: Rows, monitor: str) -> list[str]:
    """Return what the course of the training shows."""
    return [*_score_advice(series_of(rows, monitor), monitor), *_data_advice(rows)]


def _data_advice(rows: Rows) -> list[str]:
    waits = [row["data_wait_fraction"] for row in rows if "data_wait_fraction" in row]
    waits = waits[1:] or waits  # the first epoch starts the loader
    if not waits or (fraction := sum(waits) / len(waits)) <= SLOW_DATA:
        return []
    text = slow_data(fraction)
    return [f"{text[0].upper()}{text[1:]}."]


def _score_advice(series: Series, monitor: str) -> list[str]:
    if len(series.y) < 3:
        return []
    best = max(range(len(series.y)), key=lambda row: series.y[row])
    step, last = round(series.x[best]), round(series.x[-1])
    if best == len(series.y) - 1:
        return [f"{monitor} was still rising at the end: a longer training may give more."]
    if best < len(series.y) / 2 and series.y[-1] < 0.95 * series.y[best]:
        return [
            f"{monitor} was best after step {step} and fell until the end, step {last}: the training "
            "overfits, or its learning rate is too high."
        ]
    return []
