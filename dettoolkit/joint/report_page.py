"""A joint model's part of the report: the parts of both tasks, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from dettoolkit.detection.report_page import DetectionReport
from dettoolkit.joint.single_tasks import DETECTION, SEGMENTATION
from dettoolkit.pages.parts import Block, Section
from dettoolkit.segmentation.report_page import SegmentationReport
from dettoolkit.task_report import Entry, Evaluation, Picture, TaskReport

TITLES = {DETECTION: "Boxes", SEGMENTATION: "Pixels"}


class JointReport(TaskReport):
    """See TaskReport."""

    image_measure = "F1 and mIoU"
    module = "dettoolkit.joint.details"
    class_scores = ("", "", "")  # each task has its own
    parts: Mapping[str, TaskReport] = {DETECTION: DetectionReport(), SEGMENTATION: SegmentationReport()}

    def _scored(self, evaluation: Evaluation) -> Iterator[tuple[str, TaskReport, Evaluation]]:
        return (
            (TITLES[name], report, evaluation[name])
            for name, report in self.parts.items()
            if evaluation[name]
        )

    def words(self, evaluation: Evaluation) -> dict[str, str]:
        """Return what each number means."""
        words = {"joint score": "mean of AP and mIoU, each by its share and relative to its reference"}
        for _, report, own in self._scored(evaluation):
            words |= report.words(own)
        return words

    def sections(self, evaluation: Evaluation, picture: Callable[[Entry], Picture | None]) -> list[Section]:
        """Return the parts of the page."""
        return [
            replace(section, title=f"{title}: {section.title[0].lower()}{section.title[1:]}")
            for title, report, own in self._scored(evaluation)
            for section in report.sections(own, picture)
        ]

    def advice(self, evaluation: Evaluation) -> list[str]:
        """Return what stands out."""
        return [
            f"{title}: {sentence}"
            for title, report, own in self._scored(evaluation)
            for sentence in report.advice(own)
        ]

    def compared(self, evaluations: Mapping[str, Evaluation]) -> list[Block]:
        """Return what several runs, by their names, found of each class of each task, side by side."""
        blocks: list[Block] = []
        for name, report in self.parts.items():
            own = {run: each[name] for run, each in evaluations.items() if each[name]}
            blocks += report.compared(own) if own else []
        return blocks
