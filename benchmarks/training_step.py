"""Training steps on a CPU: with glibc's default memory handling, and as the toolkit sets it.

    python benchmarks/training_step.py

Each variant runs in a process of its own; CPU seconds (user + system) are compared, which other programs on
the machine disturb less than the clock.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys

import torch

from dettoolkit.config import DetectionRecipe, load_recipe
from dettoolkit.detection.build import build_network
from dettoolkit.detection.run import build_task
from dettoolkit.evaluation.arrays import GroundTruthArrays
from dettoolkit.training.memory import keep_freed_memory

BATCH = 16


def steps(count: int, *, keep: bool) -> float:
    """Return the images per CPU second of the median step; the first one warms up."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    if keep and not keep_freed_memory():
        raise SystemExit("this system's malloc has no such settings (glibc on Linux has)")
    recipe = load_recipe("ssdlite_mnv3_large").recipe
    assert isinstance(recipe, DetectionRecipe)
    network = build_network(recipe, num_classes=80)
    truth = GroundTruthArrays.from_coco({"images": [], "annotations": [], "categories": []})
    task = build_task(recipe, network, category_ids=list(range(80)), ground_truth=truth)
    network.train().to(memory_format=torch.channels_last)
    corners = torch.rand(BATCH, 7, 2) * 200
    batch = {
        "images": torch.randint(0, 256, (BATCH, 3, *recipe.model.input_hw), dtype=torch.uint8),
        "boxes_xyxy": torch.cat([corners, corners + 20 + 80 * torch.rand(BATCH, 7, 2)], dim=2),
        "box_labels": torch.randint(0, 80, (BATCH, 7)),
    }
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    speeds = []
    for _ in range(count + 1):
        before = _cpu_seconds()
        images = task.images(batch).contiguous(memory_format=torch.channels_last)
        loss = torch.stack(list(task.losses(network(images), batch).values())).sum()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        speeds.append(BATCH / (_cpu_seconds() - before))
    return statistics.median(speeds[1:])


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> int:
    """Measure both variants in processes of their own and print the ratio."""
    parser = argparse.ArgumentParser(description="Training steps with and without keep_freed_memory")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--variant", choices=("default", "kept"), help="measure one, in this process")
    options = parser.parse_args()
    if options.variant is not None:
        print(steps(options.steps, keep=options.variant == "kept"))
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
