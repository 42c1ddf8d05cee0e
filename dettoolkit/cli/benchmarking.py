"""`dettoolkit benchmark`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dettoolkit.cli.arguments import adder, check_device, command_parser, run
from dettoolkit.cli.failures import quiet

if TYPE_CHECKING:
    from dettoolkit.inference.predictor import Predictor

DESCRIPTION = """Measure how long models take for an image, one image after the other, on this machine.

Models take turns on the same images, in one process, each with the score threshold it has by default.
Printed are milliseconds, medians over all images:
  read      from the image file to pixels
  resize    to the network's input, normalized
  network   the runtime: the network, and what an exported file has inside
  decode    from its outputs to a result in the image's pixels
  whole     all of it; with the quartiles (a quarter of the images took less, a quarter more)"""
EXAMPLES = """examples:
  dettoolkit benchmark runs/ssdlite_scenes/2026-01-31_12-00-00 detector.onnx detector.xml --images photos
  dettoolkit benchmark ssdlite_mnv3_large --threads 1
  dettoolkit benchmark model.onnx --json - | jq .models[0].whole"""
WIDE = 1.5  # times the fastest image's, a median above which says that something else wanted the cores
LOAD = 0.3  # programs that wanted a core in the last minute, on average


def benchmark(argv: Sequence[str] | None = None) -> int:
    """Time models on images."""
    parser = command_parser("benchmark", description=DESCRIPTION, epilog=EXAMPLES)
    add = adder(parser)
    add(
        "models",
        "MODEL",
        "run folder, checkpoint, exported file, or a name of `dettoolkit models`",
        nargs="+",
    )
    add("--weights", "FILE", "weights of a model that is given by name", type=Path)
    add("--images", "DIR", "folder of images, or one image (default: generated street scenes, 640x480)")
    add("--limit", "N", "maximum number of these images (default: 64)", type=int, default=64)
    add("--threads", "N", "threads of every runtime (default: the number of cores)", type=int)
    add("--seconds", "S", "how long to measure in all (default: 10)", type=float, default=10.0)
    add("--device", "DEVICE", "where PyTorch runs checkpoints (default: cpu)", default="cpu")
    add("--json", "FILE", "also write the results to a file that does not exist, or with - to stdout alone")
    add("--trust", None, "open .pt2 files, which can run any code")
    return run(parser, argv, _benchmark)


def _check(options: argparse.Namespace) -> None:
    if not 0 < options.seconds <= 3600:
        raise ValueError(f"--seconds {options.seconds:g}: expected a number above 0, at most 3600")
    if options.limit < 1:
        raise ValueError(f"--limit {options.limit}: expected 1 or more")
    check_device(options.device)


def _benchmark(options: argparse.Namespace) -> int:
    _check(options)
    out = None if options.json in (None, "-") else Path(options.json)
    if out is not None and out.exists():
        raise ValueError(f"{out} exists and is not overwritten: choose another --json")
    quiet()
    from dettoolkit.formats import check_threads
    from dettoolkit.inference.benchmark import measure, use_threads
    from dettoolkit.loading import load
    from dettoolkit.machine import processor
    from dettoolkit.named_models import is_named

    threads = check_threads(options.threads if options.threads is not None else os.cpu_count() or 1)
    use_threads(threads)
    busy = _load_of_others()
    with _images(options.images, options.limit) as images:
        predictors = []
        for model in options.models:
            device = None if _is_exported(model) else options.device
            weights = options.weights if is_named(Path(model)) else None
            predictors.append(
                load(model, weights=weights, device=device, threads=threads, trust=options.trust)
            )
        times = measure(predictors, images, seconds=options.seconds, tell=_tell)
        where = "generated scenes of 640x480" if options.images is None else options.images
        machine = {"processor": processor(), "cores": os.cpu_count(), "threads": threads}
        found = {
            **machine,
            "images": where,
            "image_count": len(images),
            "busy": busy,
            "models": [
                {"model": model, "runtime": _runtime(predictor), "runs": len(each.whole), **each.summary()}
                for model, predictor, each in zip(options.models, predictors, times, strict=True)
            ],
        }
    text = json.dumps(found, indent=1)
    if options.json == "-":
        print(text)
        return 0
    print(_table(found))
    if out is not None:
        with out.open("x") as file:
            file.write(text + "\n")
    for warning in _warnings(found):
        print(f"warning: {warning}", file=sys.stderr)
    return 0


def _is_exported(model: str) -> bool:
    from dettoolkit.formats import FORMATS

    return Path(model).suffix.lower() in FORMATS


@contextmanager
def _images(given: str | None, limit: int) -> Iterator[list[Path]]:
    """Give the image files to measure on, spread over what there are."""
    from dettoolkit.inference.inputs import sources_of

    if given is not None:
        listed = sources_of(given)
        paths = [Path(given)] if listed is None else [Path(str(each)) for each in listed]
        yield paths[:: -(-len(paths) // limit)]
        return
    import cv2

    from dettoolkit.datasets.scenes.render import draw_scene

    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{index}.jpg" for index in range(min(limit, 16))]
        for index, path in enumerate(paths):
            scene = draw_scene(seed=0, split="val", index=index, image_hw=(480, 640))
            cv2.imwrite(str(path), scene.image[..., ::-1])
        yield paths


def _tell(fraction: float) -> None:
    if sys.stderr.isatty():
        print(f"\rmeasuring: {fraction:4.0%}", end="" if fraction < 1 else "\n", file=sys.stderr)


def _load_of_others() -> float | None:
    """Return how many programs wanted a core in the last minute; None where the system does not say."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def _runtime(predictor: Predictor) -> str:
    export = predictor.manifest.export
    if export is None:
        return f"PyTorch, {predictor.engine.device.type}"
    inside = [name for name in ("preprocessing", "postprocessing") if getattr(export, name)]
    return ", ".join([export.format, export.precision, *(["with " + " and ".join(inside)] if inside else [])])


def _table(found: dict[str, Any]) -> str:
    """Write the results for people."""
    from dettoolkit.evaluation.score_text import table
    from dettoolkit.inference.benchmark import STEPS

    rows = []
    for each in found["models"]:
        numbers = [f"{each[name]:.2f}" for name in (*STEPS, "whole")]
        spread = f"{each['lower_quartile']:.2f} to {each['upper_quartile']:.2f}"
        rows.append(
            (f"{each['model']} ({each['runtime']})", *numbers, spread, f"{each['images_per_second']:.1f}")
        )
    columns = {**dict.fromkeys((*STEPS, "whole"), 9), "quartiles": 18, "images/s": 10}
    head = (
        f"{found['image_count']} images ({found['images']}), one at a time, {found['threads']} threads on "
        f"{found['cores']} cores, {found['processor']}; milliseconds"
    )
    return "\n".join([head, "", *table("model", columns, rows)])


def _warnings(found: dict[str, Any]) -> Iterator[str]:
    if found["busy"] is not None and found["busy"] > LOAD:
        yield (
            f"this machine was busy before the start (load {found['busy']:.1f} over the last minute): end "
            "other programs, wait a minute, and measure again"
        )
    for each in found["models"]:
        if each["whole"] > WIDE * each["fastest"]:
            yield (
                f"{each['model']}: half of the images took {each['whole'] / each['fastest']:.1f} times as "
                "long as the fastest one, or longer: other programs may want the cores, or sizes differ"
            )
