"""From items to results: read ahead by threads, predicted in batches, yielded in the items' order."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple

from dettoolkit.datasets.data_report import BadImageError
from dettoolkit.formats import check_threads
from dettoolkit.inference.jobs.sources import Item, Pixels
from dettoolkit.inference.predictor import Predictor
from dettoolkit.inference.whole_files import printable
from dettoolkit.results import Result


class Outcome(NamedTuple):
    """What became of an item: a result, or the reason why there is none."""

    item: Item
    result: Result | None
    problem: str | None


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

    Args:
        predictor: the model.
        items: taken one after the other, as they are needed.
        threshold: as `Predictor` has it.
        labels: classes to keep; None keeps all.
        batch_size: images that go through the network at once.
        workers: threads that read and decode.
    """
    check_threads(workers, "workers")
    batch: list[tuple[Item, Pixels | str]] = []
    readable = 0
    for item, image in _read_ahead(items, workers=workers, ahead=batch_size + 2 * workers):
        if batch and item.video != batch[-1][0].video:
            yield from _predict(predictor, batch, threshold, labels)
            batch, readable = [], 0
        batch.append((item, image))
        readable += not isinstance(image, str)
        if readable == batch_size or not readable:
            yield from _predict(predictor, batch, threshold, labels)
            batch, readable = [], 0
    yield from _predict(predictor, batch, threshold, labels)


def _predict(
    predictor: Predictor,
    batch: Sequence[tuple[Item, Pixels | str]],
    threshold: float | None,
    labels: Sequence[int] | None,
) -> Iterator[Outcome]:
    images = [image for _, image in batch if not isinstance(image, str)]
    results = iter(predictor.predict_batch(images, threshold=threshold) if images else ())
    for item, image in batch:
        if isinstance(image, str):
            yield Outcome(item, None, image)
        else:
            result = replace(next(results), path=item.path)
            yield Outcome(item, result if labels is None else result.only(labels), None)


def _read_ahead(items: Iterable[Item], *, workers: int, ahead: int) -> Iterator[tuple[Item, Pixels | str]]:
    """Read items by threads; yield each with its pixels, or with the reason why there are none."""
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
