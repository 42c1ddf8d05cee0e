"""`dettoolkit predict`."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from dettoolkit.cli.arguments import check_device, run
from dettoolkit.cli.failures import quiet_images
from dettoolkit.cli.predict_arguments import arguments
from dettoolkit.cli.progress import Tally

if TYPE_CHECKING:
    from dettoolkit.inference.jobs.image_ids import ImageIds
    from dettoolkit.inference.jobs.job import Job, Shard
    from dettoolkit.inference.predictor import Predictor


def predict(argv: Sequence[str] | None = None) -> int:
    """Predict on images, videos or a camera."""
    parser = arguments()
    return run(parser, argv, lambda options: _predict(options, parser))


def _predict(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # what is wrong with a video is said by us
    os.environ.setdefault("OPENCV_LOG_LEVEL", "FATAL")
    quiet_images()
    if options.merge is not None:
        return _merge(options, parser)
    if options.out is not None and options.resume is not None:
        parser.error("--resume already specifies the folder: omit --out")
    from dettoolkit.inference.jobs.job import Shard, read_job

    shard = Shard(*(options.shard or (1, 1)))
    before = read_job(options.resume) if options.resume is not None else None
    if before is None and (options.model is None or not options.sources):
        what = f"{options.resume} has no job to resume: " if options.resume is not None else ""
        parser.error(f"{what}specify a model and at least one source")
    if before is not None and shard.of != before.shards:
        parser.error(
            f"the job in {options.resume} has {before.shards} shards: "
            + (f"use --shard I/{before.shards}" if before.shards > 1 else "omit --shard")
        )
    return _run(options, before, shard)


def _run(options: argparse.Namespace, before: Job | None, shard: Shard) -> int:
    from dettoolkit.inference.jobs.image_ids import ImageIds
    from dettoolkit.inference.jobs.job import enter_folder
    from dettoolkit.inference.jobs.sources import Sources, is_local
    from dettoolkit.training.run_folder import new_run_dir

    given = before.sources if before is not None and not options.sources else options.sources
    # absolute, so that the job can be resumed from another folder
    given = tuple(os.path.abspath(os.path.expanduser(each)) if is_local(each) else each for each in given)
    live = Sources(given).live  # what does not exist is reported before a model is loaded
    if live and (options.resume is not None or options.shard is not None):
        raise ValueError("a camera or stream cannot be resumed or split: omit --resume and --shard")
    model = Path(before.model) if before is not None and options.model is None else options.model
    weights = options.weights
    if weights is None and before is not None and before.weights is not None:
        weights = Path(before.weights)
    predictor = _load(model, weights, options)
    job = _job(options, before, predictor, given, shard, weights=weights)
    ids = None if job.annotations is None else ImageIds(Path(job.annotations))
    folder = options.resume or options.out or new_run_dir(Path("runs"), "predictions")
    with _advised(folder, "run the same command again"):
        begun = enter_folder(folder, job, shard, resume=options.resume is not None)
    if options.resume is not None:
        print(f"{'Resuming' if begun else 'Starting'} in {folder}", file=sys.stderr)
    again = f"continue with: dettoolkit predict --resume {folder}"
    again += f" --shard {shard.number}/{shard.of}" if shard.of > 1 else ""
    again += " --trust" if options.trust else ""
    with _advised(folder, "start again, in another folder" if live else again):
        tally = _work(options, predictor, job, folder, shard, ids=ids, live=live, again=again)
        return _finish(options, job, folder, shard, tally)


@contextmanager
def _advised(folder: Path, advice: str) -> Iterator[None]:
    """Add what to do when the system has refused something, such as to write on a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # raised here, with advice of its own
            raise
        where = error.filename or folder
        raise OSError(f"{where}: {error.strerror}. Once that is fixed, {advice}") from error


def _load(model: Path, weights: Path | None, options: argparse.Namespace) -> Predictor:
    import torch

    from dettoolkit.formats import check_threads
    from dettoolkit.loading import load

    if options.device is not None:
        check_device(options.device)
    check_threads(options.workers, "workers")
    if options.threads is not None:
        torch.set_num_threads(check_threads(options.threads))
    limit = {} if options.max_megapixels is None else {"max_megapixels": options.max_megapixels}
    return load(
        model,
        weights=weights,
        device=options.device,
        threads=options.threads,
        trust=options.trust,
        **limit,
    )


def _job(
    options: argparse.Namespace,
    before: Job | None,
    predictor: Predictor,
    given: Sequence[str],
    shard: Shard,
    *,
    weights: Path | None,
) -> Job:
    """Return what is to be done; what is not given is as it was before, or has its default."""
    from dettoolkit.inference.jobs.job import Job, fingerprint
    from dettoolkit.loading import file_of
    from dettoolkit.named_models import is_named

    model, manifest = Path(predictor.source), predictor.manifest
    file = file_of(model, weights=weights)
    fleet = options.resume is not None or options.shard is not None
    first = {
        "save": ("json",) if fleet else predictor.spec.default_saves,
        "threshold": manifest.section.default_threshold,
        "every": 1,
        "max_megapixels": predictor.max_megapixels,
    }

    if options.threshold is not None:
        if first["threshold"] is None:
            noun = predictor.spec.noun
            raise ValueError(f"a {noun} has no threshold: omit --threshold {options.threshold}")
        if not 0 <= options.threshold <= 1:
            raise ValueError(f"--threshold {options.threshold}: expected a score from 0 to 1")
    chosen: dict[str, Any] = {}
    for name in ("save", "threshold", "classes", "every", "limit", "max_megapixels", "annotations"):
        value = getattr(options, name)
        chosen[name] = value if value is not None else getattr(before, name) if before else first.get(name)
    return Job(
        model=str(model if is_named(model) and not model.suffix else model.absolute()),
        weights=None if weights is None else str(weights.absolute()),
        fingerprint=fingerprint(file),
        task=manifest.task,
        class_names=manifest.class_names,
        class_ids=manifest.section.class_ids,
        sources=tuple(given),
        shards=shard.of,
        **chosen,
    )


def _work(
    options: argparse.Namespace,
    predictor: Predictor,
    job: Job,
    folder: Path,
    shard: Shard,
    *,
    ids: ImageIds | None,
    live: bool,
    again: str,
) -> Tally:
    """Predict what is not done; `again` says how to continue after a stop."""
    from dettoolkit.inference.jobs.sources import Sources
    from dettoolkit.inference.jobs.worker import Worker
    from dettoolkit.training.run_folder import Interrupted

    export = predictor.manifest.export
    batch_size = options.batch_size or (export and export.batch) or 1
    with Worker(job, folder, shard, batch_size=batch_size, ids=ids) as worker:
        count = None if live else partial(job.count, Sources(job.sources, skip=folder), shard)
        tally = Tally(count, done=worker.done)
        outcomes = worker.predict(predictor, workers=options.workers)
        try:
            with _signals(worker.stop if live else None):
                tally.follow(outcomes)
        except KeyboardInterrupt:
            outcomes.close()
            raise Interrupted(f"stopped after {worker.done} images; {again}") from None
    return tally


def _finish(options: argparse.Namespace, job: Job, folder: Path, shard: Shard, tally: Tally) -> int:
    """Write the tables of a job without shards, and report what came of it."""
    from dettoolkit.inference.jobs.worker import write_tables

    sentences = write_tables(folder, job, job.save) if shard.of == 1 else []
    print(*tally.report(), *sentences, f"results: {folder}", sep="\n")
    if shard.of > 1:
        others = "both" if shard.of == 2 else f"all {shard.of}"
        print(f"when {others} shards are done: dettoolkit predict --merge {folder}")
    nothing = tally.images == tally.unreadable
    return 1 if tally.unreadable and (nothing or options.strict) else 0


def _merge(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from dettoolkit.inference.jobs.job import TABLES, read_job
    from dettoolkit.inference.jobs.worker import write_tables

    if options.model is not None or options.resume is not None or options.shard is not None:
        parser.error("--merge DIR can be combined only with --save")
    folder = options.merge
    job = read_job(folder)
    if job is None:
        raise FileNotFoundError(f"{folder} has no prediction job: use the folder that the shards wrote to")
    tables = [kind for kind in TABLES if kind in job.kinds]
    kinds = options.save or tuple(kind for kind in job.save if kind in tables) or tables[:1]
    for kind in kinds:
        if kind not in tables:
            parser.error(f"--save {kind}: for {job.task}, shards can be merged into {', '.join(tables)}")
    with _advised(folder, f"continue with: dettoolkit predict --merge {folder}"):
        sentences = write_tables(folder, job, kinds)
    print(*sentences, *(f"written: {folder / TABLES[kind]}" for kind in kinds), sep="\n")
    return 0


@contextmanager
def _signals(stop: Callable[[], None] | None) -> Iterator[None]:
    """End a job on a scheduler's SIGTERM as on Ctrl-C; a camera, which has no end, is ended by `stop`."""

    def end(_number: int, _frame: FrameType | None) -> None:
        if stop is None:
            raise KeyboardInterrupt
        stop()

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
