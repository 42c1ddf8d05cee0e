"""The doctor's quick part for a training: annotations as they are loaded, names, and some headers."""

from __future__ import annotations

import logging
from pathlib import Path

from dettoolkit.config import ResolvedRecipe
from dettoolkit.doctor.diagnosis import DOCTOR, Diagnosis
from dettoolkit.doctor.examination import silent
from dettoolkit.doctor.examine import diagnose
from dettoolkit.run import Run
from dettoolkit.tasks import spec_of
from dettoolkit.training.run_folder import CONFIG

logger = logging.getLogger(__name__)


def check_data(run: Run, files: ResolvedRecipe | None) -> Diagnosis | None:
    """Return what the doctor finds without reading an image in full; None, and a warning, if it cannot look.

    Args:
        run: a training whose data are loaded.
        files: what the recipe's files say, without values from the command line; None: not known.
    """
    recipe = run.recipe
    try:
        task = spec_of(recipe).examine(recipe, deep=False, progress=silent, run=run)
        return diagnose(run.name, recipe, task, files=files, deep=False)
    except (OSError, ValueError) as error:
        logger.warning("the data were not examined (%s); to try again: dettoolkit doctor", error)
        return None


def write_findings(run: Run, run_dir: Path, files: ResolvedRecipe | None) -> None:
    """Write what the doctor finds to a new run's folder, and warn of errors and warnings in a line."""
    diagnosis = check_data(run, files)
    if diagnosis is None:
        return
    (run_dir / DOCTOR).write_text(diagnosis.to_json(), encoding="utf-8")
    if diagnosis.counts["error"] or diagnosis.counts["warning"]:
        logger.warning(
            "doctor    %s: listed in %s; for all of it, every image read: dettoolkit doctor %s",
            diagnosis.summary(),
            DOCTOR,
            run_dir / CONFIG,
        )


def check_lines(run: Run, files: ResolvedRecipe | None) -> list[str]:
    """Describe what the doctor finds, for a check of a training, and how to see all of it."""
    diagnosis = check_data(run, files)
    if diagnosis is None:
        return []
    grave = [each for each in diagnosis.findings if each.severity != "note"]
    return [
        *(f"doctor    {each.severity}: {each.text} ({each.id})" for each in grave),
        f"doctor    {diagnosis.summary()}: `dettoolkit doctor` instead of `train` says what to do, and "
        "reads every image",
    ]
