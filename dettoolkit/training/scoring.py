"""Score a run's network on its validation set, with report and figures."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning.pytorch import Callback

from dettoolkit.run import Run, Score
from dettoolkit.training.callbacks import ProgressBar, RecordBadImages
from dettoolkit.training.data import DataModule
from dettoolkit.training.module import TrainingModule
from dettoolkit.training.run_folder import BEST, LAST, checkpoint_of, is_first_process
from dettoolkit.training.trainer import build_trainer, explained
from dettoolkit.weights.load import load_trained
from dettoolkit.weights.read import read_checkpoint

logger = logging.getLogger(__name__)


def score_best(run: Run, run_dir: Path) -> Score:
    """Score the best checkpoint once more and write report and figures.

    All processes take part; the first one's weights are handed to the others before validation.
    """
    what = str(run_dir)
    if is_first_process():
        what = str(path := checkpoint_of(run_dir, names=(BEST, LAST)))
        load_trained(run.task.network, read_checkpoint(path)[1], source=what)
    return score(run, run_dir, what)


def score(run: Run, out: Path, what: str, *, keep: bool = False) -> Score:
    """Score a run's network on its validation set; write the report and figures to `out`.

    Args:
        run: what is scored.
        out: folder of the report.
        what: name of the weights, for report and messages.
        keep: write every prediction too.
    """
    section = run.recipe.trainer
    callbacks: list[Callback] = [RecordBadImages(run)]
    if section.extra.enable_progress_bar is not False:
        callbacks.append(ProgressBar())
    trainer = build_trainer(section, run_dir=None, callbacks=callbacks)
    module = TrainingModule(run, out, world_size=trainer.world_size)
    if keep:
        run.keep_predictions(lambda: module.run_dir / "predictions")  # all processes learn it from the first
    started = time.perf_counter()
    with explained(trainer, lambda: f"to score it: tools/evaluate.py {what}"):
        trainer.validate(module, datamodule=DataModule(run), verbose=False)
    logger.info("scored %d images in %.1f s", len(run.val), time.perf_counter() - started)
    result = module.score
    if result is None:
        raise RuntimeError("validation ended without a score")
    if trainer.is_global_zero:
        out.mkdir(parents=True, exist_ok=True)
        report = {"what": f"{what} on {run.scored_on}", **result.to_json()}
        (out / "evaluation.json").write_text(json.dumps(report, indent=1))
        run.task.network.to(trainer.strategy.root_device)  # where Lightning took it from
        run.write_predictions(module.predictions, out)
    return result


@contextmanager
def new_problems_told(run: Run) -> Iterator[None]:
    """Warn at the end of what reading the images has shown: which were skipped, and new problems."""

    def count() -> dict[str, int]:
        return {split: sum(report.counts.values()) for split, report in run.problems.items()}

    known = count()
    yield
    if unreadable := run.bad_images.lines:
        logger.warning(
            "%d images could not be read and were skipped:\n  %s", len(unreadable), "\n  ".join(unreadable)
        )
    reports = {id(report): (split, report) for split, report in run.problems.items()}
    for split, report in reports.values():  # an evaluation has one for both splits
        if count()[split] > known[split]:
            logger.warning("%s", report.summary())
