#!/usr/bin/env python3
"""Run the main job on embedded data: generate scenes, train, evaluate, and say where the pictures are."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from dettoolkit.cli import evaluate, train

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "configs" / "ssdlite_scenes.yaml"


def main() -> int:
    """Train and evaluate as a user would, with the same two commands."""
    started = time.perf_counter()
    out = ROOT / "runs"
    data = f"data.root={ROOT / 'data' / 'scenes'}"
    print(f"$ tools/train.py configs/{RECIPE.name}", flush=True)
    status = train([str(RECIPE), data, f"trainer.out={out}"])
    if status != 0:
        return status
    run = max((out / RECIPE.stem).iterdir(), key=lambda folder: folder.stat().st_mtime)
    shown = run.relative_to(ROOT)
    print(f"\n$ tools/evaluate.py {shown}", flush=True)
    status = evaluate([str(run), data])
    if status != 0:
        return status
    print(
        f"\nDone in {(time.perf_counter() - started) / 60:.1f} minutes. Look at\n"
        f"  {shown}/pictures/training_batch.jpg   what the detector was shown, with its ground truth\n"
        f"  {shown}/pictures/predictions_1.jpg    what it finds in scenes it has not seen\n"
        f"  {shown}/pictures/worst_1.jpg          where it fails most\n"
        "The same for data of your own (COCO format: images and a json):\n"
        "  tools/train.py configs/ssdlite_mnv3_large.yaml configs/overlays/finetune.yaml data.root=my_data\n"
        "  tools/evaluate.py runs/ssdlite_mnv3_large/<time>"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
