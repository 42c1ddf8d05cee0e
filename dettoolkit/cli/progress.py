"""How far a prediction job is, on a terminal or in a log, and what came of it."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dettoolkit.inference.jobs.worker import Outcome

NAMED = 10  # images, unreadable ones and classes that are named at the end
COUNT_SECONDS = 10  # that the end waits for the count of images to notice it
LOG_SECONDS = 30  # between lines of progress where there is no terminal


class Tally:
    """Count what a job finds, and show how far it is.

    `count` counts all images of the job, done or not, in a thread, since a listing can take long; it ends
    when its event is set. `done` images were done before.
    """

    def __init__(self, count: Callable[[threading.Event], int | None] | None, *, done: int) -> None:
        self.images, self.unreadable, self.seconds, self.done = 0, 0, 0.0, done
        self.problems: list[str] = []  # the first of them
        self.lines: list[str] = []  # what was found in each of the first images
        self.found = Counter[str]()  # what `Result.tally` returns, summed over images
        self._count = count
        self._total: int | None = None
        self._ended = threading.Event()

    def follow(self, outcomes: Iterable[Outcome]) -> None:
        """Take all outcomes, showing progress."""
        from tqdm import tqdm

        terminal = sys.stderr.isatty()
        counting = threading.Thread(target=self._set_total, daemon=True)
        counting.start()
        start = logged = time.monotonic()
        # Nothing is shown before the first image, whose loading is not the model's speed.
        with tqdm(initial=self.done, unit=" images", disable=not terminal, smoothing=0.1, leave=False) as bar:
            try:
                for outcome in outcomes:
                    self._add(outcome)
                    bar.total = self._total
                    bad = f"{self.unreadable} unreadable"
                    bar.set_postfix_str(bad if self.unreadable else "", refresh=False)
                    bar.update()
                    self.seconds = time.monotonic() - start
                    if not terminal and time.monotonic() - logged >= LOG_SECONDS:
                        logged = time.monotonic()
                        of = f" of {self._total}" if self._total is not None else ""
                        speed = f"{self.images / self.seconds:.1f} images/s"
                        count = f"{self.done + self.images}{of} images"
                        print(count, speed, bad, sep=", ", file=sys.stderr, flush=True)
            finally:
                self.seconds = time.monotonic() - start
                # A daemon thread that is inside OpenCV when Python ends takes the process down: status 134.
                self._ended.set()
                counting.join(timeout=COUNT_SECONDS)

    def report(self) -> Iterator[str]:
        """Yield what came of it, line by line."""
        if self.images <= NAMED:
            yield from self.lines
        readable = self.images - self.unreadable
        speed = f" ({readable / self.seconds:.1f} images/s)" if readable and self.seconds else ""
        before = f", {self.done} were already done" if self.done else ""
        noun = "image" if self.images == 1 else "images"
        yield f"{self.images} {noun} in {self.seconds:.1f} s{speed}{before}"
        if readable:
            shown = [
                f"{amount} {name}" if isinstance(amount, int) else f"{name} {amount / readable:.1%}"
                for name, amount in self.found.most_common(NAMED)
            ]
            more = f", {len(self.found) - NAMED} more" if len(self.found) > NAMED else ""
            yield f"found {', '.join(shown) or 'nothing'}{more}"
        if self.unreadable:
            yield f"{self.unreadable} could not be read:"
            yield from (f"  {problem}" for problem in self.problems)
            if self.unreadable > len(self.problems):
                yield "  ... all have an 'error' in results.jsonl"

    def _add(self, outcome: Outcome) -> None:
        self.images += 1
        result = outcome.result
        if result is None:
            self.unreadable += 1
            if len(self.problems) < NAMED:
                self.problems.append(str(outcome.problem))
            return
        self.found.update(result.tally())
        if len(self.lines) < NAMED:
            self.lines.append(f"{outcome.item.name}: {result.summary()}")

    def _set_total(self) -> None:
        # What goes wrong in a listing is reported where its images are predicted: here a total is missing.
        with suppress(Exception):
            self._total = self._count(self._ended) if self._count is not None else None


def tell(what: str) -> None:
    """Show on a terminal what is being done, on one line; nothing wipes it."""
    if sys.stderr.isatty():
        print(f"\r\033[K{what}", end="", file=sys.stderr, flush=True)
