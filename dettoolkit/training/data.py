"""Loaders of a run: every process its share, the same order for the same seed, resumable in mid-epoch."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from dettoolkit.datasets.samplers import EpochSampler, ExactSampler, ResumableLoader, worker_init


class DataModule(LightningDataModule):
    """Serve a training and a validation set.

    Args:
        train: training set, indexed by `SampleKey`.
        val: validation set.
        collate: makes a batch of samples.
        batch_size: images per process and step.
        val_batch_size: images per process in validation.
        workers: loader processes per process; 0 loads in the training process.
        seed: of the sample order.
    """

    def __init__(
        self,
        *,
        train: Dataset[Any],
        val: Dataset[Any],
        collate: Callable[[Sequence[Any]], Any],
        batch_size: int,
        val_batch_size: int,
        workers: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.train, self.val = train, val
        self.batch_size, self.val_batch_size = batch_size, val_batch_size
        self.seed = seed
        self.loading: dict[str, Any] = {
            "collate_fn": collate,
            "num_workers": workers,
            "worker_init_fn": worker_init,
            "pin_memory": torch.cuda.is_available(),
        }

    def _share(self) -> tuple[int, int]:
        if self.trainer is None:
            return 0, 1
        return self.trainer.global_rank, self.trainer.world_size

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffle by seed and epoch; the same number of images on every process.

        Raises:
            ValueError: fewer than two images for a process.
        """
        rank, world_size = self._share()
        images = len(self.train)  # type: ignore[arg-type]
        if images <= world_size:
            raise ValueError(
                f"the training set has {images} image(s) for {world_size} process(es), but batch "
                "normalization needs two on each: add images, or use fewer trainer.devices"
            )
        sampler = EpochSampler(
            size=images,
            seed=self.seed,
            rank=rank,
            world_size=world_size,
            batch_size=self.batch_size,
        )
        return ResumableLoader(
            self.train,
            sampler=sampler,
            batch_size=self.batch_size,
            persistent_workers=self.loading["num_workers"] > 0,
            **self.loading,
        )

    def val_dataloader(self) -> DataLoader[Any]:
        """Every image exactly once over all processes.

        Raises:
            ValueError: a process would have none; Lightning leaves it out, and the others wait for it.
        """
        rank, world_size = self._share()
        images = len(self.val)  # type: ignore[arg-type]
        if images < world_size:
            raise ValueError(
                f"the validation set has {images} images for {world_size} processes: use fewer "
                "trainer.devices"
            )
        sampler = ExactSampler(size=images, rank=rank, world_size=world_size)
        return DataLoader(self.val, sampler=sampler, batch_size=self.val_batch_size, **self.loading)


def killed_loader(error: RuntimeError) -> str | None:
    """Describe that a loader's process was killed, and why that may have been; None for any other error."""
    text = str(error)
    if re.match(r"DataLoader worker \(pid.*\) (is killed|exited unexpectedly)", text) is None:
        return None
    return (
        f"a loader's process was killed ({text.splitlines()[0].rstrip('. ')}): memory may have run out, or "
        "shared memory (/dev/shm). Take fewer data.workers or a smaller data.batch_size"
    )
