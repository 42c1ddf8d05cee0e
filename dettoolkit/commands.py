"""What the tools do: train, check, evaluate. Command line and library callers share these functions."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer, seed_everything

from dettoolkit import build
from dettoolkit.complexity import count_conv_madds, count_parameters
from dettoolkit.config import Recipe
from dettoolkit.datasets.coco import BadImages, CocoAnnotations, CocoDetection, collate
from dettoolkit.datasets.samplers import SampleKey
from dettoolkit.detection.task import DetectionTask
from dettoolkit.evaluation.coco import CocoResult, DetectionArrays
from dettoolkit.gallery import write_predictions, write_training_batch
from dettoolkit.runs import CONFIG, checkpoint_of, new_run_dir, read_checkpoint
from dettoolkit.training.callbacks import RecordBadImages
from dettoolkit.training.logs import is_first_process
from dettoolkit.training.module import TrainingModule
from dettoolkit.training.trainer import BEST, LAST, build_callbacks, build_trainer, progress_bar

logger = logging.getLogger(__name__)


@dataclass
class Run:
    """Everything a command works with."""

    name: str
    recipe: Recipe
    classes: build.Classes
    task: DetectionTask
    train: CocoDetection
    val: CocoDetection
    val_annotations: CocoAnnotations
    bad_images: BadImages


def prepare(name: str, recipe: Recipe) -> Run:
    """Load the data and build the network of a training; anything wrong shows here, before any work."""
    seed_everything(recipe.trainer.seed, workers=True, verbose=False)
    build.prepare_data(recipe.data)
    train_annotations = build.load_annotations(recipe.data, "train")
    val_annotations = build.load_annotations(recipe.data, "val")
    classes = build.classes_of(train_annotations)
    build.match_classes(classes, val_annotations, whose=str(train_annotations.path))
    detector = build.build_detector(recipe.model, num_classes=len(classes.names), pretrained=True)
    task = build.build_task(recipe, detector, classes=classes, ground_truth=val_annotations.evaluation_dict())
    return Run(
        name,
        recipe,
        classes,
        task,
        build.build_dataset(recipe, train_annotations, split="train"),
        build.build_dataset(recipe, val_annotations, split="val"),
        val_annotations,
        BadImages(recipe.data.max_bad_images),
    )


def summary(run: Run) -> str:
    """Say what the run is made of, with the figures that the paper's tables print."""
    recipe, network = run.recipe, run.task.network
    height, width = recipe.model.input_hw
    lines = [
        f"recipe    {run.name}",
        f"network   ssdlite on {recipe.model.backbone.type}, {len(run.classes.names)} classes, "
        f"{len(network.anchors_xyxy)} default boxes at {height}x{width}",
        f"          {count_parameters(network, norm_affine=False) / 1e6:.2f}M parameters without BN "
        f"({count_parameters(network, norm_affine=True) / 1e6:.2f}M with), "
        f"{count_conv_madds(network, (height, width)) / 1e9:.2f}B multiply-adds",
        f"data      {len(run.train)} images to train on, {len(run.val)} to validate on, {recipe.data.root}",
    ]
    return "\n".join(lines)


def check(name: str, recipe: Recipe) -> str:
    """Try everything short of training: data, first batch, one forward and its loss."""
    run = prepare(name, recipe)
    size = min(recipe.data.batch_size, len(run.train))
    if size == 0:
        raise ValueError(f"{run.train.annotations.path} leaves no image to train on")
    batch = collate([run.train[SampleKey(index, 0)] for index in range(size)])
    run.task.network.train()
    with torch.no_grad():
        outputs = run.task.network(run.task.images(batch))
    losses = run.task.losses(outputs, batch)
    logits, deltas = outputs
    lines = [
        summary(run),
        f"batch     images {tuple(batch['images'].shape)}, {int((batch['labels'] >= 0).sum())} boxes",
        f"outputs   class logits {tuple(logits.shape)}, box deltas {tuple(deltas.shape)}",
        "loss      " + ", ".join(f"{part} {float(value):.4g}" for part, value in losses.items()),
        "all in order; nothing was trained",
    ]
    return "\n".join(lines)


def train(
    name: str, recipe: Recipe, *, config_yaml: str, resume: Path | None = None
) -> tuple[Path, CocoResult]:
    """Train by a recipe and score the best checkpoint.

    Args:
        name: the recipe's name, for the run's folder.
        recipe: the run.
        config_yaml: the resolved recipe as text, kept in the folder.
        resume: folder of the run to continue; None starts a new one.

    Returns:
        The run's folder, and the best checkpoint's score.
    """
    run = prepare(name, recipe)
    run_dir = resume if resume is not None else new_run_dir(Path(recipe.trainer.out), name)
    if is_first_process():
        logger.info("%s\nfolder    %s", summary(run), run_dir)
        if resume is None:
            (run_dir / CONFIG).write_text(config_yaml)
            _write_problems(run, run_dir)
            write_training_batch(run.train, run.classes, run_dir / "pictures", recipe.evaluation.pictures)
    callbacks = [
        *build_callbacks(recipe.trainer, run_dir=run_dir, monitor=run.task.monitor),
        _recorder(run),
    ]
    trainer = build_trainer(recipe.trainer, run_dir=run_dir, callbacks=callbacks)
    module = _module(run, trainer, run_dir)
    if recipe.trainer.compile:
        run.task.network.compile()
    data = build.build_data_module(recipe, run.train, run.val)
    last = str(checkpoint_of(resume, names=(LAST,))) if resume is not None else None
    trainer.fit(module, datamodule=data, ckpt_path=last, weights_only=True)
    if is_first_process():
        _write_problems(run, module.run_dir)  # again, with what reading the images showed
        if run.bad_images.lines:
            skipped = "\n  ".join(run.bad_images.lines)
            logger.warning(
                "%d images could not be read and were skipped:\n  %s", len(run.bad_images.lines), skipped
            )
    return module.run_dir, _score_best(run, module.run_dir)


def _module(run: Run, trainer: Trainer, run_dir: Path) -> TrainingModule:
    recipe = run.recipe
    return TrainingModule(
        task=run.task,
        optim=recipe.optim,
        images_per_step=recipe.data.batch_size * trainer.world_size * recipe.trainer.accumulate,
        max_steps=recipe.trainer.max_steps,
        channels_last=recipe.trainer.channels_last,
        description=build.describe(run.name, recipe, run.classes),
        run_dir=run_dir,
    )


def _recorder(run: Run) -> RecordBadImages:
    problems = (run.train.annotations.problems.record, run.val_annotations.problems.record)
    return RecordBadImages(bad_images=run.bad_images.record, problems=problems)


def _write_problems(run: Run, run_dir: Path) -> None:
    problems = {
        "train": run.train.annotations.problems.to_json(),
        "val": run.val_annotations.problems.to_json(),
        "unreadable images": run.bad_images.lines,
    }
    (run_dir / "data_problems.json").write_text(json.dumps(problems, indent=1))


def _score_best(run: Run, run_dir: Path) -> CocoResult:
    """Score the best checkpoint once more and write report and pictures.

    All processes take part; the first one's weights are handed to the others before validation.
    """
    what = f"{run_dir} on {run.val_annotations.path}"
    if is_first_process():
        path = checkpoint_of(run_dir, names=(BEST, LAST))
        _load(run.task, path)
        what = f"{path} on {run.val_annotations.path}"
    return _evaluate(run, run.recipe.trainer, run_dir, what)


def _load(task: DetectionTask, path: Path) -> None:
    _, state = read_checkpoint(path)
    task.network.load_state_dict({key.removeprefix("network."): value for key, value in state.items()})


def _evaluate(run: Run, section: Any, out: Path, what: str) -> CocoResult:
    recipe = run.recipe
    trainer = build_trainer(
        section,
        run_dir=None,
        callbacks=[progress_bar(), _recorder(run)],
    )
    module = _module(run, trainer, out)
    data = build.build_data_module(recipe, run.val, run.val)
    started = time.perf_counter()
    trainer.validate(module, datamodule=data, verbose=False)
    logger.info("scored %d images in %.1f s", len(run.val), time.perf_counter() - started)
    result = module.score
    assert isinstance(result, CocoResult)
    if trainer.global_rank == 0:
        _write_evaluation(run, result, DetectionArrays.concatenate(module.predictions), out, what)
    return result


def _write_evaluation(
    run: Run, result: CocoResult, detections: DetectionArrays, out: Path, what: str
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    report = {"what": what, **result.to_json()}
    (out / "evaluation.json").write_text(json.dumps(report, indent=1))
    (out / "predictions.json").write_text(json.dumps(detections.to_results()))
    evaluation = run.recipe.evaluation
    write_predictions(
        run.val,
        run.classes,
        detections,
        out / "pictures",
        count=evaluation.pictures,
        threshold=evaluation.picture_threshold,
    )


def evaluate(source: Path, *, recipe: Recipe, out: Path | None) -> tuple[Path, CocoResult]:
    """Score a checkpoint, a run's best checkpoint, or a recipe's own weights.

    Args:
        source: checkpoint or run's folder, or a recipe's file, whose model.weights are scored.
        recipe: the recipe by which to score; its data.val is the data set.
        out: folder for the report; None takes a new one beside the checkpoint.

    Returns:
        The folder of the report, and the score.
    """
    name, path, base = source.stem, source, Path(recipe.trainer.out) / source.stem
    description = None
    if source.suffix not in (".yaml", ".yml"):
        path = checkpoint_of(source, names=(BEST, LAST))
        description, _ = read_checkpoint(path)
        name, base = str(description["name"]), path.parent.parent
    build.prepare_data(recipe.data, ["val"])
    annotations = build.load_annotations(recipe.data, "val")
    own = build.classes_of(annotations)
    if description is not None:
        own = build.Classes(list(description["class_names"]), list(description["category_ids"]))
    classes = build.match_classes(own, annotations, whose=str(path))
    detector = build.build_detector(
        recipe.model, num_classes=len(classes.names), pretrained=description is None
    )
    task = build.build_task(recipe, detector, classes=classes, ground_truth=annotations.evaluation_dict())
    if description is not None:
        _load(task, path)
    val = build.build_dataset(recipe, annotations, split="val")
    run = Run(name, recipe, classes, task, val, val, annotations, BadImages(recipe.data.max_bad_images))
    if out is None:
        out = new_evaluation_dir(base)
    return out, _evaluate(run, recipe.trainer, out, f"{path} on {annotations.path}")


def new_evaluation_dir(base: Path) -> Path:
    """Make `<base>/evaluation`, or `evaluation_2` and so on where that exists."""
    for number in range(1, 10_000):
        out = base / ("evaluation" if number == 1 else f"evaluation_{number}")
        try:
            out.mkdir(parents=True)
        except FileExistsError:
            continue
        return out
    raise FileExistsError(f"no free folder at {base}/evaluation_*: give one by --out")
