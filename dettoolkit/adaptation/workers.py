"""The trials of a step: one after the other here, on several processes at once, or on a Ray cluster."""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from multiprocessing.process import parent_process
from multiprocessing.queues import Queue
from types import TracebackType
from typing import Protocol, Self

import torch

from dettoolkit.training.finetune import Trial, Tried, finetune


class Workers(Protocol):
    """What runs trials, while it is entered."""

    def __enter__(self) -> Self:
        """Return itself, ready for trials."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End whatever runs trials."""

    def run(self, trials: Sequence[Trial]) -> Iterator[tuple[int, float | None]]:
        """Yield the number of each trial with its score, as they end; None is that of one that diverged."""


class Processes:
    """Run trials on `jobs` processes, which share the machine's cores, or its GPUs by turns."""

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        """Return itself; processes start with the first trials."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the processes; of an error, without waiting for their trials."""
        if self._pool is not None:
            processes = list((getattr(self._pool, "_processes", None) or {}).values())
            self._pool.shutdown(wait=error is None, cancel_futures=True)
            for process in processes if error is not None else ():
                process.terminate()

    def run(self, trials: Sequence[Trial]) -> Iterator[tuple[int, float | None]]:
        """Yield the number of each trial with its score, as they end; see `Workers`."""
        if self.jobs == 1:
            yield from ((number, finetune(trial).score) for number, trial in enumerate(trials))
            return
        if self._pool is None:
            self._pool = _pool(self.jobs)
        futures: dict[Future[Tried], int] = {
            self._pool.submit(finetune, trial): number for number, trial in enumerate(trials)
        }
        for future in as_completed(futures):
            yield futures[future], future.result().score


def _pool(jobs: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")  # forked processes cannot share torch's threads
    numbers: Queue[int] = context.Queue()
    for number in range(jobs):
        numbers.put(number)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",") if visible else [str(each) for each in range(torch.cuda.device_count())]
    threads = max(1, torch.get_num_threads() // jobs)
    return ProcessPoolExecutor(
        jobs, mp_context=context, initializer=_begin, initargs=(numbers, threads, gpus)
    )


def _begin(numbers: Queue[int], threads: int, gpus: Sequence[str]) -> None:
    """Take a process's share of the machine, and let it end with the process that started it."""
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[numbers.get() % len(gpus)]  # read at the first use of CUDA
    take_threads(threads)
    parent = parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def take_threads(threads: int) -> None:
    """Let a process for trials use so many threads, and repeat none of the libraries' messages."""
    torch.set_num_threads(threads)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.simplefilter("ignore")  # what the libraries warn of is the same in each trial
