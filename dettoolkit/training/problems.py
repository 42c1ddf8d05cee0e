"""What goes wrong with a run's data and machine: counted, written, and explained."""

from __future__ import annotations

import errno
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dettoolkit.run import Run, Split
from dettoolkit.training.callbacks import RecordBadImages
from dettoolkit.training.data import killed_loader
from dettoolkit.training.run_folder import how_to_resume

logger = logging.getLogger(__name__)


def recorder(run: Run) -> RecordBadImages:
    """Build the callback that counts and lists what is wrong with image files."""
    problems = (run.problems["train"].record, run.problems["val"].record)
    return RecordBadImages(bad_images=run.bad_images.record, problems=problems)


def write_problems(run: Run, run_dir: Path) -> None:
    """Write everything found wrong with the data to `<run>/data_report.json`."""
    problems: dict[str, Any] = {split: report.to_json() for split, report in run.problems.items()}
    problems["unreadable images"] = run.bad_images.lines
    (run_dir / "data_report.json").write_text(json.dumps(problems, indent=1))


def count_problems(run: Run) -> dict[Split, int]:
    """Count what is known to be wrong with the data of each split; at first, what loading has found."""
    return {split: sum(report.counts.values()) for split, report in run.problems.items()}


def warn_of_problems(run: Run, known: Mapping[Split, int]) -> None:
    """Warn of what reading the images has shown: which were skipped, and problems beyond those known."""
    if run.bad_images.lines:
        listing = "\n  ".join(run.bad_images.lines)
        logger.warning(
            "%d images could not be read and were skipped:\n  %s", len(run.bad_images.lines), listing
        )
    reports = run.problems
    for split, count in count_problems(run).items():
        of_its_own = split == "val" or reports[split] is not reports["val"]  # an evaluation has one for both
        if count > known[split] and of_its_own:
            logger.warning("%s", reports[split].summary())


@contextmanager
def explain_shortage(run_dir: Path) -> Iterator[None]:
    """Explain what the machine lacked, and how to continue the run.

    Raises:
        OSError: the disk is full.
        RuntimeError: a loader's process was killed.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(f"the disk is full ({error}). Make room; {how_to_resume(run_dir)}") from error
    except RuntimeError as error:
        if (killed := killed_loader(error)) is None:
            raise
        raise RuntimeError(f"{killed}; {how_to_resume(run_dir)}") from error
