"""Stop real prediction jobs at random moments, continue them, and compare all files with an unbroken job's.

    python tests/faults/jobs.py --rounds 20 --seed 0

A round draws a detector, a segmenter or a classifier, one process or two shards at once, and one stop or
two. A stop is a SIGKILL, or in one case of four a file system that takes no file beyond some size. The same
command continues the job, at last to its end. The exit status is 1 if any file of any round differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))

from conftest import (  # noqa: E402
    LEARN,
    LEARN_CLASSES,
    TINY_CLASSIFICATION_RECIPE,
    TINY_RECIPE,
    TINY_SEGMENTATION_RECIPE,
    Tiny,
    TinyClassification,
    TinySegmentation,
)
from fake_predictor import write_video  # noqa: E402

COMMAND = [sys.executable, str(TESTS.parent / "tools/predict.py")]
MODELS = {
    "detector": (Tiny, TINY_RECIPE, LEARN),
    "segmenter": (TinySegmentation, TINY_SEGMENTATION_RECIPE, LEARN),
    "classifier": (TinyClassification, TINY_CLASSIFICATION_RECIPE, LEARN_CLASSES),
}
FILES = {"detector": "figures,crops,json", "segmenter": "figures,masks,json", "classifier": "figures,json"}
TABLES = {"detector": "csv,coco", "segmenter": "csv,coco", "classifier": "csv"}
THRESHOLD = {"detector": ["--threshold", "0.2"], "segmenter": [], "classifier": []}
TOLD = "Once that is fixed, continue with: dettoolkit predict --resume"
LONGEST = 600  # seconds that a process may take


@dataclass(frozen=True)
class Stop:
    """How each process of a job is stopped: by SIGKILL, or by the size at which its disk is full.

    `moment` is the share of the journal that is written by then; below 0, of the time before it is begun.
    """

    kind: str
    moment: float

    def __str__(self) -> str:
        return f"{self.kind} at {self.moment:.0%}" if self.moment > 0 else "kill while it starts"


def prepare(root: Path) -> None:
    """Train a model of each kind on a few images, and write images of all troublesome kinds."""
    for name, (kind, recipe, learn) in MODELS.items():
        (root / "tiny.yaml").write_text(recipe)
        tiny = kind(root / "tiny.yaml", kind.write(root / f"{name}_data"))
        tiny.train(root / "runs", *learn)[0].rename(root / name)
    images, drawn = root / "images", Tiny.write(root / "drawn", train=42, val=1) / "train"
    for number in range(42):
        path = images / f"{number % 2}/{number // 3}.{('png', 'jpg', 'bmp')[number % 3]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(drawn / f"{number + 1}.png") as picture:
            picture.resize((160, 120)).save(path)
    shutil.copy(images / "0/0.png", images / f"{'x' * 251}.png")
    shutil.copy(images / "0/0.png", images / os.fsdecode(b"1/not utf-8 \xff.png"))
    (images / "1/damaged.png").write_bytes(b"")
    write_video(images / "1/1.mp4", 12, hw=(48, 64))


def start(
    root: Path, model: str, folder: Path, shard: str, full_at: int | None = None
) -> subprocess.Popen[str]:
    """Begin or continue a shard of a job; None of its files can grow beyond `full_at` bytes."""

    def limit() -> None:
        if full_at is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (full_at, full_at))

    given = [root / model, root / "images", "--resume", folder, "--shard", shard]
    save = ["--save", f"{FILES[model]},{TABLES[model]}"]
    options = [*save, *THRESHOLD[model], "--batch-size", "2", "--threads", "1", "--device", "cpu"]
    return subprocess.Popen(
        [*COMMAND, *map(str, given), *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=limit,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def run(root: Path, model: str, folder: Path, shards: int) -> float:
    """Run all shards of a job to their end and make its tables; give the seconds of the slowest."""
    began = time.monotonic()
    for process in [start(root, model, folder, f"{number}/{shards}") for number in range(1, shards + 1)]:
        told = process.communicate(timeout=LONGEST)[1]
        if process.returncode:
            raise RuntimeError(told)
    seconds = time.monotonic() - began
    if shards > 1:
        merge = [*COMMAND, "--merge", str(folder), "--save", TABLES[model]]
        subprocess.run(merge, check=True, stdout=subprocess.DEVNULL, timeout=LONGEST)
    return seconds


def break_off(process: subprocess.Popen[str], journal: Path, stop: Stop, size: int, seconds: float) -> None:
    """Wait for the moment and kill the process, or wait until it has met its full disk."""
    if stop.kind == "full disk":
        told = process.communicate(timeout=LONGEST)[1]
        if process.returncode and (TOLD not in told or "Traceback" in told):
            raise RuntimeError(f"not the sentence about a full disk: {told}")
        return
    deadline = time.monotonic() + (LONGEST if stop.moment > 0 else -stop.moment * seconds)
    while process.poll() is None and time.monotonic() < deadline:
        if stop.moment > 0 and journal.exists() and journal.stat().st_size >= stop.moment * size:
            break
        time.sleep(0.0005)
    process.kill()
    process.communicate()


def content(folder: Path) -> dict[str, bytes]:
    """Read every file, hidden ones too; without the seconds that it took."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for name, data in found.items():
        if name.startswith("summary"):
            found[name] = json.dumps(json.loads(data) | {"seconds": 0}).encode()
    return found


def broken(
    root: Path, model: str, shards: int, stops: list[Stop], reference: Path, seconds: float
) -> list[str]:
    """Run a job with stops and name the files that differ from the unbroken job's."""
    folder = root / "broken"
    numbers = range(1, shards + 1)
    names = [f"results{f'-{number}-of-{shards}' if shards > 1 else ''}.jsonl" for number in numbers]
    sizes = [(reference / name).stat().st_size for name in names]
    for stop in stops:
        full = [int(stop.moment * size) if stop.kind == "full disk" else None for size in sizes]
        processes = [
            start(root, model, folder, f"{number}/{shards}", at)
            for number, at in zip(numbers, full, strict=True)
        ]
        with ThreadPoolExecutor(shards) as pool:
            waiting = [
                pool.submit(break_off, process, folder / name, stop, size, seconds)
                for process, name, size in zip(processes, names, sizes, strict=True)
            ]
        for each in waiting:
            each.result()
    run(root, model, folder, shards)
    ours, theirs = content(folder), content(reference)
    shutil.rmtree(folder)
    return sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))


def draw(random_: random.Random) -> tuple[str, int, list[Stop]]:
    """Draw a round: a model, a number of shards, and where they are stopped."""
    stops = []
    for _ in range(random_.choice((1, 2))):
        kind = random_.choice(("kill", "kill", "kill", "full disk"))
        moment = random_.uniform(-0.2 if kind == "kill" else 0.02, 0.98)
        stops.append(Stop(kind, moment if moment > 0 else 5 * moment))
    return random_.choice(list(MODELS)), random_.choice((1, 2)), sorted(stops, key=lambda stop: stop.moment)


def main() -> int:
    """Run the rounds and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random_, equal = random.Random(options.seed), 0
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        prepare(root)
        seconds: dict[tuple[str, int], float] = {}
        print("round  model      shards  seconds  files  differ  stops", flush=True)
        for number in range(1, options.rounds + 1):
            model, shards, stops = draw(random_)
            reference = root / f"{model}-{shards}"
            if not reference.exists():
                seconds[model, shards] = run(root, model, reference, shards)
            began = time.monotonic()
            differ = broken(root, model, shards, stops, reference, seconds[model, shards])
            equal += not differ
            spent, files = time.monotonic() - began, len(content(reference))
            row = f"{number:5}  {model:9}  {shards:6}  {spent:7.1f}  {files:5}  {len(differ):6}  "
            print(row + ", ".join([*map(str, stops), *differ[:3]]), flush=True)
    print(f"{equal} of {options.rounds} equal")
    return int(equal < options.rounds)


if __name__ == "__main__":
    sys.exit(main())
