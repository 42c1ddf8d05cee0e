"""A classifier's part of the report, made from evaluation.json."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dettoolkit.pages.galleries import gallery_of
from dettoolkit.pages.parts import Block, Matrix, Section, Table
from dettoolkit.task_report import Entry, Evaluation, Picture, TaskReport

MAX_ROWS = 200  # classes that the table lists; of more, the worst


class ClassificationReport(TaskReport):
    """See TaskReport."""

    image_measure = "probability of the true class"
    module = "dettoolkit.classification.details"
    class_scores = ("class_fractions", "top-1", "top-1")

    def words(self, evaluation: Evaluation) -> dict[str, str]:  # noqa: ARG002
        """Return what each number means."""
        from dettoolkit.evaluation.top_k import WORDS

        return WORDS

    def sections(self, evaluation: Evaluation, picture: Callable[[Entry], Picture | None]) -> list[Section]:
        """Return the parts of the page."""
        mistakes = gallery_of(
            "Surest mistakes",
            evaluation["mistakes"],
            note="Wrong answers, the highest probability first. Not seldom it is the label that is wrong.",
            caption=lambda entry: f"{entry['predicted']} {entry['score']:.2f}, is {entry['class']}",
            picture=picture,
        )
        return [
            Section(title="Classes", blocks=[_classes(evaluation)]),
            Section(title="Which class is taken for which", blocks=_confusions(evaluation)),
            Section(title="Images to look at", blocks=list(mistakes)),
        ]

    def advice(self, evaluation: Evaluation) -> list[str]:
        """Return what stands out."""
        scored = [entry for entry in evaluation["class_fractions"] if entry["images"]]
        if not scored:
            return ["No images were scored: check data.val."]
        lines = []
        weak = min(scored, key=lambda entry: entry["top-1"])
        if len(scored) > 1 and weak["top-1"] < 1:
            lines.append(
                f"The weakest class is '{weak['name']}': {weak['top-1']:.1%} of its {weak['images']} images "
                "are right."
            )
        if evaluation["confusions"]:
            pair = evaluation["confusions"][0]
            lines.append(
                f"The most frequent mistake is '{pair['name']}' taken for '{pair['taken_for']}', "
                f"{pair['images']} times of {evaluation['images'] - evaluation['right']} mistakes."
            )
        never = [entry["name"] for entry in scored if not entry["predicted"]]
        if never:
            named = ", ".join(never[:5]) + (", …" if len(never) > 5 else "")
            lines.append(f"Never answered: {named}. They may be too rare in training.")
        return lines


def _classes(evaluation: Evaluation) -> Table:
    entries = evaluation["class_fractions"]
    ranked = sorted(entries, key=lambda entry: (not entry["images"], -(entry["top-1"] or 0)))
    title = "Scores of each class, best first"
    if len(ranked) > MAX_ROWS:
        scored = [entry for entry in ranked if entry["images"]]
        title, ranked = f"The worst {MAX_ROWS} of {len(entries)} classes", scored[-MAX_ROWS:]
    rows = [[entry[key] for key in ("name", "top-1", "top-5", "images", "predicted")] for entry in ranked]
    return Table(title=title, columns=["class", "top-1", "top-5", "images", "predicted"], rows=rows)


def _confusions(evaluation: Evaluation) -> list[Block]:
    rows = [[pair["name"], pair["taken_for"], pair["images"]] for pair in evaluation["confusions"]]
    pairs = Table(title="Most frequent confusions", columns=["class", "taken for", "images"], rows=rows)
    if "matrix" not in evaluation:
        return [pairs]
    names = [entry["name"] for entry in evaluation["class_fractions"]]
    matrix = Matrix(
        title="Images by class",
        note="Rows: the true class. Columns: the class that came first.",
        corner="class",
        rows=names,
        columns=names,
        counts=np.array(evaluation["matrix"], np.int64).reshape(len(names), len(names)),
    )
    return [matrix, pairs]
