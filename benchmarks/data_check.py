"""The doctor's quick part, which opens no image in full: seconds and peak memory.

Writes two COCO sets of small gray photos to a temporary folder. On the first, of train2017's size (118,287
images, 860,001 boxes with polygons, 450 MB of json, 0.5 GB of photos), it runs `dettoolkit doctor --quick` in
a process of its own, whose peak memory (Linux only) counts the mapped json and torch. On the second, of
10,000 images, it measures what the quick part adds to `train --check`, and to the start of a training.

    python benchmarks/data_check.py [--images 118287] [--boxes 860001]

Measured on 2 shared cores: 11.6 processor seconds (15.2 by the clock) and a peak of 928 MB, 560 of them for
torch with CUDA; 1.4 processor seconds (1.3 by the clock) are added for 10,000 images.
"""

from __future__ import annotations

import argparse
import logging
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from coco_loading import write_json
from PIL import Image

from dettoolkit.config import load_recipe
from dettoolkit.training.data_check import check_data
from dettoolkit.training.prepare import prepare

# The peak of the process alone, unlike ru_maxrss, which starts with what the one that started it had.
CALL = "from dettoolkit.cli import main; main(); print(open('/proc/self/status').read())"
SMALL, SMALL_BOXES = 10_000, 72_700
VAL = 20  # times fewer images and boxes than in train, about as in COCO


def write_set(root: Path, *, images: int, boxes: int) -> None:
    """Write a COCO set with a photo for each image of both splits."""
    (root / "annotations").mkdir(parents=True)
    Image.fromarray(np.full((480, 640, 3), 128, np.uint8)).save(root / "photo.jpg")
    photo = (root / "photo.jpg").read_bytes()
    for split, part in (("train", 1), ("val", VAL)):
        count = -(-images // part)
        write_json(
            root / f"annotations/instances_{split}2017.json", images=count, boxes=max(1, boxes // part)
        )
        (root / f"{split}2017").mkdir()
        for number in range(count):
            (root / f"{split}2017" / f"{number:012d}.jpg").write_bytes(photo)


def measure_command(root: Path) -> tuple[float, float, float]:
    """Run the command on a set: seconds, processor seconds and the peak of its memory in MB."""
    command = [sys.executable, "-c", CALL, "doctor", "ssdlite_mnv3_large", f"data.root={root}", "--quick"]
    started = time.perf_counter()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    text = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    seconds, usage = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = usage.ru_utime + usage.ru_stime - before.ru_utime - before.ru_stime
    return seconds, cpu, int(text.partition("VmHWM:")[2].split()[0]) / 1024


def measure_check(root: Path) -> tuple[float, float]:
    """Run the quick part on a training that is prepared: seconds and processor seconds."""
    logging.disable(logging.WARNING)
    recipe = load_recipe("ssdlite_mnv3_large", [f"data.root={root}", "model.backbone.weights=null"]).recipe
    run = prepare("ssdlite_mnv3_large", recipe)
    started, started_cpu = time.perf_counter(), time.process_time()
    if check_data(run, None) is None:
        raise RuntimeError("the data could not be examined")
    return time.perf_counter() - started, time.process_time() - started_cpu


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=118_287)
    parser.add_argument("--boxes", type=int, default=860_001)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        large, small = Path(folder) / "large", Path(folder) / "small"
        write_set(large, images=options.images, boxes=options.boxes)
        seconds, cpu, memory = measure_command(large)
        print(
            f"doctor --quick, {options.images} images: {seconds:.1f} s ({cpu:.1f} CPU), peak {memory:.0f} MB"
        )
        write_set(small, images=SMALL, boxes=SMALL_BOXES)
        seconds, cpu = measure_check(small)
        print(f"added to train --check, {SMALL} images: {seconds:.2f} s ({cpu:.2f} CPU)")


if __name__ == "__main__":
    main()
