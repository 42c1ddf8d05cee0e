#!/usr/bin/env python3
"""Run the main job on embedded data: generate scenes, train and evaluate both tasks, draw, make a page."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from dettoolkit.cli import evaluate, export_demo, train

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "configs" / "joint_scenes.yaml"
OUT = ROOT / "runs"


def main() -> int:
    """Train one network for boxes and label maps, score it, and make its page, by the user's own commands."""
    started = time.perf_counter()
    data = f"data.root={ROOT / 'data' / 'scenes'}"
    print(f"$ tools/train.py {RECIPE.relative_to(ROOT)}", flush=True)
    status = train([str(RECIPE), data, f"trainer.out={OUT}"])
    if status != 0:
        return status
    run = max((OUT / RECIPE.stem).iterdir(), key=lambda folder: folder.stat().st_mtime)
    shown = run.relative_to(ROOT)
    print(f"\n$ tools/evaluate.py {shown}", flush=True)
    status = evaluate([str(run), data])
    if status != 0:
        return status
    minutes = (time.perf_counter() - started) / 60
    print(f"\n$ tools/export_demo.py {shown} --out {shown}/page", flush=True)
    page = (
        f"  {shown}/page: the same in the browser, of your camera too, after\n"
        f"    tools/export_demo.py --serve {shown}/page\n"
        "    at http://127.0.0.1:8000\n"
    )
    if export_demo([str(run), data, "--out", str(run / "page"), "--samples", "8"]) != 0:
        page = "  no page was made, for the reason above; the command before it makes one later\n"
    print(
        f"\nTrained and scored in {minutes:.1f} minutes. Look at\n"
        f"  {shown}/figures/predictions_1.jpg: boxes over the class of every pixel, in held-out scenes\n"
        f"  {shown}/report.html: scores, curves, confusions, the worst images\n"
        f"{page}"
        "To train on your own data:\n"
        "  tools/train.py configs/ssdlite_mnv3_large.yaml configs/overlays/finetune.yaml data.root=my_data\n"
        "  tools/train.py configs/lraspp_mnv3_large.yaml configs/overlays/finetune_segmentation.yaml \\\n"
        "    data.root=my_cityscapes\n"
        "  tools/evaluate.py runs/<recipe>/<time>"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
