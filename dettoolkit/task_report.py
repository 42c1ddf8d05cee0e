"""What a task gives to the report of an evaluation: numbers, pictures, and the parts of the page."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dettoolkit.pages.comparisons import class_table
from dettoolkit.pages.parts import Block, Section
from dettoolkit.run import Run

Picture = NDArray[np.uint8]  # (H, W, 3) RGB
Evaluation = Mapping[str, Any]  # what evaluation.json holds
Entry = Mapping[str, Any]  # of an image that it lists


class TaskReport(ABC):
    """Numbers and pictures are made when a run is scored; the page, from evaluation.json alone."""

    image_measure: ClassVar[str]  # what `image_scores` returns, in a word
    module: ClassVar[str]  # with report_details, image_scores, report_picture; imported when a run is scored
    class_scores: ClassVar[
        tuple[str, str, str]
    ]  # in evaluation.json: list of classes, key of a score; its name

    def details(self, run: Run, predictions: Sequence[Any], score: Any, *, count: int) -> dict[str, Any]:
        """Return what a report says beside the score, as plain data that goes into evaluation.json.

        At most `count` images to look at are listed under "worst_images" and under "mistakes", each with its
        "image_id" and "file".
        """
        details: dict[str, Any] = import_module(self.module).report_details(
            run, predictions, score, count=count
        )
        return details

    def image_scores(self, run: Run, predictions: Sequence[Any], details: Evaluation) -> dict[int, float]:
        """Return how good the prediction of each image is, by its row in the validation set; 1 is perfect."""
        scores: dict[int, float] = import_module(self.module).image_scores(run, predictions, details)
        return scores

    def picture(
        self, run: Run, predictions: Sequence[Any], entry: Entry, details: Evaluation
    ) -> Picture | None:
        """Draw truth and prediction of a listed image, or of any "image_id"; None if it cannot be read."""
        drawn: Picture | None = import_module(self.module).report_picture(run, predictions, entry, details)
        return drawn

    @abstractmethod
    def words(self, evaluation: Evaluation) -> Mapping[str, str]:
        """Return what each number of an evaluation.json means."""

    @abstractmethod
    def sections(self, evaluation: Evaluation, picture: Callable[[Entry], Picture | None]) -> list[Section]:
        """Return the parts of the page; `picture` reads what was drawn of an entry."""

    @abstractmethod
    def advice(self, evaluation: Evaluation) -> list[str]:
        """Return sentences that say what stands out, and what to do about it."""

    def compared(self, evaluations: Mapping[str, Evaluation]) -> list[Block]:
        """Return what several runs, by their names, found of each class, side by side."""
        classes, key, measure = self.class_scores
        scores = {
            run: {entry["name"]: entry[key] for entry in each[classes]} for run, each in evaluations.items()
        }
        return [class_table(scores, measure)]
