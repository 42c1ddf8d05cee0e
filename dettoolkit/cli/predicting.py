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

from dettoolkit.cli.errors import guarded, quiet_images
from dettoolkit.cli.predict_arguments import arguments, names
from dettoolkit.cli.progress import Tally

if TYPE_CHECKING:
    from dettoolkit.inference.image_ids import ImageIds
    from dettoolkit.inference.jobs import Job, Shard
    from dettoolkit.inference.predictor import Predictor


def predict(argv: Sequence[str] | None = None) -> int:
    """Predict on images, videos or a camera."""
    parser = arguments()
    options = parser.parse_intermixed_args(argv)
    return guarded(lambda: _predict(options, parser), options.traceback)


def _predict(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # what is wrong with a video is said by us
    os.environ.setdefault("OPENCV_LOG_LEVEL", "FATAL")
    quiet_images()
    if options.merge is not None:
        return _merge(options, parser)
    if options.out is not None and options.resume is not None:
        parser.error("--resume names the folder already: leave --out away")
    from dettoolkit.inference.jobs import Shard, read_job

    shard = Shard(*options.shard) if options.shard is not None else Shard(1, 1)
    before = read_job(Path(options.resume)) if options.resume is not None else None
    if before is None and (options.model is None or not options.sources):
        what = f"{options.resume} holds no job to go on with: " if options.resume is not None else ""
        parser.error(f"{what}give a model and what to predict on")
    if before is not None and shard.of != before.shards:
        parser.error(
            f"the job in {options.resume} has {before.shards} shards: "
            + (f"give --shard I/{before.shards}" if before.shards > 1 else "leave --shard out")
        )
    return _run(options, before, shard)


def _run(options: argparse.Namespace, before: Job | None, shard: Shard) -> int:
    from dettoolkit.inference.image_ids import ImageIds
    from dettoolkit.inference.jobs import enter_folder
    from dettoolkit.inference.sources import Sources
    from dettoolkit.runs import new_run_dir

    given = _absolute(options.sources) if options.sources or before is None else before.sources
    live = Sources(given).live  # what does not exist is told before a model is loaded
    if live and (options.resume is not None or options.shard is not None):
        raise ValueError("a camera or a stream is predicted once, as a whole: leave --resume and --shard out")
    model = Path(options.model if before is None or options.model is not None else before.model).expanduser()
    predictor = _load(model, options)
    job = _job(options, before, predictor, given, shard)
    ids = None if job.annotations is None else ImageIds(Path(job.annotations))
    named = options.resume if options.resume is not None else options.out
    folder = Path(named).expanduser() if named is not None else new_run_dir(Path("runs"), "predictions")
    with _advised(folder, "give the same command again"):
        again = enter_folder(folder, job, shard, resume=options.resume is not None)
    if options.resume is not None:
        print(f"{'going on' if again else 'beginning'} in {folder}", file=sys.stderr)
    command = f"go on with: {_command(folder, shard, options)}"
    with _advised(folder, "predict anew, into another folder" if live else command):
        tally = _work(options, predictor, job, folder, shard, ids=ids, live=live)
        return _finish(options, job, folder, shard, tally)


def _command(folder: Path, shard: Shard, options: argparse.Namespace) -> str:
    """Give the command by which a job that was stopped goes on."""
    shown = f" --shard {shard.number}/{shard.of}" if shard.of > 1 else ""
    shown += " --trust" if options.trust else ""
    return f"dettoolkit predict --resume {folder}{shown}"


@contextmanager
def _advised(folder: Path, advice: str) -> Iterator[None]:
    """Say what to do when the system has refused something, such as to write on a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # raised here, with advice of its own
            raise
        raise OSError(
            f"{error.filename or folder}: {error.strerror}. When that is put right, {advice}"
        ) from error


def _load(model: Path, options: argparse.Namespace) -> Predictor:
    import torch

    from dettoolkit.engines import check_threads
    from dettoolkit.loading import load

    if options.device is not None:
        try:
            device = torch.device(options.device)
        except RuntimeError:
            raise ValueError(f"--device {options.device}: wanted cpu, cuda, cuda:1 or mps") from None
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise ValueError(
                f"--device {options.device}: PyTorch sees {torch.cuda.device_count()} GPUs here; leave it out"
            )
    check_threads(options.workers, "workers")
    if options.threads is not None:
        torch.set_num_threads(check_threads(options.threads))
    limit = {} if options.max_megapixels is None else {"max_megapixels": options.max_megapixels}
    return load(model, device=options.device, threads=options.threads, trust=options.trust, **limit)


def _job(
    options: argparse.Namespace, before: Job | None, predictor: Predictor, given: Sequence[str], shard: Shard
) -> Job:
    """Put together what is to be done; what is not given is as it was before, or has its default."""
    from dettoolkit.engines import FORMATS
    from dettoolkit.inference.jobs import Job, fingerprint
    from dettoolkit.runs import checkpoint_of

    model, manifest = Path(predictor.source), predictor.manifest
    file = model if model.suffix.lower() in FORMATS else checkpoint_of(model, names=("best", "last"))
    facts = manifest.detection
    fleet = options.resume is not None or options.shard is not None
    pictures = ("json",) if fleet else ("pictures",) if facts is not None else ("pictures", "masks")
    threshold = None if facts is None else facts.shown_threshold
    first = {"save": pictures, "threshold": threshold, "every": 1, "max_megapixels": predictor.max_megapixels}

    def choose(name: str, value: Any) -> Any:
        return value if value is not None else getattr(before, name) if before else first.get(name)

    if options.threshold is not None and (facts is None or not 0 <= options.threshold <= 1):
        raise ValueError(
            f"--threshold {options.threshold}: "
            + ("a segmenter has no scores, leave it out" if facts is None else "wanted a score from 0 to 1")
        )
    annotations = str(Path(options.annotations).expanduser().absolute()) if options.annotations else None
    return Job(
        model=str(model.absolute()),
        fingerprint=fingerprint(file),
        task=manifest.task,
        class_names=manifest.class_names,
        class_ids=manifest.class_ids,
        sources=tuple(given),
        save=choose("save", names(options.save)),
        threshold=choose("threshold", options.threshold),
        classes=choose("classes", names(options.classes)),
        every=choose("every", options.every),
        limit=choose("limit", options.limit),
        max_megapixels=choose("max_megapixels", options.max_megapixels),
        annotations=choose("annotations", annotations),
        shards=shard.of,
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
) -> Tally:
    from dettoolkit.inference.running import Run
    from dettoolkit.inference.sources import Sources
    from dettoolkit.runs import Interrupted

    export = predictor.manifest.export
    fixed = export.batch if export is not None else None
    batch_size = options.batch_size or fixed or 1
    with Run(job, folder, shard, batch_size=batch_size, ids=ids) as run:
        sources = Sources(job.sources, skip=folder)
        count = None if live else partial(job.count, sources, shard)
        tally = Tally(count, done=run.done)
        outcomes = run.predict(predictor, workers=options.workers)
        try:
            with _signals(run.stop if live else None):
                tally.follow(outcomes)
        except KeyboardInterrupt:
            outcomes.close()
            raise Interrupted(
                f"stopped after {run.done} images; go on with: {_command(folder, shard, options)}"
            ) from None
    return tally


def _finish(options: argparse.Namespace, job: Job, folder: Path, shard: Shard, tally: Tally) -> int:
    """Write the tables of what is not divided, and say what came of it."""
    from dettoolkit.inference.running import write_tables

    told = write_tables(folder, job, job.save) if shard.of == 1 else []
    print("\n".join(tally.report()))
    print("\n".join(told), end="\n" if told else "")
    print(f"results: {folder}")
    if shard.of > 1:
        others = "both" if shard.of == 2 else f"all {shard.of}"
        print(f"when {others} shards are done: dettoolkit predict --merge {folder}")
    readable = tally.images - tally.unreadable
    nothing = tally.images > 0 and not readable
    return 1 if nothing or (options.strict and tally.unreadable) else 0


def _merge(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from dettoolkit.inference.jobs import TABLES, read_job
    from dettoolkit.inference.running import write_tables

    if options.model is not None or options.resume is not None or options.shard is not None:
        parser.error("--merge DIR goes alone, but for --save")
    folder = Path(options.merge).expanduser()
    job = read_job(folder)
    if job is None:
        raise FileNotFoundError(f"{folder} holds no prediction job: give the folder that the shards wrote to")
    kinds = names(options.save) or tuple(kind for kind in job.save if kind in TABLES) or ("coco",)
    unknown = [kind for kind in kinds if kind not in TABLES]
    if unknown:
        parser.error(f"--save {unknown[0]}: of finished shards one can make {', '.join(TABLES)}")
    with _advised(folder, f"go on with: dettoolkit predict --merge {folder}"):
        told = write_tables(folder, job, kinds)
    for line in told:
        print(line)
    print("\n".join(f"written: {folder / TABLES[kind]}" for kind in kinds))
    return 0


def _absolute(sources: Sequence[str]) -> tuple[str, ...]:
    """Make local paths absolute, so that a job can go on from another folder."""
    from dettoolkit.inference.sources import is_local

    return tuple(os.path.abspath(os.path.expanduser(each)) if is_local(each) else each for each in sources)


@contextmanager
def _signals(stop: Callable[[], None] | None) -> Iterator[None]:
    """Let a scheduler's SIGTERM end a job as Ctrl-C does; a camera, which has no end, is ended by `stop`."""

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
