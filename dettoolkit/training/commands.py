"""What the tools do: check, train, evaluate. Command line and library callers share these functions."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import LambdaCallback
from torch import Tensor

from dettoolkit.config import Recipe, load_recipe
from dettoolkit.datasets.samplers import SampleKey
from dettoolkit.finite import require_finite
from dettoolkit.network import name_outputs
from dettoolkit.run import Classes, Run, Score
from dettoolkit.tasks import spec_of
from dettoolkit.training.module import TrainingModule
from dettoolkit.training.prepare import build_data_module, lightning_module, prepare, summary
from dettoolkit.training.problems import (
    count_problems,
    explain_shortage,
    recorder,
    warn_of_problems,
    write_problems,
)
from dettoolkit.training.resume import changed_keys, check_changes, describe_changes
from dettoolkit.training.run_folder import (
    BEST,
    CONFIG,
    LAST,
    PREVIOUS,
    Interrupted,
    check_free,
    checkpoint_of,
    how_to_resume,
    is_first_process,
    keep_config,
    locked,
    new_evaluation_dir,
    new_run_dir,
    resumable_checkpoint,
    stored_recipe,
    write_whole,
)
from dettoolkit.training.scoring import score, score_best
from dettoolkit.training.trainer import build_callbacks, build_trainer, lost_process
from dettoolkit.weights.description import description_of, read_checkpoint
from dettoolkit.weights.load import load_trained
from dettoolkit.weights.published import TORCHVISION
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
    run.task.network.train(len(batch["images"]) > 1)  # batch normalization cannot train on one image
    with torch.no_grad():
        images, targets = run.task.training_inputs(batch)
        outputs = run.task.network(images)
        losses = run.task.losses(outputs, targets)
    require_finite(
        [
            *name_outputs(run.task.raw_outputs, outputs),
            *((f"loss {part}", value) for part, value in losses.items()),
        ],
        source="the network's answer to the first batch",
        remedy="start from other weights, or check model.loss and the images of this batch",
    )
    lines = [
        summary(run),
        *run.batch_lines(batch, outputs),
        "loss      " + ", ".join(f"{part} {float(value):.4g}" for part, value in losses.items()),
        "Dry run OK: nothing was trained",
    ]
    return "\n".join(lines)


def train(name: str, recipe: Recipe, *, config_yaml: str, resume: Path | None = None) -> tuple[Path, Score]:
    """Train by a recipe and score the best checkpoint.

    Args:
        name: the recipe's name, for the run's folder.
        recipe: the run.
        config_yaml: the resolved recipe as text, kept in the folder.
        resume: folder of the run to continue; None starts a new one.

    Returns:
        The run's folder, and the best checkpoint's score.

    Raises:
        Interrupted: by Ctrl-C, or by a scheduler that ends the process.
        BlockingIOError: another process trains in the folder to continue.
        ValueError: the recipe is not the checkpoint's, in what cannot change in mid-run.
    """
    if resume is None:
        run = prepare(name, recipe)
        run_dir = new_run_dir(Path(recipe.trainer.out), name)
        with locked(run_dir), explain_shortage(run_dir):
            if is_first_process():
                write_whole(run_dir / CONFIG, config_yaml.encode())
                write_problems(run, run_dir)
                run.draw_training_batch(run_dir / "figures")
            return _train(run, run_dir, config_yaml, last=None, steps_done=0)
    checkpoint_of(resume, names=(LAST, PREVIOUS, BEST))
    with locked(resume), explain_shortage(resume):
        last, steps_done = resumable_checkpoint(resume)
        with stored_recipe(last) as config:
            before = load_recipe(str(config)).recipe
        changes = changed_keys(before, recipe)
        check_changes(changes)
        if is_first_process():
            for line in describe_changes(changes, recipe):
                logger.info("%s", line)
        run = prepare(name, recipe, pretrained=False)
        return _train(run, resume, config_yaml, last=last, steps_done=steps_done)


def _train(
    run: Run, run_dir: Path, config_yaml: str, *, last: Path | None, steps_done: int
) -> tuple[Path, Score]:
    known = count_problems(run)
    if is_first_process():
        logger.info("%s\nfolder    %s", summary(run), run_dir)
    section = run.recipe.trainer
    keep = LambdaCallback(on_train_start=lambda *_: _keep_config(run_dir, config_yaml))
    callbacks = [*build_callbacks(section, run_dir=run_dir, monitor=run.monitor), recorder(run), keep]
    trainer = build_trainer(section, run_dir=run_dir, callbacks=callbacks, steps_done=steps_done)
    module = lightning_module(run, trainer, run_dir)
    if section.compile:
        run.task.network.compile()
    _fit(trainer, module, build_data_module(run), last)
    if last is not None and trainer.global_step == steps_done:
        logger.warning(
            "the run had its length of %d steps already: a longer trainer.max_epochs or trainer.max_steps "
            "would continue it",
            steps_done,
        )
        _keep_config(run_dir, config_yaml)
    result = score_best(run, module.run_dir)
    if is_first_process():
        write_problems(run, module.run_dir)  # again, with what reading the images showed
        warn_of_problems(run, known)
    return module.run_dir, result


def _keep_config(run_dir: Path, config_yaml: str) -> None:
    """Write what the run's recipe is from now on: the checkpoint has accepted it."""
    if is_first_process():
        keep_config(run_dir / CONFIG, config_yaml)


def _fit(trainer: Trainer, module: TrainingModule, data: LightningDataModule, last: Path | None) -> None:
    try:
        trainer.fit(module, datamodule=data, ckpt_path=last, weights_only=True)
    except SystemExit as error:  # what Lightning makes of Ctrl-C, and of a scheduler's SIGTERM
        hint = how_to_resume(module.run_dir)
        raise Interrupted(f"interrupted after {trainer.global_step} steps; {hint}") from error
    except RuntimeError as error:
        if (lost := lost_process(error, trainer)) is None:
            raise
        raise RuntimeError(f"{lost}; {how_to_resume(module.run_dir)}") from error
    stopping = trainer.early_stopping_callback
    if stopping is not None and stopping.wait_count >= stopping.patience:
        logger.info(
            "stopped early in epoch %d: %s has not risen above %.3f in %d validations",
            stopping.stopped_epoch,
            stopping.monitor,
            float(stopping.best_score),
            stopping.patience,
        )


def evaluate(source: Path, *, recipe: Recipe, out: Path | None, keep: bool = False) -> tuple[Path, Score]:
    """Score a checkpoint, a run's best checkpoint, or a recipe's own weights.

    Args:
        source: checkpoint or run's folder, or a recipe's file, whose model.weights are scored.
        recipe: the recipe by which to score; its data.val is the data set.
        out: folder for the report; None takes a new one beside the checkpoint.
        keep: write every prediction to `<out>/predictions`, where the task does not anyway.

    Returns:
        The folder of the report, and the score.

    Raises:
        ValueError: weights of other classes than the data set's, or a recipe without weights.
    """
    if out is not None:
        check_free(out)
    checkpoint, weights = None, recipe.model.weights
    name, base = source.stem, Path(recipe.trainer.out) / source.stem
    is_recipe = source.suffix in (".yaml", ".yml")
    if not is_recipe:
        checkpoint = checkpoint_of(source, names=(BEST, LAST))
        base = checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent
    elif weights is None:
        raise ValueError(
            f"{source} names no weights to score: set model.weights to a checkpoint, a .pth file or "
            "'torchvision:DEFAULT', or give a run's folder instead of a recipe"
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
        logger.warning("%s does not name its classes: they are taken for %s, in this order", weights, names)
    known = count_problems(run)
    out = out if out is not None else new_evaluation_dir(base)
    result = score(run, out, what, keep=keep)
    warn_of_problems(run, known)
    return out, result
