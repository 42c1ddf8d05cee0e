"""Which sample comes when: training and validation order over all processes, and a loader that resumes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler


class SampleKey(NamedTuple):
    """What a sampler asks of a data set: the sample, and the epoch that its augmentation is drawn for."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    epoch: int


class EpochSampler(Sampler[SampleKey]):
    """Shuffled order of training, the same whatever the number of workers and resumable at any sample.

    An epoch is a permutation drawn from (seed, epoch), padded by its own start until every rank has the same
    number; each takes every world_size-th. A rank's last incomplete batch is left out (batch normalization
    suffers from a remainder of one image), unless it is the only one.
    """

    def __init__(self, *, size: int, seed: int, rank: int, world_size: int, batch_size: int) -> None:
        _check_rank(size, rank, world_size)
        self.size, self.seed, self.rank, self.world_size = size, seed, rank, world_size
        self.batch_size = batch_size
        self.epoch = 0
        self.start = 0  # samples of this rank that the next iteration leaves out

    def __len__(self) -> int:
        """Count the samples of a whole epoch on this rank, wherever the next iteration starts."""
        count = -(-self.size // self.world_size)  # rounded up: the padding
        return max(count - count % self.batch_size, min(count, self.batch_size))

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration; Lightning calls this before each. A new one starts at 0."""
        if epoch != self.epoch:
            self.start = 0
        self.epoch = epoch

    def set_start(self, sample: int) -> None:
        """Let the next iteration, and only it, leave out this rank's first `sample` samples."""
        if not 0 <= sample <= len(self):
            raise ValueError(f"start must be 0 to {len(self)} samples of an epoch, got {sample}")
        self.start = sample

    def __iter__(self) -> Iterator[SampleKey]:
        start, self.start = self.start, 0
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.size)
        mine = np.resize(order, len(self) * self.world_size)[self.rank :: self.world_size]
        epoch = self.epoch
        return (SampleKey(index, epoch) for index in mine[start:].tolist())


class ExactSampler(Sampler[SampleKey]):
    """Order of validation: rank, rank + world_size, ...; over all ranks every sample exactly once.

    Ranks may differ by one sample, so nothing inside the validation loop may wait for the other ranks.
    """

    def __init__(self, *, size: int, rank: int, world_size: int) -> None:
        _check_rank(size, rank, world_size)
        self.indices = range(rank, size, world_size)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[SampleKey]:
        return (SampleKey(index, 0) for index in self.indices)


def _check_rank(size: int, rank: int, world_size: int) -> None:
    if size < 1:
        raise ValueError(f"a sampler needs at least 1 sample, got {size}: is the data set empty?")
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must be 0 to world_size - 1, got rank {rank} of {world_size}")


_ORDER = ("size", "seed", "batch_size", "world_size")  # the order of an epoch is drawn from these


class ResumableLoader(DataLoader[Any]):
    """A training loader whose position goes into Lightning's checkpoints and comes back from them.

    Takes what a DataLoader takes, with `sampler` an EpochSampler of the same batch size. The position counts
    batches handed out, not those that workers have prepared. Iteration starts at the first `next`, not at
    `iter`: Lightning calls `iter` before it tells the sampler the epoch, so workers of a resumed run would
    begin with epoch 0 (Lightning issue 21938).
    """

    _batches = 0  # handed out of the sampler's epoch, those before a resume included

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        sampler = self._epoch_sampler()
        self._batches = sampler.start // sampler.batch_size
        for batch in super().__iter__():
            self._batches += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return where training is; a batch counts as soon as it is handed out, even if its step raises."""
        sampler = self._epoch_sampler()
        order = {name: getattr(sampler, name) for name in _ORDER}
        return {"epoch": sampler.epoch, "batches": self._batches, "epoch_batches": len(self), **order}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Continue where `state_dict` was taken; raise ValueError in an epoch if the order has changed."""
        sampler = self._epoch_sampler()
        sampler.set_epoch(state_dict["epoch"])
        if state_dict["batches"] >= state_dict["epoch_batches"]:  # nothing left: the order does not matter
            self._batches = len(self)
            sampler.set_start(len(sampler))
            return
        now = {name: getattr(sampler, name) for name in _ORDER}
        if changed := [f"{name} {state_dict[name]}" for name in _ORDER if state_dict[name] != now[name]]:
            these = ", ".join(f"{name} {value}" for name, value in now.items())
            raise ValueError(
                f"the checkpoint was written in the middle of an epoch with {', '.join(changed)}, but this "
                f"run has {these}: resume with the same settings, or from the end of an epoch"
            )
        self._batches = state_dict["batches"]
        sampler.set_start(self._batches * sampler.batch_size)

    def _epoch_sampler(self) -> EpochSampler:
        if not isinstance(self.sampler, EpochSampler) or self.batch_size != self.sampler.batch_size:
            raise ValueError(
                "a ResumableLoader needs an EpochSampler of its own batch size, got "
                f"{type(self.sampler).__name__} and batch_size {self.batch_size}: was it replaced? "
                "Give the Trainer use_distributed_sampler=False and no overfit_batches"
            )
        return self.sampler


def worker_init(worker_id: int) -> None:  # noqa: ARG001  the signature that DataLoader calls
    """Keep a loader's worker to one thread: workers are the parallelism, and OpenCV's pool dies in a fork."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
