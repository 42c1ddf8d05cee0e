"""A prediction job at work: it predicts what is not done yet, records it, and makes tables at the end."""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from dettoolkit.datasets.data_report import BadImageError
from dettoolkit.formats import check_threads
from dettoolkit.inference.inputs import Pixels
from dettoolkit.inference.jobs import table_files as tables
from dettoolkit.inference.jobs.image_ids import ImageIds
from dettoolkit.inference.jobs.job import TABLES, Job, Shard
from dettoolkit.inference.jobs.journal import Journal, Record, merge_records
from dettoolkit.inference.jobs.sources import Item, Sources
from dettoolkit.inference.jobs.writers import Files, Writer, names_of
from dettoolkit.inference.predictor import Predictor
from dettoolkit.inference.whole_files import printable, whole
from dettoolkit.results import Result

logger = logging.getLogger(__name__)

Read = tuple[Item, Pixels | str]
"""An item with its pixels, or with the reason why there are none."""

CODED = {"json", "coco", "parquet"}  # to be saved for records to have masks, as RLE, where there are any


class Outcome(NamedTuple):
    """What became of an item: a result, or the reason why there is none."""

    item: Item
    result: Result | None
    problem: str | None


class Worker(ExitStack):
    """A process's part of a job, a shard. Use it as a context manager, which closes what is open.

    The folder is the job's, as `enter_folder` left it; `ids` are those of its annotation file. `batch_size`
    images go through the network at once. `done` counts images that have a record, of earlier processes too.
    """

    def __init__(
        self, job: Job, folder: Path, shard: Shard, *, batch_size: int = 1, ids: ImageIds | None = None
    ) -> None:
        super().__init__()
        self.job, self.shard, self.batch_size, self._ids = job, shard, batch_size, ids
        self._sources = Sources(job.sources, skip=folder)
        self._summary = folder / shard.file("summary", ".json")
        self._stopped = False
        self._places: dict[str, int] = {}
        self._video: str | None = None  # that the writer may have open
        with ExitStack() as stack:
            unended = None if self._summary.exists() else batch_size  # a job's last batch may be smaller
            journal = Journal(folder / shard.file("results", ".jsonl"), batch_size=unended)
            self._journal = stack.enter_context(journal)
            listed = islice(self._sources, job.limit)
            names = chain.from_iterable(names_of(found, job.save) for found in listed)
            files = Files(folder, names, self._journal.unfinished)
            self._writer = stack.enter_context(closing(Writer(files, job.save, every=job.every)))
            self.enter_context(stack.pop_all())
        self.done, self._unreadable = len(self._journal.done), self._journal.unreadable

    def stop(self) -> None:
        """Take no further image; those taken are still predicted. A signal handler may call this."""
        self._stopped = True

    def predict(self, predictor: Predictor, *, workers: int) -> Generator[Outcome, None, None]:
        """Predict what is not done yet; each outcome is yielded when it is written. `workers` are threads."""
        job, start = self.job, time.monotonic()
        self._summary.unlink(missing_ok=True)
        outcomes = predict_items(
            predictor,
            self._items(),
            threshold=job.threshold,
            labels=None if job.classes is None else [job.class_names.index(name) for name in job.classes],
            batch_size=self.batch_size,
            workers=workers,
        )
        with closing(outcomes):
            for outcome in outcomes:
                self._write(outcome)
                yield outcome
        self._finish_video(None)
        if (problems := self._sources.problems).counts:
            logger.warning("%s", problems.summary())
        seconds = round(time.monotonic() - start, 3)
        numbers = {"images": self.done, "unreadable": self._unreadable, "seconds": seconds}
        with whole(self._summary) as part:
            part.write_text(json.dumps(numbers) + "\n")
        if not self._stopped:
            self._journal.finish()

    def _items(self) -> Iterator[Item]:
        for index, item in self.job.items(self._sources, self.shard, self._journal.done):
            if self._stopped:
                return
            self._places[item.name] = index
            limit = self.job.max_megapixels
            yield item if self._ids is None else self._ids.expect(item, max_megapixels=limit)

    def _write(self, outcome: Outcome) -> None:
        """Write an image's files and then its record, which says that they are there."""
        self._finish_video(outcome.item.video)
        if outcome.result is None:
            self._unreadable += 1
        else:
            self._journal.begin(outcome.item.name)
            self._writer.write(outcome.item, outcome.result)
        self._journal.write(self._record(outcome))
        self.done += 1

    def _record(self, outcome: Outcome) -> Record:
        """Return what is kept of an image."""
        item = outcome.item
        record: Record = {"name": item.name, "index": self._places.pop(item.name)}
        if item.video is not None:
            record["video"] = item.video
        if item.frame is not None:
            record["seconds"] = round(item.frame.seconds, 6)
        if self._ids is not None:
            record["image_id"] = self._ids.find(item.name)
        if outcome.result is None:
            return record | {"error": outcome.problem}
        return record | outcome.result.record(masks=bool(CODED & set(self.job.save)))

    def _finish_video(self, following: str | None) -> None:
        """Finish the annotated video before anything else has a record, which says that it is there."""
        if following != self._video:
            self._writer.close()
        self._video = following


def predict_items(
    predictor: Predictor,
    items: Iterable[Item],
    *,
    threshold: float | None,
    labels: Sequence[int] | None,
    batch_size: int,
    workers: int,
) -> Generator[Outcome, None, None]:
    """Predict on items, with few more than a batch of them in memory.

    A video's frames are in no batch with others, so that a job can be resumed before or after a video.
    Items are taken as they are needed, and read by `workers` threads. `labels` are the classes to keep; None
    keeps all.
    """
    check_threads(workers, "workers")
    for batch in _batches(_read_ahead(items, workers=workers, ahead=batch_size + 2 * workers), batch_size):
        images = [image for _, image in batch if not isinstance(image, str)]
        results = iter(predictor.predict_batch(images, threshold=threshold) if images else ())
        for item, image in batch:
            if isinstance(image, str):
                yield Outcome(item, None, image)
            else:
                result = replace(next(results), path=item.path)
                yield Outcome(item, result if labels is None else result.only(labels), None)


def _batches(pairs: Iterable[Read], size: int) -> Iterator[list[Read]]:
    """Collect `size` images that can be read; what cannot goes along, or alone where it is first."""
    batch: list[Read] = []
    readable = 0
    for item, image in pairs:
        if batch and item.video != batch[-1][0].video:
            yield batch
            batch, readable = [], 0
        batch.append((item, image))
        readable += not isinstance(image, str)
        if readable in (0, size):
            yield batch
            batch, readable = [], 0
    yield batch


def _read_ahead(items: Iterable[Item], *, workers: int, ahead: int) -> Iterator[Read]:
    """Read items by threads, `ahead` of them at most, and yield them in their order."""
    with ThreadPoolExecutor(workers, thread_name_prefix="read") as pool:
        waiting: deque[tuple[Item, Future[Pixels | str]]] = deque()
        for item in items:
            waiting.append((item, pool.submit(_read, item)))
            if len(waiting) > ahead:
                first, future = waiting.popleft()
                yield first, future.result()
        for first, future in waiting:
            yield first, future.result()


def _read(item: Item) -> Pixels | str:
    try:
        return item.read()
    except BadImageError as error:
        return printable(str(error))


def write_tables(folder: Path, job: Job, kinds: Sequence[str]) -> list[str]:
    """Write those of `kinds` that are tables, of all shards; return sentences about what is not in them."""
    shards = [Shard(number, job.shards) for number in range(1, job.shards + 1)]
    missing = [each for each in shards if not (folder / each.file("summary", ".json")).exists()]
    if missing:
        names = ", ".join(f"{each.number}/{each.of}" for each in missing)
        raise FileNotFoundError(
            f"{folder}: {'shard' if len(missing) == 1 else 'shards'} {names} not finished: "
            f"dettoolkit predict --resume {folder}"
            + (f" --shard {names.split(',')[0]}" if job.shards > 1 else "")
        )
    journals = [folder / each.file("results", ".jsonl") for each in shards]
    if "masks" in job.spec.saves and {"coco", "parquet"} & set(kinds) and not CODED & set(job.save):
        raise ValueError(
            f"{folder} has no masks in its results.jsonl: predict again with --save coco, parquet or json"
        )
    sentences = []
    for kind in kinds:
        if kind not in TABLES:
            continue
        path = folder / TABLES[kind]
        if kind == "csv":
            tables.write_csv(path, merge_records(journals), job.spec)
        elif kind == "parquet":
            tables.write_parquet(path, merge_records(journals), job.spec)
        elif left_out := _write_coco(path, journals, job):
            sentences.append(
                f"{left_out} images are not in {path.name}: {job.annotations} does not list them"
            )
    return sentences


def _write_coco(path: Path, journals: Sequence[Path], job: Job) -> int:
    """Write COCO's results, each kind in a file of its own: its tools read one; return as `write_coco`."""
    left_out = 0
    for part in job.spec.parts:
        own = path if part is job.spec.parts[0] else path.with_stem(f"{path.stem}_{part.record_key}")
        categories = job.spec.categories(part, job.class_names, job.class_ids)
        left_out = tables.write_coco(own, merge_records(journals), part, categories)
    return left_out
