"""Training steps on a CPU: with glibc's default memory handling, and as the toolkit sets it.

    python benchmarks/training_step.py
    python benchmarks/training_step.py --overrides 'model.matcher={type: task_aligned}'
    python benchmarks/training_step.py --recipe lraspp_mnv3_large --overrides model.auxiliary.weight=0.4

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

from dettoolkit.config import DetectionRecipe, SegmentationRecipe, load_recipe
from dettoolkit.datasets.label_classes import LabelClasses
from dettoolkit.detection import build as detection
from dettoolkit.detection.run import build_task
from dettoolkit.evaluation.arrays import GroundTruthArrays
from dettoolkit.run import Task
from dettoolkit.segmentation import build as segmentation
from dettoolkit.training.memory import keep_freed_memory

BATCHES = {DetectionRecipe: 16, SegmentationRecipe: 8}


def build(name: str, *overrides: str) -> tuple[Task, dict[str, torch.Tensor]]:
    """Build the task of a recipe, ready to train, and a random batch for it."""
    torch.manual_seed(0)
    recipe = load_recipe(name, ["model.backbone.weights=null", *overrides]).recipe
    if isinstance(recipe, DetectionRecipe):
        network = detection.build_network(recipe, num_classes=80)
        truth = GroundTruthArrays.from_coco({"images": [], "annotations": [], "categories": []})
        task: Task = build_task(recipe, network, category_ids=list(range(80)), ground_truth=truth)
        hw = recipe.model.input_hw
    elif isinstance(recipe, SegmentationRecipe):
        network = segmentation.build_network(recipe, num_classes=19)
        task = segmentation.build_task(recipe, network, LabelClasses.cityscapes())
        task.auxiliary.update(dict(segmentation.build_auxiliary(recipe, network, num_classes=19).items()))
        task.auxiliary.train().to(memory_format=torch.channels_last)
        hw = recipe.data.crop_hw
    else:
        raise SystemExit(f"{name} is neither a detector's recipe nor a segmenter's")
    network.train().to(memory_format=torch.channels_last)
    count = BATCHES[type(recipe)]
    corners = torch.rand(count, 7, 2) * 200
    blocks = torch.randint(0, 19, (count, 1, 8, 8)).float()  # regions, as label maps have them
    return task, {
        "images": torch.randint(0, 256, (count, 3, *hw), dtype=torch.uint8),
        "boxes_xyxy": torch.cat([corners, corners + 20 + 80 * torch.rand(count, 7, 2)], dim=2),
        "box_labels": torch.randint(0, 80, (count, 7)),
        "label_map": torch.nn.functional.interpolate(blocks, hw).squeeze(1).to(torch.uint8),
    }


def steps(count: int, built: Sequence[tuple[Task, dict[str, torch.Tensor]]]) -> list[float]:
    """Return the images per CPU second of each task's median step; the first one warms up."""
    tasks, batch = [task for task, _ in built], built[0][1]
    images_per_step = len(batch["images"])
    optimizers = [
        torch.optim.SGD([*task.network.parameters(), *task.auxiliary.parameters()], lr=1e-3) for task in tasks
    ]
    speeds: list[list[float]] = [[] for _ in tasks]
    for _ in range(count + 1):
        for task, optimizer, own in zip(tasks, optimizers, speeds, strict=True):
            before = _cpu_seconds()
            images = task.images(batch).contiguous(memory_format=torch.channels_last)
            parts = dict[str, torch.Tensor]()
            if task.has_more_losses:
                outputs, features = task.network.with_features(images)
                parts |= task.more_losses(images, outputs, features, batch)
            else:
                outputs = task.network(images)
            loss = torch.stack(list((task.losses(outputs, batch) | parts).values())).sum()
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            own.append(images_per_step / (_cpu_seconds() - before))
    return [statistics.median(own[1:]) for own in speeds]


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> int:
    """Measure both variants in processes of their own and print the ratio."""
    parser = argparse.ArgumentParser(description="Training steps with and without keep_freed_memory")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--variant", choices=("default", "kept"), help="measure one, in this process")
    parser.add_argument("--recipe", default="ssdlite_mnv3_large", help="of a detector or a segmenter")
    parser.add_argument("--overrides", nargs="+", help="compare the recipe with these to the recipe itself")
    parser.add_argument(
        "--with", nargs="+", dest="extras", default=[], help="overlays and overrides of all variants"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.variant != "default" and not keep_freed_memory():
        raise SystemExit("this system's malloc has no such settings (glibc on Linux has)")
    if options.variant is not None:
        print(*steps(options.steps, [build(options.recipe, *options.extras)]))
        return 0
    if options.overrides:
        both = [build(options.recipe, *options.extras, *more) for more in ((), options.overrides)]
        own, changed = steps(options.steps, both)
        print(f"the recipe {own:.2f} images per CPU second, with the overrides {changed:.2f}")
        print(f"cost of a step: {own / changed:.3f} times the recipe's")
        return 0
    speeds = {}
    for variant in ("default", "kept"):
        command = [sys.executable, __file__, "--variant", variant, "--steps", str(options.steps)]
        command += ["--recipe", options.recipe, *(["--with", *options.extras] if options.extras else [])]
        finished = subprocess.run(command, check=True, capture_output=True, text=True)
        speeds[variant] = float(finished.stdout.split()[-1])
        print(f"{variant:8} {speeds[variant]:.2f} images per CPU second", flush=True)
    print(f"ratio    {speeds['kept'] / speeds['default']:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
