"""What the tools do: train, check, evaluate. Command line and library callers share these functions."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.callbacks import LambdaCallback

from dettoolkit import build
from dettoolkit.wording import listing
from dettoolkit.build import Run
from dettoolkit.config import Recipe, recipe_from_dict
from dettoolkit.datasets.samplers import SampleKey
from dettoolkit.finite import require_finite
from dettoolkit.manifest import name_raw
from dettoolkit.training.data import killed_loader
from dettoolkit.training.module import Score, Task, TrainingModule
from dettoolkit.training.prepare import (
    count_problems,
    lightning_module,
    prepare,
    recorder,
    shortage_told,
    summary,
    tell_problems,
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
    write_whole,
)
from dettoolkit.training.trainer import build_callbacks, build_trainer, lost_process, progress_bar
from dettoolkit.weights.description import description_of, read_checkpoint
from dettoolkit.weights.pretrained import TORCHVISION, load_weights

logger = logging.getLogger(__name__)


def check(name: str, recipe: Recipe) -> str:
    """Try everything short of training: all annotations, first batch, one forward and its loss."""
    run = prepare(name, recipe)
    run.read_annotations(("train",))  # those of val are read already
    size = min(recipe.data.batch_size, len(run.train))
    batch = run.collate([run.train[SampleKey(index, 0)] for index in range(size)])
    if not len(batch["images"]):
        listing = "\n  ".join(batch["bad_images"])
        raise ValueError(f"none of the first {size} training images can be read:\n  {listing}")
    run.task.network.train(len(batch["images"]) > 1)  # batch normalization cannot train on one image
    with torch.no_grad():
        outputs = run.task.network(run.task.images(batch))
    losses = run.task.losses(outputs, batch)
    require_finite(
        [*name_raw(outputs), *((f"loss {part}", value) for part, value in losses.items())],
        source="the network's answer to the first batch",
        remedy="start from other weights, or check model.loss and the images of this batch",
    )
    lines = [
        summary(run),
        *run.batch_lines(batch, outputs),
        "loss      " + ", ".join(f"{part} {float(value):.4g}" for part, value in losses.items()),
        "the check passed; nothing was trained",
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
        with locked(run_dir), shortage_told(run_dir):
            if is_first_process():
                write_whole(run_dir / CONFIG, config_yaml.encode())
                write_problems(run, run_dir)
                run.draw_training_batch(run_dir / "figures")
            return _train(run, run_dir, config_yaml, last=None, steps_done=0)
    checkpoint_of(resume, names=(LAST, PREVIOUS, BEST))
    with locked(resume), shortage_told(resume):
        last, steps_done = resumable_checkpoint(resume)
        description, _ = read_checkpoint(last)
        before = recipe_from_dict(description["recipe"], source=f"recipe of {last}")
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
    told = count_problems(run)
    if is_first_process():
        logger.info("%s\nfolder    %s", summary(run), run_dir)
    section = run.recipe.trainer
    keep = LambdaCallback(on_train_start=lambda *_: _keep_config(run_dir, config_yaml))
    callbacks = [*build_callbacks(section, run_dir=run_dir, monitor=run.monitor), recorder(run), keep]
    trainer = build_trainer(section, run_dir=run_dir, callbacks=callbacks, steps_done=steps_done)
    module = lightning_module(run, trainer, run_dir)
    if section.compile:
        run.task.network.compile()
    _fit(trainer, module, build.build_data_module(run), last)
    if last is not None and trainer.global_step == steps_done:
        logger.warning(
            "the run had its length of %d steps already: a longer trainer.max_epochs or trainer.max_steps "
            "would continue it",
            steps_done,
        )
        _keep_config(run_dir, config_yaml)
    result = _score_best(run, module.run_dir)
    if is_first_process():
        write_problems(run, module.run_dir)  # again, with what reading the images showed
        tell_problems(run, told)
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


def _score_best(run: Run, run_dir: Path) -> Score:
    """Score the best checkpoint once more and write report and figures.

    All processes take part; the first one's weights are handed to the others before validation.
    """
    what = str(run_dir)
    if is_first_process():
        path = checkpoint_of(run_dir, names=(BEST, LAST))
        _load(run.task, path)
        what = str(path)
    return _evaluate(run, run_dir, what)


def _load(task: Task, path: Path) -> None:
    _, state = read_checkpoint(path)
    load_weights(
        task.network,
        {key.removeprefix("network."): value for key, value in state.items()},
        source=str(path),
        replaceable="(?!)",  # nothing
        remedy="score a checkpoint with its own model section: overrides must not change its tensors",
    )


def _evaluate(run: Run, out: Path, what: str, *, keep: bool = False) -> Score:
    recipe = run.recipe
    callbacks: list[Callback] = [recorder(run)]
    if recipe.trainer.extra.enable_progress_bar is not False:
        callbacks.append(progress_bar())
    trainer = build_trainer(recipe.trainer, run_dir=None, callbacks=callbacks)
    module = lightning_module(run, trainer, out)
    if keep:
        run.keep_predictions(lambda: module.run_dir / "predictions")  # all processes learn it from the first
    data = build.build_data_module(run)
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
    own = None
    if checkpoint is not None:
        description, _ = read_checkpoint(checkpoint)
        own = build.Classes(list(description["class_names"]), list(description["category_ids"]))
        name = name if is_recipe else description["name"]
    what = str(checkpoint or weights)
    run = build.evaluation_run(name, recipe, own=own, what=what)
    if checkpoint is not None:
        _load(run.task, checkpoint)
    elif weights is not None and not weights.startswith(TORCHVISION):
        names = listing(run.classes.names)
        logger.warning("%s does not name its classes: they are taken for %s, in this order", weights, names)
    told = count_problems(run)
    out = out if out is not None else new_evaluation_dir(base)
    result = _evaluate(run, out, what, keep=keep)
    tell_problems(run, told)
    return out, result
