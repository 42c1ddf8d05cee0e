"""Score a run's network on its validation set, with report and figures."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

from lightning.pytorch import Callback

from dettoolkit.run import Run, Score
from dettoolkit.training.data import killed_loader
from dettoolkit.training.prepare import build_data_module, lightning_module
from dettoolkit.training.problems import recorder
from dettoolkit.training.run_folder import BEST, LAST, Interrupted, checkpoint_of, is_first_process
from dettoolkit.training.trainer import build_trainer, lost_process, progress_bar
from dettoolkit.weights.description import read_checkpoint
from dettoolkit.weights.load import load_trained

logger = logging.getLogger(__name__)


def score_best(run: Run, run_dir: Path) -> Score:
    """Score the best checkpoint once more and write report and figures.

    All processes take part; the first one's weights are handed to the others before validation.
    """
    what = str(run_dir)
    if is_first_process():
        path = checkpoint_of(run_dir, names=(BEST, LAST))
        load_trained(run.task.network, read_checkpoint(path)[1], source=str(path))
        what = str(path)
    return score(run, run_dir, what)


def score(run: Run, out: Path, what: str, *, keep: bool = False) -> Score:
    """Score a run's network on its validation set; write the report and figures to `out`.

    Args:
        run: what is scored.
        out: folder of the report.
        what: name of the weights, for report and messages.
        keep: write every prediction too.
    """
    recipe = run.recipe
    callbacks: list[Callback] = [recorder(run)]
    if recipe.trainer.extra.enable_progress_bar is not False:
        callbacks.append(progress_bar())
    trainer = build_trainer(recipe.trainer, run_dir=None, callbacks=callbacks)
    module = lightning_module(run, trainer, out)
    if keep:
        run.keep_predictions(lambda: module.run_dir / "predictions")  # all processes learn it from the first
    data = build_data_module(run)
    started = time.perf_counter()
    try:
        trainer.validate(module, datamodule=data, verbose=False)
    except SystemExit as error:  # what Lightning makes of Ctrl-C
        hint = f"to score it: tools/evaluate.py {what}"
        raise Interrupted(f"interrupted while scoring; {hint}") from error
    except RuntimeError as error:
        if (cause := killed_loader(error) or lost_process(error, trainer)) is None:
            raise
        raise RuntimeError(f"{cause}; to score it: tools/evaluate.py {what}") from error
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
