"""What the tools do: check, train, evaluate. Command line and library callers share these functions."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import LambdaCallback
from torch import Tensor

from dettoolkit.config import Recipe
from dettoolkit.datasets.samplers import SampleKey
from dettoolkit.finite import require_finite
from dettoolkit.hub import on_hub
from dettoolkit.network import name_outputs
from dettoolkit.reporting.run_page import try_to_report
from dettoolkit.run import Classes, Score
from dettoolkit.tasks import spec_of
from dettoolkit.training.callbacks import RecordBadImages
from dettoolkit.training.data import DataModule
from dettoolkit.training.module import TrainingModule
from dettoolkit.training.prepare import prepare, summary
from dettoolkit.training.resume import resumed
from dettoolkit.training.run_folder import (
    BEST,
    CONFIG,
    LAST,
    check_free,
    checkpoint_of,
    how_to_resume,
    is_first_process,
    keep_config,
    new_evaluation_dir,
    started,
    write_problems,
)
from dettoolkit.training.scoring import NO_ORIGINS, new_problems_told, score, score_best
from dettoolkit.training.trainer import build_callbacks, build_trainer, explained
from dettoolkit.weights.load import load_trained
from dettoolkit.weights.published import TORCHVISION
from dettoolkit.weights.read import description_of, read_checkpoint
from dettoolkit.wording import listing

logger = logging.getLogger(__name__)


def check(name: str, recipe: Recipe) -> str:
    """Try everything short of training: all annotations, first batch, one forward and its loss."""
    run = prepare(name, recipe)
    run.read_annotations(("train",))  # those of val are read already
    size = min(recipe.data.batch_size, len(run.train))
    batch = run.collate([run.train[SampleKey(index, 0)] for index in range(size)])
    if not len(batch["images"]):
        unreadable = "\n  ".join(batch["bad_images"])
        raise ValueError(f"none of the first {size} training images can be read:\n  {unreadable}")
    for part in (run.task.network, run.task.auxiliary):
        part.train(len(batch["images"]) > 1)  # batch normalization cannot train on one image
    with torch.no_grad():
        images, targets = run.task.training_inputs(batch)
        outputs, features = run.task.network.with_features(images)
        losses = run.task.losses(outputs, targets)
        if run.task.has_more_losses:
            losses |= run.task.more_losses(images, outputs, features, targets)
    require_finite(
        [
            *name_outputs(run.task.raw_outputs, outputs),
            *((f"loss {part}", value) for part, value in losses.items()),
        ],
        source="the network's output for the first batch",
        remedy="start from other weights, or check model.loss and the images of this batch",
    )
    lines = [
        summary(run),
        *run.batch_lines(batch, outputs),
        "loss      " + ", ".join(f"{part} {float(value):.4g}" for part, value in losses.items()),
    ]
    if run.task.teacher is not None:
        lines.append(
            f"          the teacher took {1000 * run.task.teacher.clock.seconds:.0f} ms for this batch"
        )
    lines.append("Dry run OK: nothing was trained")
    return "\n".join(lines)


def train(
    name: str,
    recipe: Recipe,
    *,
    config_yaml: str,
    resume: Path | None = None,
    provenance: Mapping[str, str] = NO_ORIGINS,
) -> tuple[Path, Score]:
    """Train by a recipe and score the best checkpoint; return the run's folder and the score.

    `config_yaml` is the resolved recipe as text, kept in the folder; `resume` the folder of the run to
    continue, None for a new one; `provenance` where the recipe's values come from, for the report.

    Raises:
        Interrupted: by Ctrl-C, or by a scheduler that ends the process.
    """
    section = recipe.trainer
    with ExitStack() as folder:
        last, steps_done = folder.enter_context(resumed(resume, recipe)) if resume else (None, 0)
        run = prepare(name, recipe, pretrained=resume is None)
        run_dir = resume or folder.enter_context(started(run, config_yaml))
        if is_first_process():
            logger.info("%s\nfolder    %s", summary(run), run_dir)
        # When training starts, the checkpoint has accepted the recipe.
        keep = LambdaCallback(on_train_start=lambda *_: keep_config(run_dir / CONFIG, config_yaml))
        callbacks = [*build_callbacks(section, run_dir, monitor=run.monitor), RecordBadImages(run), keep]
        trainer = build_trainer(section, run_dir=run_dir, callbacks=callbacks, steps_done=steps_done)
        module = TrainingModule(run, run_dir, world_size=trainer.world_size)
        if section.compile:
            module.compile_network()
        with new_problems_told(run):
            with explained(trainer, lambda: how_to_resume(module.run_dir)):
                trainer.fit(module, datamodule=DataModule(run), ckpt_path=last, weights_only=True)
            if last is not None and trainer.global_step == steps_done:
                keep_config(run_dir / CONFIG, config_yaml)
            _tell_end(trainer, steps_done)
            result = score_best(run, module.run_dir, provenance)
        if is_first_process():
            write_problems(run, module.run_dir)  # again, with what reading the images showed
            try_to_report(module.run_dir)
        return module.run_dir, result


def _tell_end(trainer: Trainer, steps_done: int) -> None:
    """Log why training ended before its length, or did not begin."""
    if steps_done and trainer.global_step == steps_done:
        logger.warning(
            "the run already has its full length of %d steps: raise trainer.max_epochs or trainer.max_steps "
            "to continue",
            steps_done,
        )
    stopping = trainer.early_stopping_callback
    if stopping is not None and stopping.wait_count >= stopping.patience:
        logger.info(
            "stopped early in epoch %d: %s has not risen above %.3f in %d validations",
            stopping.stopped_epoch,
            stopping.monitor,
            float(stopping.best_score),
            stopping.patience,
        )


def evaluate(
    source: Path,
    *,
    recipe: Recipe,
    out: Path | None,
    keep: bool = False,
    provenance: Mapping[str, str] = NO_ORIGINS,
) -> tuple[Path, Score]:
    """Score a checkpoint, a run's best one, or a recipe's own weights; return the report's folder and score.

    `source` is a checkpoint, a run's folder, or a recipe's file, whose model.weights are scored; `recipe`
    says how, and its data.val is the data set. `out` None takes a new folder beside the checkpoint. With
    `keep` every prediction is written to `<out>/predictions`, where the task does not anyway.
    `provenance` is where the recipe's values come from.
    """
    if out is not None:
        check_free(out)
    checkpoint, weights = None, recipe.model.weights
    name, base = source.stem, Path(recipe.trainer.out) / source.stem
    is_recipe = source.suffix in (".yaml", ".yml")
    if not is_recipe:
        checkpoint = checkpoint_of(source, names=(BEST, LAST))
        if not on_hub(source):
            base = checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent
    elif weights is None:
        raise ValueError(
            f"{source} has no weights to evaluate: set model.weights to a checkpoint, a .pth file or "
            "'torchvision:DEFAULT', or use a run folder instead of a recipe"
        )
    elif description_of(Path(weights)) is not None:
        checkpoint = Path(weights)  # which names its classes, as a run's does
    own, state = None, dict[str, Tensor]()
    if checkpoint is not None:
        description, state = read_checkpoint(checkpoint)
        own = Classes(list(description["class_names"]), list(description["class_ids"]))
        name = name if is_recipe else description["name"]
    what = str(checkpoint or weights)
    run = spec_of(recipe).evaluation_run(name, recipe, own=own, what=what)
    if checkpoint is not None:
        load_trained(run.task.network, state, source=what)
    elif weights is not None and not weights.startswith(TORCHVISION):
        names = listing(run.classes.names)
        logger.warning("%s has no class names: assuming %s, in this order", weights, names)
    out = out if out is not None else new_evaluation_dir(base)
    repeat = f"dettoolkit evaluate {source}"
    with new_problems_told(run):
        result = score(run, out, what, repeat=repeat, keep=keep, provenance=provenance)
    if is_first_process():
        write_problems(run, out)
        try_to_report(out)
    return out, result
