"""Labels that a trained model doubts, of both splits of a recipe."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dettoolkit.config import Recipe
from dettoolkit.doctor.examination import Progress
from dettoolkit.doctor.findings import Finding
from dettoolkit.formats import requires
from dettoolkit.run import Batch, Classes, Run, Split
from dettoolkit.tasks import spec_of
from dettoolkit.training.data import DataModule
from dettoolkit.training.run_folder import BEST, LAST, checkpoint_of
from dettoolkit.weights.load import load_trained
from dettoolkit.weights.read import read_checkpoint

SPLITS: tuple[Split, ...] = ("train", "val")


def label_findings(source: Path, recipe: Recipe, *, progress: Progress) -> list[Finding]:
    """Run a model on all images of a recipe, and return the annotations that it doubts.

    `source` is a run's folder, of which the best checkpoint is taken, or a checkpoint; its network is the
    recipe's.

    Raises:
        ModuleNotFoundError: cleanlab is not installed; the message names the extra.
        ValueError: the network or the classes are others than the recipe's.
    """
    with requires("cleanlab", what="--label-errors"):
        import cleanlab  # noqa: F401
    checkpoint = checkpoint_of(source, names=(BEST, LAST))
    description, state = read_checkpoint(checkpoint)
    own = Classes(list(description["class_names"]), list(description["class_ids"]))
    spec, found = spec_of(recipe), list[Finding]()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for split in SPLITS:
        data = recipe.data.model_copy(update={"val": getattr(recipe.data, split)})
        part = recipe.model_copy(update={"data": data})
        run = spec.evaluation_run(description["name"], part, own=own, what=str(checkpoint))
        load_trained(run.task.network, state, source=str(checkpoint))
        run.task.network.to(device).eval()
        total = -(-len(run.val) // run.val_batch_size)
        with torch.inference_mode():
            batches = progress(_batches(run, device), total, "batches")
            found += spec.suspects(run, split=split, batches=batches)
    return found


def _batches(run: Run, device: torch.device) -> Iterator[Batch]:
    """Yield the batches of the validation set that have an image which can be read."""
    for batch in DataLoader(run.val, batch_size=run.val_batch_size, **DataModule(run).loading):
        if len(batch["images"]):
            yield {
                key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()
            }
