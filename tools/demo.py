#!/usr/bin/env python3
"""Run the main job on embedded data: generate scenes, train and evaluate both tasks, name the figures."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from dettoolkit.cli import evaluate, train

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ("ssdlite_scenes", "lraspp_scenes")
OUT = ROOT / "runs"


def run_task(recipe: str) -> tuple[int, Path]:
    """Train and evaluate as a user would, by the same two commands; give the status and the run."""
    path = ROOT / "configs" / f"{recipe}.yaml"
    data = f"data.root={ROOT / 'data' / 'scenes'}"
    print(f"$ tools/train.py configs/{path.name}", flush=True)
    status = train([str(path), data, f"trainer.out={OUT}"])
    if status != 0:
        return status, OUT
    run = max((OUT / recipe).iterdir(), key=lambda folder: folder.stat().st_mtime)
    print(f"\n$ tools/evaluate.py {run.relative_to(ROOT)}", flush=True)
    return evaluate([str(run), data]), run


def main() -> int:
    """Run detection, then segmentation."""
    started = time.perf_counter()
    shown = []
    for recipe in RECIPES:
        status, run = run_task(recipe)
        if status != 0:
            return status
        shown.append(run.relative_to(ROOT))
        print(flush=True)
    detection, segmentation = shown
    print(
        f"Done in {(time.perf_counter() - started) / 60:.1f} minutes. Look at\n"
        f"  {detection}/figures/predictions_1.jpg     boxes predicted in held-out scenes\n"
        f"  {segmentation}/figures/predictions_1.jpg      class of every pixel in held-out scenes\n"
        "and next to them training_batch.jpg (the network's input) and worst_1.jpg (the lowest scores).\n"
        "To train on your own data:\n"
        "  tools/train.py configs/ssdlite_mnv3_large.yaml configs/overlays/finetune.yaml data.root=my_data\n"
        "  tools/train.py configs/lraspp_mnv3_large.yaml configs/overlays/finetune_segmentation.yaml \\\n"
        "    data.root=my_cityscapes\n"
        "  tools/evaluate.py runs/<recipe>/<time>"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
