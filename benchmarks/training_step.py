"""Training steps on a CPU: with glibc's default memory handling, and as the toolkit sets it.

    python benchmarks/training_step.py
    python benchmarks/training_step.py --overrides 'model.matcher={type: task_aligned}'

Each variant runs in a process of its own; CPU seconds (user + system) are compared, which other programs on
the machine disturb less than the clock. With overrides of the recipe, such as other losses, their steps are
compared with the recipe's own, in turn in one process.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
from collections.abc import Sequence

import torch

from dettoolkit.config import DetectionRecipe, load_recipe
from dettoolkit.detection.build import build_network
from dettoolkit.detection.run import build_task
from dettoolkit.detection.task import DetectionTask
from dettoolkit.evaluation.arrays import GroundTruthArrays
from dettoolkit.training.memory import keep_freed_memory

BATCH = 16


def build(*overrides: str) -> DetectionTask:
    """Build the task of the recipe, ready to train."""
    torch.manual_seed(0)
    recipe = load_recipe("ssdlite_mnv3_large", overrides).recipe
    assert isinstance(recipe, DetectionRecipe)
    network = build_network(recipe, num_classes=80)
    truth = GroundTruthArrays.from_coco({"images": [], "annotations": [], "categories": []})
    network.train().to(memory_format=torch.channels_last)
    return build_task(recipe, network, category_ids=list(range(80)), ground_truth=truth)


def steps(count: int, tasks: Sequence[DetectionTask]) -> list[float]:
    """Return the images per CPU second of each task's median step; the first one warms up."""
    corners = torch.rand(BATCH, 7, 2) * 200
    batch = {
        "images": torch.randint(0, 256, (BATCH, 3, *tasks[0].input_hw), dtype=torch.uint8),
        "boxes_xyxy": torch.cat([corners, corners + 20 + 80 * torch.rand(BATCH, 7, 2)], dim=2),
        "box_labels": torch.randint(0, 80, (BATCH, 7)),
    }
    optimizers = [torch.optim.SGD(task.network.parameters(), lr=1e-3) for task in tasks]
    speeds: list[list[float]] = [[] for _ in tasks]
    for _ in range(count + 1):
        for task, optimizer, own in zip(tasks, optimizers, speeds, strict=True):
            before = _cpu_seconds()
            images = task.images(batch).contiguous(memory_format=torch.channels_last)
            loss = torch.stack(list(task.losses(task.network(images), batch).values())).sum()
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            own.append(BATCH / (_cpu_seconds() - before))
    return [statistics.median(own[1:]) for own in speeds]


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> int:
    """Measure both variants in processes of their own and print the ratio."""
    parser = argparse.ArgumentParser(description="Training steps with and without keep_freed_memory")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--variant", choices=("default", "kept"), help="measure one, in this process")
    parser.add_argument("--overrides", nargs="+", help="compare the recipe with these to the recipe itself")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.variant != "default" and not keep_freed_memory():
        raise SystemExit("this system's malloc has no such settings (glibc on Linux has)")
    if options.variant is not None:
        print(*steps(options.steps, [build()]))
        return 0
    if options.overrides:
        own, changed = steps(options.steps, [build(), build(*options.overrides)])
        print(f"the recipe {own:.2f} images per CPU second, with the overrides {changed:.2f}")
        print(f"cost of a step: {own / changed:.3f} times the recipe's")
        return 0
    speeds = {}
    for variant in ("default", "kept"):
        command = [sys.executable, __file__, "--variant", variant, "--steps", str(options.steps)]
        finished = subprocess.run(command, check=True, capture_output=True, text=True)
        speeds[variant] = float(finished.stdout.split()[-1])
        print(f"{variant:8} {speeds[variant]:.2f} images per CPU second", flush=True)
    print(f"ratio    {speeds['kept'] / speeds['default']:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
