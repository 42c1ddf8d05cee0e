"""Loaders of a run: every process its share, the same order for the same seed, resumable in mid-epoch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch.utils.data import DataLoader

from dettoolkit.datasets.samplers import EpochSampler, ExactSampler, ResumableLoader, SampleKey, worker_init
from dettoolkit.run import Run


class DataModule(LightningDataModule):
    """Serve a run's training and validation set."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run
        self.loading: dict[str, Any] = {
            "collate_fn": run.collate,
            "num_workers": run.recipe.data.workers,
            "worker_init_fn": worker_init,
            "pin_memory": torch.cuda.is_available(),
        }

    def _place(self) -> tuple[int, int]:
        trainer: Trainer = self.trainer  # type: ignore[assignment]
        return trainer.global_rank, trainer.world_size

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffle by seed and epoch; the same number of images on every process, at least two."""
        rank, processes = self._place()
        images, data = len(self.run.train), self.run.recipe.data
        if images <= processes:
            raise ValueError(
                f"the training set has {images} image(s) for {processes} process(es), but batch "
                "normalization needs two on each: add images, or use fewer trainer.devices"
            )
        sampler = EpochSampler(
            size=images,
            seed=self.run.recipe.trainer.seed,
            rank=rank,
            world_size=processes,
            batch_size=data.batch_size,
        )
        return ResumableLoader(
            self.run.train,
            sampler=sampler,
            batch_size=data.batch_size,
            persistent_workers=data.workers > 0,
            **self.loading,
        )

    def some_batches(self, count: int) -> DataLoader[Any]:
        """Return up to `count` training batches of this epoch, the same on every process."""
        trainer: Trainer = self.trainer  # type: ignore[assignment]
        epoch, recipe = trainer.current_epoch, self.run.recipe
        shuffled = np.random.default_rng((recipe.trainer.seed, epoch)).permutation(len(self.run.train))
        size = recipe.data.batch_size
        keys = [SampleKey(int(index), epoch) for index in shuffled[: count * size]]
        return DataLoader(self.run.train, sampler=keys, batch_size=size, **self.loading)

    def val_dataloader(self) -> DataLoader[Any]:
        """Every image exactly once over all processes, none of them without any: the others would wait."""
        rank, processes = self._place()
        images = len(self.run.val)
        if images < processes:
            raise ValueError(
                f"the validation set has {images} images for {processes} processes: use fewer trainer.devices"
            )
        sampler = ExactSampler(size=images, rank=rank, world_size=processes)
        return DataLoader(self.run.val, sampler=sampler, batch_size=self.run.val_batch_size, **self.loading)
