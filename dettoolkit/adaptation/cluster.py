"""The trials of a step on the machines of a Ray cluster, which share the folders of data and adaptation."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from dettoolkit.adaptation.workers import take_threads
from dettoolkit.formats import requires
from dettoolkit.training.finetune import Trial, finetune


class Cluster:
    """Run `jobs` trials at once on a Ray cluster, each with an equal share of its processors and GPUs.

    `address` is that of a cluster, as `ray.init` takes it: "auto" for the one that this machine belongs to,
    "local" for a new one of this machine alone. Ray tries a trial again whose machine was lost. With
    `jobs` None there is one for each GPU, or where there are none, for each machine.
    """

    def __init__(self, address: str, jobs: int | None) -> None:
        self.address, self.jobs = address, jobs

    def __enter__(self) -> Self:
        """Connect.

        Raises:
            ValueError: there is no such cluster.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a new one would report to its makers
        with requires("ray"):
            import ray
        try:
            _reach(self.address)
            ray.init(address=self.address, log_to_driver=False)
        except (OSError, RuntimeError, ValueError) as error:
            raise ValueError(
                f"there is no Ray cluster at '{self.address}' ({error}): start one with 'ray start "
                "--head', or use --ray local"
            ) from None
        self._ray: Any = ray
        there = ray.cluster_resources()
        gpus = there.get("GPU", 0.0)
        self.at_once = self.jobs or int(gpus) or len(ray.nodes())
        self.threads = max(1, int(there.get("CPU", 1.0) / self.at_once))
        share = min(1.0, gpus / self.at_once)  # a trial trains on one
        self._try = ray.remote(num_cpus=self.threads, num_gpus=share)(_tried)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Disconnect, which ends trials that run."""
        self._ray.shutdown()

    def run(self, trials: Sequence[Trial]) -> Iterator[tuple[int, float | None]]:
        """Yield the number of each trial with its score, as they end; see `workers.Workers`.

        Raises:
            ValueError: a machine's checkpoint is not seen here.
        """
        waiting = list(enumerate(trials))[::-1]
        running: dict[Any, int] = {}
        while waiting or running:
            while waiting and len(running) < self.at_once:
                number, trial = waiting.pop()
                running[self._try.remote(trial, self.threads, os.getcwd())] = number
            (ended,), _ = self._ray.wait(list(running))
            number = running.pop(ended)
            try:
                score: float | None = self._ray.get(ended)
            except self._ray.exceptions.RayTaskError as error:
                cause = error.cause
                raise (cause if isinstance(cause, Exception) else error) from None
            if score is not None and not trials[number].out.is_file():
                raise ValueError(
                    f"{trials[number].out} was written, but is not there: the folder of the adaptation "
                    "(--out) must be on a disk that all machines of the cluster share"
                )
            yield number, score


def _reach(address: str) -> None:
    """Connect to a machine that is named, once: Ray would try again for minutes."""
    place = urlsplit(address if "//" in address else f"//{address}")
    if place.port is not None:
        socket.create_connection((place.hostname, place.port), timeout=10).close()


def _tried(trial: Trial, threads: int, folder: str) -> float | None:
    """Run a trial in a process of the cluster; return its score. Paths may be relative to `folder`."""
    os.chdir(folder)
    take_threads(threads)
    return finetune(trial).score
