"""A detector's part of the report, made from evaluation.json. K: classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dettoolkit.pages.galleries import gallery_of
from dettoolkit.pages.parts import Block, Chart, Matrix, Section, Series, Table
from dettoolkit.task_report import Entry, Evaluation, Picture, TaskReport

RECALLS = np.linspace(0, 1, 101).tolist()
MAX_CURVES = 8  # classes with a curve of their own
WORDS = {
    "class": "wrong class, right place",
    "location": "right class, place not quite right",
    "both": "wrong class, place not quite right",
    "duplicate": "a second box on one object",
    "background": "no object there",
}


class DetectionReport(TaskReport):
    """See TaskReport."""

    image_measure = "F1"
    module = "dettoolkit.detection.details"
    class_scores = ("per_class", "ap", "AP")

    def words(self, evaluation: Evaluation) -> dict[str, str]:
        """Return what each number means."""
        from dettoolkit.evaluation.coco_ap import words_of

        return words_of(evaluation["max_detections"])

    def sections(self, evaluation: Evaluation, picture: Callable[[Entry], Picture | None]) -> list[Section]:
        """Return the parts of the page."""
        return [
            Section(title="Classes", blocks=[_classes(evaluation)]),
            Section(title="Precision, recall and the score threshold", blocks=_curves(evaluation)),
            Section(title="Which class is taken for which", blocks=[_confusion(evaluation)]),
            Section(title="Sizes and kinds of error", blocks=[_sizes(evaluation), _errors(evaluation)]),
            Section(title="Images to look at", blocks=_images(evaluation, picture)),
        ]

    def advice(self, evaluation: Evaluation) -> list[str]:
        """Return what stands out."""
        if not sum(evaluation["objects_by_size"].values()):
            return ["The validation set has no objects, so nothing can be scored: check data.val."]
        if not any(row["detections"] for row in evaluation["thresholds"]) and evaluation["best_f1"] is None:
            return ["The detector found nothing at all: train longer, or lower evaluation.score_threshold."]
        return [*_threshold_advice(evaluation), *_error_advice(evaluation), *_class_advice(evaluation)]

    def compared(self, evaluations: Mapping[str, Evaluation]) -> list[Block]:
        """Return AP of each class, and precision over recall, of several runs."""
        series = [Series(run, RECALLS, _mean_precision(each)) for run, each in evaluations.items()]
        chart = _precision_chart(series, "Mean precision of the classes, at IoU 0.50")
        return [*super().compared(evaluations), chart]


def _classes(evaluation: Evaluation) -> Table:
    best = {curve["name"]: curve["best_f1"] or {} for curve in evaluation["curves"]}
    rows = [
        [
            entry["name"],
            *(entry[key] for key in ("ap", "ap50", "ar100", "objects")),
            *(best.get(entry["name"], {}).get(key) for key in ("threshold", "precision", "recall", "f1")),
        ]
        for entry in evaluation["per_class"]
    ]
    return Table(
        title="Scores of each class, best first",
        note="AP: average precision, IoU 0.50 to 0.95. AP50: at IoU 0.50. AR: average recall. Threshold, "
        "precision and recall are those of the best F1, at IoU 0.50.",
        columns=["class", "AP", "AP50", "AR", "objects", "threshold", "precision", "recall", "F1"],
        rows=rows,
    )


def _mean_precision(evaluation: Evaluation) -> list[float]:
    curves = [curve["precision"] for curve in evaluation["curves"] if curve["precision"]]
    return np.mean(curves, axis=0).tolist() if curves else [float("nan")] * len(RECALLS)


def _precision_chart(series: list[Series], title: str) -> Chart:
    return Chart(
        title=title, x_label="recall", y_label="precision", series=series, y_range=(0, 1), x_range=(0, 1)
    )


def _curves(evaluation: Evaluation) -> list[Block]:
    ap50 = {entry["name"]: entry["ap50"] for entry in evaluation["per_class"] if entry["objects"]}
    ranked = list(ap50)  # per_class has the best first
    shown = ranked if len(ranked) <= MAX_CURVES else [*ranked[:3], *ranked[-(MAX_CURVES - 3) :]]
    curves = {curve["name"]: curve["precision"] for curve in evaluation["curves"]}
    series = [Series(name, RECALLS, curves[name]) for name in shown]
    if len(ranked) > 1:
        series.insert(0, Series("mean", RECALLS, _mean_precision(evaluation)))
    title = "Precision over recall at IoU 0.50"
    title += (
        f": the mean, the best 3 and the worst {MAX_CURVES - 3} classes" if len(shown) < len(ranked) else ""
    )
    table = evaluation["thresholds"]
    names = ("precision", "recall", "f1")
    lines = [
        Series(
            {"f1": "F1"}.get(name, name),
            [row["threshold"] for row in table],
            [float("nan") if row[name] is None else row[name] for row in table],
        )
        for name in names
    ]
    over = Chart(
        title="All classes together, by score threshold",
        x_label="score threshold",
        y_label="",
        series=lines,
        y_range=(0, 1),
        x_range=(0, 1),
    )
    return [_precision_chart(series, title), over, _thresholds(evaluation)]


def _thresholds(evaluation: Evaluation) -> Table:
    best = evaluation["best_f1"]
    rows = [
        [f"{row['threshold']:.2f}", row["detections"], row["precision"], row["recall"], row["f1"]]
        for row in evaluation["thresholds"]
    ]
    if best is not None:
        text = f"{best['threshold']:.4f} (best)"
        place = sum(row["threshold"] < best["threshold"] for row in evaluation["thresholds"])
        rows.insert(place, [text, best["detections"], best["precision"], best["recall"], best["f1"]])
    return Table(
        title="What a score threshold gives",
        note="All classes together, IoU 0.50. The best threshold of each class is in the table of classes.",
        columns=["score from", "detections", "precision", "recall", "F1"],
        rows=rows,
        folded=True,
    )


def _confusion(evaluation: Evaluation) -> Matrix:
    confusion = evaluation["confusion"]
    return Matrix(
        title=f"Objects by what was detected there, score from {evaluation['shown_from']:.3f}",
        note="Rows: the object's class. Columns: the class detected at IoU 0.50 and more. Last column: "
        "objects that were missed. Last row: detections where there is no object.",
        corner="object",
        rows=confusion["names"],
        columns=[*confusion["names"][:-1], "missed"],
        counts=np.array(confusion["matrix"], np.int64),
    )


def _sizes(evaluation: Evaluation) -> Table:
    numbers, sizes = evaluation["numbers"], evaluation["objects_by_size"]
    limits = {"small": "up to 32 x 32 pixels", "medium": "32 x 32 to 96 x 96", "large": "from 96 x 96"}
    rows = [
        [size, limits[size], sizes[size], numbers[f"AP{size[0]}"], numbers[f"AR{size[0]}"]] for size in sizes
    ]
    return Table(
        title="By size of the object in its image",
        columns=["size", "area", "objects", "AP", "AR"],
        rows=rows,
    )


def _errors(evaluation: Evaluation) -> Table:
    return Table(
        title="Kinds of error",
        note="Counted over all detections, however low their score. The gain is the AP50 that would be added "
        "if this kind of error alone were repaired (TIDE, arXiv 2008.08115).",
        columns=["kind", "what", "count", "AP50 gain"],
        rows=[[each["name"], each["meaning"], each["count"], each["gain"]] for each in evaluation["errors"]],
    )


def _images(evaluation: Evaluation, picture: Callable[[Entry], Picture | None]) -> list[Block]:
    def mistake(entry: Entry) -> str:
        text = f"{entry['class']} {entry['score']:.2f}: {WORDS[entry['kind']]}"
        if entry["meets"] is not None and entry["kind"] != "background":
            text += f", at IoU {entry['iou']:.2f} of '{entry['meets']}'"
        return text

    shown = f"{evaluation['shown_from']:.3f}"
    return [
        *gallery_of(
            "Worst images",
            evaluation["worst_images"],
            note=f"Ground truth first, then detections with a score from {shown}. Lowest F1 first.",
            caption=lambda entry: f"F1 {entry['f1']:.3f} over {entry['boxes']} objects and detections",
            picture=picture,
        ),
        *gallery_of(
            "Surest mistakes",
            evaluation["mistakes"],
            note="The part of the image around a wrong detection: ground truth first, then the detection. "
            "Not seldom it is the label that is wrong.",
            caption=mistake,
            picture=picture,
        ),
    ]


def _threshold_advice(evaluation: Evaluation) -> list[str]:
    best, shows = evaluation["best_f1"], evaluation["shows_from"]
    if best is None or not best["f1"]:
        return []
    text = (
        f"A score threshold of {best['threshold']:.2f} gives the best F1, {best['f1']:.3f}: precision "
        f"{best['precision']:.3f}, recall {best['recall']:.3f}."
    )
    if abs(best["threshold"] - shows) >= 0.05:
        text += f" The recipe shows detections from {shows:g} (evaluation.threshold)."
    return [text]


def _error_advice(evaluation: Evaluation) -> list[str]:
    remedies = {
        "class": "the confusion matrix shows which; similar classes need more examples",
        "location": "longer training or a larger model.input_hw gives closer boxes; check that labels "
        "are drawn tightly",
        "both": "more data and longer training",
        "duplicate": "a lower nms_iou drops more of them",
        "background": "look at the surest mistakes: objects without a label, or things that look alike; add "
        "images without objects",
        "missed": "look at the worst images and at small objects: a larger model.input_hw finds smaller ones",
    }
    known = [each for each in evaluation["errors"] if each["gain"] is not None]
    if not known or (worst := max(known, key=lambda each: each["gain"]))["gain"] <= 0:
        return []
    return [
        f"Most AP50 is lost to '{worst['name']}' errors ({worst['meaning']}): {worst['gain']:.3f} would be "
        f"gained without them. {remedies[worst['name']].capitalize()}."
    ]


def _class_advice(evaluation: Evaluation) -> list[str]:
    scored = [entry for entry in evaluation["per_class"] if entry["objects"]]
    lines = []
    if len(scored) > 1 and scored[-1]["ap"] < 0.5 * evaluation["numbers"]["AP"]:
        weak: Any = scored[-1]
        lines.append(
            f"The weakest class is '{weak['name']}', AP {weak['ap']:.3f} on {weak['objects']} objects."
        )
    few = [entry["name"] for entry in scored if entry["objects"] < 10]
    if few:
        named = ", ".join(few[:5]) + (", …" if len(few) > 5 else "")
        lines.append(f"Fewer than 10 objects to be scored on, so their AP says little: {named}.")
    sizes, numbers = evaluation["objects_by_size"], evaluation["numbers"]
    fraction = sizes["small"] / sum(sizes.values())
    if fraction >= 0.3 and numbers["APs"] is not None and numbers["APs"] < numbers["AP"]:
        lines.append(
            f"{fraction:.0%} of the objects are small (up to 32 x 32 pixels), with AP {numbers['APs']:.3f}: "
            "a larger model.input_hw helps these."
        )
    return lines
