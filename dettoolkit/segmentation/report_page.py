"""A segmenter's part of the report, made from evaluation.json."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dettoolkit.pages.galleries import gallery_of
from dettoolkit.pages.parts import Block, Colors, Matrix, Section, Table
from dettoolkit.task_report import Entry, Evaluation, Picture, TaskReport

SHOWN = 10  # of the largest confusions
FEW = 0.01  # fraction of the labeled pixels below which a class is said to be rare


class SegmentationReport(TaskReport):
    """See TaskReport."""

    image_measure = "mIoU"
    module = "dettoolkit.segmentation.details"
    class_scores = ("per_class", "iou", "IoU")

    def words(self, evaluation: Evaluation) -> dict[str, str]:  # noqa: ARG002
        """Return what each number means."""
        from dettoolkit.evaluation.miou import WORDS

        return WORDS

    def sections(self, evaluation: Evaluation, picture: Callable[[Entry], Picture | None]) -> list[Section]:
        """Return the parts of the page."""
        names = evaluation["class_names"]
        images = gallery_of(
            "Worst images",
            evaluation["worst_images"],
            note="Image, ground truth, prediction; striped and dimmed pixels have no label. Lowest mIoU "
            "first, over the classes in the image.",
            caption=lambda entry: f"mIoU {entry['mIoU']:.3f}",
            picture=picture,
        )
        colors = list(zip(names, evaluation["colors"], strict=True))
        return [
            Section(title="Classes", blocks=_classes(evaluation)),
            Section(
                title="Which class is taken for which", blocks=[_confusion(evaluation), _pairs(evaluation)]
            ),
            Section(title="Images to look at", blocks=[Colors(title="Classes", rows=colors), *images]),
        ]

    def advice(self, evaluation: Evaluation) -> list[str]:
        """Return what stands out."""
        total = sum(entry["pixels"] for entry in evaluation["per_class"])
        if not total:
            return ["The validation set has no labeled pixel, so nothing can be scored: check data.classes."]
        lines = []
        scored = [entry for entry in evaluation["per_class"] if entry["iou"] is not None]
        weak = min(scored, key=lambda entry: entry["iou"])
        if len(scored) > 1:
            part = weak["pixels"] / total
            text = f"The weakest class is '{weak['name']}', IoU {weak['iou']:.3f}, {part:.2%} of the pixels"
            rare = (
                ": crops that hold it more often (data.augment), or more images of it, help"
                if part < FEW
                else ""
            )
            lines.append(f"{text}{rare}.")
        if evaluation["confusions"]:
            pair = evaluation["confusions"][0]
            lines.append(
                f"Most pixels are lost where '{pair['name']}' is taken for '{pair['taken_for']}': "
                f"{pair['fraction']:.1%} of the class's pixels."
            )
        absent = [entry["name"] for entry in evaluation["per_class"] if not entry["pixels"]]
        if absent:
            named = ", ".join(absent[:5]) + (", …" if len(absent) > 5 else "")
            lines.append(f"Not in the validation set, so nothing is known of them: {named}.")
        return lines


def _classes(evaluation: Evaluation) -> list[Block]:
    total = sum(entry["pixels"] for entry in evaluation["per_class"])
    ranked = sorted(evaluation["per_class"], key=lambda entry: (entry["iou"] is None, -(entry["iou"] or 0)))
    rows = [
        [
            entry["name"],
            entry["iou"],
            entry["iiou"],
            entry["pixels"] / total if total else None,
            entry["pixels"],
            entry["predicted_pixels"],
        ]
        for entry in ranked
    ]
    columns = ["class", "IoU", "iIoU", "fraction", "pixels", "predicted"]
    note = "IoU: intersection over union. iIoU: with objects weighted to one size; for Cityscapes' classes. "
    note += "Fraction: of all labeled pixels."
    blocks: list[Block] = [
        Table(title="Scores of each class, best first", note=note, columns=columns, rows=rows)
    ]
    if evaluation["per_category"]:
        groups = [[entry["name"], entry["iou"], entry["iiou"]] for entry in evaluation["per_category"]]
        blocks.append(Table(title="Categories", columns=["category", "IoU", "iIoU"], rows=groups))
    return blocks


def _confusion(evaluation: Evaluation) -> Matrix:
    return Matrix(
        title="Pixels by class, as fractions",
        note="Rows: the class in the ground truth; each row adds up to 1. Columns: the class predicted.",
        corner="truth",
        rows=evaluation["class_names"],
        columns=evaluation["class_names"],
        counts=np.array(evaluation["matrix"], np.int64),
        fractions=True,
    )


def _pairs(evaluation: Evaluation) -> Table:
    rows = [
        [pair["name"], pair["taken_for"], pair["fraction"], pair["pixels"]]
        for pair in evaluation["confusions"][:SHOWN]
    ]
    return Table(
        title="Largest confusions",
        columns=["class", "taken for", "of the class", "pixels"],
        rows=rows,
    )
