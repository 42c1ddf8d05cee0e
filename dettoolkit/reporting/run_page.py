"""The report of one training or evaluation."""

from __future__ import annotations

import logging
from pathlib import Path

from dettoolkit.pages.html import render
from dettoolkit.pages.parts import Block, Cell, Facts, Numbers, Points, Section
from dettoolkit.reporting.origins import origin_sections
from dettoolkit.reporting.scored_folder import REPORT, ScoredFolder, open_folder
from dettoolkit.reporting.training_charts import training_advice, training_charts

logger = logging.getLogger(__name__)

GENERATOR = b'content="dettoolkit"'  # in the head of pages.html's pages


def write_report(folder: Path, out: Path | None = None) -> Path:
    """Write the report of a training's or an evaluation's folder, as report.html there; return its path.

    Raises:
        FileExistsError: `out` exists already.
        FileNotFoundError: there is nothing to report.
        ValueError: an evaluation.json that is damaged, or of an earlier version.
    """
    scored = open_folder(folder)
    return write_page(run_page(scored), out, beside=scored.path)


def try_to_report(folder: Path) -> None:
    """Write the report at the end of a run; what hinders it is told, and ends nothing."""
    try:
        write_report(folder)
    except (OSError, ValueError) as error:
        logger.warning("no report was written (%s); to try again: dettoolkit report %s", error, folder)


def write_page(page: str, out: Path | None, *, beside: Path) -> Path:
    """Write a page to a new file, or over the report of a folder, which is ours."""
    path = beside / REPORT if out is None else out
    if out is not None and out.is_dir():
        path = out / REPORT
    if path.exists() and (out is not None or GENERATOR not in path.read_bytes()[:1000]):
        what = "exists already" if out is not None else "is not a report of dettoolkit"
        raise FileExistsError(f"{path} {what}, and is not overwritten: name another file with --out")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(page, encoding="utf-8")
    part.replace(path)
    return path


def run_page(folder: ScoredFolder) -> str:
    """Return the report of one folder as HTML."""
    about, report = folder.about, folder.spec.report()
    rows, monitor = folder.metrics(), about["monitor"]
    evaluation = folder.evaluation
    advice = report.advice(evaluation) if report else []
    advice += training_advice(rows, monitor)
    words = report.words(evaluation) if report else {}
    numbers = {monitor: None, **evaluation["numbers"]}
    tiles = [
        (name, value, words.get(name, ""))
        for name, value in numbers.items()
        if value is not None or name == monitor
    ]
    result: list[Block] = [
        Facts(title="", rows=_result(folder)),
        Numbers(title="", rows=tiles),
    ]
    if advice:
        result.append(Points(title="What stands out", sentences=advice))
    sections = [
        Section(title="Result", blocks=result),
        Section(title="Training", blocks=training_charts(rows, monitor, list(evaluation["numbers"]))),
        *(report.sections(evaluation, folder.picture) if report else []),
        *origin_sections(folder),
    ]
    footer = f"Written by dettoolkit {about['environment'].get('dettoolkit', '')} from {folder.path}"
    return render(f"{about['name']}: {headline(folder)}", sections, footer=footer)


def headline(folder: ScoredFolder) -> str:
    """Return the score that counts, in words."""
    monitor = folder.about["monitor"]
    value = folder.evaluation["numbers"].get(monitor)
    return f"{monitor} {'undefined' if value is None else f'{value:.3f}'}"


def _result(folder: ScoredFolder) -> list[tuple[str, Cell]]:
    about, evaluation = folder.about, folder.evaluation
    rows: list[tuple[str, Cell]] = [
        ("task", folder.spec.title),
        ("weights", about["weights"]),
        ("scored on", f"{about['scored_on']}, {about['images']} images"),
    ]
    return [*rows, ("note", evaluation["note"])] if evaluation.get("note") else rows
