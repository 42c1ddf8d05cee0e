"""The whole training loop: reading, augmenting, network, loss and optimizer, ours and torchvision's.

    python benchmarks/training_loop.py --data coco256 [--threads 2] [--rounds 3]

Both train SSDLite on MobileNetV3-Large at 320, from random weights, on COCO's 80 classes, with the same batch
size, threads and loader processes. Ours is `tools/train.py ssdlite_mnv3_large` with the full tail, as
torchvision's network has it; theirs is torchvision's model and reference loop, as in facemask.py. Each
training is a process of its own, in turns; printed are the images per second of the second and third epoch,
as medians of all, and their ratio.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from facemask import PeerDataset, peer_model
from torch.utils.data import DataLoader

from dettoolkit.config import load_recipe
from dettoolkit.datasets.coco_annotations import CocoAnnotations
from dettoolkit.machine import processor
from dettoolkit.training import commands

EPOCHS = 3


def ours(options: argparse.Namespace) -> list[float]:
    """Train by the shipped recipe; return the images per second of each epoch."""
    with tempfile.TemporaryDirectory() as folder:
        extras = [
            f"data.root={options.data}",
            "data.label_map=contiguous",
            f"data.batch_size={options.batch_size}",
            f"data.workers={options.workers}",
            "model.backbone.tail=full",
            "model.backbone.weights=null",
            "optim.schedule.warmup_steps=1",
            "trainer.max_steps=null",
            f"trainer.max_epochs={EPOCHS}",
            f"trainer.val_every_epochs={EPOCHS}",
            "trainer.checkpoint_every_steps=null",
            "trainer.extra.enable_progress_bar=false",
            "evaluation.figures=0",
            f"trainer.out={folder}",
        ]
        resolved = load_recipe("ssdlite_mnv3_large", extras)
        run_dir, _ = commands.train("training_loop", resolved.recipe, config_yaml=resolved.to_yaml())
        with (run_dir / "metrics.csv").open() as file:
            return [
                float(row["images_per_second"]) for row in csv.DictReader(file) if row["images_per_second"]
            ]


def torchvisions(options: argparse.Namespace) -> list[float]:
    """Train torchvision's model by its reference loop; return the images per second of each epoch."""
    annotations = CocoAnnotations.load(
        options.data / "annotations/instances_train2017.json",
        images=options.data / "train2017",
        label_map="contiguous",
    )
    model = peer_model(None, len(annotations.class_names)).train()
    loader = DataLoader(
        PeerDataset(annotations, train=True),
        batch_size=options.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=options.workers,
        persistent_workers=options.workers > 0,
        collate_fn=lambda samples: tuple(zip(*samples, strict=True)),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9, weight_decay=4e-5)
    speeds = []
    for _ in range(EPOCHS):
        started = time.perf_counter()
        for images, targets in loader:
            loss = sum(model(list(images), list(targets)).values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            float(loss)
        speeds.append(len(loader) * options.batch_size / (time.perf_counter() - started))
    return speeds


LOOPS = {"ours": ours, "torchvision": torchvisions}


def main() -> int:
    """Train both in turns and print the ratio."""
    parser = argparse.ArgumentParser(description="The training loop, ours and torchvision's")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=LOOPS, help="train one of the two, in this process")
    options = parser.parse_args()
    if options.only:
        torch.set_num_threads(options.threads)
        print(*LOOPS[options.only](options)[1:])
        return 0
    print(f"{processor()}, {options.threads} threads, batches of {options.batch_size}", flush=True)
    speeds: dict[str, list[float]] = {name: [] for name in LOOPS}
    for turn in range(options.rounds):
        for name, own in speeds.items():
            command = [sys.executable, __file__, *sys.argv[1:], "--only", name]
            environment = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
            own += [float(word) for word in done.stdout.splitlines()[-1].split()]
            print(f"turn {turn + 1}, {name:12} {own[-2]:6.2f} {own[-1]:6.2f} images/s", flush=True)
    medians = {name: statistics.median(own) for name, own in speeds.items()}
    for name, median in medians.items():
        print(f"{name:12} {median:6.2f} images/s")
    print(f"ratio        {medians['ours'] / medians['torchvision']:6.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
