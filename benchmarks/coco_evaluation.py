"""COCO evaluation: ours and pycocotools on the same synthetic detections, from arrays to the 12 numbers.

python benchmarks/coco_evaluation.py [--images 5000] [--detections 100]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import time
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dettoolkit.evaluation.coco_ap import DetectionArrays, GroundTruthArrays, evaluate_coco
from dettoolkit.evaluation.worst import worst_images

CLASSES = 80
OBJECTS = 7  # a COCO val2017 image has 7.3 boxes on average


def synthetic(images: int, detections: int) -> tuple[dict[str, Any], DetectionArrays]:
    """Make ground truth with 1 % crowds and detections: 40 % near an object, the rest anywhere."""
    rng = np.random.default_rng(0)
    image_ids = rng.permutation(10 * images)[:images] + 1
    owner = np.repeat(image_ids, OBJECTS)
    categories = rng.integers(1, CLASSES + 1, len(owner))
    size = np.exp(rng.uniform(np.log(8), np.log(300), (len(owner), 2)))
    boxes = np.concatenate([rng.uniform(0, 400, (len(owner), 2)), size], axis=1)
    rows = zip(
        owner.tolist(), categories.tolist(), boxes.tolist(), rng.random(len(owner)) < 0.01, strict=True
    )
    truth = {
        "info": {},
        "images": [{"id": image_id} for image_id in image_ids.tolist()],
        "categories": [{"id": number, "name": f"class {number}"} for number in range(1, CLASSES + 1)],
        "annotations": [
            {"id": n, "image_id": i, "category_id": c, "bbox": b, "area": b[2] * b[3], "iscrowd": int(crowd)}
            for n, (i, c, b, crowd) in enumerate(rows, start=1)
        ],
    }
    count = images * detections
    source = np.repeat(np.arange(images) * OBJECTS, detections) + rng.integers(0, OBJECTS, count)
    near = rng.random(count) < 0.4
    found = boxes[source] * np.exp(rng.normal(0, 0.1, (count, 4)))
    anywhere = np.concatenate([rng.uniform(0, 400, (count, 2)), rng.uniform(4, 200, (count, 2))], axis=1)
    return truth, DetectionArrays(
        image_ids=owner[source],
        category_ids=np.where(near, categories[source], rng.integers(1, CLASSES + 1, count)),
        boxes_xywh=np.where(near[:, None], found, anywhere),
        scores=rng.random(count) ** np.where(near, 1, 3),
    )


def pycocotools_numbers(truth: dict[str, Any], detections: DetectionArrays) -> np.ndarray[Any, Any]:
    with contextlib.redirect_stdout(io.StringIO()):
        api = COCO()
        api.dataset = truth
        api.createIndex()
        evaluation = COCOeval(api, api.loadRes(detections.to_results()), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return np.asarray(evaluation.stats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=100, help="per image")
    arguments = parser.parse_args()
    truth, detections = synthetic(arguments.images, arguments.detections)
    print(f"{arguments.images} images, {len(truth['annotations'])} objects, {len(detections)} detections")

    start = time.perf_counter()
    result = evaluate_coco(truth, detections, max_detections=100)
    ours = time.perf_counter() - start
    start = time.perf_counter()
    worst_images(GroundTruthArrays.from_coco(truth), detections, score_threshold=0.3, count=16)
    worst = time.perf_counter() - start
    start = time.perf_counter()
    reference = pycocotools_numbers(truth, detections)
    theirs = time.perf_counter() - start

    difference = np.abs(np.array(list(result.numbers.values())) - reference).max()
    print("  ".join(f"{name} {value:.4f}" for name, value in result.numbers.items()))
    print(f"ours {ours:.1f} s   pycocotools {theirs:.1f} s   ratio {theirs / ours:.1f}")
    print(f"largest difference over the 12 numbers {difference:.1e}")
    print(f"worst images {worst:.1f} s")


if __name__ == "__main__":
    main()
