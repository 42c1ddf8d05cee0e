"""The trials of a search in Optuna's storage: run by one process or several, here or on other machines."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dettoolkit.formats import requires
from dettoolkit.search.network_samplers import build_sampler
from dettoolkit.search.search_settings import JOURNAL, Settings
from dettoolkit.search.trials import Search, told

with requires("search", what="a search"):
    import optuna
    from optuna.storages import BaseStorage, JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend
    from optuna.trial import FrozenTrial, TrialState

if sys.platform != "win32":  # which has no such lock: there one must not resume a search that still runs
    import fcntl

logger = logging.getLogger(__name__)

WORKER = "worker"  # attribute of a trial: the lock that its process holds while it lives


def storage_of(folder: Path, settings: Settings) -> BaseStorage:
    """Open the storage of a search."""
    if settings.storage is not None:
        return RDBStorage(settings.storage)
    return JournalStorage(JournalFileBackend(str(folder / JOURNAL)))


def study_of(folder: Path, settings: Settings, name: str) -> optuna.Study:
    """Open or create one of a search's studies."""
    return optuna.create_study(
        storage=storage_of(folder, settings),
        study_name=name,
        directions=settings.goal.directions,
        load_if_exists=True,
    )


def run_trials(folder: Path, *, jobs: int) -> None:
    """Run all trials that are left, on so many processes.

    Raises:
        RuntimeError: a process ended before its time.
    """
    search = Search(folder)
    for name in search.settings.studies:
        release(study_of(folder, search.settings, name), folder)
    if jobs == 1:
        work(folder)
        return
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_quiet_work, args=(folder,)) for _ in range(jobs)]
    for worker in workers:
        worker.start()
    try:
        for worker in workers:
            worker.join()
    except BaseException:
        for worker in workers:
            worker.terminate()
        raise
    if failed := [worker for worker in workers if worker.exitcode != 0]:
        raise RuntimeError(
            f"{len(failed)} of {jobs} processes ended before their time, see above; trials that are done are "
            f"kept: dettoolkit search --resume {folder}"
        )


def _quiet_work(folder: Path) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for library in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore")  # the first process has shown those of the data
    work(folder)


def work(folder: Path) -> None:
    """Run trials until there are as many as wanted; other processes may do the same."""
    search = Search(folder)
    with _alive(folder) as worker:
        for name in search.settings.studies:
            study = study_of(folder, search.settings, name)
            while (trial := claim(study, search)) is not None:
                trial.set_user_attr(WORKER, worker)
                _run(study, trial, search)


def _run(study: optuna.Study, trial: optuna.Trial, search: Search) -> None:
    try:
        values = search.run(trial)
    except optuna.TrialPruned as reason:
        study.tell(trial, state=TrialState.PRUNED)
        logger.info("%s: %s", study.study_name, told(trial, f"given up: {reason}"))
    except BaseException:
        study.tell(trial, state=TrialState.FAIL)
        raise
    else:
        study.tell(trial, values)
        logger.info("%s: %s", study.study_name, told(trial, "done"))


def claim(study: optuna.Study, search: Search) -> optuna.Trial | None:
    """Begin a trial, unless there are as many as wanted; those that failed do not count."""
    wanted, settings = search.settings.trials, search.settings
    trials = study.get_trials(deepcopy=False)
    if _count(trials) >= wanted:
        return None
    seed = (settings.seed, zlib.crc32(study.study_name.encode()), len(trials), os.getpid())
    name: Any = study.study_name
    study.sampler = build_sampler(name, search.space.parameters, seed=seed)
    trial = study.ask()
    before = [each for each in study.get_trials(deepcopy=False) if each.number < trial.number]
    if _count(before) >= wanted:  # another process was faster
        study.tell(trial, state=TrialState.FAIL)
        return None
    return trial


def _count(trials: list[FrozenTrial]) -> int:
    return sum(trial.state != TrialState.FAIL for trial in trials)


def release(study: optuna.Study, folder: Path) -> None:
    """Give up the trials of processes that have died, so that others take their place."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        worker = trial.user_attrs.get(WORKER)
        if worker is None or not _is_alive(folder, str(worker)):
            logger.info(
                "%s: trial %d was interrupted; another one takes its place", study.study_name, trial.number
            )
            study.tell(trial.number, state=TrialState.FAIL)


def _locks(folder: Path) -> Path:
    return folder / "workers"


@contextmanager
def _alive(folder: Path) -> Iterator[str]:
    """Hold a lock while this process works; the system releases it when the process ends, however it ends."""
    _locks(folder).mkdir(exist_ok=True)
    name = f"{os.uname().nodename}_{os.getpid()}" if hasattr(os, "uname") else str(os.getpid())
    path = _locks(folder) / name
    with path.open("w") as file:
        if sys.platform != "win32":
            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield name
        finally:
            path.unlink(missing_ok=True)


def _is_alive(folder: Path, worker: str) -> bool:
    """Return whether a process holds its lock; on Windows, which has none, none does."""
    path = _locks(folder) / Path(worker).name
    if not path.is_file() or sys.platform == "win32":
        return False
    with path.open("r") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False
