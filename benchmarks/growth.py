"""How cost grows: loading, evaluation and prediction with ten times as many images, boxes and detections.

    python benchmarks/growth.py [--images 5000] [--model MODEL]

- loading: a COCO json with 7.3 boxes an image, as train2017 has;
- evaluation: 7 objects and 100 detections an image, 80 classes, COCO's 12 numbers;
- prediction, if a MODEL is given: `dettoolkit predict` on scenes of 160x320, a tenth of the images.

Each is done with a tenth of the images and with all, in turns in one process; printed are medians of the CPU
time over all threads, and how many times as long ten times as much takes.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
from coco_evaluation import synthetic
from coco_loading import write_json

from dettoolkit.cli.predicting import predict
from dettoolkit.datasets.coco_annotations import CocoAnnotations
from dettoolkit.datasets.scenes.render import draw_scene
from dettoolkit.evaluation.coco_ap import evaluate_coco

ROUNDS, TIMES = 3, 10
BOXES = 7.3  # of an image


def cpu_seconds(call: Callable[[], object]) -> float:
    """Measure a call."""
    start = time.process_time()
    call()
    return time.process_time() - start


def compare(what: str, small: Callable[[], object], large: Callable[[], object]) -> None:
    """Time both in turns, and print them."""
    small()  # prepares what is prepared once
    turns = [(cpu_seconds(small), cpu_seconds(large)) for _ in range(ROUNDS)]
    first, second = (statistics.median(column) for column in zip(*turns, strict=True))
    print(f"{what:44} {first:8.2f} s {second:8.2f} s {second / first:6.1f} times as long", flush=True)


def loading(folder: Path, images: int) -> Callable[[], object]:
    """Make a function that loads a json with so many images."""
    path = folder / f"{images}.json"
    write_json(path, images=images, boxes=round(BOXES * images))
    return lambda: CocoAnnotations.load(path, images=folder, label_map="contiguous")


def evaluation(images: int) -> Callable[[], object]:
    """Make a function that evaluates detections on so many images."""
    truth, detections = synthetic(images, 100)
    return lambda: evaluate_coco(truth, detections, max_detections=100)


def prediction(folder: Path, images: int, model: str) -> Callable[[], object]:
    """Make a function that predicts on so many images."""
    source, out = folder / f"{images}_images", iter(range(1000))
    source.mkdir()
    for index in range(images):
        scene = draw_scene(seed=0, split="val", index=index % 50, image_hw=(160, 320))
        cv2.imwrite(str(source / f"{index}.jpg"), scene.image[..., ::-1])

    def run() -> None:
        to = folder / f"{images}_predictions_{next(out)}"
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            if predict([model, str(source), "--out", str(to)]):
                raise SystemExit(f"{model} cannot predict: run dettoolkit predict {model} to see why")

    return run


def main() -> None:
    """Print a line for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--model", help="a detector to predict with, such as a run's folder")
    options = parser.parse_args()
    many, few = options.images, options.images // TIMES
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        compare(f"loading {few}, {many} images", loading(folder, few), loading(folder, many))
        compare(f"evaluation of {few}, {many} images", evaluation(few), evaluation(many))
        if options.model is not None:
            few, many = few // TIMES, many // TIMES
            runs = (prediction(folder, images, options.model) for images in (few, many))
            compare(f"prediction on {few}, {many} images", *runs)


if __name__ == "__main__":
    main()
