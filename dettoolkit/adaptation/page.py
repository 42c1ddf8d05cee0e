"""The page of an adaptation: latency against accuracy over its steps, and what was cut where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dettoolkit.adaptation.adapt import Adaptation
from dettoolkit.adaptation.proposals import spaces
from dettoolkit.inference.whole_files import whole
from dettoolkit.pages.html import render
from dettoolkit.pages.parts import Block, Cell, Chart, Facts, Points, Section, Series, Table

FILE = "adaptation.html"


@dataclass(frozen=True)
class Beside:
    """Another network of the same task, measured in the same runtime: a point of a line to compare with."""

    name: str
    milliseconds: float
    score: float


def write_page(adaptation: Adaptation, beside: Sequence[Beside] = ()) -> None:
    """Write the page from what the journal has; `beside` are trained networks of other widths."""
    with whole(adaptation.folder / FILE) as part:
        part.write_text(_page(adaptation, beside), encoding="utf-8")


def _page(adaptation: Adaptation, beside: Sequence[Beside]) -> str:
    state, journal = adaptation.state(), adaptation.journal
    start, final = journal.find("start") or {}, journal.find("final")
    target = adaptation.settings.target(start["milliseconds"])
    blocks: list[Block] = [
        Facts(title="What was asked", rows=_facts(adaptation, target)),
        _chart(adaptation, beside),
        _outcome(adaptation, beside),
    ]
    if final is None and state.milliseconds > target:
        still = f"{state.milliseconds:.3g} ms after step {state.step}: the target is not reached yet."
        blocks.insert(0, Points(title="Going on", sentences=[still]))
    sections = [
        Section(title="Latency and accuracy", blocks=blocks),
        Section(title="What was cut", blocks=[_cuts(adaptation), _steps(adaptation)]),
    ]
    title = f"{adaptation.start.name} adapted from {start['milliseconds']:.3g} to {state.milliseconds:.3g} ms"
    return render(title, sections)


def _facts(adaptation: Adaptation, target: float) -> list[tuple[str, Cell]]:
    settings = adaptation.settings
    trials = sum(1 for _ in adaptation.journal.each("trial"))
    return [
        ("network", settings.model),
        ("measured in", adaptation.latency.about),
        ("target", f"{target:.3g} ms"),
        ("steps", adaptation.state().step),
        ("short fine-tunes", f"{trials} of {settings.steps} optimizer steps each"),
        ("channels kept by", {"norm": "the norm of filters", "scale": "normalization's scale"}[settings.by]),
        ("score", f"{adaptation.monitor} on the validation set, by which the proposals were chosen too"),
    ]


def _chart(adaptation: Adaptation, beside: Sequence[Beside]) -> Chart:
    journal = adaptation.journal
    start, final = journal.find("start") or {}, journal.find("final")
    path = [start, *journal.each("step")]
    series = [
        Series(
            "steps, after short fine-tunes",
            [each["milliseconds"] for each in path],
            [each["score"] for each in path],
        )
    ]
    if final is not None and final["run"] is not None:
        series.append(Series("trained at length", [final["milliseconds"]], [final["score"]]))
    if beside:
        line = sorted(beside, key=lambda each: each.milliseconds)
        series.append(
            Series("width multiplier", [each.milliseconds for each in line], [each.score for each in line])
        )
    return Chart(
        title="Score over milliseconds",
        x_label="milliseconds (steps: predicted; others: measured)",
        y_label=adaptation.monitor,
        series=series,
    )


def _outcome(adaptation: Adaptation, beside: Sequence[Beside]) -> Table:
    start, final = adaptation.journal.find("start") or {}, adaptation.journal.find("final")
    state = adaptation.state()
    rows: list[list[Cell]] = [
        ["start", start["milliseconds"], start["score"]],
        [f"after step {state.step}", state.milliseconds, state.score],
    ]
    if final is not None and final["run"] is not None:
        rows.append(["trained at length", final["milliseconds"], final["score"]])
    rows += [[each.name, each.milliseconds, each.score] for each in beside]
    return Table(title="Networks", columns=["network", "ms", adaptation.monitor], rows=rows)


def _cuts(adaptation: Adaptation) -> Table:
    start, now = adaptation.start.table, adaptation.state().table
    rows: list[list[Cell]] = []
    for space in spaces(start):
        before, after = space.channels(start), space.channels(now)
        rows.append(
            [space.name(start), before, after, f"{after / before - 1:+.0%}" if after < before else "–"]
        )
    return Table(title="Channels", columns=["where", "start", "now", "change"], rows=rows)


def _steps(adaptation: Adaptation) -> Table:
    checks = {each["step"]: each["measured"] for each in adaptation.journal.each("check")}
    rows: list[list[Cell]] = [
        [
            each["step"],
            each["name"],
            f"{each['before']} to {each['channels']}",
            each["milliseconds"],
            checks.get(each["step"]),
            each["score"],
        ]
        for each in adaptation.journal.each("step")
    ]
    columns = ["step", "cut", "channels", "ms predicted", "ms measured", adaptation.monitor]
    return Table(title="Steps", columns=columns, rows=rows)
