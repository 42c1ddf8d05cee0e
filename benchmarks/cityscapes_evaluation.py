"""Cityscapes evaluation: ours and the official script on the same full-size predictions, to the same numbers.

python benchmarks/cityscapes_evaluation.py [--images 100]

Ours counts as validation does, from what the network gives out in memory. The peer writes them as
PNGs and runs cityscapesscripts' evalPixelLevelSemanticLabeling on them, with instances, as pip installs it
(without its optional C part). Labels are generated scenes, enlarged to 1024 x 2048.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as script
from numpy.typing import NDArray
from PIL import Image

from dettoolkit.datasets.cityscapes_labels import CLASSES, VOID
from dettoolkit.datasets.label_classes import LabelClasses, read_instances, read_labels
from dettoolkit.datasets.scenes.render import draw_scene
from dettoolkit.evaluation.label_ids import write_label_ids
from dettoolkit.evaluation.miou import SegmentationScores, evaluate_segmentation
from dettoolkit.evaluation.segmentation_counts import SegmentationCounts
from dettoolkit.segmentation.confusion import count_image

HW = (1024, 2048)
ENLARGED = 4  # drawing scenes at full size would take longer than the benchmark
IDS = [label.id for label in CLASSES]
CATEGORIES = [label.category for label in CLASSES]
LABEL_OF_ID = np.full(256, VOID, np.uint8)
LABEL_OF_ID[IDS] = np.arange(len(IDS))

Array = NDArray[Any]


def example(index: int) -> tuple[Array, Array, Array]:
    """Make label ids, instance ids and a prediction as of a network of stride 8: (1024, 2048) each."""
    size = HW[0] // ENLARGED, HW[1] // ENLARGED
    scene = draw_scene(seed=0, split="val", index=index, image_hw=size)
    rng = np.random.default_rng(index)
    coarse = LABEL_OF_ID[scene.label_ids][::2, ::2]
    wrong = (rng.random(coarse.shape) < 0.03) | (coarse == VOID)
    coarse = np.where(wrong, rng.integers(0, len(IDS), coarse.shape), coarse).astype(np.uint8)
    coarse = np.roll(coarse, rng.integers(-2, 3, 2), (0, 1))
    return (
        _enlarge(scene.label_ids, ENLARGED),
        _enlarge(scene.instance_ids, ENLARGED).astype(np.int32),
        _enlarge(coarse, 2 * ENLARGED),
    )


def _enlarge(array: Array, factor: int) -> Array:
    return array.repeat(factor, axis=0).repeat(factor, axis=1)


def count(index: int, labels: Array, instances: Array, predicted: Array) -> SegmentationCounts:
    return count_image(
        torch.from_numpy(predicted),
        torch.from_numpy(labels),
        num_classes=len(IDS),
        image_id=index,
        instances=torch.from_numpy(instances),
        label_ids=IDS,
        categories=CATEGORIES,
    )


def score(parts: list[SegmentationCounts]) -> SegmentationScores:
    return evaluate_segmentation(
        SegmentationCounts.concatenate(parts, len(IDS)),
        class_names=[label.name for label in CLASSES],
        categories=CATEGORIES,
        label_ids=IDS,
    )


def official(folder: Path) -> dict[str, Any]:
    script.np.in1d = np.isin  # NumPy 2.4 has dropped the name that the script uses
    script.args.quiet, script.args.JSONOutput = True, False
    script.args.predictionPath = str(folder / "predictions")
    truth = sorted(str(path) for path in (folder / "gtFine").glob("*_labelIds.png"))
    found = [script.getPrediction(script.args, path) for path in truth]
    scores: dict[str, Any] = script.evaluateImgLists(found, truth, script.args)
    return scores


def largest_difference(result: SegmentationScores, theirs: dict[str, Any]) -> tuple[float, int]:
    """Compare class, category and mean scores; returns the largest difference, and how many were compared."""
    pairs = [
        (result.numbers["mIoU"], theirs["averageScoreClasses"]),
        (result.numbers["category mIoU"], theirs["averageScoreCategories"]),
        (result.numbers["iIoU"], theirs["averageScoreInstClasses"]),
        (result.numbers["category iIoU"], theirs["averageScoreInstCategories"]),
    ]
    for kind, entries in (("class", result.per_class), ("category", result.per_category)):
        for entry in entries:
            pairs.append((entry.iou, theirs[f"{kind}Scores"][entry.name]))
            pairs.append((entry.iiou, theirs[f"{kind}InstScores"][entry.name]))
    if any(math.isnan(a) != math.isnan(b) for a, b in pairs):
        return math.inf, len(pairs)
    return max(abs(a - b) for a, b in pairs if not math.isnan(a)), len(pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=100)
    images = parser.parse_args().images
    torch.set_num_threads(1)  # the script has one too
    ours = writing = reading = 0.0
    parts = []
    classes = LabelClasses.cityscapes()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "gtFine").mkdir()
        for index in range(images):
            label_ids, instances, predicted = example(index)
            labels = LABEL_OF_ID[label_ids]
            start = time.perf_counter()
            parts.append(count(index, labels, instances, predicted))
            ours += time.perf_counter() - start

            stem = f"town_{index:06d}_000019"
            truth = folder / "gtFine" / f"{stem}_gtFine_labelIds.png"
            objects = folder / "gtFine" / f"{stem}_gtFine_instanceIds.png"
            Image.fromarray(label_ids).save(truth)
            Image.fromarray(instances.astype(np.uint16)).save(objects)
            start = time.perf_counter()
            write_label_ids(folder / "predictions", PurePath(f"{stem}_leftImg8bit.png"), predicted, IDS)
            writing += time.perf_counter() - start
            start = time.perf_counter()
            read_labels(truth, classes), read_instances(objects)
            reading += time.perf_counter() - start
        start = time.perf_counter()
        result = score(parts)
        ours += time.perf_counter() - start
        start = time.perf_counter()
        theirs = official(folder)
        running = time.perf_counter() - start

    difference, compared = largest_difference(result, theirs)
    objects_count = sum(len(part.instances) for part in parts)
    print(f"{images} predictions of {HW[0]} x {HW[1]}, {objects_count} objects")
    print("  ".join(f"{name} {value:.4f}" for name, value in result.numbers.items()))
    peer = writing + running
    print(f"ours {ours:.2f} s   official {peer:.2f} s (writing {writing:.2f}, script {running:.2f})")
    print(f"ratio {peer / ours:.1f}   {peer / (ours + reading):.1f} if ours reads the label files too")
    print(f"largest difference over {compared} numbers {difference:.1e}")
    matrix = np.array(theirs["confMatrix"])[np.ix_(IDS, IDS)]
    print(f"integer matrix equal: {np.array_equal(matrix, result.matrix)}")


if __name__ == "__main__":
    main()
