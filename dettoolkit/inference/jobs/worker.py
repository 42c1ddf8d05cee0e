"""A prediction job at work: it predicts what is not done yet, records it, and makes tables at the end."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import Self

from dettoolkit.inference.jobs import table_files as tables
from dettoolkit.inference.jobs.image_ids import ImageIds
from dettoolkit.inference.jobs.job import TABLES, Job, Shard
from dettoolkit.inference.jobs.journal import Journal, Record, merge_records
from dettoolkit.inference.jobs.names import Files, names_of
from dettoolkit.inference.jobs.pipeline import Outcome, predict_items
from dettoolkit.inference.jobs.sources import Item, Sources
from dettoolkit.inference.jobs.writers import Crops, Figures, Masks, Writer
from dettoolkit.inference.predictor import Predictor
from dettoolkit.inference.whole_files import whole

logger = logging.getLogger(__name__)

CODED = {"json", "coco", "parquet"}  # to be saved for records to have masks, as RLE, where there are any


class Worker:
    """A process's part of a job. Use it as a context manager, which closes what is open.

    Args:
        job: what to do.
        folder: of the job, as `enter_folder` left it.
        shard: the part.
        ids: of the job's annotation file, if it has one.
        batch_size: images that go through the network at once.

    Attributes:
        done: images that have a record by now, of earlier processes too.

    Raises:
        BlockingIOError: another process works on this shard.
    """

    def __init__(
        self, job: Job, folder: Path, shard: Shard, *, batch_size: int = 1, ids: ImageIds | None = None
    ) -> None:
        self.job, self.folder, self.shard, self.batch_size = job, folder, shard, batch_size
        self._sources = Sources(job.sources, skip=folder)
        self._ids = ids
        self._summary = folder / shard.file("summary", ".json")
        self._stopped = False
        self._places: dict[str, int] = {}
        self._video: str | None = None  # that the writers may have open
        with ExitStack() as stack:
            unended = None if self._summary.exists() else batch_size  # a job's last batch may be smaller
            journal = Journal(folder / shard.file("results", ".jsonl"), batch_size=unended)
            self._journal = stack.enter_context(journal)
            listed = islice(self._sources, job.limit)
            names = chain.from_iterable(names_of(found, job.save) for found in listed)
            files = Files(folder, names, self._journal.unfinished)
            self._writers = [stack.enter_context(closing(each)) for each in _writers(job, files)]
            self._stack = stack.pop_all()
        self.done, self._unreadable = len(self._journal.done), self._journal.unreadable

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the record and what is written."""
        self._stack.__exit__(kind, error, trace)

    def stop(self) -> None:
        """Take no further image; those taken are still predicted. A signal handler may call this."""
        self._stopped = True

    def predict(self, predictor: Predictor, *, workers: int) -> Generator[Outcome, None, None]:
        """Predict what is not done yet, and write it; each outcome is yielded when it is written.

        Args:
            predictor: the job's model.
            workers: threads that read and decode.
        """
        job, start = self.job, time.monotonic()
        self._summary.unlink(missing_ok=True)
        names = job.classes
        outcomes = predict_items(
            predictor,
            self._items(),
            threshold=job.threshold,
            labels=None if names is None else [job.class_names.index(name) for name in names],
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
            for writer in self._writers:
                writer.write(outcome.item, outcome.result)
        index = self._places.pop(outcome.item.name)
        self._journal.write(_record(outcome, index, self._ids, self.job))
        self.done += 1

    def _finish_video(self, following: str | None) -> None:
        """Finish the annotated video before anything else has a record, which says that it is there."""
        if following != self._video:
            for writer in self._writers:
                writer.close()
        self._video = following


def write_tables(folder: Path, job: Job, kinds: Sequence[str]) -> list[str]:
    """Write those of `kinds` that are tables, of all shards; return sentences about what is not in them.

    Raises:
        FileNotFoundError: shards are not finished.
    """
    shards = [Shard(number, job.shards) for number in range(1, job.shards + 1)]
    missing = [each for each in shards if not (folder / each.file("summary", ".json")).exists()]
    if missing:
        names = ", ".join(f"{each.number}/{each.of}" for each in missing)
        raise FileNotFoundError(
            f"{folder}: not finished {'is' if len(missing) == 1 else 'are'} shard {names}: "
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
        if kind == "csv":
            tables.write_csv(folder / TABLES[kind], merge_records(journals), job.spec)
        elif kind == "parquet":
            tables.write_parquet(folder / TABLES[kind], merge_records(journals), job.spec)
        elif kind == "coco":
            categories = dict(zip(job.class_ids, job.class_names, strict=True))
            left_out = tables.write_coco(folder / TABLES[kind], merge_records(journals), job.spec, categories)
            if left_out:
                sentences.append(
                    f"{left_out} images are not in {TABLES[kind]}: {job.annotations} does not list them"
                )
    return sentences


def _writers(job: Job, files: Files) -> list[Writer]:
    writers: dict[str, Writer] = {
        "figures": Figures(files, every=job.every),
        "masks": Masks(files),
        "crops": Crops(files),
    }
    return [writer for kind, writer in writers.items() if kind in job.save]


def _record(outcome: Outcome, index: int, ids: ImageIds | None, job: Job) -> Record:
    """Return what is kept of an image."""
    item = outcome.item
    record: Record = {"name": item.name, "index": index}
    if item.video is not None:
        record["video"] = item.video
    if item.frame is not None:
        record["seconds"] = round(item.frame.seconds, 6)
    if ids is not None:
        record["image_id"] = ids.find(item.name)
    if outcome.result is None:
        return record | {"error": outcome.problem}
    return record | outcome.result.record(masks=bool(CODED & set(job.save)))
