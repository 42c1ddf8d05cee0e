"""Images whose class a classifier doubts, by confident learning (arXiv 1911.00068) as cleanlab has it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from dettoolkit.classification.run import ClassificationRun
from dettoolkit.doctor.findings import Example, Finding
from dettoolkit.doctor.findings import suspects as finding_of
from dettoolkit.run import Batch, Split


def suspects(run: ClassificationRun, *, split: Split, batches: Iterable[Batch]) -> list[Finding]:
    """Return images that it counts as mislabeled; the score is the probability of the given class."""
    from cleanlab.filter import find_label_issues

    ids, labels, parts = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], list[np.ndarray]()
    for batch in batches:
        logits = run.task.network(run.task.images(batch))
        parts.append(torch.softmax(logits.double(), dim=1).cpu().numpy())
        ids.append(batch["image_ids"].cpu().numpy())
        labels.append(batch["class_labels"].cpu().numpy())
    if not parts:
        return []
    rows, given, probabilities = np.concatenate(ids), np.concatenate(labels), np.concatenate(parts)
    doubted = find_label_issues(given, probabilities, return_indices_ranked_by="self_confidence", n_jobs=1)
    names, files = run.classes.names, run.val.files
    cases = []
    for index in doubted.tolist():
        best, row = int(probabilities[index].argmax()), int(rows[index])
        text = f"{names[given[index]]}, where the model says {names[best]} {probabilities[index, best]:.2f}"
        example = Example(file=str(files.image_path(row)), image_id=row, text=text)
        cases.append((float(probabilities[index, given[index]]), example))
    return finding_of(split, cases, things="image{n:|s}")
