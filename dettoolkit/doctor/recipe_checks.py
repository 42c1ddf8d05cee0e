"""Checks of a recipe against the amount and the shape of its data, and against the machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dettoolkit.config import Recipe, ResolvedRecipe
from dettoolkit.doctor.findings import Finding, Severity, counted
from dettoolkit.doctor.image_checks import size_text

FAR = 10
"""Times that a length may differ from the one that is meant."""

FAR_RATE = 8
"""Times that a learning rate is scaled; the rule of arXiv 1706.02677 holds for a range only."""

UNSCALED = 2
"""Times that a batch may differ from the recipe's where the learning rate does not follow."""

FEW_STEPS = 100
"""With less than this even a fine-tuning has hardly begun."""

FAR_ASPECT = 1.6
"""Times that an input may change the aspect of images: 4:3 to a square is 1.33."""

STRIDE = 32
"""Sides of an input are multiples of it."""


@dataclass(frozen=True)
class Length:
    """How long a run is.

    Attributes:
        step_images: images of an optimizer step, over all devices.
        epoch_steps: optimizer steps of an epoch.
        steps: of the whole run.
        epochs: of the whole run.
    """

    step_images: int
    epoch_steps: int
    steps: int
    epochs: float


def length_of(recipe: Recipe, images: int) -> Length:
    """Compute how long a recipe trains on a number of images."""
    trainer, batch = recipe.trainer, recipe.data.batch_size
    processes = processes_of(recipe)
    batches = max(1, images // processes // batch)
    epoch_steps = -(-batches // trainer.accumulate)
    steps = trainer.max_steps or epoch_steps * (trainer.max_epochs or 0)
    return Length(batch * processes * trainer.accumulate, epoch_steps, steps, steps / epoch_steps)


def meant_length(files: ResolvedRecipe) -> Length | None:
    """Compute how long a recipe is meant to train; None where the file with its length does not say it."""
    trainer, origins = files.recipe.trainer, files.provenance
    key = "trainer.max_epochs" if trainer.max_steps is None else "trainer.max_steps"
    files_of = {origins[each].rpartition(":")[0] for each in (key, "trainer.length_images")}
    if trainer.length_images is None or len(files_of) > 1:
        return None
    return length_of(files.recipe, trainer.length_images)


def processes_of(recipe: Recipe) -> int:
    """Count the processes of a run, each with its own batch."""
    trainer = recipe.trainer
    if isinstance(trainer.devices, list):
        devices = len(trainer.devices)
    elif trainer.devices == "auto":
        import torch  # late: annotations are loaded before, and need the memory

        on_cpu = trainer.accelerator in ("cpu", "mps")
        devices = 1 if on_cpu else max(1, torch.cuda.device_count())
    else:
        devices = int(trainer.devices)
    return devices * trainer.num_nodes


def check_length(length: Length, meant: Length | None, *, recipe: Recipe, images: int) -> Iterator[Finding]:
    """Compare the length with the data, and with what it is meant to be.

    Args:
        length: of the run.
        meant: of a run by the recipe's files, on as many images as they are meant for.
        recipe: the run.
        images: to train on.
    """
    schedule, batch = recipe.optim.schedule, recipe.data.batch_size
    run = f"{counted(length.steps, 'step')} of {counted(length.step_images, 'image')}"
    if images < batch * processes_of(recipe):
        yield _about(
            "batch-larger-than-data",
            "error",
            f"A step takes {counted(length.step_images, 'image')}, and there are {images} to train on",
            f"Set data.batch_size={max(2, images // processes_of(recipe))} or less.",
        )
    if schedule.warmup_steps * 2 > length.steps:
        yield _about(
            "warmup-long",
            "error" if schedule.warmup_steps >= length.steps else "warning",
            f"The learning rate rises for {counted(schedule.warmup_steps, 'step')} of the run's "
            f"{length.steps:,}",
            f"Set optim.schedule.warmup_steps={length.steps // 20}, or train longer.",
        )
    if meant is not None and length.epochs > FAR * meant.epochs:
        yield _about(
            "schedule-long",
            "warning",
            f"{run} show each of the {images:,} images {length.epochs:,.0f} times; the recipe is meant to "
            f"show its own {meant.epochs:,.0f} times",
            "Lay the overlay for data of your own over the recipe (finetune*.yaml), or set a shorter "
            "trainer.max_epochs (with trainer.max_steps=null).",
        )
    elif meant is not None and length.steps > FAR * meant.steps:
        yield _about(
            "schedule-long",
            "warning",
            f"The run has {run}, over {FAR} times the {meant.steps:,} that the recipe is meant to have",
            f"With so many images fewer epochs do: trainer.max_epochs={_epochs(meant, length)} is still "
            f"{FAR} times the meant length.",
        )
    than = ""
    if meant is not None and meant.steps > FAR * length.steps:
        than = f", less than a tenth of the {meant.steps:,} that the recipe is meant to have"
    if than or length.steps < FEW_STEPS:
        yield _about(
            "schedule-short",
            "warning",
            f"The run has {run} only{than}",
            "Train longer (trainer.max_epochs, trainer.max_steps), unless this is a try.",
        )


def check_rate(length: Length, files: Recipe, *, recipe: Recipe) -> Iterator[Finding]:
    """Compare the learning rate with the images of a step; `files` is the recipe without the command line."""
    optim = recipe.optim
    if optim.lr_batch_size is not None:
        factor = length.step_images / optim.lr_batch_size
        if max(factor, 1 / factor) > FAR_RATE:
            yield _about(
                "rate-scaled-far",
                "warning",
                f"The learning rate {optim.lr:g} is meant for {counted(optim.lr_batch_size, 'image')} per "
                f"step; this run has {length.step_images}, so that it takes {optim.lr * factor:.3g}",
                "Try a rate of your own with optim.lr_batch_size=null, or bring the images of a step nearer "
                "(data.batch_size, trainer.accumulate).",
            )
        return
    before = files.data.batch_size * processes_of(files) * files.trainer.accumulate
    factor = length.step_images / before
    if max(factor, 1 / factor) > UNSCALED and optim.lr == files.optim.lr:
        yield _about(
            "rate-not-scaled",
            "warning",
            f"The recipe has {before} images per step for its learning rate {optim.lr:g}, this run "
            f"{length.step_images}, and the rate stays",
            f"Set optim.lr_batch_size={before}, which scales it, or another optim.lr.",
        )


def check_workers(recipe: Recipe, *, cores: int) -> Iterator[Finding]:
    """Compare the loader's processes with the cores of this machine."""
    wanted = recipe.data.workers * max(1, processes_of(recipe) // recipe.trainer.num_nodes)
    if wanted > cores:
        yield _about(
            "workers-above-cores",
            "note",
            f"{wanted} loader processes share {counted(cores, 'core')}",
            f"Set data.workers={max(1, cores * recipe.data.workers // wanted)}: more cost memory, and no "
            "image is read sooner.",
        )
    elif not wanted and cores > 1:
        yield _about(
            "workers-none",
            "note",
            "Images are read by the process that trains, which waits for them",
            f"Set data.workers={min(4, cores)}.",
        )


def check_aspect(sizes: NDArray[np.int64], input_hw: tuple[int, int]) -> Iterator[Finding]:
    """Compare the aspect of images, height and width (n, 2), with that of the input they are stretched to."""
    if not len(sizes):
        return
    aspect = float(np.median(sizes[:, 1] / sizes[:, 0]))
    change = aspect * input_hw[0] / input_hw[1]
    if max(change, 1 / change) <= FAR_ASPECT:
        return
    area = input_hw[0] * input_hw[1]
    better = tuple(max(1, round((area * ratio) ** 0.5 / STRIDE)) * STRIDE for ratio in (1 / aspect, aspect))
    what = "narrower" if change > 1 else "flatter"
    yield _about(
        "input-aspect",
        "note",
        f"Half of the images have a width of {aspect:.2f} times their height or "
        f"{'more' if change > 1 else 'less'}, and the input is {size_text(input_hw)}: objects become "
        f"{max(change, 1 / change):.1f} times {what}",
        f"An input of {better[0]}x{better[1]} costs the same and keeps the aspect.",
    )


def _about(id: str, severity: Severity, text: str, remedy: str) -> Finding:
    return Finding(id=id, severity=severity, split=None, count=1, text=text, remedy=remedy, examples=())


def _epochs(meant: Length, length: Length) -> int:
    return max(1, FAR * meant.steps // length.epoch_steps)
