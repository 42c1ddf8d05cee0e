"""Loading COCO annotations: seconds and memory of ours and of pycocotools, and memory that workers add.

Writes a json of train2017's size (118,287 images, 860,001 boxes with polygons, about 450 MB) to a temporary
folder, loads it once with each library in a process of its own, then lets 4 loader processes, forked and
spawned, go through every annotation once. Images are not read.

    python benchmarks/coco_loading.py [--images 118287] [--boxes 860001] [--peer-workers]

Memory of a worker is what is its own (USS), and in brackets what is left of it after subtracting a worker of
an empty data set (a spawned one imports torch anew). `--peer-workers` forks workers over pycocotools'
dictionaries too; they are copied into every worker as their reference counts change, gigabytes in all.

Measured on 2 shared cores: 3.1 processor seconds (4.4 by the clock) against 23.6 (67), 7.7 times faster;
108 MB held against 2,102; a forked worker adds 20 MB (6 by annotations) against 908 (893), a spawned
one 60 MB by annotations.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from torch.utils.data import DataLoader, Dataset

from dettoolkit.datasets.coco import BoxedImage, CocoDetection, collate
from dettoolkit.datasets.coco_annotations import CocoAnnotations
from dettoolkit.datasets.images import Reduced

WORKERS = 4
MB = 2**20


def write_json(path: Path, *, images: int, boxes: int) -> None:
    """Write a COCO file shaped as train2017: 80 categories, a polygon of 20 to 60 numbers for each box."""
    rng = np.random.default_rng(0)
    values = rng.uniform(0, 640, (500, 60)).round(2).tolist()
    polygons = [
        json.dumps(row[: 2 * int(n)]) for row, n in zip(values, rng.integers(10, 31, 500), strict=True)
    ]
    numbers = np.round(rng.uniform(1, 300, (boxes, 4)), 2).tolist()
    owners = rng.integers(0, images, boxes).tolist()
    ids = rng.integers(1, 81, boxes).tolist()
    with path.open("w") as file:
        file.write('{"info": {"year": 2017}, "licenses": [], "images": [')
        url = "http://images.cocodataset.org/train2017/"
        file.write(
            ",".join(
                f'{{"license": 3,"file_name": "{i:012d}.jpg","coco_url": "{url}{i:012d}.jpg","height": 480,'
                f'"width": 640,"date_captured": "2013-11-14 17:02:52","flickr_url": "{url}{i}","id": {i}}}'
                for i in range(images)
            )
        )
        file.write('], "annotations": [')
        for start in range(0, boxes, 10_000):
            stop = min(start + 10_000, boxes)
            file.write("," if start else "")
            file.write(
                ",".join(
                    f'{{"segmentation": [{polygons[i % 500]}],"area": {numbers[i][2]},"iscrowd": 0,'
                    f'"image_id": {owners[i]},"bbox": {numbers[i]},"category_id": {ids[i]},"id": {i}}}'
                    for i in range(start, stop)
                )
            )
        categories = ",".join(f'{{"supercategory": "x","id": {i},"name": "name {i}"}}' for i in range(1, 81))
        file.write(f'], "categories": [{categories}]}}')


def load_ours(path: Path) -> CocoAnnotations:
    return CocoAnnotations.load(path, images=path.parent, label_map="contiguous")


def load_pycocotools(path: Path) -> Any:
    from pycocotools.coco import COCO

    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        return COCO(str(path))


class NoPicture:
    """Stand in for augmentation."""

    input_hw = (8, 8)

    def __call__(self, sample: BoxedImage, seed: int) -> BoxedImage:
        """Change nothing."""
        del seed
        return sample


class Ours(CocoDetection):
    """Our data set without reading images."""

    def _read(self, row: int) -> Reduced:
        del row
        return Reduced(np.zeros((480, 640, 3), np.uint8)[:8, :8], (480, 640))


class Peer(Dataset[int]):
    """The targets as torchvision.datasets.CocoDetection takes them from pycocotools."""

    def __init__(self, coco: Any) -> None:
        self.coco = coco
        self.ids = sorted(coco.imgs)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> int:
        return len(self.coco.loadAnns(self.coco.getAnnIds(self.ids[index])))


class Empty(Dataset[int]):
    """As many items without any data."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> int:
        return index


def worker_memory(
    dataset: Dataset[Any], collate_fn: Callable[[Any], Any] | None, start_method: str
) -> list[int]:
    """Go through a data set once with 4 workers and return what each then has of its own, in bytes."""
    loader = DataLoader(
        dataset,
        batch_size=64,
        num_workers=WORKERS,
        collate_fn=collate_fn,
        persistent_workers=True,
        multiprocessing_context=start_method,
    )
    for _ in loader:
        pass
    workers = [each for each in psutil.Process().children() if "resource_tracker" not in str(each.cmdline())]
    memory = sorted(int(each.memory_full_info().uss) for each in workers)
    del loader
    gc.collect()
    return memory


def describe_workers(
    dataset: Dataset[Any], collate_fn: Callable[[Any], Any] | None, start_method: str
) -> str:
    """Measure workers with and without the data."""
    memory = worker_memory(dataset, collate_fn, start_method)
    without = worker_memory(Empty(len(dataset)), None, start_method)  # type: ignore[arg-type]
    each = (f"{own / MB:.0f} ({(own - base) / MB:.0f})" for own, base in zip(memory, without, strict=True))
    return f"{start_method}: " + "  ".join(each)


def measure(path: Path, whose: str, start_methods: tuple[str, ...], pipe: Any) -> None:
    """Load in this process, and send seconds, processor seconds, memory and lines about workers."""
    before = psutil.Process().memory_info().rss
    start, start_cpu = time.perf_counter(), time.process_time()
    data = load_ours(path) if whose == "ours" else load_pycocotools(path)
    seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    gc.collect()
    held = psutil.Process().memory_info().rss - before
    dataset: Dataset[Any]
    if whose == "ours":
        dataset = Ours(
            annotations=data,
            transform=NoPicture(),
            on_bad_image="error",
            max_bad_images=0,
            max_megapixels=100.0,
            drop_empty=False,
            seed=0,
        )
    else:
        dataset = Peer(data)
    function = collate if whose == "ours" else None
    pipe.send((seconds, cpu, held, [describe_workers(dataset, function, each) for each in start_methods]))


def in_own_process(
    path: Path, whose: str, start_methods: tuple[str, ...]
) -> tuple[float, float, int, list[str]]:
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=measure, args=(path, whose, start_methods, theirs))
    process.start()
    theirs.close()
    result: tuple[float, float, int, list[str]] = ours.recv()
    process.join()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=118_287)
    parser.add_argument("--boxes", type=int, default=860_001)
    parser.add_argument("--peer-workers", action="store_true", help="also start workers on pycocotools' data")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "instances_train2017.json"
        write_json(path, images=options.images, boxes=options.boxes)
        print(f"{options.images} images, {options.boxes} boxes, {path.stat().st_size / 1e6:.0f} MB of json")
        ours = in_own_process(path, "ours", ("fork", "spawn"))
        peer = in_own_process(path, "pycocotools", ("fork",) if options.peer_workers else ())
    print(f"{'':12}{'load s':>10}{'CPU s':>10}{'held MB':>10}")
    for name, (seconds, cpu, held, _) in (("ours", ours), ("pycocotools", peer)):
        print(f"{name:12}{seconds:10.2f}{cpu:10.2f}{held / MB:10.0f}")
    ratios = [theirs / mine for mine, theirs in zip(ours[:3], peer[:3], strict=True)]
    print(f"{'ratio':12}" + "".join(f"{ratio:9.1f}x" for ratio in ratios))
    print("MB of each worker (of which by annotations)")
    for name, lines in (("ours", ours[3]), ("pycocotools", peer[3])):
        for line in lines:
            print(f"{name:12}{line}")


if __name__ == "__main__":
    main()
