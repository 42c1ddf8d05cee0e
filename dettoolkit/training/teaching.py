"""Open the teacher that a recipe names, and refuse one that a run cannot learn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dettoolkit.config.distillation import Distill
from dettoolkit.formats.pytorch import fused
from dettoolkit.manifest import Manifest
from dettoolkit.network import Network
from dettoolkit.run import Run
from dettoolkit.soft_losses import channel_wise, pearson
from dettoolkit.tasks import spec_for, spec_of
from dettoolkit.teacher import FeatureLoss, Teacher, adapter_of
from dettoolkit.training.trained import open_model
from dettoolkit.weights.safe import sum_of
from dettoolkit.wording import listing


def attach_teacher(run: Run) -> None:
    """Give a run's task the teacher that its recipe names, if any, and adapters to the teacher's features.

    Torch's generator stays as it was; the adapters' weights come from the recipe's seed.

    Raises:
        FileNotFoundError: there is no such model.
        ValueError: it is of another task, has other classes, or answers what cannot be compared.
    """
    settings: Any = run.recipe.distill  # each task has its own kind
    if settings is None:
        return
    spec = spec_of(run.recipe)
    with torch.random.fork_rng(devices=[]):
        manifest, network = _open(settings.teacher)
        if manifest.task != spec.name:
            raise ValueError(
                f"distill.teacher={settings.teacher} is a {spec_for(manifest).noun}, but the recipe trains a "
                f"{spec.noun}: use a {spec.noun}"
            )
        order = order_of(run.classes.names, manifest.class_names, teacher=settings.teacher)
        own = spec.describe(run.recipe, run.task.network, classes=run.classes)
        compare = spec.distiller(settings, own=own, theirs=manifest.section, order=order)
        torch.manual_seed(run.recipe.trainer.seed)
        run.task.auxiliary.update(adapters(settings, run.task.network.backbone, network.backbone))
    run.task.teacher = Teacher(
        network=fused(network),  # type: ignore[arg-type]
        manifest=manifest,
        description={
            "teacher": settings.teacher,
            "name": manifest.name,
            "sha256": sum_of(network.state_dict()),
        },
        mean=run.task.mean,
        std=run.task.std,
        input_hw=spec.teacher_hw(manifest),
        scale=getattr(settings, "scale", 1.0),
        compare=compare,
        feature_losses=feature_losses(settings),
    )


def _open(teacher: str) -> tuple[Manifest, Network]:
    try:
        return open_model(Path(teacher).expanduser())
    except FileNotFoundError as error:
        raise FileNotFoundError(f"distill.teacher={teacher}: {error}") from error
    except ValueError as error:
        raise ValueError(f"distill.teacher={teacher}: {error}") from error


def order_of(names: Sequence[str], theirs: Sequence[str], *, teacher: str) -> list[int]:
    """Return the teacher's label of each class, by name; refuse other classes, by a ValueError."""
    if sorted(names) != sorted(theirs):
        lacking, unknown = sorted(set(names) - set(theirs)), sorted(set(theirs) - set(names))
        raise ValueError(
            f"distill.teacher={teacher} knows {len(theirs)} classes and the data have {len(names)}; only in "
            f"the data: {listing(lacking)}; only in the teacher: {listing(unknown)}. Use a teacher that was "
            "trained on the same classes, in any order"
        )
    return [list(theirs).index(name) for name in names]


def adapters(settings: Distill, own: Any, theirs: Any) -> Mapping[str, nn.Module]:
    """Build 1x1 convolutions from features of the backbone `own` to those of `theirs` with other channels."""
    return {
        adapter_of(name): nn.Conv2d(own.channels[name], theirs.channels[name], 1, bias=False)
        for name in feature_losses(settings)
        if own.channels[name] != theirs.channels[name]
    }


def feature_losses(settings: Distill) -> dict[str, FeatureLoss]:
    """Return the weighted loss of each of the backbone's features that the recipe names."""
    section = settings.features
    if section is None:
        return {}
    loss_of: FeatureLoss = pearson
    if section.type == "cwd":
        loss_of = partial(channel_wise, temperature=section.temperature)
    weight = section.weight
    return {name: lambda ours, theirs: weight * loss_of(ours, theirs) for name in section.names}
