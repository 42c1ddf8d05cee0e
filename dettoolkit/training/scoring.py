"""Score a run's network on its validation set, and write all that a report says of it."""

from __future__ import annotations

import json
import logging
import os
import platform
import re
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from lightning.pytorch import Callback

from dettoolkit.drawing.grids import save_figure
from dettoolkit.machine import processor
from dettoolkit.run import Run, Score, file_names
from dettoolkit.tasks import spec_of
from dettoolkit.training.callbacks import ProgressBar, RecordBadImages
from dettoolkit.training.data import DataModule
from dettoolkit.training.module import TrainingModule, describe
from dettoolkit.training.run_folder import BEST, LAST, checkpoint_of, is_first_process
from dettoolkit.training.trainer import build_trainer, explained
from dettoolkit.weights.load import load_trained
from dettoolkit.weights.read import read_checkpoint
from dettoolkit.weights.safe import sum_of

logger = logging.getLogger(__name__)

LISTED = 20  # worst images and surest mistakes that evaluation.json lists
DRAWN = 9  # of these, in the report, unless evaluation.figures is less
COMMANDS = {
    "dettoolkit": "dettoolkit",
    "train.py": "dettoolkit train",
    "evaluate.py": "dettoolkit evaluate",
}  # by the script's name; a program of the user's has another one
NO_ORIGINS: Mapping[str, str] = MappingProxyType({})


def score_best(run: Run, run_dir: Path, provenance: Mapping[str, str] = NO_ORIGINS) -> Score:
    """Score the best checkpoint once more, in all processes, which get the first one's weights."""
    what = str(run_dir)
    if is_first_process():
        what = str(path := checkpoint_of(run_dir, names=(BEST, LAST)))
        load_trained(run.task.network, read_checkpoint(path)[1], source=what)
    repeat = f"dettoolkit train {run_dir / 'config.yaml'}"
    return score(run, run_dir, what, repeat=repeat, provenance=provenance)


def score(
    run: Run,
    out: Path,
    what: str,
    *,
    repeat: str,
    keep: bool = False,
    provenance: Mapping[str, str] = NO_ORIGINS,
) -> Score:
    """Score a run's network on its validation set; write evaluation.json and figures to `out`.

    Args:
        run: what is scored.
        out: folder for them.
        what: name of the weights, for report and messages.
        repeat: the command that does all of it again.
        keep: write every prediction too.
        provenance: where the recipe's values come from, by dotted key.
    """
    section = run.recipe.trainer
    callbacks: list[Callback] = [RecordBadImages(run)]
    if section.extra.enable_progress_bar is not False:
        callbacks.append(ProgressBar())
    trainer = build_trainer(section, run_dir=None, callbacks=callbacks)
    module = TrainingModule(run, out, world_size=trainer.world_size)
    weights_sum = sum_of(run.task.network.state_dict())
    if keep:
        run.keep_predictions(lambda: module.run_dir / "predictions")  # all processes learn it from the first
    started = time.perf_counter()
    with explained(trainer, lambda: f"to score it: tools/evaluate.py {what}"):
        trainer.validate(module, datamodule=DataModule(run), verbose=False)
    seconds = time.perf_counter() - started
    logger.info("scored %d images in %.1f s", len(run.val), seconds)
    result = module.score
    if result is None:
        raise RuntimeError("validation ended without a score")
    if trainer.is_global_zero:
        device = trainer.strategy.root_device
        about = {
            **origin(run, what, device),
            "weights_sha256": weights_sum,  # by which a model card knows that these are its scores
            "seconds": round(seconds, 1),
            "repeat": repeat,
            "provenance": dict(provenance),
        }
        out.mkdir(parents=True, exist_ok=True)
        run.task.network.to(device)  # where Lightning took it from
        write_score(run, module.predictions, result, out, about)
        run.write_predictions(module.predictions, out)
    return result


def origin(run: Run, what: str, device: torch.device) -> dict[str, Any]:
    """Describe in plain data what was scored, on what, and where."""
    described = describe(run)
    command = COMMANDS.get(Path(sys.argv[0]).name)
    return {
        "task": spec_of(run.recipe).name,
        "name": run.name,
        "monitor": run.task.monitor,
        "weights": what,
        "scored_on": str(run.scored_on),
        "images": len(run.val),
        "time": datetime.now().astimezone().isoformat(timespec="seconds"),
        "environment": {
            **described["versions"],
            "system": platform.platform(),
            "device": torch.cuda.get_device_name(device)
            if device.type == "cuda"
            else f"{processor()}, {os.cpu_count()} cores",
        },
        "command": command and f"{command} {shlex.join(sys.argv[1:])}",
        "recipe": described["recipe"],
    }


def write_score(
    run: Run, predictions: Sequence[Any], result: Score, out: Path, about: Mapping[str, Any]
) -> None:
    """Write evaluation.json and, where the task has a report, image_scores.json and the report's pictures."""
    content = {"what": f"{about['weights']} on {run.scored_on}", **result.to_json()}
    report = spec_of(run.recipe).report()
    if report is None:
        _write_json(out / "evaluation.json", {**content, "about": about})
        return
    details = report.details(run, predictions, result, count=LISTED)
    content = {**content, **details, "about": about}
    _write_json(out / "evaluation.json", content)
    scores, names = report.image_scores(run, predictions, details), file_names(run)
    by_name = {names[row]: score for row, score in scores.items()}
    (out / "image_scores.json").write_text(json.dumps(by_name, indent=0))
    drawn = min(DRAWN, getattr(run.recipe.evaluation, "figures", 0))
    for name in ("worst_images", "mistakes"):
        for number, entry in enumerate(details.get(name, [])[:drawn], start=1):
            picture = report.picture(run, predictions, entry, details)
            if picture is not None:
                entry["picture"] = f"figures/report/{name}_{number}.jpg"
                save_figure(out / entry["picture"], picture)
    _write_json(out / "evaluation.json", content)  # once more, with the pictures' names


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write plain data, lists of numbers in a line."""
    text = json.dumps(content, indent=1)
    number = r"(?:-?[\d.]+(?:e[+-]?\d+)?|null)"
    text = re.sub(rf"\[\n\s*({number}(?:,\n\s*{number})*)\n\s*\]", _in_a_line, text)
    path.write_text(text)


def _in_a_line(found: re.Match[str]) -> str:
    return "[" + re.sub(r",\s+", ", ", found[1]) + "]"


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
